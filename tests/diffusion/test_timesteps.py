"""Grids: which timesteps, in which order, and what comes before each."""

import itertools

import pytest

from latentdiff.diffusion.timesteps import (
    SPACINGS,
    Step,
    from_timesteps,
    grid,
    reverse,
    with_strength,
)
from latentdiff.errors import UserError


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("n", [2, 7, 30, 50, 61, 999, 1000])
def test_every_grid_falls_strictly_and_ends_in_clean_data(spacing, n):
    steps = grid(1000, n, spacing)
    assert len(steps) == n
    assert all(step.t_prev < step.t for step in steps)
    assert all(a.t_prev == b.t for a, b in itertools.pairwise(steps))
    assert steps[-1].t_prev == -1
    assert [step.index for step in steps] == list(range(n))
    assert 0 <= steps[-1].t <= steps[0].t <= 999
    if spacing != "leading":
        assert steps[0].t == 999


def test_small_grids_by_hand():
    def visited(*arguments):
        return [step.t for step in grid(*arguments)]

    assert visited(1000, 4, "leading") == [750, 500, 250, 0]
    assert visited(1000, 4, "leading", 1) == [751, 501, 251, 1]
    assert visited(1000, 4, "trailing") == [999, 749, 499, 249]
    assert visited(1000, 4, "linspace") == [999, 666, 333, 0]
    # τ_i = ⌊1000 i²/16⌋ counted from 1: 62, 250, 562, 1000.
    assert visited(1000, 4, "quadratic") == [999, 561, 249, 61]
    assert visited(1000, 1, "trailing") == [999]


def test_grids_equal_diffusers_for_every_number_of_steps_it_gets_right():
    from diffusers import DDIMScheduler

    overrun = []
    for spacing in ("leading", "trailing", "linspace"):
        theirs = DDIMScheduler(num_train_timesteps=200, timestep_spacing=spacing)
        for n in range(2, 201):
            theirs.set_timesteps(n)
            listed = theirs.timesteps.tolist()
            ours = [step.t for step in grid(200, n, spacing)]
            if len(listed) != n:
                overrun.append((spacing, n, listed[-1]))
                listed = listed[:n]
            assert ours == listed, (spacing, n)
    # Rounding makes diffusers' trailing list one too long, with a timestep of −1 at its end.
    assert overrun
    assert {(spacing, last) for spacing, _, last in overrun} == {("trailing", -1)}


@pytest.mark.parametrize(
    ("spacing", "n", "wrong"),
    [("linspace", 50, 19), ("trailing", 30, 10), ("trailing", 60, 40)]
    + [("trailing", n, 0) for n in (20, 25, 40, 50)]
    + [("leading", n, 0) for n in (25, 30, 50)],
)
def test_a_constant_stride_would_miss_the_previous_step(spacing, n, wrong):
    steps = grid(1000, n, spacing)
    strided = [max(int(step.t) - 1000 // n, -1) for step in steps]
    assert sum(a != step.t_prev for a, step in zip(strided, steps, strict=True)) == wrong


def test_strength_keeps_the_end_of_the_grid_with_its_indices():
    steps = grid(1000, 10, "trailing")
    kept = with_strength(steps, 0.55)
    assert kept == steps[5:]
    assert kept[0].index == 5
    assert with_strength(steps, 1.0) == steps
    for strength in (0.0, -1.0, 1.1, float("nan")):
        with pytest.raises(UserError, match="strength"):
            with_strength(steps, strength)
    with pytest.raises(UserError, match="leaves none"):
        with_strength(steps, 0.05)


def test_reverse_walks_the_same_pairs_cleanest_first():
    steps = grid(1000, 3, "trailing")
    walked = reverse(steps)
    assert [(s.t, s.t_prev) for s in walked] == [(s.t, s.t_prev) for s in steps][::-1]
    assert [s.index for s in walked] == [0, 1, 2]


def test_an_explicit_list_is_taken_as_it_is():
    steps = from_timesteps([999, 500, 3], num_train_timesteps=1000)
    assert steps == (Step(999, 500, 0), Step(500, 3, 1), Step(3, -1, 2))


@pytest.mark.parametrize(
    ("listed", "said"),
    [([], "empty"), ([5, 5], "fall strictly"), ([1, 2], "fall strictly"), ([10], "lie in 0 … 9")],
)
def test_a_bad_list_is_refused(listed, said):
    with pytest.raises(UserError, match=said):
        from_timesteps(listed, num_train_timesteps=10)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((1000, 0), "1 … 1000"),
        ((1000, 1001), "1 … 1000"),
        ((1000, 10, "trailling"), "did you mean 'trailing'"),
        ((1000, 1000, "leading", 1), "reaches timestep 1000"),
        ((1000, 1, "linspace"), "trailing"),
    ],
)
def test_a_grid_the_schedule_cannot_give_is_refused(arguments, said):
    with pytest.raises(UserError, match=said):
        grid(*arguments)
