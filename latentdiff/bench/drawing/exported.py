"""Peers that run an exported U-Net inside diffusers' pipeline: ONNX Runtime and OpenVINO.

The network is traced once to ONNX by torch's own exporter, at the shapes of the work, and kept
beside the pictures; everything else of the pipeline is diffusers'. What a peer needs that is not
installed is an ImportError, by which the race names it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from latentdiff.bench.drawing.drawers import Draw, Work, drawing_by
from latentdiff.models.prepared.openvino_unet import import_openvino

Run = Callable[[Any, Any, Any], Any]
"""(sample, t, context), all arrays → the prediction, an array."""


def onnxruntime(*, name: str, work: Mapping[str, Any]) -> Draw:
    """ONNX Runtime on the CPU, all graph optimisations on."""
    import onnxruntime as ort

    def load(place: Path) -> Run:
        options = ort.SessionOptions()
        options.intra_op_num_threads = int(os.environ["OMP_NUM_THREADS"])
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
        session = ort.InferenceSession(str(place), options, providers=["CPUExecutionProvider"])

        def run(sample: Any, t: Any, context: Any) -> Any:
            return session.run(None, {"sample": sample, "t": t, "context": context})[0]

        return run

    return _drawer(name, Work(**work), load)


def openvino(*, name: str, work: Mapping[str, Any]) -> Draw:
    """OpenVINO on the CPU, in float32 as the others."""
    ov = import_openvino()

    def load(place: Path) -> Run:
        settings = {
            "INFERENCE_PRECISION_HINT": "f32",
            "INFERENCE_NUM_THREADS": int(os.environ["OMP_NUM_THREADS"]),
            "PERFORMANCE_HINT": "LATENCY",
        }
        model = ov.Core().compile_model(str(place), "CPU", settings)

        def run(sample: Any, t: Any, context: Any) -> Any:
            return model([sample, t, context])[0]

        return run

    return _drawer(name, Work(**work), load)


def _drawer(name: str, work: Work, load: Callable[[Path], Run]) -> Draw:
    import torch
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(work.model)
    pipeline.set_progress_bar_config(disable=True)
    place = Path(work.folder) / f"{name.replace(' ', '-')}.onnx"
    factor = 2 ** (len(pipeline.vae.config.block_out_channels) - 1)
    _export(pipeline.unet, pipeline.tokenizer.model_max_length, work, factor, place)
    run = load(place)

    def forward(
        sample: torch.Tensor, t: Any, encoder_hidden_states: torch.Tensor, **_: Any
    ) -> tuple[torch.Tensor]:
        told = torch.as_tensor(t, dtype=torch.float32).reshape(1)
        found = run(sample.numpy(), told.numpy(), encoder_hidden_states.numpy())
        return (torch.from_numpy(found),)

    pipeline.unet.forward = forward

    return drawing_by(pipeline, work, name)


def _export(unet: Any, length: int, work: Work, factor: int, place: Path) -> None:
    """Write the U-Net as ONNX for the rows of a guided batch."""
    import torch

    class Flat(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.unet = unet

        def forward(self, sample: Any, t: Any, context: Any) -> Any:
            return self.unet(sample, t, encoder_hidden_states=context, return_dict=False)[0]

    config = unet.config
    shape = (2 * work.batch, config.in_channels, work.height // factor, work.width // factor)
    given = (
        torch.zeros(shape),
        torch.zeros(1),
        torch.zeros(2 * work.batch, length, config.cross_attention_dim),
    )
    with torch.no_grad():
        torch.onnx.export(
            Flat().eval(),
            given,
            str(place),
            input_names=["sample", "t", "context"],
            output_names=["prediction"],
            opset_version=17,
            dynamo=False,
        )
