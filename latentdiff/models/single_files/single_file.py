"""Single-file checkpoints: Stable Diffusion in the original layout, read whole.

Reading is as strict as with folders: safetensors only, every expected weight there with its
shape, nothing fetched. What a file does not say (the tokenizer, the scheduler) is that of its
generation, which comes with this package.
"""

from __future__ import annotations

import dataclasses
import functools
import gzip
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from latentdiff.errors import UserError
from latentdiff.models import weights
from latentdiff.models.light import tokenizer
from latentdiff.models.light.part import Part
from latentdiff.models.light.tokenizer import END, MARKS, START, WORD_END
from latentdiff.models.networks import TEXT_PREFIX, check_sizes, lay_out
from latentdiff.models.single_files import original_names as original
from latentdiff.models.single_files.single_file_config import (
    CLIP_BARE,
    HEADER,
    Shapes,
    configs_of,
    kind_of,
)
from latentdiff.models.weight_hashes import FileHash
from latentdiff.schedulers.scheduler_config import SchedulerConfig, read_config

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

UNSAID = "it does not say what it predicts"
PREDICTION_HEADER = "modelspec.prediction_type"
_PICKLES = (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
_WIDE_NORM = 0.09
"""Above it lies the spread of the last attention's norm in 2.x files that predict v, below it in
those that predict ε: ComfyUI's rule (comfy/supported_models.py, SD20.model_type)."""


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class SingleFile:
    """The parts that a file holds; vae is None where it has none inside, card is empty where it
    has none."""

    path: Path
    unet: Part[Any]
    vae: Part[Any] | None
    text_encoder: Part[Any]
    tokenizer: Part[CLIPTokenizer]
    scheduler_config: SchedulerConfig
    card: Mapping[str, Any]
    file: FileHash
    notes: tuple[str, ...]


def read_single_file(
    path: Path,
    dtype: torch.dtype | None = None,
    *,
    ema: bool = False,
    with_vae: bool = True,
) -> SingleFile:
    """Read a checkpoint, its networks frozen and in eval mode.

    dtype: of all networks; None keeps each weight as it is stored. ema: the averaged weights of
    the U-Net, in a file that holds both. with_vae: read the autoencoder, if there is one.
    UserError, one line, for anything missing, damaged or of another kind.
    """
    from safetensors import safe_open

    refuse_pickle(path)
    file = FileHash(path)
    with weights.reading(path), safe_open(path, framework="pt") as opened:
        header = dict(opened.metadata() or {})
    shapes = weights.file_shapes(path)
    kind = kind_of(shapes, path)
    configs = configs_of(kind, shapes, header, path)
    averaged = f"{original.ema_name(original.UNET)}input_blocks00weight" in shapes
    if ema and not averaged:
        raise UserError(f"{path} holds no averaged weights (model_ema); leave the choice out")
    notes = [] if ema or not averaged else [f"{path} also holds averaged weights, not used"]
    parts: dict[str, Any] = {"vae": None}
    with weights.reading(path), safe_open(path, framework="pt") as opened:
        for part in ("unet", "vae", "text_encoder"):
            config = configs.get(part)
            if config is None or (part == "vae" and not with_vae):
                continue
            check_sizes(config, shapes, f"{path}: the {part}'s settings")
            network = lay_out(part, config, f"{path}: the {part}'s settings")
            state = _state(part, network.light, config, shapes, opened, ema, path)
            weights.assign(network.light, state, str(path), dtype)
            network.light.eval().requires_grad_(False)
            parts[part] = network
        scheduler, told = _scheduler(kind, configs, header, shapes, opened)
    return SingleFile(
        path=path,
        **parts,
        tokenizer=_tokenizer(kind, configs),
        scheduler_config=scheduler,
        card=card if isinstance(card := configs.get("card"), dict) else {},
        file=file,
        notes=(*notes, *(f"{path}: {note}" for note in told)),
    )


def read_configs(path: Path) -> tuple[dict[str, Any], Part[CLIPTokenizer]]:
    """The networks' settings by part, and the tokenizer; no weight is read.

    A file without an autoencoder counts as Stable Diffusion, whose autoencoders all are of one
    shape: 8 pixels a latent cell, 4 channels.
    """
    from safetensors import safe_open

    refuse_pickle(path)
    with weights.reading(path), safe_open(path, framework="pt") as opened:
        header = dict(opened.metadata() or {})
    shapes = weights.file_shapes(path)
    kind = kind_of(shapes, path)
    configs = dict(configs_of(kind, shapes, header, path))
    if configs.get("vae") is None:
        configs["vae"] = {"block_out_channels": [128, 256, 512, 512], "latent_channels": 4}
    return configs, _tokenizer(kind, configs)


def refuse_pickle(path: Path) -> None:
    """UserError for a pickle, unopened, by its name or by its first bytes."""
    try:
        with path.open("rb") as file:
            start = file.read(9)
    except OSError as error:
        raise UserError(f"cannot read {path} ({error.strerror})") from error
    # A safetensors file starts with its header's length, which may look like anything.
    if path.suffix.lower() in weights.PICKLES or (start.startswith(_PICKLES) and start[8:] != b"{"):
        raise UserError(
            f"{path} is a pickle, which can run code when opened; "
            "ask for the checkpoint as a .safetensors file"
        )


def _state(
    part: str,
    module: nn.Module,
    config: Mapping[str, Any],
    shapes: Shapes,
    opened: Any,
    ema: bool,
    path: Path,
) -> dict[str, Tensor]:
    """A network's weights under the names it expects; UserError names one that is missing."""
    expected = list(module.state_dict())
    try:
        if part == "text_encoder" and f"{original.OPEN_CLIP}token_embedding.weight" in shapes:
            there = {n: opened.get_tensor(n) for n in shapes if n.startswith(original.OPEN_CLIP)}
            found = original.from_open_clip(there, int(config["num_hidden_layers"]))
            prefix = TEXT_PREFIX if expected[0].startswith(TEXT_PREFIX) else ""
            return {prefix + name: tensor for name, tensor in found.items()}
        state = {}
        for name in expected:
            there_name = original.NAMES[part](name, config)
            if there_name is None:
                raise UserError(f"{path}: {name} has no place in the original layout")
            if ema and part == "unet":
                there_name = original.ema_name(there_name)
            elif there_name.startswith(original.CLIP) and there_name not in shapes:
                there_name = CLIP_BARE + there_name.removeprefix(original.CLIP)
            if there_name not in shapes:
                raise KeyError(there_name)
            state[name] = original.flat(opened.get_tensor(there_name), there_name)
        return state
    except KeyError as error:
        raise UserError(f"{path} lacks the weight {error} of its {part}") from error


def _scheduler(
    kind: str,
    configs: Mapping[str, Any],
    header: Mapping[str, str],
    shapes: Shapes,
    opened: Any,
) -> tuple[SchedulerConfig, list[str]]:
    """The scheduler's settings, with what the U-Net predicts; and notes on how that is known."""
    raw, notes = dict(configs["scheduler"]), []
    if HEADER not in header:
        told = header.get(PREDICTION_HEADER, "").lower()
        if told in ("v", "v_prediction") or "v_pred" in shapes:
            raw["prediction_type"] = "v_prediction"
        elif told in ("epsilon", "eps"):
            raw["prediction_type"] = "epsilon"
        elif kind == "2":
            judged = _judged(shapes, opened)
            raw["prediction_type"] = judged
            notes.append(
                f"{UNSAID}; {judged}, by the look of its weights (--prediction-type settles it)"
            )
    if "ztsnr" in shapes:
        raw["rescale_betas_zero_snr"] = True
        raw["_class_name"] = "DDIMScheduler"
        notes.append("it was trained at zero terminal signal-to-noise ratio (ztsnr)")
    return read_config(raw), notes


def _judged(shapes: Shapes, opened: Any) -> str:
    last = original.count(shapes, r"model\.diffusion_model\.output_blocks\.(\d+)\.") - 1
    name = f"{original.UNET}output_blocks.{last}.1.transformer_blocks.0.norm1.bias"
    if name not in shapes:
        return "epsilon"
    spread = float(opened.get_tensor(name).float().std(correction=0))
    return "v_prediction" if spread > _WIDE_NORM else "epsilon"


@functools.cache
def clip_vocabulary() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """CLIP's tokens and merges (openai/CLIP clip/simple_tokenizer.py)."""
    place = resources.files("latentdiff") / "assets" / "clip" / "merges.txt.gz"
    lines = gzip.decompress(place.read_bytes()).decode("utf-8").splitlines()[1:]
    merges = [(left, right) for left, _, right in (line.partition(" ") for line in lines)]
    tokens = [*tokenizer.letters(), *(letter + WORD_END for letter in tokenizer.letters())]
    tokens += [left + right for left, right in merges]
    return {token: i for i, token in enumerate([*tokens, START, END])}, merges


def clip_tokenizer(kind: str) -> Part[CLIPTokenizer]:
    """The tokenizer of Stable Diffusion "1" (padded with the end mark) or "2" (with "!")."""
    vocabulary, merges = clip_vocabulary()
    marks = dict.fromkeys(MARKS, END) | {"bos_token": START}
    if kind == "2":
        marks["pad_token"] = "!"
    return _made(vocabulary, merges, marks, 77)


def _made(
    vocabulary: Mapping[str, int],
    merges: Sequence[tuple[str, str]],
    marks: Mapping[str, str],
    max_length: int,
) -> Part[CLIPTokenizer]:
    def own(light: object) -> CLIPTokenizer:
        from transformers import CLIPTokenizer

        return CLIPTokenizer(
            vocab=dict(vocabulary), merges=list(merges), model_max_length=max_length, **marks
        )

    return Part(tokenizer.make(vocabulary, merges, marks, max_length), own)


def _tokenizer(kind: str, configs: Mapping[str, Any]) -> Part[CLIPTokenizer]:
    """The tokenizer that the header holds, or CLIP's own."""
    told = configs.get("tokenizer")
    if told is None:
        return clip_tokenizer(kind)
    try:
        merges = [(left, right) for left, right in told["merges"]]
        marks = {name: str(told["settings"][name]) for name in MARKS}
        return _made(dict(told["vocab"]), merges, marks, int(told["settings"]["model_max_length"]))
    except Exception as error:  # the library's own are of many kinds
        raise UserError(
            f"the file's own tokenizer cannot be read ({weights.first_line(error)[:200]})"
        ) from error
