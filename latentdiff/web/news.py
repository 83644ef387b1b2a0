"""News of a drawing: which step of all, how long the rest will take, what it looks like."""

from __future__ import annotations

import base64
import io
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from latentdiff.pipelines.request import Request
from latentdiff.web.jobs import Job

if TYPE_CHECKING:
    from PIL import Image

    from latentdiff.pipelines.walk.batch import PipelineStep

LARGEST_PREVIEW = 320
"""Pixels of a preview's longer side."""


class News:
    """Reports a job's steps to whoever listens; images: the ids of what is finished."""

    def __init__(self, job: Job, requests: Sequence[Request]) -> None:
        self.job, self.requests = job, requests
        self.images: list[str] = []
        self._work = [_work(request) for request in requests]
        self._done = [0.0] * len(requests)
        self._began: tuple[float, float] | None = None
        self._progress = 0.0

    def step(self, step: PipelineStep) -> None:
        """After a step of a batch: StoppedError when the job is to end here."""
        self.job.check()
        for place in step.places:
            share = (step.index + 1) / step.total
            self._done[place] = max(self._done[place], share * self._work[place])
        self._progress = max(self._progress, sum(self._done) / sum(self._work))
        # The first step also pays for the prompt, so the rate is of what came after it.
        now, left = time.monotonic(), None
        if self._began is None:
            self._began = now, self._progress
        elif self._progress > self._began[1]:
            rate = (now - self._began[0]) / (self._progress - self._began[1])
            left = round((1 - self._progress) * rate, 1)
        self.job.report(
            stage="finishing" if step.index + 1 == step.total else "drawing",
            step=step.index + 1,
            steps=step.total,
            picture=step.places[0] + 1,
            progress=min(1.0, self._progress),
            seconds_left=left,
            previews=[data_address(image, LARGEST_PREVIEW) for image in step.previews()],
        )

    def finished(self, picture_id: str) -> None:
        """After a picture was kept."""
        self._done[len(self.images)] = self._work[len(self.images)]
        self.images.append(picture_id)
        self.job.report(images=list(self.images), previews=[])
        if len(self.images) < len(self.requests):
            self.job.check()


def _work(request: Request) -> float:
    """What a picture costs beside others: its steps, times its pixels."""
    steps = float(request.num_inference_steps or 1)
    if request.source is not None:
        steps *= request.source.strength or 1.0
    return max(1.0, steps) * float((request.width or 1) * (request.height or 1))


def data_address(image: Image.Image, largest: int) -> str:
    """A picture as a small `data:` address (WebP), its longer side at most so many pixels."""
    image = image.copy()
    image.thumbnail((largest, largest))
    buffer = io.BytesIO()
    image.save(buffer, format="WEBP", quality=70, method=0)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
