"""`latentdiff generate "a cat in the snow"`: prompts in, PNG files with their recipes out."""

from __future__ import annotations

import re
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from latentdiff import config as configs
from latentdiff.errors import UserError

if TYPE_CHECKING:
    from PIL import Image

    from latentdiff.models.lora.formats import LoraFile
    from latentdiff.pipelines.plan import Plan
    from latentdiff.pipelines.text_to_image import TextToImagePipeline

PROG = "latentdiff generate"
LONGEST_NAME = 60


@dataclass(frozen=True, kw_only=True)
class GenerateConfig:
    """What to draw, how, and where to put it."""

    prompt: tyro.conf.Positional[tuple[str, ...]] = ()
    """One prompt, or several, each in quotes."""
    prompts: Path | None = None
    """File with a prompt on each line; empty lines and lines that start with # are skipped."""
    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """PNG file, or a folder. Several pictures of one file name get their seeds in the names. By
    default a name made of the prompt and the seed, that never overwrites a file."""
    model: str = "snowglobe"
    """snowglobe, a Stable Diffusion 1.x / 2.x folder in diffusers format, or a hub id."""
    lora: Annotated[
        tuple[str, ...],
        tyro.conf.UseAppendAction,
        tyro.conf.arg(metavar="FILE[:SCALE]"),
    ] = ()
    """LoRA file (of diffusers or kohya), or a folder that holds one, and how strongly to apply it,
    1 by default: --lora owl.safetensors:0.8. May be given several times; they add up."""
    seed: int | None = None
    """Seed of the first picture, the k-th has seed + k; drawn and printed by default."""
    num_images: int = 1
    """Pictures of each prompt."""
    steps: int | None = None
    """Denoising steps; by default the model's own number."""
    guidance_scale: float | None = None
    """How strongly to follow the prompt; by default the model's own scale, 1 is no guidance."""
    guidance_rescale: float = 0.0
    """Against over-exposure at high guidance, 0 to 1 (Lin et al. 2023)."""
    negative_prompt: str = ""
    """What to move away from."""
    long_prompts: Literal["truncate", "chunk"] = "truncate"
    """Prompts over the text encoder's limit: cut there, with a note, or encoded in pieces."""
    scheduler: str | None = None
    """ddim, ddpm, euler, dpmsolver++, unipc, heun …, a diffusers class, or the model's own."""
    eta: float = 0.0
    """DDIM's noise: 0 is deterministic, 1 has DDPM's variance."""
    height: int | None = None
    """Pixels; by default the model's own size."""
    width: int | None = None
    """Pixels; by default the model's own size."""
    grid: bool = False
    """Write one picture of all pictures instead of each."""
    batch_size: int = 4
    """Pictures drawn at once."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Precision of the networks; latents and steps stay float32."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to compute; auto takes an accelerator when there is one."""

    def __post_init__(self) -> None:
        for name in ("num_images", "batch_size"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}; expected at least 1")


def main(argv: Sequence[str]) -> int:
    """Run `latentdiff generate` and return its exit code."""
    config = configs.parse(
        GenerateConfig, argv, prog=PROG, description="Draw pictures from prompts."
    )
    prompts = read_prompts(config)
    if config.output is not None:
        check_writable(config.output)
    loras = read_loras(config.lora)
    pipeline = load(config)
    add_loras(pipeline, loras)
    plans = make_plans(pipeline, prompts, config)
    tell_words(pipeline, prompts, plans)
    for path in write(draw(pipeline, plans), plans, config):
        print(path)
    return 0


def read_prompts(config: GenerateConfig) -> list[str]:
    """The prompts of the command line and of the file, in that order."""
    prompts = list(config.prompt)
    if config.prompts is not None:
        try:
            lines = config.prompts.read_text("utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or error
            raise UserError(f"cannot read the prompts in {config.prompts} ({reason})") from error
        prompts += [s for line in lines if (s := line.strip()) and not s.startswith("#")]
        if not prompts:
            raise UserError(f"{config.prompts} holds no prompt; expected one on each line")
    if not prompts:
        raise UserError('no prompt was given; try: latentdiff generate "a cat in the snow"')
    return prompts


def check_writable(output: Path) -> None:
    """Find out before drawing that the pictures can be kept."""
    folder = output if output.is_dir() else output.parent
    if not output.is_dir() and output.suffix.lower() != ".png":
        raise UserError(f"{output} is neither a folder nor a .png file; pictures are kept as PNG")
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise UserError(
            f"cannot write in {folder} ({error.strerror}); choose another place with -o"
        ) from error


def load(config: GenerateConfig) -> TextToImagePipeline:
    """The pipeline on its device; notes on what was not loaded are printed."""
    import torch

    device = config.device
    available = {
        "cpu": True,
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
    }
    if device == "auto":
        device = next(name for name in ("cuda", "mps", "cpu") if available[name])
    if not available[device]:
        raise UserError(f"this machine has no {device} device that torch can use; try --device cpu")
    if config.dtype == "float16" and device == "cpu":
        raise UserError("float16 is for GPUs; on a CPU use --dtype bfloat16 or float32")
    from latentdiff.pipelines.text_to_image import TextToImagePipeline

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        pipeline = TextToImagePipeline.from_pretrained(
            config.model, dtype=getattr(torch, config.dtype), device=device
        )
    for warning in caught:
        if warning.category is UserWarning:
            print(f"note: {warning.message}", file=sys.stderr)
    return pipeline


def read_loras(given: Sequence[str]) -> list[tuple[LoraFile, float]]:
    """The LoRA files and their scales, read before the model is: a wrong one is told at once."""
    if not given:
        return []
    from latentdiff.models.lora.formats import read_lora
    from latentdiff.models.lora.stack import parse_lora

    chosen = [parse_lora(text) for text in given]
    return [(read_lora(path), scale) for path, scale in chosen]


def add_loras(pipeline: TextToImagePipeline, loras: Sequence[tuple[LoraFile, float]]) -> None:
    """Add them to the weights; what each changed, and what did not fit, is printed."""
    for file, scale in loras:
        report = pipeline.loras.load(file, scale)
        print(f"lora: {report.summary()}", file=sys.stderr)
        for line in report.lines():
            print(f"note: {line}", file=sys.stderr)


def make_plans(
    pipeline: TextToImagePipeline, prompts: Sequence[str], config: GenerateConfig
) -> list[Plan]:
    """One plan a batch; picture k over all of them has seed + k."""
    whole = pipeline.plan(
        prompts,
        negative_prompt=config.negative_prompt,
        num_inference_steps=config.steps,
        guidance_scale=config.guidance_scale,
        guidance_rescale=config.guidance_rescale,
        scheduler=config.scheduler,
        eta=config.eta,
        height=config.height,
        width=config.width,
        num_images_per_prompt=config.num_images,
        seed=config.seed,
        long_prompts=config.long_prompts,
    )
    return whole.split(config.batch_size)


def tell_words(
    pipeline: TextToImagePipeline, prompts: Sequence[str], plans: Sequence[Plan]
) -> None:
    """Print words lost to the tokenizer's limit, and words that the model's captions never held."""
    from latentdiff.conditioning.text import unknown_words

    lost = {text: words for plan in plans for text, words in plan.dropped_words.items()}
    for words in lost.values():
        print(f"note: too long, lost: {' '.join(words)}", file=sys.stderr)
    vocabulary = pipeline.bundle.card.get("vocabulary")
    if not vocabulary:
        return
    brought = (w for r in pipeline.loras.reports for w in r.metadata.trigger_words)
    vocabulary = [*vocabulary, *" ".join(brought).split()]
    strange: dict[str, list[str]] = {}
    for prompt in prompts:
        strange |= unknown_words(prompt, vocabulary)
    for word, close in strange.items():
        hint = f"; nearest: {', '.join(close)}" if close else ""
        print(f"note: its captions never held {word!r}{hint}", file=sys.stderr)
    if strange:
        command = f"latentdiff info {Path(pipeline.bundle.source).name}"
        print(f"note: `{command}` lists what it knows", file=sys.stderr)


def draw(pipeline: TextToImagePipeline, plans: Sequence[Plan]) -> Iterator[Image.Image]:
    """The pictures, batch by batch; a bar on a terminal shows the steps and their rate."""
    from tqdm import tqdm

    steps = len(plans[0].scheduler.grid())
    with tqdm(total=steps * len(plans), unit="step", disable=None, leave=False) as bar:
        for number, plan in enumerate(plans, 1):
            if len(plans) > 1:
                bar.set_description(f"batch {number} of {len(plans)}")
            for step in pipeline.walk(plan):
                latents = step.latents
                bar.update()
            images = pipeline.finish(plan, latents).images
            bar.clear()
            yield from images


def write(
    images: Iterator[Image.Image], plans: Sequence[Plan], config: GenerateConfig
) -> Iterator[Path]:
    """Write each picture as it comes, or the grid of all, and yield where each lies."""
    from latentdiff.pipelines.pictures import grid, save_png

    recipes = [plan.recipe_of(k) for plan in plans for k in range(len(plan.prompts))]
    if config.grid:
        whole = {**recipes[0], "grid": recipes}
        path = one_place(config.output, f"{slug(recipes[0]['prompt'])}-grid")
        yield save_png(grid(list(images)), path, whole)
        return
    for image, recipe in zip(images, recipes, strict=True):
        name = f"{slug(recipe['prompt'])}-{recipe['seed']}"
        if config.output is None or config.output.is_dir() or len(recipes) == 1:
            path = one_place(config.output, name)
        else:
            path = config.output.with_name(f"{config.output.stem}-{recipe['seed']}.png")
        yield save_png(image, path, recipe)


def one_place(output: Path | None, name: str) -> Path:
    """The named file, or a fresh name in the named (or this) folder."""
    if output is not None and not output.is_dir():
        return output
    folder = output or Path()
    path, count = folder / f"{name}.png", 1
    while path.exists():
        count += 1
        path = folder / f"{name}-{count}.png"
    return path


def slug(prompt: str) -> str:
    """A file name made of a prompt: letters and digits, dashes between."""
    words = re.sub(r"[^\w]+", "-", prompt.lower()).strip("-")
    return words[:LONGEST_NAME].rstrip("-") or "picture"
