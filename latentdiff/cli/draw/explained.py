"""`generate --explain`: beside each picture, a sheet that shows where each of its words acted."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from latentdiff.files import atomic_path

if TYPE_CHECKING:
    from latentdiff.cli.stages import Stages
    from latentdiff.pipelines.request import Request
    from latentdiff.pipelines.text_to_image import TextToImagePipeline
    from latentdiff.pipelines.walk.batch import Picture


def explained(
    pipeline: TextToImagePipeline,
    requests: Sequence[Request],
    write: Callable[[Iterator[Picture]], Iterator[Path]],
    stages: Stages,
) -> Iterator[Path]:
    """Draw the pictures one at a time; yields where each lies, and where its sheet does.

    write: keeps pictures, and says where.
    """
    from latentdiff.pipelines.explain import explain

    for request in requests:
        found = explain(pipeline, request, on_step=stages.step)
        (path,) = write(iter([found.picture]))
        yield path
        place = path.with_name(f"{path.stem}-words.png")
        with atomic_path(place) as temporary:
            found.sheet().save(temporary, format="PNG")
        yield place
