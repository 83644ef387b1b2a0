"""What the worker does: one model in memory, the LoRAs of a job, pictures step by step."""

from __future__ import annotations

import base64
import io
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from latentdiff.errors import UserError
from latentdiff.models.lora.formats import read_lora
from latentdiff.pipelines.request import Request
from latentdiff.pipelines.text_to_image import TextToImagePipeline
from latentdiff.pipelines.walk import notes
from latentdiff.web.gallery import Gallery
from latentdiff.web.jobs import Job
from latentdiff.web.limits import Limits
from latentdiff.web.shelf import Shelf

if TYPE_CHECKING:
    from PIL import Image

    from latentdiff.pipelines.walk.batch import PipelineStep

LARGEST_PREVIEW = 320
"""Pixels of a preview's longer side."""


@dataclass(frozen=True)
class Order:
    """What one job draws. model: its name, None for the first. loras: (name, scale) of each."""

    requests: tuple[Request, ...]
    model: str | None = None
    loras: tuple[tuple[str, float], ...] = ()


class Artist:
    """Draws orders, one at a time, and keeps what it drew in the gallery.

    dtype, device: of the networks. batch_size: pictures drawn at once.
    """

    def __init__(
        self,
        shelf: Shelf,
        gallery: Gallery,
        limits: Limits,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        batch_size: int = 1,
    ) -> None:
        self.shelf, self.gallery, self.limits = shelf, gallery, limits
        self.dtype, self.device, self.batch_size = dtype, torch.device(device), batch_size
        self._pipeline: TextToImagePipeline | None = None
        self._model = ""
        self._loras: tuple[str, ...] = ()

    def open(self, model: str | None = None) -> TextToImagePipeline:
        """The pipeline of a model of the shelf; it stays in memory until another is asked for."""
        name, source = self.shelf.model_of(model)
        if self._pipeline is None or self._model != name:
            self._pipeline, self._model = None, ""  # never two in memory
            self._pipeline = TextToImagePipeline.from_pretrained(
                source, dtype=self.dtype, device=self.device
            )
            self._model, self._loras = name, ()
        return self._pipeline

    def draw(self, order: Order, job: Job) -> None:
        """Draw the pictures of an order; the job's news tell how far it is. The job's work."""
        name, _ = self.shelf.model_of(order.model)
        if self._model != name:
            job.report(stage=f"opening {name}")
        pipeline = self.open(order.model)
        lines = self._set_loras(pipeline, order.loras)
        job.check()
        requests = pipeline.resolve(order.requests)
        for request in requests:
            self._check_size(request)
        job.report(stage="reading the prompt", notes=lines + notes_on(pipeline, requests))
        news = _News(job, requests)
        for picture in pipeline.draw(requests, batch_size=self.batch_size, on_step=news.step):
            entry = self.gallery.add(picture)
            news.finished(entry.id)

    def check(self, order: Order) -> None:
        """UserError at once for what the model cannot draw, where it is the one in memory."""
        pipeline = self._pipeline
        if pipeline is not None and order.model == self._model:
            for request in pipeline.resolve(order.requests[:1]):
                self._check_size(request)

    def _check_size(self, request: Request) -> None:
        """The model's own defaults are held against the limits too."""
        width, height = request.width or 0, request.height or 0
        if width * height > self.limits.max_pixels:
            raise UserError(
                f"{width} x {height} is more than this server's {self.limits.max_pixels:,} pixels; "
                "ask for a smaller picture"
            )

    def _set_loras(
        self, pipeline: TextToImagePipeline, loras: Sequence[tuple[str, float]]
    ) -> list[str]:
        """Bring the weights to exactly these LoRAs; returns what a user should know of them."""
        entries = [(self.shelf.lora_of(name), scale) for name, scale in loras]
        wanted = tuple(f"{e.path}:{e.path.stat().st_mtime_ns}" for e, _ in entries)
        stack = pipeline.loras
        if wanted != self._loras:
            stack.clear()
            self._loras = ()
            for entry, scale in entries:
                stack.load(read_lora(entry.path), scale)
            self._loras = wanted
        else:
            for index, (_, scale) in enumerate(entries):
                if stack.reports[index].scale != scale:
                    stack.set_scale(index, scale)
        return [line for report in stack.reports for line in report.lines()]


def notes_on(pipeline: TextToImagePipeline, requests: Sequence[Request]) -> list[str]:
    """Lost words, settings without effect, words that the model's captions never held."""
    brought = [w for r in pipeline.loras.reports for w in r.metadata.trigger_words]
    prompts = list(dict.fromkeys(request.prompt for request in requests))
    return [
        *notes.lost(notes.dropped_words(pipeline.bundle.tokenizer, requests)),
        *notes.without_effect(pipeline.geometry, requests),
        *notes.unknown_words(pipeline.bundle, prompts, brought),
    ]


class _News:
    """Reports a job's steps: which of all, how long the rest will take, what it looks like."""

    def __init__(self, job: Job, requests: Sequence[Request]) -> None:
        self.job, self.requests = job, requests
        self.images: list[str] = []
        self.total = 0
        self._began = time.monotonic()
        self._steps = self._counted = 0

    def step(self, step: PipelineStep) -> None:
        """After a step of a batch: StoppedError when the job is to end here."""
        self.job.check()
        at_once = len(step.places)
        self._steps += at_once
        self.total = max(self.total, step.total * len(self.requests))
        # The first step also pays for the prompt, so the rate is of what came after it.
        if self._steps == at_once:
            self._began = time.monotonic()
        else:
            self._counted += at_once
        seconds = time.monotonic() - self._began
        left = (self.total - self._steps) * seconds / self._counted if self._counted else None
        self.job.report(
            stage="finishing" if step.index + 1 == step.total else "drawing",
            step=step.index + 1,
            steps=step.total,
            picture=step.places[0] + 1,
            progress=self._steps / self.total,
            seconds_left=None if left is None else round(left, 1),
            previews=[data_address(image) for image in step.previews()],
        )

    def finished(self, picture_id: str) -> None:
        """After a picture was kept."""
        self.images.append(picture_id)
        self.job.report(images=list(self.images), previews=[])
        if len(self.images) < len(self.requests):
            self.job.check()


def data_address(image: Image.Image) -> str:
    """A picture as a small `data:` address (WebP)."""
    image = image.copy()
    image.thumbnail((LARGEST_PREVIEW, LARGEST_PREVIEW))
    buffer = io.BytesIO()
    image.save(buffer, format="WEBP", quality=70, method=0)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def asked_of(order: Order) -> dict[str, Any]:
    """An order as plain values, for whoever looks at the job."""
    first = order.requests[0]
    return {
        "request": first.to_json(),
        "num_images": len(order.requests),
        "model": order.model,
        "loras": [{"name": name, "scale": scale} for name, scale in order.loras],
    }
