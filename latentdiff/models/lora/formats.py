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
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from latentdiff.checkpoints.tensor_file import tensor_bytes
from latentdiff.errors import UserError
from latentdiff.files import hub, sha256_file, write_bytes
from latentdiff.files.json_file import read_json
from latentdiff.models.lora import names
from latentdiff.models.lora.changes import (
    Change,
    Difference,
    Extras,
    Hadamard,
    Kronecker,
    Pair,
)
from latentdiff.models.lora.metadata import HEADER, LoraMetadata, header_of, metadata_of, printable
from latentdiff.models.weights import finite, reading

PEFT_NAME = "pytorch_lora_weights.safetensors"
KOHYA_NAME = "pytorch_lora_weights.kohya.safetensors"
ADAPTER_METADATA = "lora_adapter_metadata"
"""Header key under which diffusers keeps rank and α (diffusers/loaders/lora_base.py)."""
PICKLES = (".pt", ".bin", ".ckpt", ".pth", ".pkl")
OTHER_KINDS = {
    r"\.(oft_|boft_)": "OFT",
    r"\.(a1|a2|b1|b2|bm1|bm2)\.weight$": "GLoRA",
    r"\.lora_embedding_": "embedding",
    r"\.on_input$": "IA3",
}
"""Pattern of a tensor's name → the kind of adapter that is not read here."""
OTHER_BASES = {
    r"^lora_te2_|^text_encoder_2\.|conditioner\.embedders": "Stable Diffusion XL",
    r"(double|single)_blocks|single_transformer_blocks": "Flux",
    r"joint_blocks|^lora_te3_|^text_encoder_3\.": "Stable Diffusion 3",
    r"motion_modules": "AnimateDiff",
    r"^(transformer|diffusion_model|base_model\.model)\.(transformer_)?blocks\.": "a transformer",
    r"^lora_(unet|transformer)_(transformer_)?blocks_\d": "a transformer",
    r"^lora_prior_": "Stable Cascade",
}
"""Pattern of a tensor's name → the kind of model that such a LoRA is for."""
BASE_HEADERS = ("ss_base_model_version", "modelspec.architecture", "ss_sd_model_name")
Layout = Literal["peft", "kohya"]


@dataclass(frozen=True, kw_only=True, eq=False)
class LoraFile:
    """A LoRA as read. changes: PART.MODULE → what the layer gains; unknown: names of tensors that
    no layout explains; header: the file's own strings; metadata: what they say about its making;
    other_base: the kind of model it is for, if that is none of Stable Diffusion 1.x and 2.x;
    notes: for the user, on where it came from."""

    path: Path
    sha256: str
    layout: str
    changes: Mapping[str, Change]
    unknown: tuple[str, ...]
    header: Mapping[str, str]
    metadata: LoraMetadata
    other_base: str = ""
    notes: tuple[str, ...] = ()


def find(where: str | Path) -> tuple[Path, tuple[str, ...]]:
    """The file itself, or the one in a folder that `save_lora` wrote, in a run of training, or on
    a hub (OWNER/NAME or OWNER/NAME/FILE); and notes for the user."""
    path = Path(where).expanduser()
    if path.is_dir():
        for place in (path / PEFT_NAME, path / "export" / PEFT_NAME, path / KOHYA_NAME):
            if place.is_file():
                return place, ()
        raise UserError(f"{path} holds no {PEFT_NAME}; name the LoRA's .safetensors file")
    if path.exists():
        return path, ()
    name = hub.parse(str(where))
    if name is None:
        raise UserError(f"no LoRA at {path}; expected a .safetensors file")
    chosen: list[str] = []

    def choose(names: Sequence[str]) -> list[str]:
        chosen[:] = [_one_of(name, names)]
        return chosen

    fetched = hub.fetch(name, choose)
    return fetched.folder / chosen[0], fetched.notes


def _one_of(name: hub.HubName, names: Sequence[str]) -> str:
    """The LoRA among a repository's files."""
    there = [n for n in names if n.endswith(".safetensors")]
    if name.file is not None:
        found = [n for n in there if n == name.file]
    else:
        found = [n for n in there if n == PEFT_NAME] or there
    if len(found) == 1:
        return found[0]
    listed = ", ".join(there[:5]) + (", …" if len(there) > 5 else "")
    if not there:
        raise UserError(f"{name} on the hub holds no .safetensors file, so no LoRA to read here")
    raise UserError(f"{name.repo} holds several files, say which: {name.repo}/FILE, of {listed}")


def read_lora(where: str | Path) -> LoraFile:
    """Read a LoRA in any layout. UserError, one line, for what is damaged or of another kind."""
    path, notes = find(where)
    tensors, header = _read(path)
    for name in tensors:
        for pattern, kind in OTHER_KINDS.items():
            if re.search(pattern, name):
                raise UserError(
                    f"{path} holds a {kind} adapter, which is not read here; LoRA, LoCon, LoHa, "
                    f"LoKr and DoRA are ({printable(name)})"
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
            raise UserError(f"{path} holds {key.layer} twice; again as {printable(name)}")
        found[key.layer][key.role] = tensor
        layouts[key.layout] += 1
    base = _other_base(tensors, header)
    # In a file of kohya's, or from before PEFT, a lone α without a pair adds nothing.
    layers = {layer: roles for layer, roles in found.items() if set(roles) != {"alpha"}}
    if not layers:
        first = printable(next(iter(tensors), "none"))
        hint = f"; it is for {base}, which is not drawn here" if base else ""
        raise UserError(f"{path} holds no LoRA pairs{hint}; its first tensor is {first}")
    alphas = _alphas(path, header)
    return LoraFile(
        path=path,
        sha256=sha256_file(path),
        layout=layouts.most_common(1)[0][0],
        changes={
            layer: _change(roles, alphas, layer, str(path))
            for layer, roles in sorted(layers.items())
        },
        unknown=tuple(unknown),
        header=header,
        metadata=metadata_of(header),
        other_base=base,
        notes=notes,
    )


def _other_base(tensors: Mapping[str, Tensor], header: Mapping[str, str]) -> str:
    """The kind of model that a file is for, where its names or its header say another than
    Stable Diffusion 1.x or 2.x; "" otherwise."""
    for name, tensor in tensors.items():
        for pattern, kind in OTHER_BASES.items():
            if re.search(pattern, name):
                return kind
        if re.search(r"attn2[._]to_k\.lora_(down|A)\.", name) and tensor.shape[1:2] == (2048,):
            return "Stable Diffusion XL"
    told = " ".join(header.get(key, "") for key in BASE_HEADERS).lower()
    for word, kind in (("xl", "Stable Diffusion XL"), ("flux", "Flux"), ("sd3", "SD 3")):
        if re.search(rf"(?<![a-z]){word}(?![a-z])|sd{word}", told):
            return kind
    return ""


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and header strings of a safetensors file; pickles are refused unopened."""
    from safetensors import safe_open

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
        with reading(path), safe_open(path, framework="pt") as opened:
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
            return tensors, dict(opened.metadata() or {})
    except OSError as error:
        raise UserError(f"cannot read {path} ({error.strerror or error})") from error


def _change(
    roles: Mapping[str, Tensor], alphas: Mapping[str, Any], layer: str, where: str
) -> Change:
    """A checked change of one layer, of the kind that its tensors make."""
    for role, tensor in roles.items():
        # Writers of kohya's layout have kept α as an integer.
        value = tensor.float() if role == "alpha" else tensor
        if not value.is_floating_point() or not finite(value):
            raise UserError(f"{where}: the {role} half of {layer} holds NaN, infinity or integers")
    alpha = roles["alpha"].float() if "alpha" in roles else None
    if alpha is not None and alpha.numel() != 1:
        raise UserError(f"{where}: alpha of {layer} has shape {tuple(alpha.shape)}; expected one")
    told = None if alpha is None else float(alpha)

    def scale(rank: int) -> float:
        return _alpha_of(layer, rank, alphas) if told is None else told

    extras = Extras(magnitude=roles.get("magnitude"), bias=roles.get("bias"))
    try:
        if any(role.startswith(("hada_", "lokr_")) for role in roles):
            return _factors(roles, scale, extras)
        if "diff" in roles or set(roles) == {"bias"}:
            weight = roles.get("diff", torch.zeros(()))
            return Difference(weight, extras)
        return _pair(roles, scale, extras, layer, where)
    except (RuntimeError, KeyError, IndexError) as error:
        shapes = ", ".join(f"{n} {tuple(t.shape)}" for n, t in roles.items())
        raise UserError(f"{where}: {layer} does not fit together ({shapes})") from error


def _factors(roles: Mapping[str, Tensor], scale: Callable[[int], float], extras: Extras) -> Change:
    """LoHa or LoKr; RuntimeError or KeyError for factors that do not fit."""
    kind = Hadamard if any(role.startswith("hada_") for role in roles) else Kronecker
    factors = {r.partition("_")[2]: t for r, t in roles.items() if r.startswith(("hada", "lokr"))}
    change = kind(factors, 1.0, extras)
    change = replace(change, alpha=scale(change.rank))
    assert change.product().ndim >= 2
    return change


def _pair(
    roles: Mapping[str, Tensor],
    scale: Callable[[int], float],
    extras: Extras,
    layer: str,
    where: str,
) -> Pair:
    for role in ("down", "up"):
        if role not in roles:
            raise UserError(f"{where}: {layer} has no {role} half; the file is not whole")
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
    alpha = scale(int(down.shape[0]))
    if "pair_bias" in roles:  # PEFT's lora_bias: B's own, scaled as B is
        bias = roles["pair_bias"].float() * (alpha / down.shape[0])
        extras = replace(extras, bias=bias)
    return Pair(down, up, alpha, extras)


def _alphas(path: Path, header: Mapping[str, str]) -> dict[str, Any]:
    """PEFT's settings by part (`unet.lora_alpha` …), from the header or from the file beside it."""
    try:
        if ADAPTER_METADATA in header:
            settings = json.loads(header[ADAPTER_METADATA])
        elif (path.parent / "adapter_config.json").is_file() and "adapter" in path.name:
            beside = read_json(path.parent / "adapter_config.json")
            settings = {f"{p}.{key}": value for key, value in beside.items() for p in names.PARTS}
        else:
            settings = {}
        if not isinstance(settings, dict):
            raise TypeError("no table of keys")
        for part in names.PARTS:
            float(settings.get(f"{part}.lora_alpha", 0))
            for value in (settings.get(f"{part}.alpha_pattern") or {}).values():
                float(value)
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
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


def plain_pairs(file: LoraFile) -> dict[str, Pair]:
    """A file's pairs, for what can only use those; UserError for a file of another kind."""
    for layer, change in file.changes.items():
        if not isinstance(change, Pair) or not change.extras.none:
            raise UserError(
                f"{file.path} holds a {change.name} adapter ({layer}), which is no plain LoRA; it "
                "can be drawn with and merged into a model (`latentdiff lora merge`)"
            )
    return {layer: c for layer, c in file.changes.items() if isinstance(c, Pair)}


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
    write_bytes(path, tensor_bytes(tensors, strings))
    return Path(path)


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
