"""One small training, and what came of it: loss, loss by timestep, pictures and their faults.

The objective, the noise, the schedule and the sampler are the library's; only the loop is its own,
for a training of a minute needs no checkpoints.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from latentdiff import seeding
from latentdiff.diffusion.noise_schedule import NoiseSchedule
from latentdiff.diffusion.objective import (
    Noising,
    sample_timesteps,
    squared_error_ratio,
    weighted_error,
)
from latentdiff.errors import UserError
from latentdiff.measure.measured_model import MeasuredModel
from latentdiff.measure.results.store import Arrays
from latentdiff.measure.trials.trial_data import SIDE, TrialData, decoded
from latentdiff.measure.trials.trial_recipe import TrialRecipe
from latentdiff.models.presets import zero_init_residuals
from latentdiff.sampling import denoise
from latentdiff.schedulers.base import Grid
from latentdiff.schedulers.ddim import DDIM
from latentdiff.training.optimizers.muon import Muon

HELD_OUT = 64
"""Last latents of the data, which no trial learns from."""
BINS, STEPS = 10, 25
_BATCH = 64


def build_network(channels: int, context: int, recipe: TrialRecipe) -> Any:
    """A small U-Net, 1.3 M parameters by default, for 16 × 16 latents and contexts (L, context)."""
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    pooled = (
        {
            "addition_embed_type": "text",
            "addition_embed_type_num_heads": 4,
            "resnet_time_scale_shift": "scale_shift",
        }
        if recipe.conditioning == "pooled"
        else {}
    )
    torch.manual_seed(recipe.seed)
    network = UNet2DConditionModel(
        sample_size=SIDE,
        in_channels=channels,
        out_channels=channels,
        block_out_channels=(recipe.width, 2 * recipe.width),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=4,
        cross_attention_dim=context,
        norm_num_groups=8,
        **pooled,
    )
    zero_init_residuals(network)
    return network


def run_trial(
    model: MeasuredModel,
    data: TrialData,
    recipe: TrialRecipe,
    count: int,
    say: Callable[[int, int], None] | None = None,
) -> Arrays:
    """Train, then draw `count` pictures of the pairs in turn; arrays for a store.

    loss: (updates,) of training; by_level: (BINS,) held-out squared error in units of v; pictures;
    noise_mean: (count,) of each picture's x_T; diverged: whether drawing ended in infinity, so that
    the pictures say nothing.
    """
    own = model.pipeline.bundle.scheduler_config.noise_schedule()
    schedule = recipe.noise_schedule(own)
    network = build_network(data.latents.shape[1], data.contexts.shape[-1], recipe)
    began = time.monotonic()
    losses = _train(network, data, recipe, schedule, say)
    trained = time.monotonic() - began
    network.eval()
    latents, noise_mean = _draw(network, data, recipe, schedule, count)
    finite = bool(torch.isfinite(latents).all())
    return {
        "diverged": np.array(not finite),
        "loss": np.asarray(losses),
        "by_level": _by_level(network, data, recipe, schedule),
        "pictures": decoded(model, latents.nan_to_num(0.0).clamp(-10.0, 10.0)),
        "noise_mean": noise_mean,
        "seconds": np.array(trained),
        "parameters": np.array(sum(p.numel() for p in network.parameters())),
        "terminal_alpha_bar": np.array(float(schedule.alpha_bar[-1])),
    }


def _train(
    network: nn.Module,
    data: TrialData,
    recipe: TrialRecipe,
    schedule: NoiseSchedule,
    say: Callable[[int, int], None] | None,
) -> list[float]:
    optimizer = _optimizer(network, recipe)
    noising = Noising(
        schedule,
        prediction_type=recipe.prediction,
        weighting=recipe.weighting,
        gamma=recipe.gamma,
    )
    known, T = len(data.latents) - HELD_OUT, schedule.num_train_timesteps
    losses = []
    for update in range(recipe.updates):
        positions = np.arange(update * recipe.batch_size, (update + 1) * recipe.batch_size)
        rows, u, eps = _addressed(positions, known, tuple(data.latents.shape[1:]), recipe.seed)
        t = sample_timesteps(u, positions, T, "stratified")
        batch = noising(data.latents[torch.from_numpy(rows)], eps, t)
        answer = _predict(network, batch["x_t"], t, data.context(rows), T)
        record = weighted_error(answer, batch["target"], batch["weight"])
        if not bool(torch.isfinite(record.loss.detach())):
            loss = float(record.loss.detach())
            raise UserError(f"the loss of {recipe} is {loss} at update {update}")
        optimizer.zero_grad(set_to_none=True)
        record.loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        for group in optimizer.param_groups:
            rate = recipe.learning_rate * _rate(update, recipe.updates)
            group["lr"] = rate * group.get("rate_factor", 1.0)
        optimizer.step()
        losses.append(float(record.loss.detach()))
        if say is not None:
            say(update + 1, recipe.updates)
    return losses


def _optimizer(network: nn.Module, recipe: TrialRecipe) -> torch.optim.Optimizer:
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(
            network.parameters(), lr=recipe.learning_rate, betas=(0.9, 0.99), weight_decay=0.01
        )
    return Muon(
        dict(network.named_parameters()),
        embeddings=set(),
        learning_rate=recipe.learning_rate,
        matrix_rate=recipe.muon_learning_rate,
        betas=(0.9, 0.99),
        weight_decay=0.01,
    )


def _rate(update: int, updates: int) -> float:
    """Warm-up over the first 20 updates, linear decay over the last 30 %."""
    return min(1.0, (update + 1) / 20, (updates - update) / max(1.0, 0.3 * updates))


def _addressed(
    positions: NDArray[np.int64], known: int, shape: tuple[int, ...], seed: int
) -> tuple[NDArray[np.int64], NDArray[np.float64], Tensor]:
    """(rows, u, ε) of positions: the same for every trial of a seed."""
    rows = np.array([seeding.integers(known, seed, "trial row", int(p)) for p in positions])
    u = np.array([seeding.uniform(seed, "trial timestep", int(p)) for p in positions])
    eps = [seeding.standard_normal(shape, seed, "trial noise", int(p)) for p in positions]
    return rows, u, torch.from_numpy(np.stack(eps))


def _predict(network: nn.Module, x: Tensor, t: Tensor, context: Tensor, T: int) -> Tensor:
    """The network is told t on the scale of 1000, whatever T is."""
    told = (t.float() + 1.0) * (1000.0 / T) - 1.0
    answer: Tensor = network(x, told, encoder_hidden_states=context, return_dict=False)[0]
    return answer


@torch.inference_mode()
def _by_level(
    network: nn.Module, data: TrialData, recipe: TrialRecipe, schedule: NoiseSchedule
) -> NDArray[np.float64]:
    """Mean squared error on held-out latents in units of v, in equal parts of 0 … T − 1."""
    T = schedule.num_train_timesteps
    ratio = squared_error_ratio(schedule, recipe.prediction, "v_prediction")
    rows = np.arange(len(data.latents) - HELD_OUT, len(data.latents))
    noising = Noising(schedule, prediction_type=recipe.prediction)
    x_0, found = data.latents[torch.from_numpy(rows)], []
    for part in range(BINS):
        place = (part + (np.arange(HELD_OUT) + 0.5) / HELD_OUT) / BINS
        t = torch.from_numpy((place * T).astype(np.int64))
        eps = torch.from_numpy(seeding.standard_normal(tuple(x_0.shape), 1, "trial held out", part))
        batch = noising(x_0, eps, t)
        answer = _predict(network, batch["x_t"], t, data.context(rows), T)
        error = (answer - batch["target"]).double().square().flatten(1).mean(dim=1)
        found.append(float((error * ratio[t]).mean()))
    return np.asarray(found)


@torch.inference_mode()
def _draw(
    network: nn.Module, data: TrialData, recipe: TrialRecipe, schedule: NoiseSchedule, count: int
) -> tuple[Tensor, NDArray[np.float64]]:
    """DDIM, 25 steps, no guidance; picture k is of data row k's pair."""
    T = schedule.num_train_timesteps
    grid = Grid(num_inference_steps=min(STEPS, T), spacing="trailing")
    scheduler = DDIM(schedule, grid, prediction_type=recipe.prediction)
    shape = tuple(data.latents.shape[1:])
    drawn, means = [], []
    for first in range(0, count, _BATCH):
        rows = np.arange(first, min(first + _BATCH, count))
        x_T = torch.from_numpy(
            np.stack([seeding.standard_normal(shape, 2, "trial x_T", int(row)) for row in rows])
        )
        means.append(x_T.flatten(1).mean(dim=1).double().numpy())
        context = data.context(rows)

        def denoiser(x: Tensor, t: Tensor | float, told: Tensor) -> Tensor:
            times = torch.as_tensor(t).expand(len(x))
            return _predict(network, x, times, told, T)

        x = x_T
        try:
            for step in denoise(denoiser, scheduler, x_T, context=context):
                x = step.x
        except UserError:  # the loop's word for a network that answers with NaN
            x = torch.full_like(x_T, torch.nan)
        drawn.append(x)
    return torch.cat(drawn), np.concatenate(means)
