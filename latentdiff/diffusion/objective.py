"""What is regressed and how it is weighted.

The loss of one sample is weight(t) · mean((prediction − target)²), the mean over its elements.
The default is L_simple on ε (DDPM, Ho et al. 2020, eq. 14): weight 1.

Weights, with s = SNR_t = ᾱ_t/(1−ᾱ_t); an error in x_0 is √((1−ᾱ)/ᾱ) of that in ε, √(1−ᾱ) of that
in v, and 1/c_t of that in μ̃ (c_t the factor of x_0 in DDPM eq. 7), so that one weight on x_0
settles the others:
  simple            1 on whatever is predicted
  variational       L_{t−1} of DDPM eq. 8 with σ_t² = β_t (eq. 12 on ε), nats per element
  variational_small the same with σ_t² = β̃_t; at t = 0, where β̃ is 0, β̃_1 stands in for it
                    (Nichol & Dhariwal 2021, section 2.1)
  min_snr           ε: min(s,γ)/s, v: min(s,γ)/(s+1), x_0: min(s,γ) (Hang et al. 2023, section 3.4)
"""

from __future__ import annotations

import dataclasses
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from latentdiff.diffusion.forward_process import posterior_mean, q_sample
from latentdiff.diffusion.noise_schedule import NoiseSchedule
from latentdiff.diffusion.prediction import (
    PredictionType,
    check_prediction_type,
    posterior_coefficients,
    x_0_and_eps_to_v,
)
from latentdiff.errors import UserError, unknown_name

Weighting = Literal["simple", "variational", "variational_small", "min_snr"]
WEIGHTINGS: tuple[Weighting, ...] = get_args(Weighting)
SamplingMethod = Literal["uniform", "stratified"]
SAMPLING_METHODS: tuple[SamplingMethod, ...] = get_args(SamplingMethod)
NUM_STRATA = 256


@dataclasses.dataclass(frozen=True)
class LossRecord:
    """The loss of one batch.

    loss: () mean of per_sample, the one to differentiate; per_sample: (B,) weighted;
    mse: (B,) without the weight; weight: (B,) float32; target: (B, …) float32.
    """

    loss: Tensor
    per_sample: Tensor
    mse: Tensor
    weight: Tensor
    target: Tensor


def loss(
    prediction: Tensor,
    x_0: Tensor,
    x_t: Tensor,
    eps: Tensor,
    t: Tensor,
    schedule: NoiseSchedule,
    *,
    prediction_type: str = "epsilon",
    weighting: str = "simple",
    gamma: float = 5.0,
) -> LossRecord:
    """Weighted mean squared error on the target that `prediction_type` names.

    prediction, x_0, x_t, eps: (B, …); t: (B,) int64. The error is taken in float32.
    Raises UserError for an unknown kind or weighting, and for ε-prediction under zero terminal SNR
    with a weighting that is infinite there.
    """
    goal = target(
        x_0.float(), x_t.float(), eps.float(), t, schedule, prediction_type=prediction_type
    )
    weights = loss_weights(
        schedule, prediction_type=prediction_type, weighting=weighting, gamma=gamma
    )
    weight = schedule.gather(weights, t, t).reshape(-1).to(torch.float32)
    return weighted_error(prediction, goal, weight)


def weighted_error(prediction: Tensor, target: Tensor, weight: Tensor) -> LossRecord:
    """The loss of predictions (B, …) whose targets and weights (B,) are made already.

    What a training runs: the data-loader workers made target and weight. Any shape will do, latents
    (B, C, h, w) or embeddings (B, L, D), (B, D). The error is taken in float32.
    """
    if prediction.shape != target.shape:
        raise ValueError(
            f"the prediction has shape {tuple(prediction.shape)}, its target {tuple(target.shape)}"
        )
    axes = tuple(range(1, prediction.ndim))
    mse = (prediction.float() - target).square().mean(dim=axes)
    per_sample = weight * mse
    return LossRecord(
        loss=per_sample.mean(),
        per_sample=per_sample,
        mse=mse.detach(),
        weight=weight,
        target=target,
    )


class Noising:
    """q(x_t | x_0) and what is regressed: x_0, ε and t in; x_t, target and weight out.

    Raises UserError for a weighting that is infinite somewhere, or an unknown name.
    """

    def __init__(
        self,
        schedule: NoiseSchedule,
        *,
        prediction_type: str,
        weighting: str = "simple",
        gamma: float = 5.0,
    ) -> None:
        self.schedule = schedule
        self.prediction_type = prediction_type
        self.weights = loss_weights(
            schedule, prediction_type=prediction_type, weighting=weighting, gamma=gamma
        )

    def __call__(self, x_0: Tensor, eps: Tensor, t: Tensor) -> dict[str, Tensor]:
        """x_t, target (B, …), t and weight (B,) of clean samples and noise (B, …)."""
        x_t = q_sample(x_0, t, eps, self.schedule)
        goal = target(x_0, x_t, eps, t, self.schedule, prediction_type=self.prediction_type)
        weight = self.schedule.gather(self.weights, t, t).reshape(-1).float()
        return {"x_t": x_t, "t": t, "target": goal, "weight": weight}


def target(
    x_0: Tensor,
    x_t: Tensor,
    eps: Tensor,
    t: Tensor,
    schedule: NoiseSchedule,
    *,
    prediction_type: str = "epsilon",
) -> Tensor:
    """What a network of this kind should have said, (B, …) in x_0's dtype."""
    kind = check_prediction_type(prediction_type)
    if kind == "epsilon":
        return eps
    if kind == "sample":
        return x_0
    if kind == "v_prediction":
        alpha_bar = schedule.gather(schedule.alpha_bar, t, x_0).reshape(-1)
        return x_0_and_eps_to_v(x_0, eps, alpha_bar)
    return posterior_mean(x_0, x_t, t, schedule)


def loss_weights(
    schedule: NoiseSchedule,
    *,
    prediction_type: str = "epsilon",
    weighting: str = "simple",
    gamma: float = 5.0,
) -> Tensor:
    """The weight of every timestep for one kind of prediction, (T,) float64, all finite.

    Raises UserError where a weight would be infinite (variational on ε at zero SNR), for an
    unknown name, and for a gamma that is not above 0.
    """
    kind = check_prediction_type(prediction_type)
    if weighting not in WEIGHTINGS:
        raise unknown_name("loss weighting", weighting, WEIGHTINGS)
    if weighting == "simple":
        return torch.ones_like(schedule.beta)
    if weighting == "min_snr":
        return _min_snr(schedule, kind, gamma)
    variance = schedule.beta
    if weighting == "variational_small":
        variance = schedule.posterior_variance.clone()
        if variance.numel() < 2:
            raise UserError("'variational_small' needs a schedule of at least 2 steps")
        variance[0] = variance[1]
    of_x_0, _ = posterior_coefficients(schedule.alpha_bar, schedule.alpha_bar_prev)
    weights = _from_x_0(of_x_0.square() / (2.0 * variance), schedule, kind)
    if not bool(torch.isfinite(weights).all()):
        raise UserError(
            f"the weighting {weighting!r} of {kind!r} is infinite where the signal-to-noise ratio "
            "is 0 or a beta is 0: predict 'v_prediction' or 'sample', or use 'simple' or 'min_snr'"
        )
    return weights


def squared_error_ratio(schedule: NoiseSchedule, of: str, to: str) -> Tensor:
    """What a squared error in the kind `of` is as one in the kind `to`: a factor per t, (T,).

    The four kinds name one guess of x_0, so their losses differ by this weight alone and have the
    same optimum: ‖Δ_to‖² = ratio·‖Δ_of‖². Infinite or NaN where a kind is undefined (ε at ᾱ = 0).
    """
    one = torch.ones_like(schedule.beta)
    source, goal = check_prediction_type(of), check_prediction_type(to)
    return _from_x_0(one, schedule, source) / _from_x_0(one, schedule, goal)


def _min_snr(schedule: NoiseSchedule, kind: PredictionType, gamma: float) -> Tensor:
    if not gamma > 0.0:
        raise UserError(f"min-SNR's gamma must be above 0, found {gamma}")
    snr = schedule.snr
    if kind == "epsilon":
        return gamma / snr.clamp(min=gamma)  # min(s, γ)/s, and its limit 1 at s = 0
    return _from_x_0(snr.clamp(max=gamma), schedule, kind)


def _from_x_0(weight: Tensor, schedule: NoiseSchedule, kind: PredictionType) -> Tensor:
    """The weight on the predicted quantity that equals `weight` on x_0."""
    if kind == "sample":
        return weight
    if kind == "epsilon":
        return weight * (1.0 - schedule.alpha_bar) / schedule.alpha_bar
    if kind == "v_prediction":
        return weight * (1.0 - schedule.alpha_bar)
    of_x_0, _ = posterior_coefficients(schedule.alpha_bar, schedule.alpha_bar_prev)
    return weight / of_x_0.square()


def sample_timesteps(
    u: Tensor | npt.NDArray[np.floating],
    positions: Tensor | npt.NDArray[np.integer],
    num_train_timesteps: int,
    method: str = "uniform",
    shift: float = 1.0,
) -> Tensor:
    """Training timesteps (B,) int64 as a pure function of addressed draws.

    u: (B,) uniform in [0, 1), one draw per position; positions: (B,) global sample counts.
    "uniform": ⌊u·T⌋. "stratified": position p draws from stratum p of 256, taken in bit-reversed
    order, so that every aligned run of 2^k positions covers 2^k equal parts of 0 … T−1 once, for
    any batch size and any number of processes; each single draw stays within its stratum.
    shift: s > 1 visits the noisy timesteps more often, u becomes s u / (1 + (s − 1) u) (Esser et
    al. 2024, arXiv:2403.03206, section 5.3.2); 1 leaves u as it is.
    """
    if method not in SAMPLING_METHODS:
        raise unknown_name("timestep sampling", method, SAMPLING_METHODS)
    draws = torch.as_tensor(u).to(torch.float64)
    if bool((draws < 0).any() or (draws >= 1).any()):
        raise ValueError("uniform draws must lie in [0, 1)")
    if method == "stratified":
        place = torch.as_tensor(positions).to(device=draws.device, dtype=torch.int64)
        if place.shape != draws.shape:
            raise ValueError(f"{tuple(draws.shape)} draws for {tuple(place.shape)} positions")
        draws = (_bit_reversed(place % NUM_STRATA) + draws) / NUM_STRATA
    if not shift > 0:
        raise ValueError(f"shift is {shift}, expected above 0")
    draws = shift * draws / (1.0 + (shift - 1.0) * draws)
    chosen = torch.floor(draws * num_train_timesteps).to(torch.int64)
    return chosen.clamp(max=num_train_timesteps - 1)


def _bit_reversed(index: Tensor) -> Tensor:
    """The van der Corput order of 0 … NUM_STRATA−1, float64."""
    reversed_index = torch.zeros_like(index)
    for bit in range(NUM_STRATA.bit_length() - 1):
        reversed_index = reversed_index * 2 + ((index >> bit) & 1)
    return reversed_index.to(torch.float64)
