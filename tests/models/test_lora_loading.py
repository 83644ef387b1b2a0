"""LoRAs over a model's weights: scaled, stacked, and taken out without a trace."""

from __future__ import annotations

import math
from pathlib import Path

import loras
import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from latentdiff.errors import UserError
from latentdiff.models.bundle import Bundle
from latentdiff.models.lora.changes import Pair
from latentdiff.models.lora.formats import read_lora, write_lora
from latentdiff.models.lora.layers import base_of
from latentdiff.models.lora.metadata import LoraMetadata
from latentdiff.models.lora.stack import ChosenLora, LoraStack, load_lora, parse_lora

TO_Q = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"


def weights(bundle: Bundle) -> dict[str, Tensor]:
    return {
        f"{part}.{name}": value.clone()
        for part in ("unet", "text_encoder")
        for name, value in getattr(bundle, part).state_dict().items()
    }


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)


def two_files(folder: Path) -> tuple[Path, Path]:
    return (
        loras.saved(loras.trained(tiny.tiny(), targets="all"), folder / "1")[0],
        loras.saved(loras.trained(tiny.tiny(), rank=2, seed=1), folder / "2")[1],
    )


def test_the_weights_are_the_base_plus_every_scaled_change(tmp_path: Path) -> None:
    one, two = two_files(tmp_path)
    bundle = loras.copy_of(tiny.tiny())
    before = weights(bundle)
    stack = LoraStack(bundle)
    stack.load(one, 0.5)
    stack.load(two, -2.0)
    now = weights(bundle)
    first, second = read_lora(one).changes, read_lora(two).changes
    for name, value in now.items():
        layer = name.removesuffix(".weight").replace("text_encoder.text_model.", "text_encoder.")
        wanted = before[name].double()
        for pairs, scale in ((first, 0.5), (second, -2.0)):
            if layer in pairs and name.endswith(".weight"):
                pair = pairs[layer]
                product = pair.up.flatten(1).double() @ pair.down.flatten(1).double()
                wanted = wanted + scale * pair.alpha / pair.rank * product.reshape(value.shape)
        assert torch.allclose(value.double(), wanted, atol=1e-6), name
    changed = {n for n in now if not torch.equal(now[n], before[n])}
    assert len(changed) == len(first.keys() | second.keys())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_what_is_taken_out_leaves_every_bit_as_it_was(dtype: torch.dtype, tmp_path: Path) -> None:
    one, two = two_files(tmp_path)
    bundle = loras.copy_of(tiny.tiny())
    torch.nn.Module.to(bundle.unet, dtype)
    torch.nn.Module.to(bundle.text_encoder, dtype)
    for parameter in bundle.unet.parameters():
        parameter.mul_(1 + 1e-12)  # more bits than float32 has, where there are more
    before = weights(bundle)
    stack = LoraStack(bundle)
    stack.load(one, 0.7)
    alone = weights(bundle)
    stack.load(two, 1.3)
    both = weights(bundle)
    assert not equal(both, alone)
    assert not equal(alone, before)
    stack.unfuse()
    assert equal(weights(bundle), before)
    assert stack.recipe() == []
    stack.fuse()
    assert equal(weights(bundle), both)
    stack.set_scale(1, 0.0)
    assert equal(weights(bundle), alone)
    stack.clear()
    assert equal(weights(bundle), before)
    assert stack.reports == []


def test_a_low_precision_sum_is_rounded_once(tmp_path: Path) -> None:
    one, _ = two_files(tmp_path)
    bundle = loras.copy_of(tiny.tiny())
    torch.nn.Module.to(bundle.unet, torch.bfloat16)
    exact = loras.copy_of(tiny.tiny())
    exact.unet.load_state_dict(bundle.unet.state_dict())
    load_lora(bundle, one, 0.3)
    load_lora(exact, one, 0.3)
    for mine, theirs in zip(bundle.unet.parameters(), exact.unet.parameters(), strict=True):
        assert torch.equal(mine, theirs.bfloat16())


def test_channels_last_weights_stay_so(tmp_path: Path) -> None:
    one, _ = two_files(tmp_path)
    bundle = loras.copy_of(tiny.tiny())
    bundle.unet.to(memory_format=torch.channels_last)
    plain = loras.copy_of(tiny.tiny())
    load_lora(bundle, one)
    load_lora(plain, one)
    conv = bundle.unet.down_blocks[0].resnets[0].conv1.weight
    assert conv.is_contiguous(memory_format=torch.channels_last)
    assert equal(weights(bundle), weights(plain))


def test_a_report_tells_what_matched_and_what_did_not(tmp_path: Path) -> None:
    path = loras.saved(loras.trained(tiny.tiny()), tmp_path)[1]
    state = load_file(path)
    strange = "lora_unet_up_blocks_7_attentions_0_proj_in"
    state |= {
        f"{strange}.lora_down.weight": torch.ones(4, 8),
        f"{strange}.lora_up.weight": torch.ones(8, 4),
        "lora_te2_odd.lora_up.weight": torch.ones(1),
    }
    save_file(state, path)
    bundle = loras.copy_of(tiny.tiny())
    report = load_lora(bundle, path)
    assert set(report.matched) == set(read_lora(path).changes) - {
        "unet.up_blocks.7.attentions.0.proj_in"
    }
    assert report.unmatched == (
        "unet.up_blocks.7.attentions.0.proj_in",
        "lora_te2_odd.lora_up.weight",
    )
    (line,) = report.lines()
    assert "2 of its layers are not in this model" in line
    assert report.base_matches is None


def test_nothing_matched_is_an_error_and_changes_nothing(tmp_path: Path) -> None:
    pairs = {"unet.up_blocks.7.attentions.0.proj_in": Pair(torch.ones(4, 8), torch.ones(8, 4), 4.0)}
    path = write_lora(tmp_path / "a.safetensors", pairs, "kohya", LoraMetadata())
    bundle = loras.copy_of(tiny.tiny())
    before = weights(bundle)
    with pytest.raises(UserError, match="none of its 1 layers is in this model"):
        load_lora(bundle, path)
    assert equal(weights(bundle), before)


def test_another_size_is_an_error_and_changes_nothing(tmp_path: Path) -> None:
    path = loras.saved(loras.trained(tiny.stable_diffusion_1()), tmp_path)[0]
    bundle = loras.copy_of(tiny.tiny())
    before = weights(bundle)
    with pytest.raises(UserError, match="made for a model of another size") as caught:
        load_lora(bundle, path)
    assert "\n" not in str(caught.value)
    assert equal(weights(bundle), before)


def test_a_change_that_overflows_is_an_error_and_changes_nothing(tmp_path: Path) -> None:
    pairs = {TO_Q: Pair(torch.full((1, 32), 300.0), torch.full((32, 1), 300.0), 1.0)}
    path = write_lora(tmp_path / "a.safetensors", pairs, "peft", LoraMetadata())
    bundle = loras.copy_of(tiny.tiny())
    torch.nn.Module.to(bundle.unet, torch.float16)
    before = weights(bundle)
    stack = LoraStack(bundle)
    with pytest.raises(UserError, match="overflows"):
        stack.load(path)
    assert equal(weights(bundle), before)
    assert stack.recipe() == []


def test_a_linear_layer_and_a_1x1_convolution_are_one_thing(tmp_path: Path) -> None:
    layer = "unet.mid_block.attentions.0.proj_in"
    down, up = torch.randn(4, 64), torch.randn(64, 4)
    flat = {layer: Pair(down, up, 4.0)}
    square = {layer: Pair(down[..., None, None], up[..., None, None], 4.0)}
    one, two = tiny.stable_diffusion_1(), tiny.stable_diffusion_2()
    shapes = [model.unet.mid_block.attentions[0].proj_in.weight.ndim for model in (one, two)]
    assert shapes == [4, 2]
    for model in (one, two):
        made = []
        for name, pairs in (("flat", flat), ("square", square)):
            path = write_lora(tmp_path / f"{name}.safetensors", pairs, "kohya", LoraMetadata())
            bundle = loras.copy_of(model)
            load_lora(bundle, path)
            made.append(bundle.unet.mid_block.attentions[0].proj_in.weight)
        assert torch.equal(made[0], made[1])


def test_another_base_is_told_and_the_same_one_is_not(tmp_path: Path) -> None:
    from latentdiff.models import bundle as bundles

    home = bundles.load(tiny.save(tiny.tiny(), tmp_path / "home"))
    other = bundles.load(tiny.save(tiny.tiny("v_prediction"), tmp_path / "other"))
    same_weights = base_of(home)["base_sha256"] == base_of(other)["base_sha256"]
    assert same_weights  # what is predicted is no weight
    with torch.no_grad():
        other.unet.conv_in.bias.add_(1.0)
    other = bundles.load(tiny.save(other, tmp_path / "other"))
    told = base_of(home)
    assert told["base"] == "home"
    path = loras.saved(loras.trained(home), tmp_path / "lora", **told)[0]
    assert load_lora(home, path).base_matches is True
    report = load_lora(other, path)
    assert report.base_matches is False
    assert "trained on another model (home)" in report.lines()[0]
    assert load_lora(loras.copy_of(tiny.tiny()), path).base_matches is None


def test_a_scale_comes_after_the_last_colon_unless_that_is_the_name(tmp_path: Path) -> None:
    assert parse_lora("owl.safetensors") == ChosenLora(Path("owl.safetensors"))
    assert parse_lora("owl.safetensors:0.8") == ChosenLora(Path("owl.safetensors"), 0.8)
    assert parse_lora("a:b.safetensors:-1") == ChosenLora(Path("a:b.safetensors"), -1.0)
    odd = tmp_path / "owl:2"
    odd.write_bytes(b"")
    assert parse_lora(str(odd)) == ChosenLora(odd)
    assert parse_lora(f"{odd}:3") == ChosenLora(odd, 3.0)
    parts = ChosenLora(odd, 0.8, {"unet.up_blocks": 0.5, "text_encoder": 0.0})
    assert parse_lora(f"{odd}:0.8:unet.up_blocks=0.5,text_encoder=0") == parts
    assert parse_lora(str(parts)) == parts
    for wrong in ("owl.safetensors:", "owl.safetensors:x", "owl.safetensors:1:unet=x"):
        with pytest.raises(UserError, match="is no scale"):
            parse_lora(wrong)
    for wrong in ("nan", "inf"):
        with pytest.raises(UserError, match="finite"):
            parse_lora(f"owl.safetensors:{wrong}")


def test_a_scale_must_be_finite(tmp_path: Path) -> None:
    path, _ = loras.saved(loras.trained(tiny.tiny()), tmp_path)
    with pytest.raises(UserError, match="finite"):
        load_lora(loras.copy_of(tiny.tiny()), path, math.nan)


def test_blocks_scale_the_layers_inside_them_and_the_longest_name_counts(tmp_path: Path) -> None:
    bundle = loras.copy_of(tiny.tiny())
    file = loras.saved(loras.trained(bundle), tmp_path)[0]
    stack = LoraStack(bundle)
    report = stack.load(file, 0.5)
    changes = {
        layer: stack.layers()[layer].weight - stack._originals[f"{layer}.weight"]
        for layer in report.matched
    }
    stack.clear()
    down = next(layer for layer in report.matched if layer.startswith("unet.down_blocks."))
    inner = ".".join(down.split(".")[:3])
    report = stack.load(file, 0.5, blocks={"unet.down_blocks": 0.0, inner: 3.0})
    for layer, change in changes.items():
        factor = 3.0 if layer.startswith(f"{inner}.") else 0.0 if "down_blocks" in layer else 1.0
        now = stack.layers()[layer].weight - stack._originals[f"{layer}.weight"]
        assert torch.allclose(now, factor * change, atol=1e-6), layer
    assert report.recipe()["blocks"] == {"unet.down_blocks": 0.0, inner: 3.0}
    with pytest.raises(UserError, match=r"part that the LoRA changes 'unet\.middle'"):
        stack.load(file, blocks={"unet.middle": 0.5})
