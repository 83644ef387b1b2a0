"""The U-Net by OpenVINO: the same predictions, kept on disk, and refused where it cannot be."""

from __future__ import annotations

import copy
import importlib
import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch

from latentdiff.errors import UserError
from latentdiff.models import bundle as bundles
from latentdiff.models.denoiser import Denoiser, ready_unet
from latentdiff.models.prepared import openvino_unet
from latentdiff.models.prepared.deep_cache import DeepCache
from latentdiff.models.prepared.openvino_unet import OpenVinoUnet, weights_hash
from latentdiff.models.prepared.unet import PreparedUnet
from latentdiff.pipelines import TextToImagePipeline

installed = pytest.mark.skipif(
    importlib.util.find_spec("openvino") is None, reason="openvino is not installed"
)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "latentdiff" / "openvino"


def drawn(bundle: Any, rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    config, generator = bundle.unet.config, torch.Generator().manual_seed(rows)
    x = torch.randn(rows, config.in_channels, 8, 8, generator=generator)
    length = bundle.tokenizer.model_max_length
    return x, torch.randn(2 * rows, length, config.cross_attention_dim, generator=generator)


@installed
@pytest.mark.slow
def test_openvino_predicts_what_torch_predicts_and_keeps_the_graph(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = tiny.tiny()
    ours, theirs = PreparedUnet(bundle.unet), OpenVinoUnet(bundle.unet)
    x, context = drawn(bundle, 1)
    for t, told in ((500.0, context), (3.0, context), (3.0, context + 1.0)):
        expected = ours(x, t, told)
        torch.testing.assert_close(
            theirs(x, t, told), expected, rtol=0, atol=5e-5 * float(expected.abs().max())
        )
    assert len(list(cache.iterdir())) == 1

    def never(*arguments: Any) -> Any:
        raise AssertionError("traced again")

    monkeypatch.setattr(OpenVinoUnet, "_traced", never)
    again = OpenVinoUnet(bundle.unet)(x, 500.0, context)
    expected = ours(x, 500.0, context)
    torch.testing.assert_close(again, expected, rtol=0, atol=5e-5 * float(expected.abs().max()))


def test_a_kept_graph_that_is_not_whole_is_not_read(cache: Path) -> None:
    place = cache / "one.blob"
    assert openvino_unet._read(place) is None
    openvino_unet._write(place, b"a graph")
    assert openvino_unet._read(place) == b"a graph"
    place.write_bytes(place.read_bytes()[:-1])
    assert openvino_unet._read(place) is None


@installed
@pytest.mark.slow
@torch.no_grad()
def test_openvino_keeps_deep_features_as_torch_does() -> None:
    bundle = tiny.stable_diffusion_1()  # whose outer levels have cross-attention
    ours, theirs = PreparedUnet(bundle.unet), OpenVinoUnet(bundle.unet)
    caches = DeepCache(2), DeepCache(2)
    x, context = drawn(bundle, 1)
    for t in (500.0, 400.0, 300.0):
        expected, found = (
            form(x, t, context, deep=deep)
            for form, deep in zip((ours, theirs), caches, strict=True)
        )
        torch.testing.assert_close(found, expected, rtol=0, atol=5e-5 * float(expected.abs().max()))
    assert {kind for kind, _ in theirs._graphs} == {"keeping", "outer"}


@installed
@pytest.mark.slow
def test_a_recipe_names_the_backend() -> None:
    pipeline = TextToImagePipeline(tiny.stable_diffusion_1(), backend="openvino")
    plain = TextToImagePipeline(tiny.stable_diffusion_1())
    drawn, exact = (one("a", seed=1, num_inference_steps=2) for one in (pipeline, plain))
    recipe = drawn.pictures[0].recipe
    assert recipe.backend == "openvino" and recipe.versions["openvino"]
    assert exact.pictures[0].recipe.backend == "torch"
    torch.testing.assert_close(drawn.latents, exact.latents, rtol=0, atol=1e-3)


def test_a_walk_with_weights_stored_in_half_precision_can_be_traced(tmp_path: Path) -> None:
    """The tracer runs it twice, and fails where a weight was widened between."""
    stored = bundles.save(tiny.stable_diffusion_1(), tmp_path / "half", dtype=torch.float16)
    unet = bundles.load(stored, dtype=torch.float32).light.unet
    assert torch.float16 in {p.dtype for p in unet.parameters()}
    form, (x, context) = PreparedUnet(unet), drawn(tiny.stable_diffusion_1(), 1)
    told, time = form._tell(context, None)[0], form._time(500.0)
    with torch.no_grad():
        walk = torch.jit.trace(lambda x: form.walk(x, time, told), (x,))
        torch.testing.assert_close(walk(x), form.walk(x, time, told), rtol=0, atol=1e-4)


@installed
@pytest.mark.slow
def test_openvino_draws_from_a_folder_in_half_precision_what_torch_draws(tmp_path: Path) -> None:
    stored = bundles.save(tiny.stable_diffusion_1(), tmp_path / "half", dtype=torch.float16)
    drawn, exact = (
        TextToImagePipeline.from_pretrained(str(stored), backend=backend)(
            "a", seed=1, num_inference_steps=2
        )
        for backend in ("openvino", "torch")
    )
    torch.testing.assert_close(drawn.latents, exact.latents, rtol=0, atol=1e-3)


def test_openvino_is_imported_without_its_telemetry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "openvino_telemetry", raising=False)
    monkeypatch.setitem(sys.modules, "openvino", type(sys)("openvino"))
    openvino_unet.import_openvino()
    with pytest.raises(ImportError):
        importlib.import_module("openvino_telemetry")
    monkeypatch.delitem(sys.modules, "openvino_telemetry")


def test_a_missing_package_is_named_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(UserError, match=r"pip install 'latentdiff\[openvino\]'$"):
        TextToImagePipeline(tiny.stable_diffusion_1(), backend="openvino")


def test_another_number_type_and_another_networks_blocks_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", type(sys)("openvino"))
    unet = copy.deepcopy(tiny.stable_diffusion_1().unet)
    handle = unet.mid_block.register_forward_hook(lambda *a: None)
    ready = ready_unet(unet, "openvino")
    with pytest.raises(UserError, match="the backend openvino is for U-Nets of"):
        Denoiser(ready, "epsilon")
    handle.remove()
    with pytest.raises(UserError, match="computes in float32 on the CPU, and the U-Net is bfloat"):
        ready_unet(unet.to(torch.bfloat16), "openvino")
    with pytest.raises(UserError, match="backend"):
        ready_unet(unet, "onnx")  # type: ignore[arg-type]


def test_kept_graphs_are_of_one_set_of_weights() -> None:
    unet = copy.deepcopy(tiny.stable_diffusion_1().unet)
    before = weights_hash(unet)
    assert weights_hash(copy.deepcopy(unet)) == before
    with torch.no_grad():
        unet.conv_out.bias[0] += 1e-3
    assert weights_hash(unet) != before
    assert openvino_unet.cache_folder().name == "openvino"
