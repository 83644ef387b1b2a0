"""Noise schedules: float64 tables of β_t, α_t = 1 − β_t and ᾱ_t = ∏ α_s.

Index t runs 0 … T−1 (the papers' 1 … T). t = −1 stands for clean data, whose ᾱ is 1, or the
value that a checkpoint was made with (`final_alpha_bar`).

Sources: DDPM (Ho et al. 2020); "cosine" is Nichol & Dhariwal 2021; zero-terminal SNR is
Lin et al. 2023.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from latentdiff.errors import UserError, unknown_name


def work_dtype(device: torch.device) -> torch.dtype:
    """The dtype that formulas are evaluated in: float64 wherever the device has it."""
    return torch.float32 if device.type == "mps" else torch.float64


def broadcast(coefficient: Tensor | float, like: Tensor) -> Tensor:
    """A coefficient per sample, shaped to multiply `like`.

    coefficient: a number, a () tensor, or a (B,) tensor; like: (B, …).
    Returns a tensor () or (B, 1, …, 1) in the work dtype on `like`'s device.
    """
    dtype = work_dtype(like.device)
    tensor = torch.as_tensor(coefficient, dtype=torch.float64 if _is_number(coefficient) else None)
    tensor = tensor.to(dtype=dtype).to(device=like.device)
    if tensor.ndim == 0:
        return tensor
    if tensor.ndim != 1 or (like.ndim > 0 and tensor.shape[0] not in (1, like.shape[0])):
        raise ValueError(
            f"a coefficient of shape {tuple(tensor.shape)} does not fit a tensor of shape "
            f"{tuple(like.shape)}: it must be a scalar or one value per sample"
        )
    return tensor.reshape(-1, *[1] * (like.ndim - 1))


def _is_number(value: Tensor | float) -> bool:
    return not isinstance(value, Tensor)


@dataclasses.dataclass(frozen=True, eq=False)
class NoiseSchedule:
    """Tables of one forward process, (T,) float64 on the CPU each.

    beta: the variances of the forward steps, in [0, 1]. A last value of exactly 1 means
    zero terminal SNR. final_alpha_bar: ᾱ at t = −1.
    Raises UserError when the table is not a schedule.
    """

    beta: Tensor
    final_alpha_bar: float = 1.0
    alpha: Tensor = dataclasses.field(init=False)
    alpha_bar: Tensor = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        beta = torch.as_tensor(self.beta).detach().to(device="cpu", dtype=torch.float64)
        if beta.ndim != 1 or beta.numel() == 0:
            raise UserError(
                f"a table of betas must be one list, found shape {tuple(beta.shape)}: "
                "give one value for each training timestep"
            )
        if not bool(torch.isfinite(beta).all()) or bool((beta < 0).any() or (beta > 1).any()):
            raise UserError(
                f"betas must lie in [0, 1], found {float(beta.min()):g} … {float(beta.max()):g}: "
                "check the schedule's beta_start and beta_end"
            )
        if bool((beta[:-1] == 1).any()):
            raise UserError("only the last beta may be 1: data would be gone before the last step")
        if not 0.0 < self.final_alpha_bar <= 1.0:
            raise UserError(f"final_alpha_bar must lie in (0, 1], found {self.final_alpha_bar}")
        alpha = 1.0 - beta
        object.__setattr__(self, "beta", beta)
        object.__setattr__(self, "alpha", alpha)
        object.__setattr__(self, "alpha_bar", torch.cumprod(alpha, dim=0))

    @property
    def num_train_timesteps(self) -> int:
        """T, the number of forward steps."""
        return int(self.beta.shape[0])

    @property
    def snr(self) -> Tensor:
        """Signal-to-noise ratio ᾱ_t / (1 − ᾱ_t), (T,) float64 (Kingma et al. 2021, eq. 2)."""
        return self.alpha_bar / (1.0 - self.alpha_bar)

    @property
    def alpha_bar_prev(self) -> Tensor:
        """ᾱ_{t−1}, (T,) float64; 1 at t = 0, for the forward process starts at clean data."""
        return torch.cat([torch.ones(1, dtype=torch.float64), self.alpha_bar[:-1]])

    @property
    def posterior_variance(self) -> Tensor:
        """β̃_t = (1 − ᾱ_{t−1}) / (1 − ᾱ_t) · β_t, (T,) float64 (DDPM eq. 7); 0 at t = 0."""
        return (1.0 - self.alpha_bar_prev) / (1.0 - self.alpha_bar) * self.beta

    @property
    def has_zero_terminal_snr(self) -> bool:
        """Whether the last step holds no signal at all, ᾱ_{T−1} = 0."""
        return bool(self.alpha_bar[-1] == 0.0)

    def alpha_bar_at(self, t: int) -> float:
        """ᾱ_t for t in −1 … T−1; t = −1 is clean data."""
        if t == -1:
            return self.final_alpha_bar
        if not 0 <= t < self.num_train_timesteps:
            raise UserError(
                f"timestep {t} is outside the schedule: use 0 … {self.num_train_timesteps - 1}"
            )
        return float(self.alpha_bar[t])

    def gather(self, table: Tensor, t: Tensor, like: Tensor) -> Tensor:
        """Values of a (T,) table at t (B,), shaped (B, 1, …, 1) for `like` (B, …).

        The result is in the work dtype (float64), so that whatever is combined from it is
        combined exactly and cast last. Raises UserError for a t outside 0 … T−1.
        """
        index = t.detach().to(dtype=torch.int64).reshape(-1)
        # Looking at values on an accelerator would stall it, and there indexing itself asserts.
        if index.device.type == "cpu" and index.numel() > 0:
            first, last = int(index.min()), int(index.max())
            if first < 0 or last >= self.num_train_timesteps:
                raise UserError(
                    f"timesteps {first} … {last} leave the schedule: "
                    f"use 0 … {self.num_train_timesteps - 1}"
                )
        if index.device.type == "mps":
            index = index.to("cpu")
        return broadcast(table.to(index.device)[index], like)

    def rescale_zero_terminal_snr(self) -> NoiseSchedule:
        """The same schedule shifted and scaled so that ᾱ_{T−1} = 0 (Lin et al. 2023, alg. 1).

        ᾱ_0 stays as it was. Only for predictions other than ε: ε says nothing of x_0 at ᾱ = 0.
        """
        if self.num_train_timesteps < 2:
            raise UserError("a schedule of one step cannot be rescaled to zero terminal SNR")
        root = self.alpha_bar.sqrt()
        first, last = root[0].clone(), root[-1].clone()
        alpha_bar = ((root - last) * (first / (first - last))).square()
        alpha_bar[-1] = 0.0
        alpha = torch.cat([alpha_bar[:1], alpha_bar[1:] / alpha_bar[:-1]])
        return dataclasses.replace(self, beta=1.0 - alpha)

    def with_final_alpha_bar(self, final_alpha_bar: float) -> NoiseSchedule:
        """The same tables with another ᾱ at t = −1."""
        return dataclasses.replace(self, final_alpha_bar=final_alpha_bar)


def from_betas(betas: Sequence[float] | Tensor, *, final_alpha_bar: float = 1.0) -> NoiseSchedule:
    """A schedule from a given table of β_t, (T,)."""
    table = torch.as_tensor(betas, dtype=torch.float64)
    return NoiseSchedule(beta=table, final_alpha_bar=final_alpha_bar)


def linear(
    num_train_timesteps: int = 1000, beta_start: float = 1e-4, beta_end: float = 0.02
) -> NoiseSchedule:
    """β_t evenly spaced from 1e-4 to 0.02 (DDPM section 4)."""
    _check_range(num_train_timesteps, beta_start, beta_end)
    return from_betas(_linspace(beta_start, beta_end, num_train_timesteps))


def scaled_linear(
    num_train_timesteps: int = 1000, beta_start: float = 0.00085, beta_end: float = 0.012
) -> NoiseSchedule:
    """√β_t evenly spaced: latent diffusion's schedule (Rombach et al. 2022, released code)."""
    _check_range(num_train_timesteps, beta_start, beta_end)
    root = _linspace(math.sqrt(beta_start), math.sqrt(beta_end), num_train_timesteps)
    return from_betas(root.square())


def cosine(
    num_train_timesteps: int = 1000, offset: float = 0.008, max_beta: float = 0.999
) -> NoiseSchedule:
    """ᾱ_t = f(t)/f(0), f(t) = cos²((t/T + s)/(1 + s) · π/2), β_t ≤ 0.999.

    Nichol & Dhariwal 2021, eq. 17 and the clipping below it; s is `offset`.
    """
    _check_range(num_train_timesteps, 0.0, max_beta)

    def f(u: float) -> float:
        return math.cos((u + offset) / (1.0 + offset) * math.pi / 2.0) ** 2

    T = num_train_timesteps
    return from_betas([min(1.0 - f((t + 1) / T) / f(t / T), max_beta) for t in range(T)])


def su(num_train_timesteps: int = 1000, beta_end: float = 0.02) -> NoiseSchedule:
    """β_t = 0.02 (t + 1)/T.

    Su's notes on diffusion models write α_t = sqrt(1 − 0.02 t/T), t = 1 … T, for the factor of
    x_{t−1} itself: that α is the square root of Ho's, so Ho's α_t is 1 − 0.02 (t + 1)/T here.
    """
    _check_range(num_train_timesteps, 0.0, beta_end)
    T = num_train_timesteps
    return from_betas([beta_end * (t + 1) / T for t in range(T)])


def sigmoid(
    num_train_timesteps: int = 1000, beta_start: float = 1e-4, beta_end: float = 0.02
) -> NoiseSchedule:
    """β_t along a logistic curve over [−6, 6] (GeoDiff, Xu et al. 2022, as diffusers reads it)."""
    _check_range(num_train_timesteps, beta_start, beta_end)
    curve = torch.sigmoid(_linspace(-6.0, 6.0, num_train_timesteps))
    return from_betas(curve * (beta_end - beta_start) + beta_start)


_RANGED: dict[str, Callable[[int, float, float], NoiseSchedule]] = {
    "linear": linear,
    "scaled_linear": scaled_linear,
    "sigmoid": sigmoid,
}
_UNRANGED: dict[str, Callable[[int], NoiseSchedule]] = {
    "cosine": cosine,
    "squaredcos_cap_v2": cosine,
    "su": su,
}
SCHEDULE_NAMES = (*_RANGED, *_UNRANGED)


def make_schedule(
    name: str,
    num_train_timesteps: int = 1000,
    beta_start: float | None = None,
    beta_end: float | None = None,
) -> NoiseSchedule:
    """A schedule by name, one of SCHEDULE_NAMES ("squaredcos_cap_v2" is diffusers' "cosine").

    "linear", "scaled_linear" and "sigmoid" take beta_start and beta_end (left out: the
    schedule's own defaults); the others have no use for them.
    Raises UserError for an unknown name or a range that is none.
    """
    if name in _RANGED:
        default = (0.00085, 0.012) if name == "scaled_linear" else (1e-4, 0.02)
        start = default[0] if beta_start is None else beta_start
        end = default[1] if beta_end is None else beta_end
        return _RANGED[name](num_train_timesteps, start, end)
    if name in _UNRANGED:
        return _UNRANGED[name](num_train_timesteps)
    raise unknown_name("noise schedule", name, SCHEDULE_NAMES)


def _linspace(start: float, end: float, count: int) -> Tensor:
    return torch.linspace(start, end, count, dtype=torch.float64)


def _check_range(num_train_timesteps: int, beta_start: float, beta_end: float) -> None:
    if num_train_timesteps < 1:
        raise UserError(f"num_train_timesteps must be at least 1, found {num_train_timesteps}")
    if not 0.0 <= beta_start <= beta_end < 1.0:
        raise UserError(
            f"betas must rise within [0, 1), found beta_start {beta_start} and beta_end {beta_end}"
        )
