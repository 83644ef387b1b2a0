"""What a file adds to one layer, in every form of low rank that can be merged exactly.

W' = W + s · Δ, with the user's scale s and, for a weight W (out, in[, k, k]),

    LoRA, LoCon   Δ = (α / r) · B A                        Hu et al. 2021, arXiv:2106.09685
    LoHa          Δ = (α / r) · (B₁A₁) ∘ (B₂A₂)            Hyeon-Woo et al. 2021, arXiv:2108.06098
    LoKr          Δ = (α / r) · C ⊗ (B A)                  Yeh et al. 2023, arXiv:2309.14859
    difference    Δ itself

and for DoRA (Liu et al. 2024, arXiv:2402.09353), of any of these with a magnitude m for each row
or column, Δ' = m · (W + Δ) / ‖W + Δ‖ − W. A Tucker core (r, r, k, k) may stand between two
factors of a convolution. LyCORIS names the factors (lycoris/modules/{loha,lokr}.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

Device = torch.device | str
_EPSILON = 1e-12


@dataclass(frozen=True, eq=False, kw_only=True)
class Extras:
    """What may come with a change of any kind. magnitude: DoRA's m, one for each row, or in the
    form (1, in, …) for each column. bias: (out,), added to the layer's bias as it is."""

    magnitude: Tensor | None = None
    bias: Tensor | None = None

    @property
    def none(self) -> bool:
        return self.magnitude is None and self.bias is None


class Change:
    """What one layer gains. kind: for people. rank: r, 0 where there is none. alpha: α. shape: of
    the weight it belongs to, a kernel's places perhaps flattened into the last. dtype: in which
    the file keeps it."""

    kind: ClassVar[str]
    alpha: float
    extras: Extras

    @property
    def rank(self) -> int:
        raise NotImplementedError

    @property
    def shape(self) -> tuple[int, ...]:
        raise NotImplementedError

    @property
    def dtype(self) -> torch.dtype:
        raise NotImplementedError

    def product(self, device: Device = "cpu") -> Tensor:
        """Δ before a magnitude, in float32 and `shape`; computed on the device."""
        raise NotImplementedError

    @property
    def name(self) -> str:
        """The kind, for people."""
        return f"DoRA ({self.kind})" if self.extras.magnitude is not None else self.kind

    def delta(self, device: Device = "cpu", weight: Tensor | None = None) -> Tensor:
        """What is added to a weight, float32; DoRA needs the weight, and answers in its shape."""
        delta = self.product(device)
        magnitude = self.extras.magnitude
        if magnitude is None:
            return delta
        assert weight is not None, "DoRA's change depends on the weight"
        original = weight.to(device, torch.float32)
        changed = original + delta.reshape(original.shape)
        by_column = magnitude.ndim > 1 and magnitude.shape[0] == 1 and magnitude.shape[1] > 1
        across = [d for d in range(changed.ndim) if d != (1 if by_column else 0)]
        norm = torch.linalg.vector_norm(changed, dim=across, keepdim=True).clamp_min(_EPSILON)
        scale = magnitude.to(device, torch.float32).reshape(norm.shape)
        return changed * (scale / norm) - original


@dataclass(frozen=True, eq=False)
class Pair(Change):
    """LoRA: down is A (r, in[, k, k]), up is B (out, r[, 1, 1])."""

    kind: ClassVar[str] = "LoRA"
    down: Tensor
    up: Tensor
    alpha: float
    extras: Extras = Extras()

    @property
    def rank(self) -> int:
        return int(self.down.shape[0])

    @property
    def shape(self) -> tuple[int, ...]:
        return (int(self.up.shape[0]), *(int(n) for n in self.down.shape[1:]))

    @property
    def dtype(self) -> torch.dtype:
        return self.down.dtype

    def product(self, device: Device = "cpu") -> Tensor:
        down, up = (t.to(device, torch.float32).flatten(1) for t in (self.down, self.up))
        return ((up @ down) * (self.alpha / self.rank)).reshape(self.shape)


@dataclass(frozen=True, eq=False)
class Factors(Change):
    """LoHa or LoKr: factors by LyCORIS' names without the kind ("w1_a", "w2", "t2" …).

    alpha counts only where a factor has a rank.
    """

    factors: Mapping[str, Tensor]
    alpha: float
    extras: Extras = Extras()

    @property
    def dtype(self) -> torch.dtype:
        return next(iter(self.factors.values())).dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.product().shape)

    def _matrix(self, index: int, device: Device) -> Tensor:
        """W₁ or W₂ from its factors: (rows, columns[, k, k])."""
        found = {n: t.to(device, torch.float32) for n, t in self.factors.items()}
        if f"w{index}" in found:
            return found[f"w{index}"]
        a, b = found[f"w{index}_a"], found[f"w{index}_b"]
        core = found.get(f"t{index}")
        if core is None:  # OneTrainer keeps a convolution's as kernels, 4-D
            return a.flatten(1) @ b.flatten(1)
        return torch.einsum("ij...,ip,jr->pr...", core, a, b)


@dataclass(frozen=True, eq=False)
class Hadamard(Factors):
    """LoHa: the product, place by place, of two of low rank."""

    kind: ClassVar[str] = "LoHa"

    @property
    def rank(self) -> int:
        return int(self.factors["w1_b"].shape[0])

    def product(self, device: Device = "cpu") -> Tensor:
        return (self.alpha / self.rank) * self._matrix(1, device) * self._matrix(2, device)


@dataclass(frozen=True, eq=False)
class Kronecker(Factors):
    """LoKr: the Kronecker product of a small factor and a larger one, each perhaps of low rank."""

    kind: ClassVar[str] = "LoKr"

    @property
    def rank(self) -> int:
        for name in ("w1_b", "w2_b"):
            if name in self.factors:
                return int(self.factors[name].shape[0])
        return 0

    def product(self, device: Device = "cpu") -> Tensor:
        one, two = self._matrix(1, device), self._matrix(2, device)
        whole = torch.kron(one, two.flatten(1))
        shape = (whole.shape[0], one.shape[1] * two.shape[1], *two.shape[2:])
        return whole.reshape(shape) * (self.alpha / self.rank if self.rank else 1.0)


@dataclass(frozen=True, eq=False)
class Difference(Change):
    """The whole change of a weight."""

    kind: ClassVar[str] = "difference"
    weight: Tensor
    extras: Extras = Extras()
    alpha: float = 1.0

    @property
    def rank(self) -> int:
        return 0

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.weight.shape)

    @property
    def dtype(self) -> torch.dtype:
        return self.weight.dtype

    def product(self, device: Device = "cpu") -> Tensor:
        return self.weight.to(device, torch.float32)
