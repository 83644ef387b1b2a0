"""The denoising loop: order of draws, seeds, early leaving, and what stops it."""

from __future__ import annotations

from itertools import islice
from typing import Any

import pytest
import torch

from latentdiff.diffusion.timesteps import Step
from latentdiff.errors import UserError
from latentdiff.sampling import SeededNoise, check_finite, denoise
from latentdiff.schedulers import interop
from latentdiff.schedulers.scheduler_config import SchedulerConfig
from latentdiff.seeding import MAX_IMAGE_SEED

SHAPE = (4, 3, 3)
CONFIG = SchedulerConfig(beta_schedule="scaled_linear", timestep_spacing="trailing")
CONTEXT = torch.zeros(1, 1, 1)


def small(x_t: torch.Tensor, t: Any, context: torch.Tensor) -> torch.Tensor:
    return 0.1 * x_t


def test_each_picture_has_its_own_generator_read_in_order() -> None:
    noise = SeededNoise([3, 9], SHAPE, torch.device("cpu"))
    first, second = noise.draw(), noise.draw()
    for k, seed in enumerate((3, 9)):
        generator = torch.Generator("cpu").manual_seed(seed)
        assert torch.equal(first[k], torch.randn(1, *SHAPE, generator=generator)[0])
        assert torch.equal(second[k], torch.randn(1, *SHAPE, generator=generator)[0])


@pytest.mark.parametrize("seed", [-1, MAX_IMAGE_SEED + 1])
def test_a_seed_that_the_generator_would_fold_is_refused(seed: int) -> None:
    with pytest.raises(UserError, match="out of range"):
        SeededNoise([seed], SHAPE, torch.device("cpu"))


def test_the_largest_seed_is_its_own() -> None:
    largest = SeededNoise(
        [MAX_IMAGE_SEED, MAX_IMAGE_SEED - 1, 0], SHAPE, torch.device("cpu")
    ).draw()
    assert len({float(row[0, 0, 0]) for row in largest}) == 3


def test_the_loop_walks_the_grid_and_tells_the_network_its_timesteps() -> None:
    told: list[float] = []

    def network(x_t: torch.Tensor, t: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        told.append(float(t))
        return small(x_t, t, context)

    scheduler = interop.build("ddim", CONFIG, 5)
    steps = list(denoise(network, scheduler, torch.ones(1, *SHAPE), context=CONTEXT))
    assert told == [step.t for step in scheduler.grid()] == [999, 799, 599, 399, 199]
    assert [step.t for step in steps] == told
    assert [(step.index, step.total) for step in steps] == [(k, 5) for k in range(5)]
    assert torch.equal(steps[-1].x, steps[-1].x_0)


def test_noise_is_drawn_only_where_the_scheduler_needs_it() -> None:
    draws = []

    def noise() -> torch.Tensor:
        draws.append(1)
        return torch.zeros(1, *SHAPE)

    x_T = torch.ones(1, *SHAPE)
    list(denoise(small, interop.build("ddim", CONFIG, 5), x_T, context=CONTEXT, noise=noise))
    assert len(draws) == 0
    list(denoise(small, interop.build("ddpm", CONFIG, 5), x_T, context=CONTEXT, noise=noise))
    assert len(draws) == 4


def test_the_walk_can_be_left_and_nothing_more_is_computed() -> None:
    calls = []

    def network(x_t: torch.Tensor, t: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        return small(x_t, t, context)

    walk = denoise(
        network, interop.build("ddim", CONFIG, 50), torch.ones(1, *SHAPE), context=CONTEXT
    )
    assert len(list(islice(walk, 3))) == 3
    walk.close()
    assert len(calls) == 3


def test_a_part_of_the_grid_can_be_walked() -> None:
    scheduler = interop.build("ddim", CONFIG, 10)
    x_T = torch.ones(1, *SHAPE)
    whole = list(denoise(small, scheduler, x_T, context=CONTEXT))
    rest: tuple[Step, ...] = scheduler.grid()[4:]
    part = list(denoise(small, scheduler, whole[3].x, context=CONTEXT, steps=rest))
    assert torch.equal(part[-1].x, whole[-1].x)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_prediction_that_is_not_finite_names_module_step_and_dtype(bad: float) -> None:
    def network(x_t: torch.Tensor, t: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        return x_t * (bad if int(t) < 500 else 1.0)

    steps = []
    with pytest.raises(UserError) as caught:
        walk = interop.build("ddim", CONFIG, 5)
        steps += denoise(network, walk, torch.ones(1, *SHAPE), context=CONTEXT)
    message = str(caught.value)
    assert "the U-Net gave NaN or infinity at step 4 of 5 (t = 399)" in message
    assert "computed in float32" in message
    assert "\n" not in message


def test_finite_values_pass() -> None:
    check_finite(torch.tensor([1e38]), "anything", "anywhere")
