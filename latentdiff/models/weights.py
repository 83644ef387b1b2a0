"""Weights on disk: safetensors only, one file or shards, read strictly or not at all.

A part's folder holds `STEM.safetensors`, or `STEM.VARIANT.safetensors` (for example `fp16`), or an
index `STEM.safetensors[.VARIANT].index.json` beside its shards, in diffusers' and transformers'
spellings. Nothing is ever unpickled.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from latentdiff.checkpoints.tensor_file import write_tensors
from latentdiff.errors import UserError, nearest
from latentdiff.files import write_json
from latentdiff.files.json_file import read_json
from latentdiff.models.light.layers import Light

if TYPE_CHECKING:
    from torch import nn

INDEX_NAME = re.compile(
    r"(?P<stem>.+)\.safetensors\.index(?:\.(?P<variant>[^.]+))?\.json"
    r"|(?P<stem2>.+)\.(?P<variant2>[^.]+)\.safetensors\.index\.json"
    r"|(?P<stem3>.+)\.safetensors\.(?P<variant3>[^.]+)\.index\.json"
)
SHARD = re.compile(r"-\d{5}-of-\d{5}")
READ_AT_ONCE = 2**28
"""Bytes of weights that are read whole when they are loaded; larger ones stay mapped, and come into
memory as they are used."""
PICKLES = (".bin", ".ckpt", ".pt", ".pth", ".pkl")


@dataclass(frozen=True)
class WeightFile:
    """Where a part's weights stand: a single safetensors file or the index of several."""

    name: str
    variant: str | None
    is_index: bool


def find_weights(names: Iterable[str], stem: str, where: str) -> list[WeightFile]:
    """The weight files among a folder's file names, the plain one first, then by variant name.

    names: plain file names; stem: "diffusion_pytorch_model" or "model"; where: for messages.
    UserError when there is none, saying so if there are only pickles.
    """
    names = sorted(names)
    found = [w for w in map(_classify, names) if w is not None and w[0] == stem]
    if not found:
        pickles = [name for name in names if name.endswith(PICKLES)]
        if pickles:
            raise UserError(
                f"{where} holds its weights only as a pickle ({pickles[0]}), which can run code "
                "when opened; convert them to safetensors"
            )
        raise UserError(f"{where} holds no weights; expected {stem}.safetensors")
    return sorted((w[1] for w in found), key=lambda w: (w.variant is not None, w.variant, w.name))


def _classify(name: str) -> tuple[str, WeightFile] | None:
    """(stem, WeightFile) of a file name, or None if it is no weight file in its own right."""
    match = INDEX_NAME.fullmatch(name)
    if match:
        groups = match.groupdict()
        stem = groups["stem"] or groups["stem2"] or groups["stem3"]
        variant = groups["variant"] or groups["variant2"] or groups["variant3"]
        return stem, WeightFile(name, variant, True)
    if not name.endswith(".safetensors") or SHARD.search(name):
        return None
    stem, _, variant = name.removesuffix(".safetensors").partition(".")
    return stem, WeightFile(name, variant or None, False)


def pick_variant(found: list[WeightFile], variant: str | None) -> WeightFile:
    """A part's weights of the asked-for variant; without one, or where this part has none of it,
    the plain weights, or else the most exact of the variants."""
    asked = [w for w in found if variant is not None and w.variant == variant]
    return min(asked or found, key=lambda w: (_order(w.variant), w.is_index, w.name))


def check_variant(found: Iterable[WeightFile], variant: str | None, where: str) -> None:
    """UserError for a variant that no part of a model has. found: the weights of all parts."""
    names = [w.variant for w in found]
    if variant is not None and variant not in names:
        known = ", ".join(dict.fromkeys(name or "the plain one" for name in names))
        raise UserError(f"{where} has no variant {variant!r} of its weights; it has {known}")


def _order(variant: str | None) -> tuple[int, str]:
    """Plain weights first, then by exactness; raw weights beside averaged ones last."""
    known = (None, "fp32", "float32", "bf16", "fp16")
    place = known.index(variant) if variant in known else len(known) + (variant == "non_ema")
    return place, variant or ""


def shard_names(folder: Path, weight_file: WeightFile) -> list[str]:
    """The safetensors files that a `WeightFile` stands for, in order."""
    if not weight_file.is_index:
        return [weight_file.name]
    shards = sorted(set(_weight_map(folder / weight_file.name).values()))
    for shard in shards:
        if Path(shard).name != shard or shard in ("", ".", ".."):
            raise UserError(f"{folder / weight_file.name} names a shard outside its folder")
        if not (folder / shard).is_file():
            raise UserError(f"{folder / weight_file.name} names {shard}, which is missing")
    return shards


def _weight_map(path: Path) -> dict[str, str]:
    weight_map = read_json(path).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(v, str) for v in weight_map.values()):
        raise UserError(f"{path} has no weight_map; expected a safetensors index")
    return weight_map


def read_shapes(folder: Path, weight_file: WeightFile) -> dict[str, tuple[int, ...]]:
    """Name → shape of all tensors of a part, from the files' headers; no tensor is read."""
    shapes: dict[str, tuple[int, ...]] = {}
    for name in shard_names(folder, weight_file):
        shapes |= file_shapes(folder / name)
    return shapes


def file_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Name → shape of a safetensors file's tensors, from its header."""
    from safetensors import safe_open

    with reading(path), safe_open(path, framework="pt") as opened:
        return {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn what safetensors says of a damaged or unreadable file into a UserError."""
    from safetensors import SafetensorError

    try:
        yield
    except (SafetensorError, ValueError, KeyError) as error:
        raise UserError(
            f"{path} is not a whole safetensors file ({first_line(error)}); fetch or save it again"
        ) from error
    except OSError as error:
        raise UserError(f"cannot read {path} ({error.strerror or error})") from error


def read_weights(folder: Path, weight_file: WeightFile) -> dict[str, Tensor]:
    """All tensors of a part. UserError for a damaged file or shards that differ from the index."""
    from safetensors.torch import load_file

    state: dict[str, Tensor] = {}
    for name in shard_names(folder, weight_file):
        with reading(folder / name):
            state.update(load_file(folder / name))
    if weight_file.is_index:
        listed = set(_weight_map(folder / weight_file.name))
        if listed != set(state):
            odd = sorted(listed ^ set(state))
            raise UserError(
                f"{folder / weight_file.name} and its shards disagree on {len(odd)} weights, "
                f"first {odd[0]}"
            )
    return state


def assign(
    module: nn.Module, state: Mapping[str, Tensor], where: str, dtype: torch.dtype | None
) -> None:
    """Put weights into a module (which may be on the meta device), strictly.

    Floating weights are cast to `dtype` (None keeps each as it is stored, and a light network those
    that are widened where they are used). UserError for a
    missing, unexpected or misshapen weight, for one that is not floating, and for NaN or infinity;
    these are not looked for where that would read a large file for nothing else: then the first
    step finds them (`first_bad`).
    """
    expected = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    missing = sorted(set(expected) - set(state))
    unexpected = sorted(set(state) - set(expected))
    if missing or unexpected:
        raise UserError(_mismatch(where, missing, unexpected))
    read_all = sum(tensor.nbytes for tensor in state.values()) < READ_AT_ONCE
    cast: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if tuple(tensor.shape) != expected[name]:
            raise UserError(
                f"{where}: {name} has shape {tuple(tensor.shape)}, "
                f"its config asks for {expected[name]}"
            )
        if not tensor.is_floating_point():
            raise UserError(f"{where}: {name} is {_short(tensor.dtype)}; floating was expected")
        left = dtype is None or (isinstance(module, Light) and module.leaves(tensor, dtype))
        value = tensor if left else tensor.to(dtype)
        narrowed = torch.finfo(value.dtype).max < torch.finfo(tensor.dtype).max
        if (read_all or narrowed) and not finite(value):
            whole = finite(tensor)
            fault = (
                f"overflows in {_short(value.dtype)}; load it in float32"
                if whole
                else f"holds NaN or infinity, as stored in {_short(tensor.dtype)}"
            )
            raise UserError(f"{where}: {name} {fault}")
        cast[name] = value
    module.load_state_dict(cast, strict=True, assign=True)
    if isinstance(module, Light):
        module.computes_in = dtype


def finite(tensor: Tensor) -> bool:
    """Whether no element is NaN or infinity, in any floating type."""
    if not tensor.numel():
        return True
    # torch knows no extremes of the types of eight bits. A NaN is both extremes.
    ends = torch.aminmax(tensor.float() if tensor.element_size() == 1 else tensor)
    return bool(torch.isfinite(ends.min)) and bool(torch.isfinite(ends.max))


def first_bad(module: nn.Module) -> str | None:
    """The name of the first weight with NaN or infinity; None when all are finite."""
    return next((name for name, value in module.state_dict().items() if not finite(value)), None)


def _mismatch(where: str, missing: list[str], unexpected: list[str]) -> str:
    parts = []
    if missing:
        parts.append(f"{len(missing)} weights are missing, first {missing[0]}")
    if unexpected:
        parts.append(f"{len(unexpected)} are unexpected, first {unexpected[0]}")
    close = nearest(missing[0], unexpected, 1) if missing else []
    hint = f" (is {close[0]} a renamed {missing[0]}?)" if close else ""
    return f"{where} does not fit its config: {'; '.join(parts)}{hint}"


def write_weights(
    folder: Path, stem: str, state: Mapping[str, Tensor], max_shard_bytes: int | None = None
) -> None:
    """Write tensors as `STEM.safetensors`, or as shards of at most `max_shard_bytes` and an index.

    The folder must be one that is being published (see `files.publish_folder`).
    """
    tensors = dict(state)
    shards = _split(tensors, max_shard_bytes)
    if len(shards) == 1:
        write_tensors(folder / f"{stem}.safetensors", tensors, {"format": "pt"})
        return
    weight_map = {}
    for number, names in enumerate(shards, 1):
        file = f"{stem}-{number:05d}-of-{len(shards):05d}.safetensors"
        write_tensors(folder / file, {n: tensors[n] for n in names}, {"format": "pt"})
        weight_map.update(dict.fromkeys(names, file))
    total = sum(t.numel() * t.element_size() for t in tensors.values())
    write_json(
        folder / f"{stem}.safetensors.index.json",
        {"metadata": {"total_size": total}, "weight_map": weight_map},
    )


def _split(tensors: Mapping[str, Tensor], limit: int | None) -> list[list[str]]:
    """Names grouped in order so that each group stays within `limit` bytes where it can."""
    shards: list[list[str]] = [[]]
    filled = 0
    for name, tensor in tensors.items():
        size = tensor.numel() * tensor.element_size()
        if limit is not None and shards[-1] and filled + size > limit:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += size
    return shards


def first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
