"""LoRA for training: peft's layers in the U-Net and the text encoder, out to files and back.

Low-rank adaptation (Hu et al. 2021, arXiv:2106.09685) learns W' = W + (α / r) · B A for chosen
layers and leaves W frozen. B starts at zero, so the first picture is the base model's own.

For drawing, peft is not needed: `latentdiff.models.lora.stack` adds a file's change to the
weights themselves.
"""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from latentdiff import seeding
from latentdiff.errors import UserError, needs_extra
from latentdiff.models.lora.changes import Pair
from latentdiff.models.lora.formats import (
    KOHYA_NAME,
    PEFT_NAME,
    plain_pairs,
    read_lora,
    write_lora,
)
from latentdiff.models.lora.metadata import LoraMetadata, base_of
from latentdiff.models.lora.names import TEXT_PREFIX
from latentdiff.models.lora.stack import LoraReport, LoraStack, load_lora

__all__ = [
    "LoraConfig",
    "LoraMetadata",
    "LoraReport",
    "LoraStack",
    "add_lora",
    "base_of",
    "initialise_lora",
    "load_lora",
    "lora_pairs",
    "lora_state",
    "merged_copy",
    "save_lora",
]

ADAPTER = "default"
Targets = Literal["attention", "attention+ff", "all"]
_ATTENTION = r"attn[12]\.(?:to_q|to_k|to_v|to_out\.0)"
_FEED_FORWARD = r"ff\.net\.(?:0\.proj|2)|proj_in|proj_out"
_RESIDUAL = r"conv|conv1|conv2|conv_shortcut|time_emb_proj"
_BLOCKS = r"(?:down_blocks|mid_block|up_blocks)\..+\."
UNET_TARGETS: dict[str, str] = {
    "attention": rf"{_BLOCKS}(?:{_ATTENTION})",
    "attention+ff": rf"{_BLOCKS}(?:{_ATTENTION}|{_FEED_FORWARD})",
    "all": rf"{_BLOCKS}(?:{_ATTENTION}|{_FEED_FORWARD}|{_RESIDUAL})",
}
"""Regular expressions over module paths. "all" is what kohya's LoCon adapts: every linear and
convolution of the blocks; not conv_in, conv_out and the time embedding."""
_TEXT_ATTENTION = r"self_attn\.(?:q_proj|k_proj|v_proj|out_proj)"
TEXT_TARGETS: dict[str, str] = {
    "attention": rf"(?:.+\.){_TEXT_ATTENTION}",
    "attention+ff": rf"(?:.+\.)(?:{_TEXT_ATTENTION}|mlp\.fc[12])",
    "all": rf"(?:.+\.)(?:{_TEXT_ATTENTION}|mlp\.fc[12])",
}


@dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """Which layers gain a low-rank change, and of what size."""

    rank: int = 16
    """Rank r of each change: more can learn more, and makes a larger file."""
    alpha: float | None = None
    """The change is scaled by alpha / rank; by default alpha is the rank, so by 1."""
    dropout: float = 0.0
    """Share of the inputs of A that is dropped in training."""
    targets: Targets = "attention"
    """attention: queries, keys, values and outputs; attention+ff: feed-forward and projections
    too; all: also the convolutions of the blocks."""

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise UserError(f"a LoRA's rank is {self.rank}; expected at least 1")
        if self.alpha is not None and not (self.alpha > 0 and math.isfinite(self.alpha)):
            raise UserError(f"a LoRA's alpha is {self.alpha}; expected a number above 0")
        if not 0 <= self.dropout < 1:
            raise UserError(f"a LoRA's dropout is {self.dropout}; expected 0 … below 1")
        if self.targets not in UNET_TARGETS:
            raise UserError(f"LoRA targets are {self.targets!r}; known: {', '.join(UNET_TARGETS)}")

    @property
    def resolved_alpha(self) -> float:
        return float(self.rank if self.alpha is None else self.alpha)


def add_lora(
    unet: nn.Module, text_encoder: nn.Module | None, config: LoraConfig, seed: int
) -> list[str]:
    """Give the networks trainable pairs, in place; all else in them is frozen.

    text_encoder: adapted exactly when it is given. A is drawn from U(-1/√fan_in, 1/√fan_in),
    addressed by seed and layer, B is zero; both are float32 whatever the base's dtype. Returns the
    trainable parameters' names, `unet.…` and `text_encoder.…`, as they are in the modules.
    """
    networks = [("unet", unet, UNET_TARGETS)]
    if text_encoder is not None:
        networks.append(("text_encoder", text_encoder, TEXT_TARGETS))
    names = []
    for part, network, targets in networks:
        _inject(part, network, targets[config.targets], config)
        for layer, wrapper in _wrappers(network):
            for half in (wrapper.lora_A[ADAPTER], wrapper.lora_B[ADAPTER]):
                half.float()
                half.weight.requires_grad_(True)
            down = wrapper.lora_A[ADAPTER].weight
            bound = 1 / math.sqrt(down[0].numel())
            draw = seeding.generator(seed, "lora", part, layer)
            values = draw.uniform(-bound, bound, tuple(down.shape))
            with torch.no_grad():
                down.copy_(torch.from_numpy(values))
                wrapper.lora_B[ADAPTER].weight.zero_()
        names += [f"{part}.{n}" for n, p in network.named_parameters() if p.requires_grad]
    return names


def require_peft() -> Any:
    """The module peft; UserError with the line that installs it."""
    try:
        import peft
    except ImportError as error:
        raise needs_extra("training a LoRA", error, extra="lora") from error
    return peft


def _inject(part: str, network: nn.Module, pattern: str, config: LoraConfig) -> None:
    peft = require_peft()
    assert not list(_wrappers(network)), f"the {part} has a LoRA already"
    chosen = [
        name
        for name, module in network.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d) and re.fullmatch(pattern, name)
    ]
    if not chosen:
        raise UserError(f"the {part} has no layers for LoRA targets {config.targets!r}")
    settings = peft.LoraConfig(
        r=config.rank,
        lora_alpha=config.resolved_alpha,
        lora_dropout=config.dropout,
        target_modules=chosen,
        bias="none",
    )
    with torch.random.fork_rng(devices=[]):  # peft's own initial draws are replaced
        peft.inject_adapter_in_model(settings, network, adapter_name=ADAPTER)
    wrapped = [name for name, _ in _wrappers(network)]
    assert sorted(wrapped) == sorted(chosen), set(wrapped) ^ set(chosen)


def _wrappers(network: nn.Module) -> Iterator[tuple[str, Any]]:
    """peft's layers with the paths of the layers they stand for."""
    for name, module in network.named_modules():
        if ADAPTER in getattr(module, "lora_A", ()):
            yield name, module


def lora_pairs(unet: nn.Module, text_encoder: nn.Module | None = None) -> dict[str, Pair]:
    """PART.MODULE → pair of every adapted layer, float32 copies on the CPU."""
    pairs = {}
    for part, network in (("unet", unet), ("text_encoder", text_encoder)):
        for name, wrapper in _wrappers(network) if network is not None else ():
            pairs[f"{part}.{name.removeprefix(TEXT_PREFIX)}"] = _pair_of(wrapper)
    return pairs


def _pair_of(wrapper: Any) -> Pair:
    down, up = (
        half[ADAPTER].weight.detach().to("cpu", torch.float32, copy=True).contiguous()
        for half in (wrapper.lora_A, wrapper.lora_B)
    )
    return Pair(down, up, float(wrapper.lora_alpha[ADAPTER]))


def lora_state(network: nn.Module) -> dict[str, Tensor]:
    """The pairs alone, live: `MODULE.lora_A.weight` and `MODULE.lora_B.weight` → parameter."""
    state = {}
    for name, wrapper in _wrappers(network):
        state[f"{name}.lora_A.weight"] = wrapper.lora_A[ADAPTER].weight
        state[f"{name}.lora_B.weight"] = wrapper.lora_B[ADAPTER].weight
    return state


def save_lora(
    folder: str | Path,
    unet: nn.Module,
    text_encoder: nn.Module | None,
    metadata: LoraMetadata,
) -> tuple[Path, Path]:
    """Write the trained pairs into a folder, in both layouts; returns (diffusers', kohya's) file.

    The networks may be averaged copies. Values are float32; rank and α are those of the layers.
    """
    pairs = lora_pairs(unet, text_encoder)
    assert pairs, "neither network has a LoRA"
    for layer, pair in pairs.items():
        for tensor in (pair.down, pair.up):
            if not bool(torch.isfinite(tensor).all()):
                raise UserError(f"the LoRA of {layer} holds NaN or infinity; not saved")
    place = Path(folder)
    return (
        write_lora(place / PEFT_NAME, pairs, "peft", metadata),
        write_lora(place / KOHYA_NAME, pairs, "kohya", metadata),
    )


@torch.no_grad()
def initialise_lora(
    where: str | Path, unet: nn.Module, text_encoder: nn.Module | None = None
) -> None:
    """Start training from a LoRA file; UserError unless it has the very layers and ranks added."""
    file = read_lora(where)
    wrappers = {f"unet.{name}": wrapper for name, wrapper in _wrappers(unet)}
    for name, wrapper in _wrappers(text_encoder) if text_encoder is not None else ():
        wrappers[f"text_encoder.{name.removeprefix(TEXT_PREFIX)}"] = wrapper
    pairs = plain_pairs(file)
    if odd := sorted(set(wrappers) ^ set(pairs)):
        raise UserError(
            f"{file.path} does not fit this LoRA's targets: {len(odd)} layers differ, "
            f"first {odd[0]}"
        )
    for layer, wrapper in wrappers.items():
        pair = pairs[layer]
        down, up = wrapper.lora_A[ADAPTER].weight, wrapper.lora_B[ADAPTER].weight
        if pair.down.shape != down.shape or pair.up.shape != up.shape:
            raise UserError(
                f"{file.path}: {layer} has halves {tuple(pair.down.shape)} and "
                f"{tuple(pair.up.shape)}; this run's are {tuple(down.shape)} and {tuple(up.shape)}"
            )
        if not math.isclose(pair.alpha, wrapper.lora_alpha[ADAPTER], rel_tol=1e-6):
            raise UserError(
                f"{file.path}: {layer} has alpha {pair.alpha}, this run "
                f"{wrapper.lora_alpha[ADAPTER]}; give the same alpha"
            )
        down.copy_(pair.down)
        up.copy_(pair.up)


@torch.no_grad()
def merged_copy(network: nn.Module) -> Any:
    """A plain copy of an adapted network, its pairs added to the weights, without peft's layers.

    The sum is made in float32 and rounded to the base's dtype once.
    """
    plain: Any = copy.deepcopy(network)
    for name, wrapper in list(_wrappers(plain)):
        base = wrapper.get_base_layer()
        base.weight.copy_(base.weight.float() + _pair_of(wrapper).delta(base.weight.device))
        parent, _, last = name.rpartition(".")
        setattr(plain.get_submodule(parent), last, base)
    if hasattr(plain, "peft_config"):
        del plain.peft_config
    return plain.requires_grad_(False)
