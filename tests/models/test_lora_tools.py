"""Adapters as other tools write them: merged, they act as those tools' own modules do.

Names, shapes and formulas follow their public code: LyCORIS (lycoris/modules/norms.py), OneTrainer
(modules/module/LoRAModule.py, modules/modelSaver/mixin/LoRASaverMixin.py), ai-toolkit
(toolkit/models/DoRA.py), SimpleTuner through LyCORIS' wrapper (lycoris/wrapper.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import loras
import pytest
import tiny
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from latentdiff.models.bundle import Bundle
from latentdiff.models.lora.stack import LoraStack

RANK, ALPHA = 2, 3.0
Weights = dict[str, Tensor]


class Draw:
    """Addressed noise: the same for the same place."""

    def __init__(self) -> None:
        self.generator = torch.Generator().manual_seed(7)

    def __call__(self, *shape: int) -> Tensor:
        return 0.2 * torch.randn(*shape, generator=self.generator)


def layers(bundle: Bundle, *kinds: type[nn.Module]) -> Iterator[tuple[str, Any]]:
    """The blocks' layers of some kinds, by path."""
    for name, module in bundle.unet.named_modules():
        if isinstance(module, kinds) and "_blocks." in name + ".":
            yield name, module


def down_and_up(module: Any, draw: Draw) -> tuple[Tensor, Tensor]:
    """A and B as layers of the module's own kind hold them."""
    if isinstance(module, nn.Conv2d):
        return draw(RANK, *module.weight.shape[1:]), draw(module.out_channels, RANK, 1, 1)
    return draw(RANK, module.in_features), draw(module.out_features, RANK)


def make_weight(down: Tensor, up: Tensor, shape: torch.Size) -> Tensor:
    """OneTrainer's PeftBase.make_weight."""
    return (up.view(up.size(0), -1) @ down.view(down.size(0), -1)).view(shape)


def one_trainer_loha(bundle: Bundle) -> tuple[Weights, Weights]:
    """LoHaModule, KOHYA format: factors are the weights of layers, of convolutions in 4-D."""
    draw, tensors, expected = Draw(), {}, {}
    for name, module in layers(bundle, nn.Linear, nn.Conv2d):
        flat = f"lora_unet_{name.replace('.', '_')}"
        (b1, a1), (b2, a2) = down_and_up(module, draw), down_and_up(module, draw)
        for key, value in (("w1_a", a1), ("w1_b", b1), ("w2_a", a2), ("w2_b", b2)):
            tensors[f"{flat}.hada_{key}"] = value
        tensors[f"{flat}.alpha"] = torch.tensor(ALPHA)
        shape = module.weight.shape
        product = make_weight(b1, a1, shape) * make_weight(b2, a2, shape) * (ALPHA / RANK)
        expected[f"{name}.weight"] = module.weight + product
    return tensors, expected


def one_trainer_dora(bundle: Bundle) -> tuple[Weights, Weights]:
    """DoRAModule, DIFFUSERS format: α folded into B; the default magnitude, one for each input,
    stays under its own name."""
    draw, tensors, expected = Draw(), {}, {}
    for name, module in layers(bundle, nn.Linear, nn.Conv2d):
        down, up = down_and_up(module, draw)
        weight = module.weight
        norm_of = weight.transpose(1, 0).reshape(weight.shape[1], -1).norm(dim=1, keepdim=True)
        ones = [1] * (weight.ndim - 1)
        scale = norm_of.reshape(weight.shape[1], *ones).transpose(1, 0) * 1.3
        tensors[f"unet.{name}.lora_A.weight"] = down
        tensors[f"unet.{name}.lora_B.weight"] = up * (ALPHA / RANK)
        tensors[f"unet.{name}.dora_scale"] = scale.contiguous()
        whole = weight + make_weight(down, up, weight.shape) * (ALPHA / RANK)
        norm = whole.transpose(0, 1).reshape(whole.shape[1], -1).norm(dim=1, keepdim=True)
        norm = norm.reshape(whole.shape[1], *ones).transpose(0, 1)
        expected[f"{name}.weight"] = scale * (whole / norm)
    return tensors, expected


def ai_toolkit_dora(bundle: Bundle) -> tuple[Weights, Weights]:
    """DoRAModule: linear layers, a magnitude for each output, no α in the file."""
    draw, tensors, expected = Draw(), {}, {}
    for name, module in layers(bundle, nn.Linear):
        down, up = down_and_up(module, draw)
        flat = f"lora_unet_{name.replace('.', '_')}"
        magnitude = torch.linalg.norm(module.weight, dim=1) * 0.8
        tensors[f"{flat}.lora_down.weight"], tensors[f"{flat}.lora_up.weight"] = down, up
        tensors[f"{flat}.magnitude"] = magnitude
        whole = module.weight + up @ down
        expected[f"{name}.weight"] = (magnitude / torch.linalg.norm(whole, dim=1))[:, None] * whole
    return tensors, expected


def lycoris_norms(bundle: Bundle) -> tuple[Weights, Weights]:
    """NormModule, in kohya's names: what is added to a norm's weight and bias."""
    draw, tensors, expected = Draw(), {}, {}
    for name, module in layers(bundle, nn.GroupNorm, nn.LayerNorm):
        flat = f"lora_unet_{name.replace('.', '_')}"
        weight, bias = draw(*module.weight.shape), draw(*module.bias.shape)
        tensors[f"{flat}.w_norm"], tensors[f"{flat}.b_norm"] = weight, bias
        expected[f"{name}.weight"] = module.weight + weight
        expected[f"{name}.bias"] = module.bias + bias
    return tensors, expected


def simple_tuner_lokr(bundle: Bundle) -> tuple[Weights, Weights]:
    """LokrModule below LyCORIS' wrapper: a whole small factor, a larger one of low rank; of a
    convolution in its flat form."""
    draw, tensors, expected = Draw(), {}, {}
    for name, module in layers(bundle, nn.Linear, nn.Conv2d):
        out, width, *kernel = module.weight.shape
        if width % 4 or out % 4:
            continue
        flat = f"lycoris_{name.replace('.', '_')}"
        one = draw(4, 4)
        a = draw(out // 4, RANK)
        b = draw(RANK, width // 4 * int(torch.tensor(kernel or [1]).prod()))
        tensors |= {f"{flat}.lokr_w1": one, f"{flat}.lokr_w2_a": a, f"{flat}.lokr_w2_b": b}
        tensors[f"{flat}.alpha"] = torch.tensor(ALPHA)
        two = (a @ b).reshape(out // 4, width // 4, *kernel)
        first = one[(...,) + (None,) * len(kernel)]
        expected[f"{name}.weight"] = module.weight + torch.kron(first, two) * (ALPHA / RANK)
    return tensors, expected


TOOLS = [one_trainer_loha, one_trainer_dora, ai_toolkit_dora, lycoris_norms, simple_tuner_lokr]


@pytest.mark.parametrize("tool", TOOLS, ids=lambda tool: tool.__name__)
@torch.no_grad()
def test_every_layer_of_a_tool_s_file_becomes_what_the_tool_computes(
    tool: Any, tmp_path: Path
) -> None:
    bundle = loras.copy_of(tiny.tiny())
    tensors, expected = tool(bundle)
    assert len(expected) >= 10
    before = {name: value.clone() for name, value in bundle.unet.state_dict().items()}
    save_file({k: v.contiguous() for k, v in tensors.items()}, tmp_path / "a.safetensors")
    stack = LoraStack(bundle)
    report = stack.load(tmp_path / "a.safetensors")
    assert report.unmatched == ()
    after = bundle.unet.state_dict()
    for name, value in after.items():
        wanted = expected.get(name, before[name])
        torch.testing.assert_close(value, wanted, atol=1e-5, rtol=1e-4, msg=name)
        assert (name in expected) == (not torch.equal(value, before[name])), name
    stack.unfuse()
    assert all(torch.equal(v, before[n]) for n, v in bundle.unet.state_dict().items())


def test_an_embedding_bundled_with_a_lora_is_told_and_not_taken(tmp_path: Path) -> None:
    tensors, _ = one_trainer_loha(loras.copy_of(tiny.tiny()))
    tensors["bundle_emb.<cat>.clip_l"] = torch.zeros(1, 32)
    save_file(tensors, tmp_path / "a.safetensors")
    report = LoraStack(loras.copy_of(tiny.tiny())).load(tmp_path / "a.safetensors")
    assert report.unmatched == ("bundle_emb.<cat>.clip_l",)
