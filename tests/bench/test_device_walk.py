"""A walk asks an accelerator for its steps without waiting for any of them."""

from __future__ import annotations

import copy

import pytest
import tiny
import torch

from latentdiff import sampling
from latentdiff.bench.drawing.device_walk import walk_without_waiting
from latentdiff.conditioning.guidance import GuidedDenoiser
from latentdiff.models.prepared.graphed_unet import GraphedUnet
from latentdiff.models.prepared.unet import PreparedUnet
from latentdiff.pipelines import TextToImagePipeline

cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
KINDS = [tiny.tiny, tiny.stable_diffusion_1]


@pytest.mark.parametrize("make", KINDS)
def test_a_walk_reads_no_number_between_its_first_and_its_last_step(
    make: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampling, "READ_AT_ONCE", ())  # the CPU stands in for an accelerator
    pipeline = TextToImagePipeline(make())  # type: ignore[operator]
    assert walk_without_waiting(pipeline, 5).startswith("5 steps without waiting")


def test_a_number_that_is_read_on_the_way_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "READ_AT_ONCE", ())
    ask = GuidedDenoiser.__call__

    def reading(self: GuidedDenoiser, *inputs: object) -> torch.Tensor:
        found = ask(self, *inputs)  # type: ignore[arg-type]
        assert found.sum().item() is not None
        return found

    monkeypatch.setattr(GuidedDenoiser, "__call__", reading)
    with pytest.raises(RuntimeError, match="3 numbers were read"):
        walk_without_waiting(TextToImagePipeline(tiny.stable_diffusion_1()), 5)


@pytest.mark.parametrize("kinds", [("cpu",), ()])
def test_a_prediction_that_is_not_finite_stops_the_walk_by_its_end_with_the_steps_name(
    kinds: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampling, "READ_AT_ONCE", kinds)
    pipeline = TextToImagePipeline(tiny.stable_diffusion_1())
    seen: list[int] = []
    ask = GuidedDenoiser.__call__

    def broken(self: GuidedDenoiser, *inputs: object) -> torch.Tensor:
        found = ask(self, *inputs)  # type: ignore[arg-type]
        return found * float("nan") if len(seen) == 2 else found

    monkeypatch.setattr(GuidedDenoiser, "__call__", broken)
    with pytest.raises(sampling.NonFiniteError, match="at step 3 of 4 "):
        pipeline(
            "a",
            seed=0,
            num_inference_steps=4,
            scheduler="ddim",
            on_step=lambda step: seen.append(step.index),
        )
    assert seen == ([0, 1] if kinds else [0, 1, 2])


@cuda
def test_a_walk_on_cuda_waits_for_nothing_and_is_recorded() -> None:
    bundle = copy.deepcopy(tiny.stable_diffusion_1())
    for network in (bundle.unet, bundle.vae, bundle.text_encoder):
        network.to("cuda")
    pipeline = TextToImagePipeline(bundle)
    assert walk_without_waiting(pipeline) == "8 steps without waiting, as CUDA graphs"


@cuda
@torch.no_grad()
def test_a_recorded_walk_predicts_what_the_plain_one_does() -> None:
    unet = copy.deepcopy(tiny.stable_diffusion_1().unet).to("cuda")
    plain, recorded = PreparedUnet(unet), GraphedUnet(unet)
    for t in (500.0, 3.0):
        x = torch.randn(1, unet.config.in_channels, 8, 8, device="cuda")
        context = torch.randn(2, 77, unet.config.cross_attention_dim, device="cuda")
        expected = plain(x, t, context)
        torch.testing.assert_close(recorded(x, t, context), expected, rtol=0, atol=1e-4)
    assert recorded.graphs
