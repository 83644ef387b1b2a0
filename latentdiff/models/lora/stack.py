"""LoRA files over a model: their change is added to the weights, and taken away bit by bit.

Nothing is wrapped, so a model with LoRAs is as fast as one without, and stays a plain bundle. The
sum W + Σ sᵢ · (αᵢ / rᵢ) · Bᵢ Aᵢ is made in float32 from the original W each time, and rounded to
the model's dtype once; the originals are kept, so what is taken away leaves no trace.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from latentdiff.errors import UserError
from latentdiff.models.bundle import Bundle
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

    def lines(self) -> list[str]:
        """What a user should know, a line each; empty when all is well."""
        said = []
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
        return {"file": str(self.path), "sha256": self.sha256, "scale": self.scale}


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

    def load(self, where: str | Path | LoraFile, scale: float = 1.0) -> LoraReport:
        """Add a file's change, `scale` times; UserError when none of its layers is in the model."""
        file = where if isinstance(where, LoraFile) else read_lora(where)
        scale = _checked_scale(scale)
        modules = self.layers()
        matched = tuple(layer for layer in file.pairs if layer in modules)
        if not matched:
            raise UserError(
                f"{file.path}: none of its {len(file.pairs)} layers is in this model, "
                f"first {next(iter(file.pairs))}; it was made for a model of another kind"
            )
        for layer in matched:
            _fits(file, layer, modules[layer].weight)
        report = LoraReport(
            path=file.path,
            sha256=file.sha256,
            layout=file.layout,
            scale=scale,
            matched=matched,
            unmatched=(*(n for n in file.pairs if n not in modules), *file.unknown),
            base_matches=file.metadata.base_matches(self.bundle.hashes),
            metadata=file.metadata,
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
        self._apply(tuple(self._originals))

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
                if isinstance(module, nn.Linear | nn.Conv2d):
                    found[f"{part}.{name.removeprefix(TEXT_PREFIX)}"] = module
        return found

    @torch.no_grad()
    def _apply(self, layers: tuple[str, ...]) -> None:
        """Make the weights of these layers anew from the originals and what is loaded."""
        modules = self.layers()
        for layer in layers:
            weight = modules[layer].weight
            original = self._originals.setdefault(layer, weight.detach().clone())
            total = original.to(weight.device, torch.float32, copy=True)
            changed = False
            for file, report in zip(self._files, self.reports, strict=True):
                if self.fused and report.scale and layer in file.pairs:
                    delta = file.pairs[layer].delta(weight.device)
                    total += report.scale * delta.reshape(total.shape)
                    changed = True
            if changed and not bool(torch.isfinite(total.to(weight.dtype)).all()):
                raise UserError(f"{layer} overflows in {weight.dtype} with these LoRAs")
            weight.copy_(total if changed else original)


def load_lora(bundle: Bundle, where: str | Path | LoraFile, scale: float = 1.0) -> LoraReport:
    """Add a LoRA to a bundle's weights for good; `LoraStack` is for more than that."""
    return LoraStack(bundle).load(where, scale)


def parse_lora(text: str) -> tuple[Path, float]:
    """FILE or FILE:SCALE of a command line; a name that exists as it stands is a name."""
    path = Path(text).expanduser()
    head, colon, tail = text.rpartition(":")
    if path.exists() or not colon:
        return path, 1.0
    try:
        return Path(head).expanduser(), _checked_scale(float(tail))
    except ValueError:
        raise UserError(f"{text!r}: {tail!r} is no scale; expected FILE or FILE:SCALE") from None


def _checked_scale(scale: float) -> float:
    if isinstance(scale, bool) or not math.isfinite(scale):
        raise UserError(f"a LoRA's scale is {scale}; expected a finite number")
    return float(scale)


def _fits(file: LoraFile, layer: str, weight: Tensor) -> None:
    """UserError unless the pair makes a change of the weight's shape.

    A 1x1 convolution and a linear layer are the same thing: Stable Diffusion 1.x and 2.x differ
    in which they use for `proj_in`, and so do the tools that write LoRAs.
    """
    theirs, ours = file.pairs[layer].shape, tuple(weight.shape)

    def bare(shape: tuple[int, ...]) -> tuple[int, ...]:
        return shape[:2] if shape[2:] == (1, 1) else shape

    if bare(theirs) != bare(ours):
        raise UserError(
            f"{file.path}: {layer} changes a weight {theirs}, this model's is {ours}; "
            "it was made for a model of another size"
        )
