"""The prepared U-Net on a CUDA device: its walk is recorded once for each shape, and played back.

A recorded step (CUDA graph) is one launch in place of some thousand, and nothing in it waits for
the device.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor

from latentdiff.models.prepared.blocks import Told
from latentdiff.models.prepared.deep_cache import DeepCache
from latentdiff.models.prepared.unet import PreparedUnet

GRAPHS = 4
"""How many shapes are remembered; each holds the memory of a walk."""
WARMUPS = 2


def prepare_unet(unet: Any) -> PreparedUnet:
    """The prepared form for where the U-Net is."""
    on_cuda = next(unet.parameters()).device.type == "cuda"
    return GraphedUnet(unet) if on_cuda else PreparedUnet(unet)


class GraphedUnet(PreparedUnet):
    """A `PreparedUnet` whose walk is a CUDA graph.

    Whoever watches the cross-attention, and a walk that keeps deep features, get the plain walk; so
    does everyone once a recording has failed (for lack of memory, say), and `graphs` is False then.
    """

    def __init__(self, unet: Any) -> None:
        super().__init__(unet)
        self.graphs = True
        self._recorded: OrderedDict[tuple[tuple[int, ...], ...], Recording] = OrderedDict()

    def walk(self, x: Tensor, time: Tensor, told: Told, deep: DeepCache | None = None) -> Tensor:
        """See `PreparedUnet.walk`."""
        if not self.graphs or deep is not None or self.watched:
            return super().walk(x, time, told, deep)
        shapes = tuple(tuple(one.shape) for one in (x, time, *told.tensors()))
        if shapes not in self._recorded:
            try:
                self._recorded[shapes] = Recording(super().walk, x, time, told)
            except RuntimeError:
                self.graphs = False
                self._recorded.clear()
                return super().walk(x, time, told)
            while len(self._recorded) > GRAPHS:
                self._recorded.popitem(last=False)
        self._recorded.move_to_end(shapes)
        return self._recorded[shapes](x, time, told)


class Recording:
    """One walk's CUDA graph, with the places that its inputs are copied into."""

    def __init__(self, walk: Any, x: Tensor, time: Tensor, told: Told) -> None:
        """walk: (x, time, told) → prediction. Raises RuntimeError when it cannot be recorded."""
        self._x, self._time = x.clone(), time.clone()
        self._places = told.of([one.clone() for one in told.tensors()])
        self._told = told
        beside = torch.cuda.Stream(x.device)
        beside.wait_stream(torch.cuda.current_stream(x.device))
        with torch.cuda.stream(beside):  # libraries choose their kernels before the recording
            for _ in range(WARMUPS):
                walk(self._x, self._time, self._places)
        torch.cuda.current_stream(x.device).wait_stream(beside)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._out = walk(self._x, self._time, self._places)

    def __call__(self, x: Tensor, time: Tensor, told: Told) -> Tensor:
        """The prediction, in memory of its own."""
        self._x.copy_(x)
        self._time.copy_(time)
        if told is not self._told:
            for place, value in zip(self._places.tensors(), told.tensors(), strict=True):
                place.copy_(value)
            self._told = told
        self._graph.replay()
        found: Tensor = self._out.clone()
        return found
