"""Kinds of adapters beside the plain LoRA: merged, they act as their definitions say."""

from __future__ import annotations

import json
from pathlib import Path

import loras
import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from latentdiff.errors import UserError
from latentdiff.models.bundle import Bundle
from latentdiff.models.lora.formats import plain_pairs, read_lora
from latentdiff.models.lora.stack import LoraStack

CONV = "lora_unet_mid_block_resnets_0_conv1"
TO_Q = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def conv(bundle: Bundle) -> torch.nn.Conv2d:
    return bundle.unet.mid_block.resnets[0].conv1


def to_q(bundle: Bundle) -> torch.nn.Linear:
    return bundle.unet.mid_block.attentions[0].transformer_blocks[0].attn1.to_q


def merged(tensors: dict[str, Tensor], folder: Path, scale: float = 1.0) -> Bundle:
    save_file({k: v.contiguous() for k, v in tensors.items()}, folder / "a.safetensors")
    bundle = loras.copy_of(tiny.tiny())
    stack = LoraStack(bundle)
    stack.load(folder / "a.safetensors", scale)
    before = loras.copy_of(tiny.tiny())
    changed = conv(bundle).weight.clone(), to_q(bundle).weight.clone()
    stack.unfuse()
    assert torch.equal(conv(bundle).weight, conv(before).weight)
    assert torch.equal(to_q(bundle).weight, to_q(before).weight)
    stack.fuse()
    assert torch.equal(changed[0], conv(bundle).weight)
    return bundle


def close(one: Tensor, other: Tensor) -> bool:
    return torch.allclose(one, other, atol=1e-4, rtol=1e-4)


def test_loha_is_the_product_place_by_place(tmp_path: Path) -> None:
    weight = conv(tiny.tiny()).weight
    out, width = weight.shape[0], weight[0].numel()
    a1, b1, a2, b2 = draw(out, 2), draw(2, width, seed=1), draw(out, 2, seed=2), draw(2, width)
    names = {"hada_w1_a": a1, "hada_w1_b": b1, "hada_w2_a": a2, "hada_w2_b": b2}
    tensors = {f"{CONV}.{n}": t for n, t in names.items()} | {f"{CONV}.alpha": torch.tensor(1.0)}
    wanted = weight + 0.5 * 0.7 * ((a1 @ b1) * (a2 @ b2)).reshape(weight.shape)
    assert close(conv(merged(tensors, tmp_path, 0.7)).weight, wanted)


@pytest.mark.parametrize("form", ["whole", "low rank", "tucker"])
def test_lokr_is_the_kronecker_product(form: str, tmp_path: Path) -> None:
    weight = conv(tiny.tiny()).weight
    out, into, k, _ = weight.shape
    one, scale = draw(4, 2), 1.0
    factors = {"lokr_w1": one}
    if form == "whole":
        two = draw(out // 4, into // 2, k, k, seed=1)
        factors["lokr_w2"] = two
    else:
        scale = 3.0 / 2
        a, b = draw(out // 4, 2, seed=1), draw(2, into // 2, seed=2)
        if form == "tucker":
            core = draw(2, 2, k, k, seed=3)
            two = torch.einsum("rsxy,or,si->oixy", core, a, b)
            factors |= {"lokr_t2": core, "lokr_w2_a": a.T, "lokr_w2_b": b}
        else:
            b = draw(2, into // 2 * k * k, seed=2)
            two = (a @ b).reshape(out // 4, into // 2, k, k)
            factors |= {"lokr_w2_a": a, "lokr_w2_b": b}
    tensors = {f"{CONV}.{n}": t for n, t in factors.items()}
    tensors[f"{CONV}.alpha"] = torch.tensor(3.0)
    wanted = torch.einsum("ab,cdxy->acbdxy", one, two).reshape(weight.shape)
    assert close(conv(merged(tensors, tmp_path)).weight, weight + scale * wanted)


@pytest.mark.parametrize("name", ["dora_scale", "lora_magnitude_vector"])
def test_dora_has_the_length_of_each_row_that_it_was_given(name: str, tmp_path: Path) -> None:
    weight = to_q(tiny.tiny()).weight
    down, up = draw(2, weight.shape[1]), draw(weight.shape[0], 2, seed=1)
    length = draw(weight.shape[0], seed=2).abs() + 0.1
    tensors = {
        f"{TO_Q}.lora_down.weight": down,
        f"{TO_Q}.lora_up.weight": up,
        f"{TO_Q}.{name}": length if name != "dora_scale" else length[:, None],
    }
    changed = weight + up @ down
    wanted = length[:, None] * changed / changed.norm(dim=1, keepdim=True)
    assert close(to_q(merged(tensors, tmp_path)).weight, wanted)
    half = to_q(merged(tensors, tmp_path, 0.5)).weight
    assert close(half, weight + 0.5 * (wanted - weight))


def test_dora_of_columns_has_the_length_of_each_column(tmp_path: Path) -> None:
    weight = conv(tiny.tiny()).weight
    down, up = draw(2, *weight.shape[1:]), draw(weight.shape[0], 2, 1, 1, seed=1)
    length = draw(1, weight.shape[1], 1, 1, seed=2).abs() + 0.1
    tensors = {f"{CONV}.lora_down.weight": down, f"{CONV}.lora_up.weight": up}
    tensors[f"{CONV}.dora_scale"] = length
    changed = weight + (up.flatten(1) @ down.flatten(1)).reshape(weight.shape)
    wanted = length * changed / torch.linalg.vector_norm(changed, dim=(0, 2, 3), keepdim=True)
    assert close(conv(merged(tensors, tmp_path)).weight, wanted)


def test_a_difference_and_a_bias_are_added_as_they_are(tmp_path: Path) -> None:
    plain = conv(tiny.tiny())
    tensors = {f"{CONV}.diff": draw(*plain.weight.shape), f"{CONV}.diff_b": draw(*plain.bias.shape)}
    bundle = merged(tensors, tmp_path, 2.0)
    assert close(conv(bundle).weight, plain.weight + 2 * tensors[f"{CONV}.diff"])
    assert close(conv(bundle).bias, plain.bias + 2 * tensors[f"{CONV}.diff_b"])
    stack = LoraStack(bundle)
    assert stack.recipe() == []


def test_a_bias_of_peft_s_is_scaled_as_its_b_and_refused_where_there_is_none(
    tmp_path: Path,
) -> None:
    plain = conv(tiny.tiny())
    name = "unet.mid_block.resnets.0.conv1"
    tensors = {
        f"{name}.lora_A.weight": draw(2, *plain.weight.shape[1:]),
        f"{name}.lora_B.weight": draw(plain.weight.shape[0], 2, 1, 1),
        f"{name}.lora_B.bias": draw(plain.weight.shape[0]),
        f"{name}.alpha": torch.tensor(8.0),
    }
    bundle = merged(tensors, tmp_path)
    assert close(conv(bundle).bias, plain.bias + 4 * tensors[f"{name}.lora_B.bias"])
    no_bias = {k.replace(CONV, TO_Q): v for k, v in {f"{CONV}.diff_b": draw(64)}.items()}
    with pytest.raises(UserError, match="cannot be merged exactly"):
        merged(no_bias, tmp_path)


def test_integer_alphas_and_weights_of_eight_bits_are_read(tmp_path: Path) -> None:
    """As diffusers' own writer of kohya's layout, and as small files on civitai have them."""
    weight = to_q(tiny.tiny()).weight
    down, up = draw(2, weight.shape[1]), draw(weight.shape[0], 2, seed=1)
    tensors = {
        f"{TO_Q}.lora_down.weight": down.to(torch.float8_e4m3fn),
        f"{TO_Q}.lora_up.weight": up.to(torch.float8_e5m2),
        f"{TO_Q}.alpha": torch.tensor(4),
    }
    halves = [tensors[f"{TO_Q}.lora_{n}.weight"].float() for n in ("up", "down")]
    wanted = weight + 2 * halves[0] @ halves[1]
    assert close(to_q(merged(tensors, tmp_path)).weight, wanted)


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("lycoris_mid_block_resnets_0_conv1.lokr_w1", "unet.mid_block.resnets.0.conv1"),
        ("unet.mid_block.resnets.0.conv1.hada_w1_a", "unet.mid_block.resnets.0.conv1"),
        (
            "diffusion_model.middle_block.0.in_layers.2.lora_up.weight",
            "unet.mid_block.resnets.0.conv1",
        ),
        ("lora_unet_input_blocks_0_0.diff", "unet.conv_in"),
        (
            "base_model.model.text_model.encoder.layers.0.mlp.fc1.lora_A.weight",
            "text_encoder.encoder.layers.0.mlp.fc1",
        ),
        (
            "text_encoders.clip_l.transformer.text_model.encoder.layers.0.mlp.fc1.lora_up.weight",
            "text_encoder.encoder.layers.0.mlp.fc1",
        ),
    ],
)
def test_names_of_other_tools_are_read(name: str, layer: str) -> None:
    from latentdiff.models.lora import names

    key = names.parse(name)
    assert key is not None
    assert key.layer == layer


def test_a_file_for_the_text_encoder_alone_changes_it(tmp_path: Path) -> None:
    path = loras.saved(loras.trained(tiny.tiny()), tmp_path)[0]
    text = {n: t for n, t in load_file(path).items() if n.startswith("text_encoder.")}
    bare = {n.removeprefix("text_encoder."): t for n, t in text.items()}
    for tensors in (text, bare):
        save_file(tensors, tmp_path / "text.safetensors")
        bundle = loras.copy_of(tiny.tiny())
        report = LoraStack(bundle).load(tmp_path / "text.safetensors")
        assert len(report.matched) == len(text) // 2
        assert report.unmatched == ()


@pytest.mark.parametrize(
    ("tensors", "header", "base"),
    [
        ({"lora_te2_text_model_encoder_layers_0_mlp_fc1.lora_up.weight": draw(2, 2)}, {}, "XL"),
        ({"lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight": draw(2, 2)}, {}, "Flux"),
        (
            {
                f"transformer.single_transformer_blocks.0.attn.to_q.lora_{half}.weight": draw(2, 2)
                for half in "AB"
            },
            {},
            "Flux",
        ),
        (
            {f"{TO_Q}.lora_down.weight": draw(2, 999), f"{TO_Q}.lora_up.weight": draw(999, 2)},
            {"ss_base_model_version": "sdxl_base_v1-0"},
            "Stable Diffusion XL",
        ),
    ],
)
def test_a_file_for_another_kind_of_model_is_named_as_such(
    tensors: dict[str, Tensor], header: dict[str, str], base: str, tmp_path: Path
) -> None:
    save_file(tensors, tmp_path / "a.safetensors", metadata=header)
    with pytest.raises(UserError, match=base) as caught:
        LoraStack(loras.copy_of(tiny.tiny())).load(tmp_path / "a.safetensors")
    assert "\n" not in str(caught.value)


def test_what_is_no_plain_lora_is_merged_but_neither_converted_nor_trained_on(
    tmp_path: Path,
) -> None:
    save_file({f"{CONV}.diff": draw(2, 2)}, tmp_path / "a.safetensors")
    with pytest.raises(UserError, match=r"holds a difference adapter.*lora merge"):
        plain_pairs(read_lora(tmp_path / "a.safetensors"))


def test_a_header_that_is_nested_too_deep_is_refused_or_passed_over(tmp_path: Path) -> None:
    path = loras.saved(loras.trained(tiny.tiny()), tmp_path)[0]
    deep = "[" * 100_000
    save_file(load_file(path), path, metadata={"latentdiff": deep})
    assert read_lora(path).metadata.base == ""
    save_file(load_file(path), path, metadata={"lora_adapter_metadata": deep})
    with pytest.raises(UserError, match="its LoRA settings cannot be read"):
        read_lora(path)
    save_file(load_file(path), path, metadata={"latentdiff": json.dumps({"base": "\u202eevil"})})
    assert read_lora(path).metadata.base == "evil"
