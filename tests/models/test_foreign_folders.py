"""Folders that diffusers opens: they open here too, with a note on what was odd about them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from diffusers import DDIMScheduler
from safetensors.torch import load_file, save_file

from latentdiff.errors import UserError
from latentdiff.models import bundle as bundles
from latentdiff.models import networks

UNET = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save(tiny.tiny(), tmp_path_factory.mktemp("whole") / "model")


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    return shutil.copytree(whole, tmp_path / "model")


def edit(path: Path, **changes: Any) -> None:
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in content.items() if v is not None}))


def only_note(folder: Path, **options: Any) -> str:
    (note,) = bundles.load(folder, **options).notes
    return note


def test_a_scheduler_that_clips_or_has_no_offset_is_read_as_diffusers_own_pipeline_reads_it(
    folder: Path,
) -> None:
    """What `DDIMScheduler(...)` and `save_pretrained` write by default."""
    kept = bundles.load(folder).scheduler_config
    DDIMScheduler(
        beta_start=kept.beta_start, beta_end=kept.beta_end, beta_schedule=kept.beta_schedule
    ).save_pretrained(folder / "scheduler")
    loaded = bundles.load(folder)
    assert not loaded.scheduler_config.clip_sample
    assert loaded.scheduler_config.steps_offset == 1
    assert [n.partition(": ")[2] for n in loaded.notes] == [
        "steps_offset 0 is read as 1, as diffusers' Stable Diffusion pipeline does",
        "clip_sample is read as False, as diffusers' Stable Diffusion pipeline does",
    ]
    saved = tiny.save(loaded, folder.parent / "again")
    assert bundles.load(saved).notes == ()


def test_of_two_scheduler_classes_the_index_names_the_one_that_is_used(folder: Path) -> None:
    edit(folder / "scheduler/scheduler_config.json", _class_name="PNDMScheduler")
    assert "written for PNDMScheduler, model_index.json names DDIMScheduler" in only_note(folder)
    assert bundles.load(folder).scheduler_config.class_name == "DDIMScheduler"


def test_an_average_s_keys_in_a_u_net_s_config_are_left_aside(folder: Path) -> None:
    """As diffusers' `EMAModel.save_pretrained` writes them."""
    strays = {
        "decay": 0.9999,
        "inv_gamma": 1.0,
        "min_decay": 0.0,
        "optimization_step": 875000,
        "power": 0.6666666666666666,
        "update_after_step": 0,
        "use_ema_warmup": False,
    }
    edit(folder / "unet/config.json", **strays)
    assert "belong to an averaged copy" in only_note(folder)
    assert "decay" not in bundles.load(folder).unet.config


def renamed(folder: Path, part: str, variant: str) -> None:
    (file,) = (folder / part).glob("*.safetensors")
    file.rename(file.with_suffix(f".{variant}.safetensors"))


def test_a_part_without_the_asked_variant_gives_its_plain_weights(folder: Path) -> None:
    for part in ("unet", "text_encoder"):
        renamed(folder, part, "fp16")
    assert "vae has no variant 'fp16'; the plain weights are used" in only_note(
        folder, variant="fp16"
    )
    with pytest.raises(UserError, match=r"no variant 'bf16' of its weights; it has fp16, the pl"):
        bundles.load(folder, variant="bf16")


def test_of_several_variants_the_most_exact_is_used_when_none_is_asked_for(folder: Path) -> None:
    file = folder / UNET
    state = load_file(file)
    file.unlink()
    for variant, factor in (("fp16", 1.0), ("non_ema", 2.0), ("ema", 3.0)):
        changed = {name: factor * value for name, value in state.items()}
        save_file(changed, file.with_suffix(f".{variant}.safetensors"))
    note = only_note(folder)
    assert "also holds the variant 'ema', 'non_ema'; variant 'fp16' is used" in note
    assert torch.equal(bundles.load(folder).unet.conv_in.weight, state["conv_in.weight"])
    with pytest.raises(UserError, match="no variant 'fp32'"):
        bundles.load(folder, variant="fp32")


def test_a_u_net_without_a_size_takes_its_autoencoder_s(folder: Path) -> None:
    own = bundles.load(folder).unet.config.sample_size
    edit(folder / "unet/config.json", sample_size=None)
    assert "names no sample_size" in only_note(folder)
    assert bundles.load(folder).unet.config.sample_size == own


def deep(path: Path) -> None:
    path.write_text("[" * 100_000)


def sets(**changes: Any) -> Callable[[Path], None]:
    return lambda path: edit(path, **changes)


@pytest.mark.parametrize(
    ("file", "damage", "words"),
    [
        ("unet/config.json", deep, "nested too deep"),
        ("model_index.json", deep, "nested too deep"),
        ("scheduler/scheduler_config.json", deep, "nested too deep"),
        ("tokenizer/tokenizer_config.json", deep, "nested too deep"),
        ("unet/config.json", sets(block_out_channels=[10**9, 10**9]), "which cannot be"),
        ("unet/config.json", sets(block_out_channels=[1e9, 1e9]), "which cannot be"),
        ("unet/config.json", sets(block_out_channels=[16] * 10**5), "gives 100,000 values"),
        ("unet/config.json", sets(layers_per_block=10**7), "layers_per_block to 1e+07"),
        ("unet/config.json", sets(transformer_layers_per_block=[[10**7]]), "which cannot be"),
        ("unet/config.json", sets(cross_attention_dim=-(10**9)), "which cannot be"),
        ("unet/config.json", sets(sample_size=10**12), "which cannot be"),
        ("vae/config.json", sets(layers_per_block=10**7), "which cannot be"),
        ("vae/config.json", sets(latent_channels=10**9), "which cannot be"),
        ("text_encoder/config.json", sets(num_hidden_layers=10**7), "which cannot be"),
        ("text_encoder/config.json", sets(max_position_embeddings=10**10), "which cannot be"),
        ("text_encoder/config.json", sets(vocab_size=10**10), "which cannot be"),
        ("unet/config.json", lambda path: path.write_text('{"a": 1' + "0" * 5000), "valid JSON"),
    ],
)
def test_an_absurd_config_is_refused_in_a_line_before_anything_is_built_from_it(
    file: str,
    damage: Callable[[Path], None],
    words: str,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    damage(folder / file)
    lay_out = networks.lay_out

    def guarded(part: str, config: Mapping[str, Any], where: str) -> Any:
        assert part != Path(file).parent.name, "it was to be refused before"
        return lay_out(part, config, where)

    monkeypatch.setattr(networks, "lay_out", guarded)
    with pytest.raises(UserError) as caught:
        bundles.load(folder)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


def test_a_header_that_is_nested_too_deep_is_refused(folder: Path) -> None:
    text = b'{"a":' + b"[" * 100_000
    (folder / UNET).write_bytes(len(text).to_bytes(8, "little") + text)
    with pytest.raises(UserError, match="is not a whole safetensors file"):
        bundles.load(folder)
