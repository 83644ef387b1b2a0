"""`latentdiff lora inspect | convert | merge`: what a LoRA file holds, and what to make of it."""

from __future__ import annotations

import dataclasses
import statistics
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from latentdiff import config as configs
from latentdiff.cli import groups
from latentdiff.cli.outputs import Named, Output
from latentdiff.errors import UserError

if TYPE_CHECKING:
    from latentdiff.models.bundle import Bundle
    from latentdiff.models.lora.formats import LoraFile
    from latentdiff.models.lora.stack import LoraReport

PART_NAMES = {"unet": "U-Net", "text_encoder": "text encoder"}


@dataclass(frozen=True, kw_only=True)
class InspectConfig:
    """Which file, and which model it should fit."""

    lora: tyro.conf.Positional[Path]
    """LoRA file (.safetensors) of any tool, a folder that holds one, or a hub id OWNER/NAME."""
    model: str | None = None
    """Also tell what fits this model: snowglobe, a folder in diffusers format, or a hub id."""


@dataclass(frozen=True, kw_only=True)
class ConvertConfig:
    """Which file, and into which layout."""

    lora: tyro.conf.Positional[Path]
    """LoRA file (.safetensors) of any tool, a folder that holds one, or a hub id OWNER/NAME."""
    to: Literal["peft", "kohya"] | None = None
    """peft: for diffusers; kohya: for most graphical programs. By default the other one."""
    output: Named = None
    """File to write; by default beside the old one, NAME.kohya.safetensors or
    NAME.peft.safetensors."""


@dataclass(frozen=True, kw_only=True)
class MergeConfig:
    """Which LoRAs, into which model, and where the new model goes."""

    lora: tyro.conf.Positional[tuple[str, ...]] = ()
    """FILE or FILE:SCALE, one or several; they add up."""
    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """New folder for the whole model; `latentdiff generate --model` and diffusers open it."""
    model: str = "snowglobe"
    """The base: snowglobe, a folder in diffusers format, or a hub id."""
    dtype: Literal["float32", "float16", "bfloat16"] | None = None
    """Of the saved weights; by default as the base stores them. The sum is made in float32."""


MORE = """\
To draw with one: latentdiff generate "a cat" --lora FILE[:SCALE]
To train one: latentdiff train text-to-image --help"""


def main(argv: Sequence[str]) -> int:
    """Run one action and return its exit code."""
    return groups.run(argv, "latentdiff lora", "action", ACTIONS, more=MORE)


def inspect(argv: Sequence[str]) -> int:
    """Print what a file holds and says of itself; with a model, also what of it fits."""
    config = configs.parse(
        InspectConfig, argv, prog="latentdiff lora inspect", description="Describe a LoRA file."
    )
    from latentdiff.models import bundle as bundles
    from latentdiff.models.lora.formats import read_lora
    from latentdiff.models.lora.stack import LoraStack

    file = read_lora(config.lora)
    describe(file)
    if config.model is not None:
        bundle = bundles.load(config.model)
        stack = LoraStack(bundle)
        sizes = {n: float(layer.weight.norm()) for n, layer in stack.layers().items()}
        report = stack.load(file, 0.0)
        fit = f"{len(report.matched)} layers fit, {len(report.unmatched)} do not"
        answers = {True: "yes", False: "no, on another model", None: "the file does not say"}
        print(f"\nin {config.model}: {fit}")
        print(f"  trained on it: {answers[report.base_matches]}")
        relative = [float(file.changes[n].product().norm()) / sizes[n] for n in report.matched]
        print(
            f"  change at scale 1, relative to the weights: median "
            f"{statistics.median(relative):.2%}, largest {max(relative):.2%}"
        )
        for name in report.unmatched[:10]:
            print(f"  not in this model: {name}")
    return 0


def describe(file: LoraFile) -> None:
    """Print a file's layers, sizes and metadata."""
    from latentdiff.models.lora.names import PARTS

    layout = {"peft": "diffusers (PEFT)", "kohya": "kohya"}.get(file.layout, file.layout)
    size = file.path.stat().st_size / 1e6
    print(f"{file.path}: {size:.1f} MB, layout of {layout}\nSHA-256 {file.sha256}")
    for part in PARTS:
        own = [pair for layer, pair in file.changes.items() if layer.startswith(f"{part}.")]
        if own:
            convolutions = sum(len(p.shape) == 4 for p in own)
            kinds = _counted(p.name for p in own)
            ranks = _counted(f"{p.rank}" for p in own)
            alphas = _counted(f"{p.alpha:g}" for p in own)
            dtypes = _counted(str(p.dtype).removeprefix("torch.") for p in own)
            norms = sorted(float(p.product().norm()) for p in own)
            print(
                f"\n{PART_NAMES[part]}: {len(own)} layers of {kinds}, "
                f"{convolutions} of them convolutions\n"
                f"  rank {ranks}, alpha {alphas}, stored in {dtypes}\n"
                f"  change at scale 1 (Frobenius norm): median {statistics.median(norms):.3g}, "
                f"largest {norms[-1]:.3g}"
            )
            if not norms[-1]:
                print("  note: all of it is zero: this LoRA changes nothing here")
    metadata = file.metadata
    told = {
        "trained on": metadata.base,
        **{f"  SHA-256, {PART_NAMES[p]}": digest for p, digest in metadata.base_sha256.items()},
        "data fingerprint": metadata.data_fingerprint,
        "trigger words": ", ".join(metadata.trigger_words),
        "training prompt": metadata.training_prompt,
    }
    print()
    for name, value in told.items():
        if value:
            print(f"{name}: {value}")
    if not any(told.values()):
        print("it says nothing about its base model, its data or its words")
    for note in (*file.notes, *([f"it is for {file.other_base}"] if file.other_base else [])):
        print(f"note: {note}")
    for name in file.unknown[:10]:
        print(f"note: not understood, left out: {name}")
    if len(file.unknown) > 10:
        print(f"note: and {len(file.unknown) - 10} more")


def convert(argv: Sequence[str]) -> int:
    """Write a file in the other layout: the same numbers, the same metadata."""
    config = configs.parse(
        ConvertConfig, argv, prog="latentdiff lora convert", description="Change a LoRA's layout."
    )
    from latentdiff.models.lora.formats import plain_pairs, read_lora, write_lora

    file = read_lora(config.lora)
    pairs = plain_pairs(file)
    to = config.to or ("peft" if file.layout == "kohya" else "kohya")
    stem = file.path.name.removesuffix(".safetensors").removesuffix(f".{file.layout}")
    name = f"{stem}.{to}.safetensors"
    output = Output.of(config.output or file.path.with_name(name)).file(name)
    if output.suffix != ".safetensors":
        raise UserError(f"{output} is no .safetensors file; LoRAs are kept as safetensors")
    if output.resolve() == file.path.resolve():
        raise UserError(f"{output} is the file that is read; choose another name with -o")
    for name in file.unknown:
        print(f"note: not understood, left out: {name}", file=sys.stderr)
    write_lora(output, pairs, to, file.metadata, header=file.header)
    print(output.resolve())
    return 0


def merge(argv: Sequence[str]) -> int:
    """Write the model with the LoRAs in its weights."""
    config = configs.parse(
        MergeConfig,
        argv,
        prog="latentdiff lora merge",
        description="Make one plain model of a model and its LoRAs.",
    )
    if not config.lora or config.output is None:
        raise UserError(
            "lora merge needs a LoRA and a folder for the new model: "
            "latentdiff lora merge owl.safetensors:0.8 -o owl-model"
        )
    if config.output.exists():
        raise UserError(f"{config.output} exists; the new model needs a name of its own")
    import torch

    from latentdiff.models import bundle as bundles
    from latentdiff.models.lora.formats import read_lora
    from latentdiff.models.lora.stack import LoraStack, parse_lora

    chosen = [parse_lora(text) for text in config.lora]
    files = [read_lora(one.path) for one in chosen]
    bundle = bundles.load(config.model, dtype=None)
    stored = {part: getattr(bundle, part).dtype for part in PART_NAMES}
    for part in PART_NAMES:
        getattr(bundle, part).float()
    stack = LoraStack(bundle)
    for file, one in zip(files, chosen, strict=True):
        report = stack.load(file, one.scale, blocks=one.blocks)
        print(f"lora: {report.summary()}", file=sys.stderr)
        for line in report.lines():
            print(f"note: {line}", file=sys.stderr)
    dtype = getattr(torch, config.dtype) if config.dtype else None
    for part in PART_NAMES:
        # diffusers' own `to` warns of modules that it does not have.
        torch.nn.Module.to(getattr(bundle, part), dtype or stored[part])
    merged = dataclasses.replace(bundle, card=merged_card(bundle, stack.reports))
    print(bundles.save(merged, config.output, dtype=dtype).resolve())
    return 0


def merged_card(bundle: Bundle, reports: Sequence[LoraReport]) -> dict[str, Any]:
    """The card of a model that has one, with the LoRAs and the words they brought."""
    if not bundle.card:
        return {}
    card = dict(bundle.card) | {"merged_loras": [report.recipe() for report in reports]}
    if "vocabulary" in card:
        known = list(card["vocabulary"])
        words = [w for r in reports for phrase in r.metadata.trigger_words for w in phrase.split()]
        card["vocabulary"] = known + [w for w in dict.fromkeys(words) if w not in known]
    return card


def _counted(values: Any) -> str:
    """Values from the most frequent on, with how often where they differ."""
    counts = Counter(values).most_common()
    if len(counts) == 1:
        return str(counts[0][0])
    listed = ", ".join(f"{value} ({count})" for value, count in counts[:4])
    return listed + (", …" if len(counts) > 4 else "")


ACTIONS: dict[str, tuple[Callable[[Sequence[str]], int], str]] = {
    "inspect": (inspect, "layers, rank, alpha, base model and trigger words of a file"),
    "convert": (convert, "from diffusers' layout to kohya's, or back"),
    "merge": (merge, "a plain model with LoRAs in its weights"),
}
