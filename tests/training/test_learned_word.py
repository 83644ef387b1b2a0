"""Teaching a word: its vectors learn and nothing else does; what comes out opens everywhere."""

from __future__ import annotations

import dataclasses
import shlex
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from own_data import make_images
from run_task import opened, run_task
from safetensors import safe_open
from safetensors.torch import load_file
from tiny_runs import TRAIN, bits
from torch import nn

from latentdiff.cli.main import run
from latentdiff.conditioning import text
from latentdiff.errors import UserError
from latentdiff.models import bundle as bundles
from latentdiff.models.embedding import add_embedding, read_embedding
from latentdiff.models.learned_word import EmbeddingConfig, LearnedRows, rows_of, teach
from latentdiff.training.feeds.data_config import DataConfig
from latentdiff.training.optimizers.guarded_step import trained_parameters
from latentdiff.training.tasks import text_to_image
from latentdiff.training.tasks.text_to_image import TextToImageTask

TOKEN = "<my-cat>"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save(tiny.stable_diffusion_1(), tmp_path_factory.mktemp("base") / "model")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_images(tmp_path_factory.mktemp("data") / "photos", sizes=((64, 64),) * 6)


def config(base: Path, data: Path, *, vectors: int = 2, **train: Any) -> Any:
    preset = text_to_image.PRESETS["embedding"]
    return dataclasses.replace(
        preset,
        base=str(base),
        embedding=EmbeddingConfig(token=TOKEN, init_word="cat", num_vectors=vectors),
        pictures=DataConfig(data=str(data)),
        validation_pictures=2,
        validation_pairs=2,
        train=dataclasses.replace(TRAIN, batch_size=2, steps=4, warmup_steps=1, **train),
    )


@pytest.fixture(scope="module")
def task(base: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> TextToImageTask:
    settings = config(base, data, run_dir=tmp_path_factory.mktemp("run"))
    return opened(TextToImageTask, settings)


def vectors_of(module: Any) -> nn.Parameter:
    return rows_of(module.text_encoder).vectors


def test_the_word_s_vectors_are_all_that_trains(task: TextToImageTask) -> None:
    (parameter,) = trained_parameters(task.module).values()
    assert parameter is vectors_of(task.module) and parameter.shape == (2, 32)
    task.module.zero_grad()
    task.module(task.batch(range(2)))["loss"].backward()
    assert all(float(row.abs().max()) > 0 for row in parameter.grad)
    networks = (task.networks.unet, task.networks.text_encoder, task.networks.vae)
    others = [p for network in networks for p in network.parameters() if p is not parameter]
    assert len(others) > 100 and all(p.grad is None for p in others)


def test_its_gradient_is_that_of_its_rows_in_a_whole_table(task: TextToImageTask) -> None:
    batch = task.batch(range(2))
    task.module.zero_grad()
    task.module(batch)["loss"].backward()
    ours = vectors_of(task.module).grad.clone()
    encoder: Any = task.module.text_encoder
    rows = rows_of(encoder)
    table = nn.Embedding(*rows.weight.shape)
    with torch.no_grad():
        table.weight.copy_(rows.weight)
        table.weight[rows.first : rows.first + 2] = rows.vectors
    encoder.set_input_embeddings(table)
    try:
        task.module(batch)["loss"].backward()
    finally:
        encoder.set_input_embeddings(rows)
    assert table.weight.grad is not None
    torch.testing.assert_close(ours, table.weight.grad[rows.first : rows.first + 2])
    assert float(table.weight.grad[: rows.first].abs().max()) > 0  # what is kept out here


def test_without_the_word_in_a_batch_its_gradient_is_exactly_zero() -> None:
    rows = LearnedRows(nn.Embedding(6, 3), first=4, count=2)
    rows(torch.tensor([[0, 3], [1, 2]])).square().sum().backward()
    assert rows.vectors.grad is not None and not rows.vectors.grad.any()
    assert rows.weight.grad is None


def test_the_word_starts_from_the_tokens_of_a_known_one(base: Path) -> None:
    bundle = bundles.load(base)
    table = bundle.text_encoder.get_input_embeddings().weight.clone()
    ids = bundle.tokenizer("cat dog", add_special_tokens=False).input_ids
    spread = [ids[k * len(ids) // 5] for k in range(5)]
    taught = teach(bundle, EmbeddingConfig(token=TOKEN, init_word="cat dog", num_vectors=5))
    rows = rows_of(taught.text_encoder)
    assert torch.equal(rows.vectors, table[torch.tensor(spread)])
    assert torch.equal(rows.weight[: len(table)], table)
    with pytest.raises(UserError, match="init_word '' has no tokens"):
        teach(bundles.load(base), EmbeddingConfig(token=TOKEN))


def test_the_word_stands_in_every_caption_and_captions_may_be_missing(
    base: Path, data: Path, task: TextToImageTask, tmp_path: Path
) -> None:
    first = rows_of(task.module.text_encoder).first
    ids = task.batch(range(6))["input_ids"]
    assert bool(((ids == first).sum(dim=1) == 1).all())
    bare = make_images(tmp_path / "bare", sizes=((64, 64),) * 3)
    (bare / "metadata.jsonl").unlink()
    settings = config(base, bare, run_dir=tmp_path / "run")
    other = opened(TextToImageTask, settings)
    assert other.feed.prompts() == (TOKEN,)
    assert bool((other.batch(range(3))["input_ids"] == first).any(dim=1).all())


@pytest.fixture(scope="module")
def whole(base: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of four steps."""
    folder = tmp_path_factory.mktemp("whole")
    settings = config(base, data, run_dir=folder)
    run_task(opened(TextToImageTask, settings), settings.train)
    return folder


def test_a_run_moves_the_word_and_not_a_bit_of_the_rest(base: Path, whole: Path) -> None:
    word = read_embedding(whole / "export" / "my-cat.safetensors")
    bundle = bundles.load(base)
    start = teach(bundle, EmbeddingConfig(token=TOKEN, init_word="cat", num_vectors=2))
    assert word.token == TOKEN
    assert not torch.equal(word.vectors, rows_of(start.text_encoder).vectors)
    checkpoint = next((whole / "checkpoints").glob("step-*4"))
    names = list(load_file(checkpoint / "weights.safetensors"))
    assert [name for name in names if not name.endswith("token_embedding.vectors")] == []


def test_a_run_that_stopped_goes_on_to_the_same_bits(
    base: Path, data: Path, whole: Path, tmp_path: Path
) -> None:
    for changes in ({"stop_at": 2}, {"resume": True}):
        settings = config(base, data, run_dir=tmp_path, **changes)
        run_task(opened(TextToImageTask, settings), settings.train)
    assert bits(tmp_path, 4) == bits(whole, 4)
    name = "my-cat.safetensors"
    assert (tmp_path / "export" / name).read_bytes() == (whole / "export" / name).read_bytes()


def test_a_word_starts_from_an_exported_one(
    base: Path, whole: Path, task: TextToImageTask, data: Path, tmp_path: Path
) -> None:
    task.initialise(whole / "export")
    (file,) = (whole / "export").glob("*.safetensors")
    assert torch.equal(vectors_of(task.module), read_embedding(file).vectors)
    other = opened(TextToImageTask, config(base, data, vectors=3, run_dir=tmp_path))
    with pytest.raises(UserError, match=r"vectors \(2, 32\); this run's are \(3, 32\)"):
        other.initialise(whole / "export")


@pytest.mark.parametrize("vectors", [1, 3])
def test_diffusers_opens_the_word_and_sees_the_same_context(
    vectors: int, base: Path, data: Path, tmp_path: Path
) -> None:
    from diffusers import StableDiffusionPipeline

    settings = config(base, data, vectors=vectors, run_dir=tmp_path / "run")
    made = opened(TextToImageTask, settings)
    with torch.no_grad():
        vectors_of(made.module).add_(torch.randn(vectors, 32))
    made.export(made.module, tmp_path)
    (file,) = tmp_path.glob("*.safetensors")
    prompt = f"a {TOKEN} in the snow"
    pipe = StableDiffusionPipeline.from_pretrained(base, safety_checker=None)
    pipe.load_textual_inversion(str(file))
    theirs = pipe.encode_prompt(prompt, "cpu", 1, False)[0]
    encoder, ids = made.module.text_encoder, made.tokens([prompt])
    torch.testing.assert_close(text.encode(encoder, torch.as_tensor(ids)), theirs)
    taught = add_embedding(bundles.load(base), read_embedding(file))
    ids = text.tokenize(taught.tokenizer, [prompt]).input_ids
    torch.testing.assert_close(text.encode(taught.text_encoder, ids), theirs)


def test_the_file_is_what_a1111_takes_for_one_word(whole: Path) -> None:
    # modules/textual_inversion/textual_inversion.py, create_embedding_from_data: of a dictionary
    # whose first value is a tensor it takes the only one, 1- or 2-dimensional; the word is the
    # file's name.
    (file,) = (whole / "export").glob("*.safetensors")
    (tensor,) = load_file(file).values()
    assert file.name == "my-cat.safetensors"
    assert tensor.ndim == 2 and tensor.dtype == torch.float32
    with safe_open(file, "pt") as opened_file:
        assert opened_file.metadata()["modelspec.trigger_phrase"] == TOKEN


def test_a_command_teaches_a_word_and_says_how_to_draw_with_it(
    base: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--method", "embedding", "--token", TOKEN, "--init-word", "cat", "--steps", "2"]
    words += ["--base", str(base), "--data", str(data), "--run-dir", str(tmp_path / "run")]
    words += ["--validation-pairs", "2", "--sheet-prompts", f"a {TOKEN}", "--sheet-steps", "1"]
    assert run(["train", "text-to-image", *words, "--batch-size", "2", "--device", "cpu"]) == 0
    told = capsys.readouterr().out.rpartition("try it: latentdiff ")[2]
    assert "my-cat.safetensors" in told
    place = tmp_path / "cat.png"
    assert run([*shlex.split(told), "--steps", "1", "--seed", "1", "-o", str(place)]) == 0
    assert f"is written '{TOKEN}'" in capsys.readouterr().err
    assert place.is_file() and (tmp_path / "run" / "report.html").is_file()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--method", "embedding"], "give --base and --data"),
        (["--preset", "embedding", "--data", "."], "give --token and --init-word"),
        (["--token", TOKEN], "--method embedding alone"),
        (["--method", "embedding", "--token", "my cat"], "without spaces"),
        (["--method", "embedding", "--num-vectors", "0"], "expected 1 … 75"),
        (["--preset", "embedding", "--train-text-encoder"], "leave out --train-text-encoder"),
    ],
)
def test_what_a_word_needs_is_said_in_a_line(
    words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["train", "text-to-image", "--run-dir", str(tmp_path / "r"), *words]) == 2
    err = capsys.readouterr().err
    assert said in err and err.count("\n") == 1
