"""What the worker does: one model in memory, the LoRAs of a job, pictures step by step."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from PIL import Image

from latentdiff.errors import UserError
from latentdiff.models.lora.formats import read_lora
from latentdiff.pipelines.explain import WordMap, explain, overlay
from latentdiff.pipelines.from_pictures.sources import image_of
from latentdiff.pipelines.recipes.picture_file import read_recipe
from latentdiff.pipelines.request import Request
from latentdiff.pipelines.sweep import Axis
from latentdiff.pipelines.text_to_image import TextToImagePipeline
from latentdiff.pipelines.walk import notes
from latentdiff.web.gallery import LESSONS, Gallery
from latentdiff.web.jobs import Job
from latentdiff.web.limits import Limits
from latentdiff.web.news import News, data_address
from latentdiff.web.shelf import Shelf
from latentdiff.web.uploads import without_paths

MOST_WORDS = 40
"""Words of a picture whose heat maps are kept."""
EXPLAINED_KEPT = 100
"""Pictures whose heat maps are kept in memory."""
LARGEST_MAP = 512
"""Pixels of a heat map's longer side."""


@dataclass(frozen=True)
class Order:
    """What one job draws. model: its name, None for the first. loras: (name, scale) of each.

    axes: of a sweep, whose requests stand row by row; none otherwise.
    """

    requests: tuple[Request, ...]
    model: str | None = None
    loras: tuple[tuple[str, float], ...] = ()
    axes: tuple[Axis, ...] = ()


@dataclass(frozen=True)
class Word:
    """A word of a picture's prompt, and where it acted. heat: a small picture's data: address."""

    word: str
    contrast: float
    heat: str


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
        self.shelf = replace(shelf, lessons_folder=gallery.folder / LESSONS)
        self.gallery, self.limits = gallery, limits
        self.dtype, self.device, self.batch_size = dtype, torch.device(device), batch_size
        self._pipeline: TextToImagePipeline | None = None
        self._model = ""
        self._loras: tuple[str, ...] = ()
        self._words: OrderedDict[str, tuple[Word, ...]] = OrderedDict()

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
        pipeline, lines = self._prepare(order.model, order.loras, job)
        requests = pipeline.resolve(order.requests)
        for request in requests:
            self._check_size(request)
        job.report(stage="reading the prompt", notes=lines + notes_on(pipeline, requests))
        news = News(job, requests)
        for picture in pipeline.draw(requests, batch_size=self.batch_size, on_step=news.step):
            entry = self.gallery.add(picture)
            news.finished(entry.id)
        if order.axes:
            grid = self.gallery.add_grid(news.images, order.axes)
            job.report(grid=grid.id)

    def explain(self, picture_id: str, job: Job) -> None:
        """Draw a picture of the gallery again and keep where its words act. The job's work."""
        path = self.gallery.path(picture_id)
        recipe = read_recipe(path)
        name, loras = self.shelf.model_in(recipe), self.shelf.loras_in(recipe)
        pipeline, lines = self._prepare(name, loras, job)
        (request,) = pipeline.resolve([recipe.request])
        self._check_size(request)
        job.report(stage="reading the prompt", notes=lines)
        news = News(job, [request])
        found = explain(pipeline, request, on_step=news.step)
        with Image.open(path, formats=("PNG",)) as kept:
            image = kept.convert("RGB")
        if not np.array_equal(np.asarray(image), np.asarray(found.picture.image)):
            lines.append("drawn again it is not the same picture to the last bit; so may its words")
        self._words[picture_id] = tuple(_word(image, one) for one in found.words[:MOST_WORDS])
        while len(self._words) > EXPLAINED_KEPT:
            self._words.popitem(last=False)
        job.report(notes=lines, previews=[])

    def words_of(self, picture_id: str) -> tuple[Word, ...] | None:
        """The words of a picture that was explained before; None for another."""
        return self._words.get(picture_id)

    def _prepare(
        self, model: str | None, loras: Sequence[tuple[str, float]], job: Job
    ) -> tuple[TextToImagePipeline, list[str]]:
        """The pipeline with exactly these LoRAs in it, and what a user should know of them."""
        name, _ = self.shelf.model_of(model)
        if self._model != name:
            job.report(stage=f"opening {name}")
        pipeline = self.open(model)
        lines = self._set_loras(pipeline, loras)
        job.check()
        return pipeline, lines

    def check(self, order: Order) -> None:
        """UserError at once for what the model cannot draw, where it is the one in memory."""
        pipeline = self._pipeline
        if pipeline is not None and order.model == self._model:
            for request in pipeline.resolve(order.requests[:1]):
                self._check_size(request)

    def _check_size(self, request: Request) -> None:
        """The model's own defaults, and what is added to them, are held against the limits too."""
        width, height = request.width or 0, request.height or 0
        if request.upscale is not None:
            width, height = (round(s * request.upscale.scale) for s in (width, height))
        inpaint = request.source.inpaint if request.source is not None else None
        most = self.limits.max_pixels
        if inpaint is not None:
            if inpaint.only_masked:
                self._check_size(Request(prompt="", width=width, height=height))
                (width, height), most = image_of(request).image.size, self.limits.max_upload_pixels
            left, top, right, bottom = inpaint.expand
            width, height = width + left + right, height + top + bottom
        if width * height > most:
            raise UserError(
                f"{width} x {height} is more than this server's {most:,} pixels; "
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


def _word(image: Image.Image, found: WordMap) -> Word:
    heat = overlay(image, found.heat)
    return Word(found.word, round(found.contrast, 2), data_address(heat, LARGEST_MAP))


def notes_on(pipeline: TextToImagePipeline, requests: Sequence[Request]) -> list[str]:
    """Lost words, settings without effect, words that the model's captions never held."""
    brought = [w for r in pipeline.loras.reports for w in r.metadata.trigger_words]
    prompts = list(dict.fromkeys(request.prompt for request in requests))
    return [
        *notes.lost(notes.dropped_words(pipeline.bundle.light.tokenizer, requests)),
        *notes.without_effect(pipeline.geometry, requests),
        *notes.unknown_words(pipeline.bundle, prompts, brought),
    ]


def asked_of(order: Order) -> dict[str, Any]:
    """An order as plain values, for whoever looks at the job."""
    first = order.requests[0]
    return {
        "request": without_paths(first.to_json()),
        "num_images": len(order.requests),
        "model": order.model,
        "loras": [{"name": name, "scale": scale} for name, scale in order.loras],
        "sweep": [{"name": axis.name, "values": list(axis.values)} for axis in order.axes],
    }
