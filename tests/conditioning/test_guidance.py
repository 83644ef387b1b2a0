"""Classifier-free guidance and its rescaling."""

import pytest
import torch

from latentdiff.conditioning.guidance import Guidance, GuidedDenoiser, combine, rescale
from latentdiff.errors import UserError


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_scale_one_is_the_prompt_and_scale_zero_its_negative() -> None:
    negative, positive = normal(2, 4, 3, 3), normal(2, 4, 3, 3, seed=1)
    torch.testing.assert_close(combine(negative, positive, 1.0), positive)
    torch.testing.assert_close(combine(negative, positive, 0.0), negative)
    torch.testing.assert_close(combine(negative, positive, 3.0), 3 * positive - 2 * negative)


@pytest.mark.parametrize("scale", [0.0, 0.5, 1.0])
def test_no_second_pass_is_made_without_guidance(scale: float) -> None:
    assert not Guidance(scale=scale).active
    assert Guidance(scale=1.01).active


def test_rescaling_gives_each_sample_the_spread_of_its_own_prompt() -> None:
    positive = normal(3, 4, 8, 8) * torch.tensor([1.0, 2.0, 5.0])[:, None, None, None]
    guided = 10 * normal(3, 4, 8, 8, seed=1)
    spread = rescale(guided, positive, 1.0).std(dim=(1, 2, 3))
    torch.testing.assert_close(spread, positive.std(dim=(1, 2, 3)))
    torch.testing.assert_close(rescale(guided, positive, 0.0), guided)
    half = rescale(guided, positive, 0.5)
    torch.testing.assert_close(half, (rescale(guided, positive, 1.0) + guided) / 2)


@pytest.mark.parametrize(
    "settings",
    [{"scale": -1.0}, {"scale": 1e6}, {"scale": float("nan")}, {"rescale": 1.1}, {"rescale": -0.1}],
)
def test_values_out_of_range_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(UserError, match="out of range"):
        Guidance(**settings)


def test_both_halves_go_through_the_network_in_one_call_negative_first() -> None:
    calls = []

    def network(x_t: torch.Tensor, t: object, context: torch.Tensor) -> torch.Tensor:
        calls.append(x_t.shape[0])
        return x_t * 0 + context.mean((1, 2))[:, None, None, None]

    context = torch.tensor([1.0, 2.0, 10.0, 20.0])[:, None, None].expand(4, 3, 5)
    guided = GuidedDenoiser(network, Guidance(scale=2.0))(normal(2, 4, 3, 3), 7, context)
    assert calls == [4]
    assert guided.shape == (2, 4, 3, 3)
    torch.testing.assert_close(guided[:, 0, 0, 0], torch.tensor([19.0, 38.0]))


def test_guidance_in_an_interval_asks_the_prompt_alone_elsewhere() -> None:
    calls: list[tuple[int, float]] = []

    def network(x_t: torch.Tensor, t: object, context: torch.Tensor) -> torch.Tensor:
        calls.append((x_t.shape[0], float(t)))  # type: ignore[arg-type]
        return x_t * 0 + context.mean((1, 2))[:, None, None, None]

    context = torch.tensor([1.0, 10.0])[:, None, None].expand(2, 3, 5)
    guided = GuidedDenoiser(network, Guidance(scale=2.0, start=0.2, end=0.8), timesteps=1000)
    values = [float(guided(normal(1, 4, 3, 3), t, context)[0, 0, 0, 0]) for t in (999, 500, 100)]
    assert calls == [(1, 999.0), (2, 500.0), (1, 100.0)]
    assert values == [10.0, 19.0, 10.0]


@pytest.mark.parametrize("ends", [(0.5, 0.5), (0.8, 0.2), (-0.1, 1.0), (0.0, 1.1)])
def test_an_interval_that_is_none_is_refused(ends: tuple[float, float]) -> None:
    with pytest.raises(UserError, match="out of range"):
        Guidance(start=ends[0], end=ends[1])
