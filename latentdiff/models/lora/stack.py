"""LoRA files over a model: their change is added to the weights, and taken away bit by bit.

Nothing is wrapped, so a model with LoRAs is as fast as one without, and stays a plain bundle. The
sum W + Σ sᵢ · (αᵢ / rᵢ) · Bᵢ Aᵢ is made in float32 from the original W each time, and rounded to
the model's dtype once; the originals are kept, so what is taken away leaves no trace.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from latentdiff.errors import UserError, unknown_name
from latentdiff.models.bundle import Bundle
from latentdiff.models.lora.changes import Change, Pair
from latentdiff.models.lora.formats import LoraFile, read_lora
from latentdiff.models.lora.metadata import PARTS, LoraMetadata
from latentdiff.models.lora.names import TEXT_PREFIX


@dataclass(frozen=True, kw_only=True)
class LoraReport:
    """What became of a file: matched and unmatched are layers (PART.MODULE) or, for names that no
    layout explains, tensors; base_matches is None when the file or the model does not say."""

    path: Path
    sha256: str
    layout: str
    scale: float
    matched: tuple[str, ...]
    unmatched: tuple[str, ...]
    base_matches: bool | None
    metadata: LoraMetadata = field(repr=False)
    notes: tuple[str, ...] = ()
    blocks: Mapping[str, float] = field(default_factory=dict)

    def scale_of(self, layer: str) -> float:
        """What a layer's change is multiplied by: `scale`, times that of the longest name in
        `blocks` that it lies in."""
        inside = [name for name in self.blocks if f"{layer}.".startswith(f"{name}.")]
        return self.scale * (self.blocks[max(inside, key=len)] if inside else 1.0)

    def lines(self) -> list[str]:
        """What a user should know, a line each; empty when all is well."""
        said = list(self.notes)
        if self.unmatched:
            more = ", …" if len(self.unmatched) > 3 else ""
            said.append(
                f"{self.path.name}: {len(self.unmatched)} of its layers are not in this model and "
                f"were left out ({', '.join(self.unmatched[:3])}{more})"
            )
        if self.base_matches is False:
            base = f" ({self.metadata.base})" if self.metadata.base else ""
            said.append(f"{self.path.name} was trained on another model{base}: results may differ")
        return said

    def summary(self) -> str:
        """One line: the file, what it changed, and the words that call it up."""
        words = ", ".join(self.metadata.trigger_words)
        called = f"; trigger words: {words}" if words else ""
        count = len(self.matched)
        layers = f"{count} layer{'' if count == 1 else 's'}"
        return f"{self.path.name}: {layers} changed, scale {self.scale:g}{called}"

    def recipe(self) -> dict[str, Any]:
        """What makes the change again, fit for JSON."""
        blocks = {"blocks": dict(self.blocks)} if self.blocks else {}
        return {"file": str(self.path), "sha256": self.sha256, "scale": self.scale, **blocks}


class LoraStack:
    """The LoRAs of one bundle, in the order they came; one stack a bundle.

    The bundle's networks are changed in place, under everything that uses them.
    """

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle
        self.reports: list[LoraReport] = []
        self.fused = True
        self._files: list[LoraFile] = []
        self._originals: dict[str, Tensor] = {}

    def load(
        self,
        where: str | Path | LoraFile,
        scale: float = 1.0,
        *,
        blocks: Mapping[str, float] | None = None,
    ) -> LoraReport:
        """Add a file's change, `scale` times; UserError when none of its layers is in the model.

        blocks: a part of the model ("unet.up_blocks.1", "unet.mid_block", "text_encoder" …) →
        what its layers' scale is multiplied by; the longest name that fits counts.
        """
        file = where if isinstance(where, LoraFile) else read_lora(where)
        scale = _checked_scale(scale)
        modules = self.layers()
        matched = tuple(layer for layer in file.changes if layer in modules)
        if not matched:
            made = (
                f"is for {file.other_base}"
                if file.other_base
                else "was made for a model of another kind"
            )
            raise UserError(
                f"{file.path}: none of its {len(file.changes)} layers is in this model, "
                f"first {next(iter(file.changes))}; it {made}"
            )
        for layer in matched:
            _fits(file, layer, modules[layer])
        parts = {name: _checked_scale(value) for name, value in (blocks or {}).items()}
        for name in parts:
            if not any(f"{layer}.".startswith(f"{name}.") for layer in matched):
                known = {".".join(layer.split(".")[:k]) for layer in matched for k in (1, 2, 3)}
                raise unknown_name("part that the LoRA changes", name, sorted(known))
        report = LoraReport(
            path=file.path,
            sha256=file.sha256,
            layout=file.layout,
            scale=scale,
            matched=matched,
            unmatched=(*(n for n in file.changes if n not in modules), *file.unknown),
            base_matches=file.metadata.base_matches(self.bundle.hashes),
            metadata=file.metadata,
            notes=file.notes,
            blocks=parts,
        )
        self.reports.append(report)
        self._files.append(file)
        try:
            self._apply(matched)
        except UserError:
            del self.reports[-1], self._files[-1]
            self._apply(matched)
            raise
        return report

    def set_scale(self, index: int, scale: float) -> None:
        """Another scale for the LoRA that was loaded as number `index`, from 0."""
        self.reports[index] = replace(self.reports[index], scale=_checked_scale(scale))
        self._apply(self.reports[index].matched)

    def unfuse(self) -> None:
        """Put the original weights back, bit by bit; the LoRAs stay known, for `fuse`."""
        self.fused = False
        self._apply(tuple({key.rpartition(".")[0] for key in self._originals}))

    def fuse(self) -> None:
        """Add the LoRAs to the weights again after `unfuse`."""
        self.fused = True
        self._apply(tuple({layer for report in self.reports for layer in report.matched}))

    def clear(self) -> None:
        """Put the original weights back and forget the LoRAs."""
        self.unfuse()
        self.reports, self._files, self.fused = [], [], True
        self._originals = {}

    def recipe(self) -> list[dict[str, Any]]:
        """The LoRAs that are in the weights now, fit for JSON."""
        return [report.recipe() for report in self.reports] if self.fused else []

    def layers(self) -> dict[str, Any]:
        """PART.MODULE → every layer that a LoRA may change."""
        found = {}
        for part in PARTS:
            for name, module in getattr(self.bundle, part).named_modules():
                assert not hasattr(module, "base_layer"), f"the {part} has peft's layers"
                if isinstance(module, nn.Linear | nn.Conv2d) or (
                    isinstance(module, nn.GroupNorm | nn.LayerNorm) and module.weight is not None
                ):
                    found[f"{part}.{name.removeprefix(TEXT_PREFIX)}"] = module
        return found

    @torch.no_grad()
    def _apply(self, layers: tuple[str, ...]) -> None:
        """Make the weights of these layers anew from the originals and what is loaded."""
        modules = self.layers()
        for layer in layers:
            changes = [
                (report.scale_of(layer), file.changes[layer])
                for file, report in zip(self._files, self.reports, strict=True)
                if self.fused and report.scale_of(layer) and layer in file.changes
            ]
            self._set(layer, "weight", modules[layer].weight, changes)
            if f"{layer}.bias" in self._originals or any(
                c.extras.bias is not None for _, c in changes
            ):
                self._set(layer, "bias", modules[layer].bias, changes)

    def _set(
        self, layer: str, name: str, target: Tensor, changes: Sequence[tuple[float, Change]]
    ) -> None:
        """Make a layer's weight or bias anew from its original and (scale, change) of each file."""
        original = self._originals.setdefault(f"{layer}.{name}", target.detach().clone())
        total = original.to(target.device, torch.float32, copy=True)
        changed = False
        for scale, change in changes:
            if name == "bias":
                bias = change.extras.bias
                delta = None if bias is None else bias.to(target.device, torch.float32)
            else:
                delta = change.delta(target.device, original) if change.shape else None
            if delta is not None:
                total += scale * delta.reshape(total.shape)
                changed = True
        if changed and not bool(torch.isfinite(total.to(target.dtype)).all()):
            raise UserError(f"{layer} overflows in {target.dtype} with these LoRAs")
        target.copy_(total if changed else original)


def load_lora(bundle: Bundle, where: str | Path | LoraFile, scale: float = 1.0) -> LoraReport:
    """Add a LoRA to a bundle's weights for good; `LoraStack` is for more than that."""
    return LoraStack(bundle).load(where, scale)


@dataclass(frozen=True)
class ChosenLora:
    """A file, its scale, and scales of parts of the model on top, for `LoraStack.load`."""

    path: Path
    scale: float = 1.0
    blocks: Mapping[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        """As a command line writes it."""
        blocks = ",".join(f"{name}={scale!r}" for name, scale in self.blocks.items())
        return f"{self.path}:{self.scale!r}" + (f":{blocks}" if blocks else "")


def parse_lora(text: str) -> ChosenLora:
    """FILE, FILE:SCALE or FILE:SCALE:PART=SCALE,PART=SCALE of a command line; a name that exists
    as it stands is a name."""
    path = Path(text).expanduser()
    head, colon, tail = text.rpartition(":")
    if path.exists() or not colon:
        return ChosenLora(path)
    if "=" in tail:
        parts = [part.partition("=") for part in tail.split(",")]
        blocks = {name.strip(): _read_scale(scale, text) for name, _, scale in parts}
        return replace(parse_lora(head), blocks=blocks)
    return ChosenLora(Path(head).expanduser(), _read_scale(tail, text))


def _read_scale(tail: str, text: str) -> float:
    try:
        return _checked_scale(float(tail))
    except ValueError:
        raise UserError(
            f"{text!r}: {tail!r} is no scale; expected FILE, FILE:SCALE or "
            "FILE:SCALE:PART=SCALE,PART=SCALE"
        ) from None


def _checked_scale(scale: float) -> float:
    if isinstance(scale, bool) or not math.isfinite(scale):
        raise UserError(f"a LoRA's scale is {scale}; expected a finite number")
    return float(scale)


def _fits(file: LoraFile, layer: str, module: Any) -> None:
    """UserError unless the change has the shape of the layer's weight.

    A 1x1 convolution and a linear layer are the same thing: Stable Diffusion 1.x and 2.x differ
    in which they use for `proj_in`, and so do the tools that write LoRAs.
    """
    change = file.changes[layer]
    theirs, ours = change.shape, tuple(module.weight.shape)

    def bare(shape: tuple[int, ...]) -> tuple[int, ...]:
        return shape[:2] if shape[2:] == (1, 1) else shape

    flat = (ours[0], math.prod(ours[1:]))
    if theirs and bare(theirs) not in (bare(ours), *([] if isinstance(change, Pair) else [flat])):
        made = (
            f"is for {file.other_base}"
            if file.other_base
            else "was made for a model of another size"
        )
        raise UserError(
            f"{file.path}: {layer} changes a weight {theirs}, this model's is {ours}; it {made}"
        )
    magnitude, bias = change.extras.magnitude, change.extras.bias
    if magnitude is not None and magnitude.numel() not in ours[:2]:
        raise UserError(
            f"{file.path}: {layer} has magnitudes {tuple(magnitude.shape)} for a weight {ours}"
        )
    if bias is not None and (module.bias is None or module.bias.shape != bias.shape):
        raise UserError(
            f"{file.path}: {layer} changes a bias {tuple(bias.shape)}, which this model's layer "
            "does not have; it cannot be merged exactly"
        )
