"""The tables: what the papers say, in float64, and the way values are read from them."""

import math

import numpy as np
import pytest
import torch

from latentdiff.diffusion.noise_schedule import (
    NoiseSchedule,
    broadcast,
    cosine,
    from_betas,
    linear,
    make_schedule,
    scaled_linear,
    su,
)
from latentdiff.errors import UserError

NAMES = ("linear", "scaled_linear", "cosine", "su", "sigmoid")


@pytest.mark.parametrize("name", NAMES)
def test_tables_are_float64_and_alpha_bar_falls_from_near_one(name):
    schedule = make_schedule(name, 1000)
    for table in (schedule.beta, schedule.alpha, schedule.alpha_bar, schedule.snr):
        assert table.dtype == torch.float64
        assert table.shape == (1000,)
    assert bool((schedule.alpha_bar[1:] < schedule.alpha_bar[:-1]).all())
    assert 0.99 < float(schedule.alpha_bar[0]) < 1.0


def test_linear_is_ddpms():
    beta = linear().beta
    assert float(beta[0]) == 1e-4
    assert float(beta[-1]) == 0.02
    assert torch.allclose(beta.diff(), torch.full((999,), (0.02 - 1e-4) / 999).double(), atol=1e-15)


def test_scaled_linear_is_linear_in_the_root():
    root = scaled_linear().beta.sqrt()
    assert math.isclose(float(root[0]), math.sqrt(0.00085), rel_tol=1e-14)
    assert math.isclose(float(root[-1]), math.sqrt(0.012), rel_tol=1e-14)
    assert float(root.diff().max() - root.diff().min()) < 1e-15


def test_cosine_alpha_bar_is_the_papers_curve_where_beta_is_not_clipped():
    T = 400
    schedule = cosine(T)

    def f(t):
        return math.cos((t / T + 0.008) / 1.008 * math.pi / 2) ** 2

    expected = [f(t + 1) / f(0) for t in range(T)]
    free = schedule.beta < 0.999
    np.testing.assert_allclose(
        schedule.alpha_bar[free].numpy(), np.array(expected)[free.numpy()], rtol=1e-9
    )
    assert float(schedule.beta[-1]) == 0.999


def test_sus_schedule_never_has_a_beta_of_zero_and_ends_at_its_largest():
    schedule = su(1000)
    alpha_of_su = [math.sqrt(1.0 - 0.02 * t / 1000) for t in range(1, 1001)]
    expected = np.cumprod(np.array(alpha_of_su)) ** 2
    np.testing.assert_allclose(schedule.alpha_bar.numpy(), expected, rtol=1e-12)
    assert float(schedule.beta[0]) == pytest.approx(0.02 / 1000)
    assert float(schedule.beta[-1]) == pytest.approx(0.02)


@pytest.mark.parametrize("name", ["linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid"])
@pytest.mark.parametrize("rescale", [False, True])
def test_tables_agree_with_diffusers_to_its_float32(name, rescale):
    from diffusers import DDPMScheduler

    theirs = DDPMScheduler(
        beta_schedule=name, beta_start=0.00085, beta_end=0.012, rescale_betas_zero_snr=rescale
    )
    ours = make_schedule(name, 1000, 0.00085, 0.012)
    if rescale:
        ours = ours.rescale_zero_terminal_snr()
    np.testing.assert_allclose(
        ours.alpha_bar.numpy(), theirs.alphas_cumprod.double().numpy(), atol=2e-6
    )


@pytest.mark.parametrize("name", NAMES)
def test_rescaling_ends_at_zero_snr_and_keeps_the_first_level(name):
    schedule = make_schedule(name, 200)
    rescaled = schedule.rescale_zero_terminal_snr()
    assert float(rescaled.alpha_bar[-1]) == 0.0
    assert rescaled.has_zero_terminal_snr
    assert not schedule.has_zero_terminal_snr
    assert float(rescaled.snr[-1]) == 0.0
    assert float(rescaled.alpha_bar[0]) == pytest.approx(float(schedule.alpha_bar[0]), rel=1e-12)
    # Lin et al. 2023, algorithm 1: the root is shifted and scaled, hence affine in the old root.
    old, new = schedule.alpha_bar.sqrt(), rescaled.alpha_bar.sqrt()
    slope = (new[0] - new[-1]) / (old[0] - old[-1])
    assert torch.allclose(new, (old - old[-1]) * slope, atol=1e-12)


def test_minus_one_is_clean_data_or_the_checkpoints_own_final_value():
    schedule = scaled_linear()
    assert schedule.alpha_bar_at(-1) == 1.0
    assert schedule.with_final_alpha_bar(0.99915).alpha_bar_at(-1) == 0.99915
    with pytest.raises(UserError, match=r"0 … 999"):
        schedule.alpha_bar_at(1000)
    with pytest.raises(UserError):
        schedule.alpha_bar_at(-2)


def test_gather_gives_one_float64_value_per_sample_and_refuses_other_timesteps():
    schedule = linear(10)
    like = torch.zeros(3, 4, 5, 6, dtype=torch.bfloat16)
    values = schedule.gather(schedule.alpha_bar, torch.tensor([0, 9, 3]), like)
    assert values.shape == (3, 1, 1, 1)
    assert values.dtype == torch.float64
    assert values.flatten().tolist() == schedule.alpha_bar[[0, 9, 3]].tolist()
    for t in ([0, 10, 1], [-1, 0, 0]):
        with pytest.raises(UserError, match="leave the schedule"):
            schedule.gather(schedule.alpha_bar, torch.tensor(t), like)


def test_broadcast_refuses_a_coefficient_that_is_no_value_per_sample():
    with pytest.raises(ValueError, match="one value per sample"):
        broadcast(torch.zeros(2), torch.zeros(3, 4))
    with pytest.raises(ValueError, match="one value per sample"):
        broadcast(torch.zeros(3, 1), torch.zeros(3, 4))


@pytest.mark.parametrize(
    ("betas", "said"),
    [
        ([], "shape"),
        ([[0.1]], "shape"),
        ([0.1, float("nan")], "must lie in"),
        ([0.1, -0.1], "must lie in"),
        ([0.1, 1.1], "must lie in"),
        ([1.0, 0.5], "last beta"),
    ],
)
def test_a_table_that_is_no_schedule_is_refused(betas, said):
    with pytest.raises(UserError, match=said):
        from_betas(betas)


def test_unknown_name_and_bad_ranges_are_refused():
    with pytest.raises(UserError, match="scaled_linear"):
        make_schedule("scaled_linea")
    with pytest.raises(UserError, match="rise"):
        linear(10, 0.02, 0.01)
    with pytest.raises(UserError, match="at least 1"):
        linear(0)
    with pytest.raises(UserError, match="final_alpha_bar"):
        NoiseSchedule(beta=torch.tensor([0.1]), final_alpha_bar=0.0)
