"""`latentdiff evaluate images`: how far are pictures from others? FD, KID, CMMD, precision …"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from latentdiff import config
from latentdiff.cli.evaluate import output, results
from latentdiff.cli.evaluate.results import ResultOptions
from latentdiff.cli.options import ModelOptions, SamplingOptions
from latentdiff.errors import UserError

if TYPE_CHECKING:
    from latentdiff.evaluation.protocol import Item
    from latentdiff.measure.measured_model import MeasuredModel
    from latentdiff.measure.picture_sets import PictureSet

PROG = "latentdiff evaluate images"
SCENES = "scenes"


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to measure against what."""

    what: tyro.conf.Positional[str]
    """Pictures (folder, parquet file, tar …), or a model, which draws `count` of them."""
    against: str = SCENES
    """Pictures, a model, or scenes: the world's own renders of the same prompts."""
    held_out: Path | None = None
    """Pictures like those of --against that the model was not trained on: are its pictures nearer
    to its training data than these are?"""
    count: int = 512
    """Pictures of the first set."""
    against_count: int = 2048
    """Pictures of the second set, at most."""
    features: str = "snowglobe"
    """What compares: snowglobe's own CLIP image tower, or the folder or hub id of a transformers
    vision model (facebook/dinov2-small, openai/clip-vit-base-patch32)."""
    clip: bool = True
    """Also CLIP score and R-precision, where a model brings its CLIP towers."""
    results: ResultOptions = field(default_factory=ResultOptions)
    sampling: SamplingOptions = field(
        default_factory=lambda: SamplingOptions(
            scheduler="ddim", prompt_syntax="plain", batch_size=16
        )
    )
    networks: ModelOptions = field(default_factory=ModelOptions)

    def __post_init__(self) -> None:
        for name in ("count", "against_count"):
            if getattr(self, name) < 4:
                raise UserError(f"{name} is {getattr(self, name)}, expected at least 4")
        if self.what == SCENES and self.against == SCENES:
            raise UserError("scenes against scenes: name pictures or a model")


def main(argv: Sequence[str]) -> int:
    """Gather both sets, print the distances, write the page; returns the exit code."""
    options = config.parse(
        Options, argv, prog=PROG, description="Measure how far pictures are from others."
    )
    from latentdiff.evaluation import protocol
    from latentdiff.measure import vision_features
    from latentdiff.measure.measure_images import images_report, set_distances
    from latentdiff.measure.picture_sets import Readers, gather, open_pictures

    features = vision_features.load(options.features)
    models: list[MeasuredModel] = []
    second = _data(options.against, options.against_count)
    against = (options.against, options.against_count)
    if second is None and options.what == SCENES:  # of the model's size and subjects
        second, models = _set(options, *against, None, models)
    first, models = _set(options, options.what, options.count, second, models)
    if second is None:
        second, models = _set(options, *against, None, models)
    scorer = None
    if options.clip and models and first.items and _has_clip(models[0]):
        scorer = models[0].load_clip()
    work = results.work_of(options.results, "images", argv)
    plain = Readers(features=features)
    one = gather(work, [first], dataclasses.replace(plain, scorer=scorer))
    others = [second]
    if options.held_out is not None:
        others.append(open_pictures(options.held_out, options.against_count))
    rest = gather(work, others, plain)
    if not one or not rest:
        return 0
    prompts = protocol.prompts(first.items)
    found = set_distances(
        one[0],
        rest[0],
        is_clip=features.is_clip,
        held_out=rest[1] if len(rest) > 1 else None,
        prompts=prompts,
    )
    report = images_report(one[0], rest[0], found, features=features.name, prompts=prompts)
    return results.finish(report, options, options.results, "images", models)


def _data(what: str, count: int) -> PictureSet | None:
    """Pictures on disk; None for scenes and models."""
    from latentdiff.measure.picture_sets import open_pictures

    return None if what == SCENES or is_model(what) else open_pictures(what, count)


def _set(
    options: Options,
    what: str,
    count: int,
    beside: PictureSet | None,
    models: list[MeasuredModel],
) -> tuple[PictureSet, list[MeasuredModel]]:
    """Pictures on disk, scenes, or a model that draws the prompts that go with the other set."""
    from latentdiff.measure.picture_sets import DrawnPictures, scenes_for

    found = _data(what, count)
    if found is not None:
        return found, models
    if what == SCENES:
        return scenes_for(models[0] if models else None, count), models
    model = output.open_model(dataclasses.replace(options.networks, model=what))
    drawn = DrawnPictures(
        model=model,
        items=_asked((models or [model])[0], beside, count),
        drawing=output.drawing(options.sampling),
        name=model.name,
    )
    return drawn, [*models, model]


def _asked(model: MeasuredModel, beside: PictureSet | None, count: int) -> tuple[Item, ...]:
    """What goes with the other set: its captions, or the protocol's prompts for this model."""
    from latentdiff.data.sources.find import open_source
    from latentdiff.evaluation import protocol
    from latentdiff.measure.picture_sets import SourcePictures, caption_items

    if isinstance(beside, SourcePictures):
        items = caption_items(open_source(beside.source.name, need_captions=False), count)
        if any(item.prompt for item in items):
            return items
    return protocol.items(count, extras=False, subjects=model.subjects)


def _has_clip(model: MeasuredModel) -> bool:
    from latentdiff.evaluation import clip_score

    return model.folder is not None and (model.folder / clip_score.FOLDER).is_dir()


def is_model(what: str) -> bool:
    """Whether a name stands for a model rather than for pictures."""
    from latentdiff.models.model_folder import BUILT_IN

    path = Path(what).expanduser()
    if what in BUILT_IN or path.suffix == ".safetensors":
        return True
    return (path / "model_index.json").is_file()
