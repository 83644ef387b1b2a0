"""The prepared U-Net computed by OpenVINO on the CPU: `--backend openvino`, an optional extra.

The walk through the blocks is traced once for each shape, compiled, and kept as a file beside the
user's cache, under a name made of the weights, the shape, the versions and the processor's
instructions. What is told (keys, values, projections of the timestep) stays torch's, so all that
`PreparedUnet` spares is spared here too. OpenVINO fuses norms, activations and sums into the
products around them.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import sys
import warnings
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from latentdiff import devices
from latentdiff.errors import UserError
from latentdiff.files import atomic_path
from latentdiff.models.prepared.blocks import Told
from latentdiff.models.prepared.deep_cache import DeepCache
from latentdiff.models.prepared.unet import PreparedUnet
from latentdiff.models.weight_hashes import user_cache

Kind = Literal["plain", "keeping", "outer"]
"""A walk; one that also gives the features that its last level is handed from below; one that is
handed them."""
FORM = "2"
"""Of the traced graph; another one makes the kept files anew."""


def import_openvino() -> Any:
    """The package, without its telemetry: each import and conversion would be told to its makers
    over the network, where the package openvino-telemetry is there and was not refused."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    return importlib.import_module("openvino")


def check_openvino(unet: Any) -> None:
    """UserError, one line, where OpenVINO is not installed or the U-Net is not for it."""
    try:
        import_openvino()
    except ImportError:
        raise UserError(
            "the backend openvino needs its package: pip install 'latentdiff[openvino]'"
        ) from None
    if unet.device.type != "cpu" or unet.dtype != torch.float32:
        kind = str(unet.dtype).removeprefix("torch.")
        raise UserError(
            f"the backend openvino computes in float32 on the CPU, and the U-Net is {kind} on "
            f"{unet.device.type}; use --dtype float32 --device cpu, or --backend torch"
        )


class OpenVinoUnet(PreparedUnet):
    """A `PreparedUnet` whose walk is OpenVINO's; pictures differ by at most a level of 255.

    Whoever watches the cross-attention gets torch's.
    """

    def __init__(self, unet: Any) -> None:
        super().__init__(unet)
        self.unet = unet
        self._graphs: dict[tuple[str, tuple[tuple[int, ...], ...]], _Graph] = {}
        self._weights_hash = ""

    def walk(self, x: Tensor, time: Tensor, told: Told, deep: DeepCache | None = None) -> Tensor:
        """See `PreparedUnet.walk`."""
        if self.watched:
            return super().walk(x, time, told, deep)
        if deep is None:
            return self._run("plain", [x, time], told)[0]
        rows = len(told.context)
        kept = deep.due(x.shape, rows)
        if kept is not None:
            return self._run("outer", [x, time, kept], told)[0]
        found, features = self._run("keeping", [x, time], told)
        deep.keep(features, x.shape, rows)
        return found

    def _run(self, kind: Kind, changing: list[Tensor], told: Told) -> list[Tensor]:
        numbers = self._numbers(kind)
        held = told.tensors(numbers)
        shapes = tuple(tuple(one.shape) for one in (*changing, *held))
        graph = self._graphs.get((kind, shapes))
        if graph is None:
            graph = self._graphs[kind, shapes] = self._graph(kind, changing, told)
        return graph(changing, held, told)

    def _numbers(self, kind: Kind) -> range | list[int]:
        """Which of the cross-attention layers a walk of this kind asks."""
        if kind != "outer":
            return range(sum(len(crossing.layers) for crossing in self._crossings))
        outer = (*self.down[0][1], *self.up[-1][1])
        return [one.first + k for one in outer for k in range(len(one.layers))]

    def _graph(self, kind: Kind, changing: list[Tensor], told: Told) -> _Graph:
        openvino = import_openvino()

        if not self._weights_hash:
            self._weights_hash = weights_hash(self.unet)
        threads = torch.get_num_threads()
        held = told.tensors(self._numbers(kind))
        cpu = torch.device("cpu")
        parts = (
            *(FORM, version("latentdiff"), version("openvino"), version("torch")),
            *(devices.processor_name(cpu), devices.instruction_set(cpu)),
            *(self._weights_hash, kind, [tuple(one.shape) for one in (*changing, *held)], threads),
        )
        place = cache_folder() / f"{hashlib.sha256(repr(parts).encode()).hexdigest()[:32]}.blob"
        settings = {
            "INFERENCE_PRECISION_HINT": "f32",
            "INFERENCE_NUM_THREADS": threads,
            "PERFORMANCE_HINT": "LATENCY",
            "ENABLE_CPU_PINNING": False,  # a pinned thread waits for whoever has its core
        }
        core = openvino.Core()
        kept = _read(place)
        if kept is not None:
            with contextlib.suppress(RuntimeError):  # a file of another build: made anew
                return _Graph(core.import_model(kept, "CPU", settings))
        compiled = core.compile_model(self._traced(kind, changing, told), "CPU", settings)
        with contextlib.suppress(OSError, UserError):  # no cache is no reason not to draw
            _write(place, compiled.export_model().getvalue())
        return _Graph(compiled)

    def _traced(self, kind: Kind, changing: list[Tensor], told: Told) -> Any:
        """OpenVINO's model of the walk, for inputs of these shapes."""
        openvino = import_openvino()

        form = PreparedUnet(self.unet)  # whose weights are packed for nobody
        count, numbers = len(changing), self._numbers(kind)

        class Walk(nn.Module):
            def forward(self, *given: Tensor) -> Tensor | tuple[Tensor, Tensor]:
                (x, time, *kept), held = given[:count], given[count:]
                deep = None if kind == "plain" else _Hand(kept[0] if kept else None)
                found = form.walk(x, time, told.of(held, numbers), deep)
                if kind != "keeping":
                    return found
                assert deep is not None and deep.features is not None
                return found, deep.features

        given = (*changing, *told.tensors(numbers))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the tracer, about shapes that are fixed here
            model = openvino.convert_model(Walk().eval(), example_input=given)
        for place, value in zip(model.inputs, given, strict=True):
            place.get_node().set_partial_shape(openvino.PartialShape(list(value.shape)))
        model.validate_nodes_and_infer_types()
        return model


class _Hand(DeepCache):
    """Hands given features over, or takes those that are computed: for a trace of either walk."""

    def __init__(self, features: Tensor | None) -> None:
        super().__init__(1)
        self.features = features

    def due(self, shape: Sequence[int], rows: int) -> Tensor | None:
        """What was given."""
        return self.features

    def keep(self, features: Tensor, shape: Sequence[int], rows: int) -> None:
        """Take it."""
        self.features = features


class _Graph:
    """A compiled walk."""

    def __init__(self, compiled: Any) -> None:
        self._request = compiled.create_infer_request()
        self._outputs = len(compiled.outputs)
        self._told: Told | None = None
        self._shown: list[Any] = []

    def __call__(
        self, changing: Sequence[Tensor], held: Sequence[Tensor], told: Told
    ) -> list[Tensor]:
        """The outputs. changing: inputs of every step; held: those that are told's."""
        if told is not self._told:
            first = len(changing)
            self._shown = [self._show(first + k, one) for k, one in enumerate(held)]
            self._told = told
        shown = [self._show(k, one) for k, one in enumerate(changing)]
        self._request.infer()
        del shown
        outputs = (self._request.get_output_tensor(k) for k in range(self._outputs))
        return [torch.from_numpy(one.data.copy()) for one in outputs]

    def _show(self, place: int, value: Tensor) -> Any:
        """Hand an input over without a copy; what is returned must live as long as it is used."""
        openvino = import_openvino()

        array = value.contiguous().numpy()
        tensor = openvino.Tensor(array, shared_memory=True)
        self._request.set_input_tensor(place, tensor)
        return array, tensor


def weights_hash(unet: nn.Module) -> str:
    """SHA-256 over the names, shapes and bytes of all weights as they are now, and the config."""
    config: Any = unet.config
    digest = hashlib.sha256(repr(sorted(dict(config).items())).encode())
    for name, value in unet.state_dict().items():
        digest.update(f"{name} {tuple(value.shape)}".encode())
        digest.update(value.detach().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _read(place: Path) -> bytes | None:
    """What `_write` put there; None for what is not whole. OpenVINO believes whatever it reads."""
    with contextlib.suppress(OSError):
        held = place.read_bytes()
        if hashlib.sha256(held[32:]).digest() == held[:32]:
            return held[32:]
    return None


def _write(place: Path, graph: bytes) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(place) as file:
        file.write_bytes(hashlib.sha256(graph).digest() + graph)


def cache_folder() -> Path:
    """Where compiled networks are kept."""
    return user_cache() / "openvino"
