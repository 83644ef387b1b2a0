"""Whether a walk on an accelerator waits for it: for `bench device`, and for a test."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from latentdiff.pipelines.request import Request
from latentdiff.pipelines.text_to_image import TextToImagePipeline


def walk_without_waiting(pipeline: TextToImagePipeline, steps: int = 8) -> str:
    """Walk `steps` steps, of which none between the first and the last may wait for the device.

    Returns what was found, in a line; RuntimeError where something waits. CUDA says so itself
    (`torch.cuda.set_sync_debug_mode`); elsewhere numbers that are read from tensors are counted.
    The first step is free to wait (tables, recordings), the last reads whether all were finite.
    """
    device = pipeline.bundle.unet.device
    request = Request(
        prompt="a cat in the snow", seed=0, num_inference_steps=steps, scheduler="ddim"
    )
    for _ in range(2):  # the second time everything is prepared and recorded
        walk = pipeline.stream(request)
        next(walk)
        with _no_waiting(device):
            for _ in range(steps - 2):
                next(walk)
        for _ in walk:
            pass
    with torch.no_grad():
        form = pipeline.unet.form()
    graphs = getattr(form, "graphs", None)
    recorded = {None: "no CUDA device", True: "as CUDA graphs", False: "CUDA graphs failed"}
    return f"{steps} steps without waiting, {recorded[graphs]}"


@contextlib.contextmanager
def _no_waiting(device: torch.device) -> Iterator[None]:
    if device.type == "cuda":
        before = torch.cuda.get_sync_debug_mode()
        torch.cuda.set_sync_debug_mode("error")
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode(before)
        return
    with _Reads() as reads:
        yield
    if reads.count:
        raise RuntimeError(f"{reads.count} numbers were read from tensors on the way")


class _Reads(TorchDispatchMode):
    """Counts the numbers that Python reads from what networks compute. Tables of schedules stay on
    the CPU, in float64: nothing waits for those."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default and args[0].dtype != torch.float64:
            self.count += 1
        return func(*args, **(kwargs or {}))
