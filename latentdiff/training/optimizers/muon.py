"""Muon: momentum whose every matrix is made orthogonal before it is applied.

Jordan et al. 2024 (kellerjordan.github.io/posts/muon): an update with all singular values near one
moves the rare directions of a weight matrix as far as the frequent ones. Convolutions count as
matrices, out × (in · height · width). Vectors, embeddings, and the first and last convolutions are
trained by AdamW inside the same optimizer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw

from latentdiff import devices

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5
_IN_CACHE = 2**16
"""Numbers of the matrices that are iterated at once on a CPU, so that all stay in its cache."""
Shape = tuple[int, int]
_EDGES = ("conv_in", "conv_out", "quant_conv", "post_quant_conv")
"""Layers whose inputs or outputs are pixels or latents: their channels have a meaning of their own,
which an orthogonal update would mix."""


def orthogonalise(matrices: Tensor) -> Tensor:
    """The nearest orthogonal matrices, nearly: singular values come to lie within 0.7 … 1.2.

    matrices: (n, rows, columns). Five iterations of the quintic x ← a x + b x³ + c x⁵ on the
    singular values. On a CPU, in float32, wide matrices are iterated through the small square
    A = X Xᵀ, because every iteration multiplies X by a polynomial of A: for 192 × 1728 that is 2.7
    times less work. On an accelerator the matrices are bfloat16, where A would lose too much, and
    so are those on a CPU that multiplies bfloat16 and has no shorter way.
    """
    x = matrices.mT if matrices.shape[-2] > matrices.shape[-1] else matrices
    if _in_bfloat16(x):
        out = _plain(_unit(x).bfloat16()).to(matrices.dtype)
    else:
        few = max(1, _IN_CACHE // (x.shape[-2] * x.shape[-1]))
        out = torch.empty_like(x)
        for part, place in zip(x.split(few), out.split(few), strict=True):
            place.copy_(_iterated(_unit(part)))
    return out.mT if matrices.shape[-2] > matrices.shape[-1] else out


def _unit(x: Tensor) -> Tensor:
    return x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)


def _is_wide(rows: int, columns: int) -> bool:
    """Whether the way through the square is the shorter one; rows ≤ columns."""
    return columns > 1.6 * rows


def _in_bfloat16(x: Tensor) -> bool:
    if x.device.type != "cpu":
        return True
    fast = x.dtype == torch.float32 and devices.multiplies_bfloat16(x.device)
    return fast and not _is_wide(x.shape[-2], x.shape[-1])


def _iterated(x: Tensor) -> Tensor:
    return _through_square(x) if _is_wide(x.shape[-2], x.shape[-1]) else _plain(x)


def _polynomial(square: Tensor) -> Tensor:
    """a + b A + c A² of squares A (n, rows, rows)."""
    a, b, c = _COEFFICIENTS
    found = torch.baddbmm(square, square, square, beta=b, alpha=c)
    found.diagonal(dim1=-2, dim2=-1).add_(a)
    return found


def _plain(x: Tensor) -> Tensor:
    for _ in range(_ITERATIONS):
        x = _polynomial(x @ x.mT) @ x
    return x


def _through_square(x: Tensor) -> Tensor:
    square = x @ x.mT
    product: Tensor | None = None
    for k in range(_ITERATIONS):
        polynomial = _polynomial(square)
        product = polynomial if product is None else polynomial @ product
        if k < _ITERATIONS - 1:
            square = polynomial @ square @ polynomial
    assert product is not None
    return product @ x


def is_matrix(name: str, parameter: Tensor, embeddings: set[int]) -> bool:
    """Whether Muon trains this parameter; AdamW trains the others."""
    if parameter.ndim < 2 or id(parameter) in embeddings:
        return False
    owner = name.split(".")[-2] if "." in name else ""
    return owner not in _EDGES and min(parameter.shape[0], parameter[0].numel()) > 1


class Muon(torch.optim.Optimizer):
    """Muon for the matrices of a module, AdamW for the rest.

    named: trained parameters by name. learning_rate is AdamW's; Muon's is `matrix_rate`, and both
    follow the same schedule (a group's `rate_factor` times the rate that the loop sets). Updates
    are as large for a large matrix as for a small one, so matrices that grow learn ever more
    slowly; `matrix_decay`, decoupled, keeps them small (Liu et al. 2025, arXiv:2502.16982).
    With several processes, all of one shape are dealt out among them and the
    results exchanged, so every process must step at the same time.

    As in torch's fused kernels, the attribute `grad_scale` divides the gradients, and a step whose
    `found_inf` is 1 changes nothing.
    """

    grad_scale: Tensor | None = None
    found_inf: Tensor | None = None

    def __init__(
        self,
        named: dict[str, nn.Parameter],
        *,
        embeddings: set[int],
        learning_rate: float,
        matrix_rate: float,
        betas: tuple[float, float],
        weight_decay: float,
        matrix_decay: float = 0.0,
        momentum: float = 0.95,
    ) -> None:
        matrices = [p for n, p in named.items() if is_matrix(n, p, embeddings)]
        chosen = {id(p) for p in matrices}
        rest = [p for p in named.values() if id(p) not in chosen]
        groups: list[dict[str, Any]] = [
            {"params": matrices, "rate_factor": matrix_rate / learning_rate},
            {"params": [p for p in rest if p.ndim >= 2], "weight_decay": weight_decay},
            {"params": [p for p in rest if p.ndim < 2], "weight_decay": 0.0},
        ]
        groups = [g for g in groups if g["params"]]
        defaults = {"lr": learning_rate, "rate_factor": 1.0}
        super().__init__(groups, defaults)
        self.betas, self.momentum, self.matrix_decay = betas, momentum, matrix_decay
        self.matrices = matrices
        for parameter in matrices:
            self.state[parameter]["momentum"] = torch.zeros_like(parameter)
        for parameter in rest:
            self.state[parameter].update(
                step=torch.zeros((), device=parameter.device),
                exp_avg=torch.zeros_like(parameter),
                exp_avg_sq=torch.zeros_like(parameter),
            )

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One update from the gradients on the parameters."""
        assert closure is None
        keep = None
        if self.found_inf is not None:
            keep = self.found_inf == 0
            if keep.device.type == "cpu":
                if not keep:
                    return
                keep = None
        for group in self.param_groups:
            if "weight_decay" in group:
                self._adamw(group)
            else:
                self._muon(group["lr"], keep)

    def _adamw(self, group: dict[str, Any]) -> None:
        parameters = [p for p in group["params"] if p.grad is not None]
        states = [self.state[p] for p in parameters]
        adamw(
            parameters,
            [p.grad for p in parameters if p.grad is not None],
            [s["exp_avg"] for s in states],
            [s["exp_avg_sq"] for s in states],
            [],
            [s["step"] for s in states],
            fused=True,
            grad_scale=self.grad_scale,
            found_inf=self.found_inf,
            amsgrad=False,
            beta1=self.betas[0],
            beta2=self.betas[1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=1e-8,
            maximize=False,
        )

    def _muon(self, rate: float, keep: Tensor | None) -> None:
        """keep: a flag on the device that is false where nothing may change; None: it may."""
        trained = [p for p in self.matrices if p.grad is not None]
        grads = [p.grad for p in trained if p.grad is not None]
        momenta = [self.state[p]["momentum"] for p in trained]
        if self.grad_scale is not None:
            torch._foreach_div_(grads, self.grad_scale)
        if keep is not None:
            # A momentum drawn towards itself stays; a rate of zero leaves the weights.
            grads = [torch.where(keep, g, m) for g, m in zip(grads, momenta, strict=True)]
        torch._foreach_lerp_(momenta, grads, 1 - self.momentum)
        if self.matrix_decay:
            kept: float | Tensor = 1.0 - rate * self.matrix_decay
            if keep is not None:
                kept = torch.where(keep, kept, 1.0)
            torch._foreach_mul_([p.data for p in trained], kept)
        places: dict[Shape, list[int]] = {}
        for k, parameter in enumerate(trained):
            places.setdefault(_shape(parameter), []).append(k)

        def nesterov(shape: Shape, rows: Sequence[int]) -> Tensor:
            own = [places[shape][row] for row in rows]
            # The momenta come first: their memory layout, the parameter's, is that of the result.
            drawn = torch._foreach_lerp(
                [momenta[k] for k in own], [grads[k] for k in own], 1 - self.momentum
            )
            return torch.stack([as_matrix(one) for one in drawn])

        counts = {shape: len(several) for shape, several in places.items()}
        for shape, found in orthogonalise_together(counts, nesterov).items():
            scale = -rate * math.sqrt(max(1.0, shape[0] / shape[1]))
            if keep is not None:
                found = list(torch._foreach_mul(found, keep))
            weights = [as_matrix(trained[k].data) for k in places[shape]]
            torch._foreach_add_(weights, found, alpha=scale)


def as_matrix(tensor: Tensor) -> Tensor:
    """A view (out, rest), in the order of memory: Muon does not mind the order of the columns."""
    if tensor.ndim == 4 and not tensor.is_contiguous():
        return tensor.permute(0, 2, 3, 1).view(tensor.shape[0], -1)
    return tensor.view(tensor.shape[0], -1)


def _shape(parameter: Tensor) -> Shape:
    return (parameter.shape[0], parameter[0].numel())


def orthogonalise_together(
    counts: dict[Shape, int], stack: Callable[[Shape, Sequence[int]], Tensor]
) -> dict[Shape, list[Tensor]]:
    """`orthogonalise` of so many matrices of each shape; processes share the work and the results.

    stack: those of a shape that stand at some places, (n, rows, columns); only a process's own are
    asked for. The shares of all processes are exchanged in one piece, filled up to the longest.
    """
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    processes = torch.distributed.get_world_size() if distributed else 1
    if processes == 1:
        return {s: list(orthogonalise(stack(s, range(n))).unbind()) for s, n in counts.items()}
    shares = dealt(counts, processes)
    own = shares[torch.distributed.get_rank()]
    made = [orthogonalise(stack(shape, rows)).reshape(-1) for shape, rows in own.items()]
    longest = max(sum(len(rows) * r * c for (r, c), rows in share.items()) for share in shares)
    rest = longest - sum(map(len, made))
    # Somebody may have no matrix at all; what he is asked for says where it lies, and its type.
    made.append((made[0] if made else stack(next(iter(counts)), [0])).new_zeros(rest))
    mine = torch.cat(made)
    everyone = [torch.empty_like(mine) for _ in range(processes)]
    torch.distributed.all_gather(everyone, mine)
    out = {shape: [mine] * count for shape, count in counts.items()}
    for share, flat in zip(shares, everyone, strict=True):
        end = 0
        for (r, c), rows in share.items():
            for row in rows:
                begin, end = end, end + r * c
                out[r, c][row] = flat[begin:end].view(r, c)
    return out


def dealt(counts: dict[Shape, int], processes: int) -> list[dict[Shape, list[int]]]:
    """For each process, which matrices of each shape are its own.

    The costliest first, always to whoever has least to do: the loads differ by one small matrix.
    """
    loads = [0] * processes
    shares: list[dict[Shape, list[int]]] = [{} for _ in range(processes)]
    for shape in sorted(counts, key=_products, reverse=True):
        for k in range(counts[shape]):
            rank = loads.index(min(loads))
            loads[rank] += _products(shape)
            shares[rank].setdefault(shape, []).append(k)
    return shares


def _products(shape: Shape) -> int:
    """Multiplications that `orthogonalise` makes for a matrix of this shape."""
    r, c = sorted(shape)
    if _is_wide(r, c):
        return 2 * r * r * c + (4 * _ITERATIONS - 3) * r**3
    return _ITERATIONS * (2 * r * r * c + r**3)
