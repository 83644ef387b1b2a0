"""LoRA files: read in any layout, written in diffusers' (PEFT) and in kohya's.

A LoRA (Hu et al. 2021, arXiv:2106.09685) adds to the weight W of a layer

    W' = W + s · (α / r) · B A        A (r, in), B (out, r); s is the user's scale

The ratio α / r belongs to the file: kohya's layout keeps α as a tensor beside each pair, diffusers'
layout in the header's `lora_adapter_metadata`, and α = r where nothing is said. Convolutions have
A (r, in, k, k) and B (out, r, 1, 1) in both layouts.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from latentdiff.errors import UserError
from latentdiff.files import sha256_file, write_bytes
from latentdiff.models.lora import names
from latentdiff.models.lora.metadata import HEADER, LoraMetadata, header_of, metadata_of, printable

PEFT_NAME = "pytorch_lora_weights.safetensors"
KOHYA_NAME = "pytorch_lora_weights.kohya.safetensors"
ADAPTER_METADATA = "lora_adapter_metadata"
"""Header key under which diffusers keeps rank and α (diffusers/loaders/lora_base.py)."""
PICKLES = (".pt", ".bin", ".ckpt", ".pth", ".pkl")
OTHER_KINDS = {
    r"\.hada_w": "LoHa",
    r"\.lokr_w": "LoKr",
    r"\.(dora_scale|lora_magnitude_vector)": "DoRA",
    r"\.oft_": "OFT",
    r"\.lora_embedding_": "embedding",
    r"\.lora_B(\.default)?\.bias$": "biased LoRA",
    r"\.diff(_b)?$": "full-difference",
}
"""Pattern of a tensor's name → the kind of adapter that is not read here."""
Layout = Literal["peft", "kohya"]


@dataclass(frozen=True, eq=False)
class Pair:
    """What one layer gains: down is A (r, in[, k, k]), up is B (out, r[, 1, 1])."""

    down: Tensor
    up: Tensor
    alpha: float

    @property
    def rank(self) -> int:
        return int(self.down.shape[0])

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the weight that the pair belongs to."""
        return (int(self.up.shape[0]), *(int(n) for n in self.down.shape[1:]))

    def delta(self, device: torch.device | str = "cpu") -> Tensor:
        """(α / r) · B A, float32, in `shape`; computed on the device."""
        down, up = (t.to(device, torch.float32).flatten(1) for t in (self.down, self.up))
        return ((up @ down) * (self.alpha / self.rank)).reshape(self.shape)


@dataclass(frozen=True, kw_only=True, eq=False)
class LoraFile:
    """A LoRA as read. pairs: PART.MODULE → its pair; unknown: names of tensors that no layout
    explains; header: the file's own strings; metadata: what they say about its making."""

    path: Path
    sha256: str
    layout: str
    pairs: Mapping[str, Pair]
    unknown: tuple[str, ...]
    header: Mapping[str, str]
    metadata: LoraMetadata


def find(where: str | Path) -> Path:
    """The file itself, or the one in a folder that `save_lora` wrote, or in a run of training."""
    path = Path(where).expanduser()
    if path.is_dir():
        for place in (path / PEFT_NAME, path / "export" / PEFT_NAME, path / KOHYA_NAME):
            if place.is_file():
                return place
        raise UserError(f"{path} holds no {PEFT_NAME}; name the LoRA's .safetensors file")
    if not path.exists():
        raise UserError(f"no LoRA at {path}; expected a .safetensors file")
    return path


def read_lora(where: str | Path) -> LoraFile:
    """Read a LoRA in any layout. UserError, one line, for what is damaged or of another kind."""
    path = find(where)
    tensors, header = _read(path)
    for name in tensors:
        for pattern, kind in OTHER_KINDS.items():
            if re.search(pattern, name):
                raise UserError(
                    f"{path} holds a {kind} adapter, which is not read here, only LoRA pairs are "
                    f"({printable(name)})"
                )
    found: dict[str, dict[str, Tensor]] = {}
    layouts: Counter[str] = Counter()
    unknown = []
    for name, tensor in tensors.items():
        key = names.parse(name)
        if key is None:
            unknown.append(printable(name))
            continue
        if key.role in found.setdefault(key.layer, {}):
            raise UserError(f"{path} holds {key.layer} twice; again as {name}")
        found[key.layer][key.role] = tensor
        layouts[key.layout] += 1
    # In a file of kohya's, or from before PEFT, a lone α without a pair adds nothing.
    layers = {layer: roles for layer, roles in found.items() if set(roles) != {"alpha"}}
    if not layers:
        first = printable(next(iter(tensors), "none"))
        raise UserError(f"{path} holds no LoRA pairs; its first tensor is {first}")
    alphas = _alphas(path, header)
    pairs = {
        layer: _pair(roles, alphas, layer, str(path)) for layer, roles in sorted(layers.items())
    }
    return LoraFile(
        path=path,
        sha256=sha256_file(path),
        layout=layouts.most_common(1)[0][0],
        pairs=pairs,
        unknown=tuple(unknown),
        header=header,
        metadata=metadata_of(header),
    )


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and header strings of a safetensors file; pickles are refused unopened."""
    from safetensors import SafetensorError, safe_open

    try:
        with path.open("rb") as file:
            start = file.read(9)
        # A safetensors file starts with the header's length, which may look like anything.
        pickled = start.startswith((b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"))
        if path.suffix in PICKLES or (pickled and start[8:] != b"{"):
            raise UserError(
                f"{path} is a pickle, which can run code when opened; "
                "ask for the LoRA as a .safetensors file"
            )
        with safe_open(path, framework="pt") as opened:
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
            return tensors, dict(opened.metadata() or {})
    except OSError as error:
        raise UserError(f"cannot read {path} ({error.strerror or error})") from error
    except (SafetensorError, ValueError, KeyError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"{path} is not a whole safetensors file ({reason})") from error


def _pair(roles: Mapping[str, Tensor], alphas: Mapping[str, Any], layer: str, where: str) -> Pair:
    """A checked pair of one layer."""
    for role in ("down", "up"):
        if role not in roles:
            raise UserError(f"{where}: {layer} has no {role} half; the file is not whole")
    for role, tensor in roles.items():
        if not tensor.is_floating_point() or not bool(torch.isfinite(tensor).all()):
            raise UserError(f"{where}: the {role} half of {layer} holds NaN, infinity or integers")
    down, up = roles["down"], roles["up"]
    if "mid" in roles:
        # Tucker form (kohya's and LyCORIS' lora_mid): down is 1x1, mid (r, r, k, k) the kernel.
        core, reduce = roles["mid"], down.flatten(1)
        if core.ndim != 4 or core.shape[1] != reduce.shape[0]:
            raise UserError(f"{where}: the middle of {layer} has shape {tuple(core.shape)}")
        down = torch.einsum("abkl,bi->aikl", core.float(), reduce.float())
    flat = up.ndim == 2 or (up.ndim == 4 and up.shape[2:] == (1, 1))
    if down.ndim not in (2, 4) or not flat or up.shape[1] != down.shape[0] or not down.shape[0]:
        raise UserError(
            f"{where}: {layer} has halves {tuple(down.shape)} and {tuple(up.shape)}, "
            "which do not make a LoRA pair"
        )
    alpha = roles["alpha"].float() if "alpha" in roles else None
    if alpha is not None and alpha.numel() != 1:
        raise UserError(f"{where}: alpha of {layer} has shape {tuple(alpha.shape)}; expected one")
    value = float(alpha) if alpha is not None else _alpha_of(layer, int(down.shape[0]), alphas)
    return Pair(down, up, value)


def _alphas(path: Path, header: Mapping[str, str]) -> dict[str, Any]:
    """PEFT's settings by part (`unet.lora_alpha` …), from the header or from the file beside it."""
    try:
        if ADAPTER_METADATA in header:
            settings = json.loads(header[ADAPTER_METADATA])
        elif (path.parent / "adapter_config.json").is_file() and "adapter" in path.name:
            beside = json.loads((path.parent / "adapter_config.json").read_text("utf-8"))
            settings = {f"unet.{key}": value for key, value in beside.items()}
        else:
            settings = {}
        if not isinstance(settings, dict):
            raise TypeError("no table of keys")
        for part in names.PARTS:
            if settings.get(f"{part}.use_dora"):
                raise UserError(f"{path} holds a DoRA adapter; only LoRA pairs are read here")
            float(settings.get(f"{part}.lora_alpha", 0))
            for value in (settings.get(f"{part}.alpha_pattern") or {}).values():
                float(value)
    except (ValueError, TypeError, AttributeError, OSError) as error:
        raise UserError(f"{path}: its LoRA settings cannot be read ({error})") from error
    return settings


def _alpha_of(layer: str, rank: int, settings: Mapping[str, Any]) -> float:
    """α of a layer by PEFT's settings; its rank where they are silent."""
    part, _, module = layer.partition(".")
    alpha = settings.get(f"{part}.lora_alpha", rank)
    for pattern, value in (settings.get(f"{part}.alpha_pattern") or {}).items():
        tail = pattern.removeprefix("^").removeprefix(names.TEXT_PREFIX)
        if module == tail or module.endswith(f".{tail}"):
            alpha = value
    # Rank-stabilised LoRA divides by √r instead of r (Kalajdzievski 2023).
    factor = math.sqrt(rank) if settings.get(f"{part}.use_rslora") else 1.0
    return float(alpha) * factor


def write_lora(
    path: str | Path,
    pairs: Mapping[str, Pair],
    layout: Layout,
    metadata: LoraMetadata,
    *,
    header: Mapping[str, str] | None = None,
) -> Path:
    """Write pairs in one layout, atomically; returns the path.

    header: further strings for the file's header, such as those of the file it was made from.
    """
    tensors: dict[str, Tensor] = {}
    for layer, pair in pairs.items():
        for role, tensor in (("down", pair.down), ("up", pair.up)):
            name = (names.peft_key if layout == "peft" else names.kohya_key)(layer, role)
            assert name not in tensors, name
            tensors[name] = tensor.detach().cpu().contiguous()
        if layout == "kohya":
            tensors[names.kohya_key(layer, "alpha")] = torch.tensor(pair.alpha)
    kept = {k: v for k, v in (header or {}).items() if k not in (ADAPTER_METADATA, HEADER)}
    strings = {**kept, "format": "pt", **header_of(metadata)}
    if layout == "peft":
        strings[ADAPTER_METADATA] = json.dumps(adapter_metadata(pairs), sort_keys=True)
    else:
        rank, alpha = (_common(getattr(p, n) for p in pairs.values()) for n in ("rank", "alpha"))
        strings["ss_network_module"] = "networks.lora"
        strings["ss_network_dim"], strings["ss_network_alpha"] = f"{rank}", f"{alpha:g}"
    write_bytes(path, _serialise(tensors, strings))
    return Path(path)


def _serialise(tensors: dict[str, Tensor], strings: Mapping[str, str]) -> bytes:
    """A safetensors file whose bytes follow from its content: safetensors' own writer puts the
    header's strings in an order that changes from run to run, and so does the file's SHA-256."""
    from safetensors.torch import save

    raw = save(tensors, metadata=dict(strings))
    size = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + size])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + raw[8 + size :]


def adapter_metadata(pairs: Mapping[str, Pair]) -> dict[str, Any]:
    """The settings from which diffusers rebuilds peft's `LoraConfig`: as few as will do, because a
    reader refuses a file with a setting that its peft does not know."""
    settings: dict[str, Any] = {}
    for part in names.PARTS:
        own = {
            layer.partition(".")[2]: pair
            for layer, pair in pairs.items()
            if layer.startswith(f"{part}.")
        }
        if own:
            rank = _common(p.rank for p in own.values())
            alpha = _common(p.alpha for p in own.values())
            settings |= {
                f"{part}.r": rank,
                f"{part}.lora_alpha": alpha,
                f"{part}.target_modules": sorted(own),
                f"{part}.rank_pattern": {n: p.rank for n, p in own.items() if p.rank != rank},
                f"{part}.alpha_pattern": {n: p.alpha for n, p in own.items() if p.alpha != alpha},
            }
    return settings


def _common(values: Iterable[Any]) -> Any:
    """The most frequent value."""
    return Counter(values).most_common(1)[0][0]
