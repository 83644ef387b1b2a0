"""`latentdiff generate "a cat in the snow"`: prompts in, PNG files with their recipes out."""

from __future__ import annotations

import dataclasses
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from latentdiff import config as configs
from latentdiff.cli import loading
from latentdiff.cli.draw import bulk
from latentdiff.cli.draw.bulk import BulkOptions, Share
from latentdiff.cli.draw.explained import explained
from latentdiff.cli.draw.picture_options import PictureOptions
from latentdiff.cli.options import ModelOptions, SamplingOptions
from latentdiff.cli.outputs import Named, Output
from latentdiff.cli.stages import Stages
from latentdiff.errors import UserError
from latentdiff.files.text_file import STANDARD_INPUT, read_entries
from latentdiff.pipelines.recipes.formats import SUFFIXES, Format

if TYPE_CHECKING:
    from latentdiff.pipelines.request import Request
    from latentdiff.pipelines.text_to_image import TextToImagePipeline
    from latentdiff.pipelines.walk.batch import Picture

PROG = "latentdiff generate"
LONGEST_NAME = 60


@dataclass(frozen=True, kw_only=True)
class GenerateConfig:
    """What to draw, and where to put it."""

    prompt: tyro.conf.Positional[tuple[str, ...]] = ()
    """One prompt, or several, each in quotes."""
    prompts: Path | None = None
    """File with a prompt on each line, or - for standard input; empty lines and lines that start
    with # are skipped."""
    output: Named = None
    """File, or a folder. Several pictures of one file name get their seeds in the names. By
    default a name made of the prompt and the seed, that never overwrites a file."""
    output_format: Format | None = None
    """png and webp keep every pixel, jpg does not; all keep the recipe. By default what -o names,
    else png."""
    seed: int | None = None
    """Seed of the first picture, the k-th has seed + k; drawn and printed by default, or for -1."""
    num_images: int = 1
    """Pictures of each prompt."""
    word_lists: Path | None = None
    """Folder of .txt files: __name__ in a prompt becomes a line of name.txt, drawn by the seed."""
    grid: bool = False
    """Write one picture of all pictures instead of each."""
    explain: bool = False
    """Write beside each picture a sheet NAME-words.png: where each word of the prompt acted."""
    sampling: SamplingOptions = field(default_factory=SamplingOptions)
    picture: PictureOptions = field(default_factory=PictureOptions)
    many: BulkOptions = field(default_factory=BulkOptions)
    networks: ModelOptions = field(default_factory=lambda: ModelOptions(dtype="float32"))

    def __post_init__(self) -> None:
        if self.num_images < 1:
            raise UserError(f"num_images is {self.num_images}; expected at least 1")
        if self.explain and self.grid:
            raise UserError("--explain makes a sheet for each picture; leave --grid out")
        output = Output.of(self.output)
        named = None if output.is_folder else SUFFIXES.get(output.path.suffix.lower())
        if named and self.output_format not in (None, named):
            raise UserError(
                f"--output-format is {self.output_format}, and {self.output} names a {named}; "
                "leave one out"
            )
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
    output = Output.of(config.output)
    output.check(SUFFIXES)

    pipeline = loading.load(config.networks)
    requests = pipeline.resolve(requests)
    loading.print_notes(notes_on(pipeline, requests))
    stages = Stages(len(requests))
    if config.many.sweep:
        print(bulk.sweep(pipeline, requests, config.many, output, config.sampling, stages))
        return 0
    if config.many.resume or share.count > 1:
        suffix = config.output_format or "png"
        places = [output.path / f"{slug(r.prompt)}-{number(r)}.{suffix}" for r in requests]
        todo = bulk.missing(pipeline, requests, places)
        stages.count = len(todo)
        if len(todo) < len(requests):
            loading.print_notes([f"{len(requests) - len(todo)} pictures are drawn already"])
        requests = [requests[k] for k in todo]
    if config.explain:
        count = len(requests)
        paths = explained(pipeline, requests, lambda one: write(one, count, config), stages)
    else:
        pictures = draw(pipeline, requests, config.sampling.batch_size, stages)
        paths = write(pictures, len(requests), config)
    for path in paths:
        stages.clear()
        print(path)
    return 0


def make_requests(config: GenerateConfig, prompts: Sequence[str]) -> list[Request]:
    """A request a picture; picture k over all of them has seed + k, variations all the seed."""
    from latentdiff.conditioning import prompt_choices
    from latentdiff.pipelines.request import Given, several

    picture = config.picture
    template = dataclasses.replace(
        config.sampling.request(seed=config.seed),
        upscale=picture.large.pass_two(),
        decode_tile=picture.large.decode_tile,
        timesteps=picture.given.walked(),
        embeds=picture.given.embeds(),
    )
    if config.word_lists is not None:
        lists = prompt_choices.read_word_lists(config.word_lists)
        template = dataclasses.replace(template, given=Given(word_lists=lists))
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


def notes_on(pipeline: TextToImagePipeline, requests: Sequence[Request]) -> list[str]:
    """Lost words, settings without effect, and words that the model's captions never held."""
    from latentdiff.pipelines import round_trip
    from latentdiff.pipelines.walk import notes, prompting

    edited = [r for r in requests[:1] if r.source is not None and r.source.inversion is not None]

    brought = [w for r in pipeline.loras.reports for w in r.metadata.trigger_words]
    return [
        *notes.lost(notes.dropped_words(pipeline.bundle.light.tokenizer, requests)),
        *notes.without_effect(pipeline.geometry, requests),
        *(round_trip.measure(pipeline, request).line() for request in edited),
        *notes.unknown_words(pipeline.bundle, prompting.spoken(requests), brought),
    ]


def draw(
    pipeline: TextToImagePipeline, requests: Sequence[Request], batch_size: int, stages: Stages
) -> Iterator[Picture]:
    """The pictures, one by one; a line on a terminal shows what is being done."""
    compiled = "" if pipeline.backend == "torch" else ", compiling the U-Net"
    stages.show(f"encoding the prompts{compiled} …")
    try:
        yield from pipeline.draw(requests, batch_size=batch_size, on_step=stages.step)
    finally:
        stages.clear()


def read_prompts(config: GenerateConfig) -> list[str]:
    """The prompts of the command line and of the file, in that order."""
    prompts = list(config.prompt)
    if config.prompts is not None:
        prompts += read_entries(config.prompts, "prompts")
        if not prompts:
            name = "standard input" if config.prompts == STANDARD_INPUT else config.prompts
            raise UserError(f"{name} holds no prompt; expected one on each line")
    if not prompts and config.picture.given.prompt_embeds is not None:
        return [""]
    if not prompts:
        raise UserError('no prompt was given; try: latentdiff generate "a cat in the snow"')
    return prompts


def write(pictures: Iterator[Picture], count: int, config: GenerateConfig) -> Iterator[Path]:
    """Write each picture as it comes, or the grid of all, and yield where each lies."""
    from latentdiff.pipelines.recipes.picture_file import save_picture
    from latentdiff.pipelines.replay import together

    output, suffix = Output.of(config.output), f".{config.output_format or 'png'}"
    if config.grid:
        drawn = list(pictures)
        path = output.fresh(f"{slug(drawn[0].request.prompt)}-grid", suffix)
        yield save_picture(together(drawn, {}), path, [picture.recipe for picture in drawn])
        return
    for picture in pictures:
        request = picture.request
        if output.is_folder or count == 1:
            path = output.fresh(f"{slug(request.prompt)}-{number(request)}", suffix)
        else:
            name = f"{output.path.stem}-{number(request)}{output.path.suffix}"
            path = output.path.with_name(name)
        yield picture.save(path)


def number(request: Request) -> str:
    """What tells a picture of a prompt from the others: its seed, and the one it varies towards."""
    blend = request.blend
    towards = "" if blend is None or blend.seed is None else f"-towards-{blend.seed}"
    return f"{request.seed}{towards}"


def slug(prompt: str) -> str:
    """A file name made of a prompt: letters and digits, dashes between, as far as names on this
    system can hold them."""
    encoding = sys.getfilesystemencoding()
    prompt = prompt.encode(encoding, "ignore").decode(encoding)
    words = re.sub(r"[^\w]+", "-", prompt.lower()).strip("-")
    return words[:LONGEST_NAME].rstrip("-") or "picture"
