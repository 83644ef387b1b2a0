"""`latentdiff generate "a cat in the snow"`: prompts in, PNG files with their recipes out."""

from __future__ import annotations

import dataclasses
import re
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from latentdiff import config as configs
from latentdiff.cli import bulk, loading
from latentdiff.cli.bulk import BulkOptions, Share
from latentdiff.cli.options import ModelOptions, SamplingOptions
from latentdiff.cli.picture_options import PictureOptions
from latentdiff.cli.stages import Stages
from latentdiff.errors import UserError

if TYPE_CHECKING:
    from latentdiff.pipelines.batch import Picture
    from latentdiff.pipelines.request import Request
    from latentdiff.pipelines.text_to_image import TextToImagePipeline

PROG = "latentdiff generate"
LONGEST_NAME = 60


@dataclass(frozen=True, kw_only=True)
class GenerateConfig:
    """What to draw, and where to put it."""

    prompt: tyro.conf.Positional[tuple[str, ...]] = ()
    """One prompt, or several, each in quotes."""
    prompts: Path | None = None
    """File with a prompt on each line; empty lines and lines that start with # are skipped."""
    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """PNG file, or a folder. Several pictures of one file name get their seeds in the names. By
    default a name made of the prompt and the seed, that never overwrites a file."""
    seed: int | None = None
    """Seed of the first picture, the k-th has seed + k; drawn and printed by default, or for -1."""
    num_images: int = 1
    """Pictures of each prompt."""
    grid: bool = False
    """Write one picture of all pictures instead of each."""
    sampling: SamplingOptions = field(default_factory=SamplingOptions)
    picture: PictureOptions = field(default_factory=PictureOptions)
    many: BulkOptions = field(default_factory=BulkOptions)
    networks: ModelOptions = field(default_factory=lambda: ModelOptions(dtype="float32"))

    def __post_init__(self) -> None:
        if self.num_images < 1:
            raise UserError(f"num_images is {self.num_images}; expected at least 1")
        self.sampling.request(seed=self.seed)
        if self.grid and (self.many.sweep or self.many.resume):
            raise UserError("a sweep is a grid already, and --resume needs pictures one by one")


def main(argv: Sequence[str], share: Share | None = None) -> int:
    """Run `latentdiff generate` and return its exit code.

    share: which part of the pictures to draw, where several processes draw.
    """
    share = share or Share()
    config = configs.parse(
        GenerateConfig, argv, prog=PROG, description="Draw pictures from prompts."
    )
    bulk.check_resumable(config.many.resume, share, config.seed, config.output)
    prompts = read_prompts(config)
    requests = make_requests(config, prompts)[share.rank :: share.count]
    if config.output is not None:
        check_writable(config.output)

    pipeline = loading.load(config.networks)
    requests = pipeline.resolve(requests)
    loading.print_notes(notes_on(pipeline, prompts, requests))
    stages = Stages(len(requests))
    if config.many.sweep:
        print(bulk.sweep(pipeline, requests, config.many, config.output, config.sampling, stages))
        return 0
    if config.many.resume or share.count > 1:
        assert config.output is not None
        places = [config.output / f"{slug(r.prompt)}-{number(r)}.png" for r in requests]
        todo = bulk.missing(pipeline, requests, places)
        stages.count = len(todo)
        if len(todo) < len(requests):
            loading.print_notes([f"{len(requests) - len(todo)} pictures are drawn already"])
        requests = [requests[k] for k in todo]
    pictures = draw(pipeline, requests, config.sampling.batch_size, stages)
    for path in write(pictures, len(requests), config):
        stages.clear()
        print(path)
    return 0


def make_requests(config: GenerateConfig, prompts: Sequence[str]) -> list[Request]:
    """A request a picture; picture k over all of them has seed + k, variations all the seed."""
    from latentdiff.pipelines.request import several

    picture = config.picture
    template = dataclasses.replace(
        config.sampling.request(seed=config.seed),
        upscale=picture.large.pass_two(),
        decode_tile=picture.large.decode_tile,
    )
    requests = several(template, prompts, num_images_per_prompt=config.num_images)
    edit = picture.source.change.edit
    blends = picture.variation.blends(len(requests))
    return [
        dataclasses.replace(
            request,
            prompt=request.prompt if edit is None else edit,
            source=picture.source.source(request.prompt),
            blend=blend,
            seed=request.seed if blend is None else requests[0].seed,
        )
        for request, blend in zip(requests, blends, strict=True)
    ]


def notes_on(
    pipeline: TextToImagePipeline, prompts: Sequence[str], requests: Sequence[Request]
) -> list[str]:
    """Lost words, settings without effect, and words that the model's captions never held."""
    from latentdiff.pipelines import notes, round_trip

    edited = [r for r in requests[:1] if r.source is not None and r.source.inversion is not None]

    brought = [w for r in pipeline.loras.reports for w in r.metadata.trigger_words]
    return [
        *notes.lost(notes.dropped_words(pipeline.bundle.tokenizer, requests)),
        *notes.without_effect(pipeline.geometry, requests),
        *(round_trip.measure(pipeline, request).line() for request in edited),
        *notes.unknown_words(pipeline.bundle, prompts, brought),
    ]


def draw(
    pipeline: TextToImagePipeline, requests: Sequence[Request], batch_size: int, stages: Stages
) -> Iterator[Picture]:
    """The pictures, one by one; a line on a terminal shows what is being done."""
    stages.show("encoding the prompts …")
    try:
        yield from pipeline.draw(requests, batch_size=batch_size, on_step=stages.step)
    finally:
        stages.clear()


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


def write(pictures: Iterator[Picture], count: int, config: GenerateConfig) -> Iterator[Path]:
    """Write each picture as it comes, or the grid of all, and yield where each lies."""
    from latentdiff import sheet
    from latentdiff.pipelines.png import save_png

    if config.grid:
        drawn = list(pictures)
        path = one_place(config.output, f"{slug(drawn[0].request.prompt)}-grid")
        images = [picture.image for picture in drawn]
        whole = sheet.contact_sheet(images, margin=0, ground=(255, 255, 255))
        yield save_png(whole, path, [picture.recipe for picture in drawn])
        return
    for picture in pictures:
        request = picture.request
        if config.output is None or config.output.is_dir() or count == 1:
            path = one_place(config.output, f"{slug(request.prompt)}-{number(request)}")
        else:
            path = config.output.with_name(f"{config.output.stem}-{number(request)}.png")
        yield picture.save(path)


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


def number(request: Request) -> str:
    """What tells a picture of a prompt from the others: its seed, and the one it varies towards."""
    blend = request.blend
    towards = "" if blend is None or blend.seed is None else f"-towards-{blend.seed}"
    return f"{request.seed}{towards}"


def slug(prompt: str) -> str:
    """A file name made of a prompt: letters and digits, dashes between."""
    words = re.sub(r"[^\w]+", "-", prompt.lower()).strip("-")
    return words[:LONGEST_NAME].rstrip("-") or "picture"
