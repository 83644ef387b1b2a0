"""What the measuring commands share: opening the model, and writing numbers and sheets."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latentdiff import config, files
from latentdiff.cli.loading import load
from latentdiff.cli.options import ModelOptions, SamplingOptions
from latentdiff.cli.outputs import Output
from latentdiff.progress import Progress

if TYPE_CHECKING:
    from PIL import Image

    from latentdiff.evaluation.judge_network import Judge
    from latentdiff.evaluation.protocol import Item
    from latentdiff.measure.drawing import Drawing
    from latentdiff.measure.measured_model import MeasuredModel
    from latentdiff.measure.picture_sets import PictureSet


def open_model(options: ModelOptions) -> MeasuredModel:
    """The model with its LoRAs, under the name that tables print."""
    pipeline = load(options)
    from latentdiff.measure.measured_model import MeasuredModel

    return MeasuredModel(pipeline=pipeline, name=" + ".join((options.model, *options.lora)))


def drawing(options: SamplingOptions) -> Drawing:
    """How to draw, with a line that shows how far it is."""
    from latentdiff.measure.drawing import Drawing

    return Drawing(
        request=options.request(),
        batch_size=options.batch_size,
        progress=Progress("drew", patience=3.0),
    )


def write_json(path: Path | None, report: Mapping[str, Any], options: Any) -> None:
    """Write the numbers with the options they were asked for with, where a path is given."""
    if path is not None:
        files.write_json(path, {**report, "options": config.to_dict(options)})
        print(f"numbers: {path}")


def write_sheet(named: str | None, sheet: Callable[[], Image.Image], noun: str) -> None:
    """Write the picture, where a file or a folder is named."""
    if named is not None:
        path = Output.of(named).file("sheet.png")
        with files.atomic_path(path) as temporary:
            sheet().save(temporary)
        print(f"{noun}: {path}")


def judge_of(model: MeasuredModel, folder: Path | None) -> Judge | None:
    """The judge in the folder named, or the model's own; None where it brings none."""
    from latentdiff.measure.measured_model import JUDGE_FOLDER

    own = model.folder
    if folder is None and (own is None or not (own / JUDGE_FOLDER).is_dir()):
        return None
    return model.load_judge(folder)


def captioned(data: str, count: int, model: MeasuredModel) -> tuple[PictureSet, Sequence[Item]]:
    """Pictures by a path, or "scenes": the world's, unseen; and what is asked for each."""
    from latentdiff.measure.picture_sets import caption_items, open_pictures, scenes_for

    if data == "scenes":
        scenes = scenes_for(model, count)
        return scenes, scenes.items
    pictures = open_pictures(data, count)
    return pictures, caption_items(pictures.source, count)
