"""What is saved opens in diffusers without a word; what diffusers saves opens here."""

from __future__ import annotations

import json
import logging
import shutil
import socket
import warnings
from pathlib import Path
from typing import Any

import diffusers
import pytest
import tiny
import torch
import transformers
from diffusers import StableDiffusionPipeline
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from latentdiff.errors import UserError
from latentdiff.files import sha256_file
from latentdiff.models import bundle as bundles
from latentdiff.models.bundle import Bundle

NETWORKS = ("unet", "vae", "text_encoder")


def weights_of(part: nn.Module) -> dict[str, torch.Tensor]:
    return {name.removeprefix("text_model."): value for name, value in part.state_dict().items()}


def assert_same_weights(left: Any, right: Any) -> None:
    for part in NETWORKS:
        ours, theirs = weights_of(getattr(left, part)), weights_of(getattr(right, part))
        assert ours.keys() == theirs.keys()
        for name, value in ours.items():
            assert value.dtype == theirs[name].dtype, (part, name)
            assert torch.equal(value, theirs[name]), (part, name)


@pytest.fixture(scope="module", params=["tiny", "sd1", "sd2"])
def bundle(request: pytest.FixtureRequest) -> Bundle:
    makers = {"tiny": tiny.tiny, "sd1": tiny.stable_diffusion_1, "sd2": tiny.stable_diffusion_2}
    return makers[request.param]()


@pytest.fixture(scope="module")
def folder(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save(bundle, tmp_path_factory.mktemp("saved") / "model")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save(tiny.tiny(), tmp_path_factory.mktemp("saved") / "tiny")


def open_in_diffusers(folder: Path, **options: Any) -> Any:
    return StableDiffusionPipeline.from_pretrained(folder, local_files_only=True, **options)


def test_a_saved_folder_opens_in_diffusers_without_a_word_and_bit_equal(
    bundle: Bundle,
    folder: Path,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    for name in ("diffusers", "transformers", "huggingface_hub"):
        logging.getLogger(name).addHandler(caplog.handler)
    diffusers.logging.disable_progress_bar()
    transformers.logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            warnings.simplefilter("ignore", DeprecationWarning)
            pipe = open_in_diffusers(folder)
    finally:
        diffusers.logging.enable_progress_bar()
        transformers.logging.enable_progress_bar()
        for name in ("diffusers", "transformers", "huggingface_hub"):
            logging.getLogger(name).removeHandler(caplog.handler)
    assert [record.getMessage() for record in caplog.records] == []
    assert capfd.readouterr() == ("", "")
    assert_same_weights(pipe, bundle)
    assert type(pipe.scheduler).__name__ == bundle.scheduler_config.class_name
    told = {k: v for k, v in bundle.scheduler_config.raw.items() if not k.startswith("_")}
    assert {k: pipe.scheduler.config[k] for k in told if k in pipe.scheduler.config} | told == told
    texts = ["a cat in the snow", "An OWL — 3 dogs?", ""]
    ids = [
        t(texts, padding="max_length", max_length=t.model_max_length, truncation=True).input_ids
        for t in (pipe.tokenizer, bundle.tokenizer)
    ]
    assert ids[0] == ids[1]


def test_what_was_saved_loads_bit_equal_with_the_hashes_of_its_files(
    bundle: Bundle, folder: Path
) -> None:
    loaded = bundles.load(folder)
    assert_same_weights(loaded, bundle)
    assert loaded.notes == ()
    assert loaded.hashes == {
        part: sha256_file(next((folder / part).glob("*.safetensors"))) for part in NETWORKS
    }
    assert loaded.scheduler_config.noise_schedule().alpha_bar.equal(
        bundle.scheduler_config.noise_schedule().alpha_bar
    )
    for part in NETWORKS:
        network = getattr(loaded, part)
        assert not network.training
        assert not any(p.requires_grad for p in network.parameters())
        assert not any(p.is_meta for p in [*network.parameters(), *network.buffers()])


def test_what_diffusers_saves_loads_bit_equal(bundle: Bundle, folder: Path, tmp_path: Path) -> None:
    open_in_diffusers(folder).save_pretrained(tmp_path / "theirs")
    assert_same_weights(bundles.load(tmp_path / "theirs"), bundle)


def test_the_text_encoder_is_saved_with_the_prefix_that_older_readers_expect(saved: Path) -> None:
    names = load_file(saved / "text_encoder/model.safetensors")
    assert names
    assert all(name.startswith("text_model.") for name in names)
    config = json.loads((saved / "text_encoder/config.json").read_text())
    assert config["architectures"] == ["CLIPTextModel"]
    assert config["dtype"] == "float32"


def test_weights_say_that_they_are_torch_s_and_anybody_may_read_them(saved: Path) -> None:
    for file in saved.rglob("*.safetensors"):
        with safe_open(file, "pt") as opened:
            assert opened.metadata() == {"format": "pt"}
        assert file.stat().st_mode == (saved / "model_index.json").stat().st_mode


def test_shards_load_like_the_whole_here_and_in_diffusers(tmp_path: Path) -> None:
    folder = tiny.save(tiny.tiny(), tmp_path / "sharded", max_shard_size=60_000)
    for part in NETWORKS:
        shards = list((folder / part).glob("*-of-*.safetensors"))
        assert len(shards) > 1
        assert all(shard.stat().st_size < 80_000 for shard in shards)
    loaded = bundles.load(folder)
    assert_same_weights(loaded, tiny.tiny())
    assert all(len(digest) == 64 for digest in loaded.hashes.values())
    assert_same_weights(open_in_diffusers(folder), tiny.tiny())


def test_shards_that_diffusers_wrote_load(saved: Path, tmp_path: Path) -> None:
    open_in_diffusers(saved).save_pretrained(tmp_path / "theirs", max_shard_size="60KB")
    assert list((tmp_path / "theirs/unet").glob("*.index.json"))
    assert_same_weights(bundles.load(tmp_path / "theirs"), tiny.tiny())


@pytest.mark.parametrize("shard_size", ["10GB", "40KB"])
def test_a_variant_loads_when_named_and_when_it_is_the_only_one(
    saved: Path, tmp_path: Path, shard_size: str
) -> None:
    half = open_in_diffusers(saved).to(dtype=torch.float16)
    half.save_pretrained(tmp_path / "half", variant="fp16", max_shard_size=shard_size)
    loaded = bundles.load(tmp_path / "half", dtype=None, variant="fp16")
    assert {p.dtype for p in loaded.unet.parameters()} == {torch.float16}
    assert loaded.notes == ()
    assert_same_weights(loaded, half)
    only = bundles.load(tmp_path / "half", dtype=None)
    assert_same_weights(only, half)
    assert len(only.notes) == 3
    assert all("fp16" in note for note in only.notes)


def test_of_two_sets_of_weights_the_plain_one_is_taken_unless_told(
    saved: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(saved, tmp_path / "both")
    for part in NETWORKS:
        file = next((folder / part).glob("*.safetensors"))
        doubled = {name: 2 * value for name, value in load_file(file).items()}
        save_file(doubled, file.with_suffix(".ema.safetensors"))
    assert_same_weights(bundles.load(folder), tiny.tiny())
    ema = bundles.load(folder, variant="ema").unet.conv_in.weight
    assert torch.equal(ema, 2 * tiny.tiny().unet.conv_in.weight)
    with pytest.raises(UserError, match=r"no variant 'fp16'.*plain one, ema"):
        bundles.load(folder, variant="fp16")


def test_half_precision_weights_are_saved_and_loaded_as_such(tmp_path: Path) -> None:
    folder = tiny.save(tiny.tiny(), tmp_path / "half", dtype=torch.float16)
    kept = bundles.load(folder, dtype=None)
    assert {p.dtype for p in kept.vae.parameters()} == {torch.float16}
    cast = bundles.load(folder)
    assert {p.dtype for p in cast.vae.parameters()} == {torch.float32}
    assert torch.equal(cast.unet.conv_in.weight, tiny.tiny().unet.conv_in.weight.half().float())


def test_an_old_stable_diffusion_folder_loads(tmp_path: Path) -> None:
    """Position ids beside the weights, the autoencoder's attention under its first names, no
    scaling factor, a safety checker: as Stable Diffusion 1.5 came."""
    bundle = tiny.stable_diffusion_1()
    folder = tiny.save(bundle, tmp_path / "old")
    text = folder / "text_encoder/model.safetensors"
    ids = {"text_model.embeddings.position_ids": torch.arange(77)[None]}
    save_file(load_file(text) | ids, text)
    vae = folder / "vae/diffusion_pytorch_model.safetensors"
    first = {
        ".to_q.": ".query.",
        ".to_k.": ".key.",
        ".to_v.": ".value.",
        ".to_out.0.": ".proj_attn.",
    }
    renamed = {}
    for name, value in load_file(vae).items():
        for new, old in first.items():
            name = name.replace(new, old)
        renamed[name] = value
    assert any(".proj_attn." in name for name in renamed)
    save_file(renamed, vae)
    edit(folder / "vae/config.json", scaling_factor=None)
    checker = ["stable_diffusion", "StableDiffusionSafetyChecker"]
    edit(folder / "model_index.json", safety_checker=checker, requires_safety_checker=None)
    (folder / "safety_checker").mkdir()
    (folder / "safety_checker/pytorch_model.bin").write_bytes(b"\x80\x02never opened")
    loaded = bundles.load(folder)
    assert_same_weights(loaded, bundle)
    assert loaded.vae.config.scaling_factor == 0.18215
    assert len([note for note in loaded.notes if "safety_checker" in note]) == 1
    assert loaded.preview is not None


def edit(path: Path, **changes: Any) -> None:
    """Set keys of a JSON file; None removes one."""
    content = json.loads(path.read_text()) | changes
    content = {key: value for key, value in content.items() if changes.get(key, 0) is not None}
    path.write_text(json.dumps(content))


def test_a_local_folder_never_touches_the_network(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("the network was touched")

    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert_same_weights(bundles.load(str(saved)), tiny.tiny())


def test_saving_again_replaces_the_folder_whole(tmp_path: Path) -> None:
    folder = tiny.save(tiny.tiny(), tmp_path / "model", max_shard_size=60_000)
    tiny.save(tiny.tiny(), folder)
    assert [f.name for f in (folder / "unet").glob("*.safetensors")] == [
        "diffusion_pytorch_model.safetensors"
    ]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model"]


def test_weights_that_overflow_in_the_saved_precision_are_not_saved(tmp_path: Path) -> None:
    unet = bundles.load(tiny.save(tiny.tiny(), tmp_path / "model")).unet
    with torch.no_grad():
        unet.conv_in.weight[0, 0, 0, 0] = 1e6
    (tmp_path / "part").mkdir()
    with pytest.raises(UserError, match=r"unet: conv_in.weight holds NaN or infinity.*float16"):
        bundles.save_network(unet, "unet", tmp_path / "part", torch.float16)
    assert list((tmp_path / "part").iterdir()) == []


def test_a_card_travels_with_the_model_and_brings_its_own_preview(tmp_path: Path) -> None:
    preview = {"matrix": [[1.0, 0.0, 0.0]] * 4, "bias": [0.0, 0.5, 0.0]}
    card = {"guidance_scale": 4.0, "preview": preview}
    folder = tiny.save(tiny.with_card(tiny.tiny(), **card), tmp_path / "model")
    loaded = bundles.load(folder)
    assert loaded.card == card
    assert loaded.preview is not None
    assert loaded.preview.bias == (0.0, 0.5, 0.0)
    assert open_in_diffusers(folder).unet is not None
