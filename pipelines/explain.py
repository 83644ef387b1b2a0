"""Where a picture's words act: cross-attention heat maps, one a word.

DAAM (Tang et al. 2022, "What the DAAM: Interpreting Stable Diffusion Using Cross Attention"): the
attention that cells pay to a word's tokens, averaged over heads, layers and steps. A map shows what
the network looked at, which is not always what it drew.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from latentdiff.conditioning import weighted_text
from latentdiff.conditioning.prompt_weights import WeightedText
from latentdiff.errors import UserError
from latentdiff.models.attention import AttentionRecorder
from latentdiff.pipelines.request import Request
from latentdiff.pipelines.text_to_image import OnStep, TextToImagePipeline
from latentdiff.pipelines.walk.batch import Batch, Picture, PipelineStep
from latentdiff.pipelines.walk.embeds import contexts_of
from latentdiff.pipelines.walk.prompting import plan_of
from latentdiff.sheet import Cell, labelled_sheet

INFERNO = ((0, 0, 4), (87, 16, 110), (188, 55, 84), (249, 142, 9), (252, 255, 164))
"""Five colours of matplotlib's inferno, from none to most."""
CELL = 256
"""Pixels of a sheet's cells: smaller pictures are enlarged, larger ones made smaller."""
FONT_SIZE = 18
MOST_COLUMNS = 6


@dataclass(frozen=True, kw_only=True)
class WordMap:
    """One word's heat.

    part: which of the prompts that AND joins, 0 …. heat: (h, w) float32, the share of each latent
    cell's attention, averaged over the word's tokens and the steps that were told it.
    """

    word: str
    weight: float
    part: int
    heat: NDArray[np.float32]

    @property
    def contrast(self) -> float:
        """The hottest cell over the mean: 1 for a word that acts everywhere alike."""
        return float(self.heat.max() / max(float(self.heat.mean()), 1e-12))

    @property
    def span(self) -> float:
        """The hottest cell less the coldest: 0 for a word that is looked at everywhere alike."""
        return float(self.heat.max() - self.heat.min())


@dataclass(frozen=True, kw_only=True)
class Explained:
    """A picture and its words in the order of the prompt."""

    picture: Picture
    words: tuple[WordMap, ...]

    def shown(self, word: WordMap) -> Image.Image:
        """The picture in grey, coloured where a word was looked at more than elsewhere.

        All words of a picture share one scale: colours reach √(span / the largest span), so that a
        word that was looked at everywhere nearly alike stays grey. The root keeps weak ones
        visible.
        """
        largest = max(max(one.span for one in self.words), 1e-12)
        return overlay(self.picture.image, word.heat, reach=(word.span / largest) ** 0.5)

    def sheet(self, columns: int | None = None) -> Image.Image:
        """The picture, then a map over it for each word, and the share of their attention that
        cells paid to it, from the coldest to the hottest. columns: at most six by default."""
        image, prompt = self.picture.image, self.picture.request.prompt
        cells = [Cell(picture=_square(image), label=prompt)]
        for word in self.words:
            weight = "" if word.weight == 1.0 else f" :{word.weight:.3g}"
            shares = f"{word.heat.min():.1%} to {word.heat.max():.1%}"
            label = f"{word.word}{weight}\n{shares}"
            cells.append(Cell(picture=_square(self.shown(word)), label=label))
        if columns is None:
            columns = math.ceil(len(cells) / math.ceil(len(cells) / MOST_COLUMNS))
        return labelled_sheet(cells, columns=columns, size=CELL, font_size=FONT_SIZE)


def explain(
    pipeline: TextToImagePipeline, request: Request, *, on_step: OnStep | None = None
) -> Explained:
    """Draw a picture, bit-equal to the one drawn without looking, and record its words.

    Raises UserError where the U-Net has no cross-attention, and for a picture that is not drawn in
    one walk.
    """
    (resolved,) = pipeline.resolve([request])
    source = resolved.source
    if resolved.upscale or (source is not None and (source.inpaint or source.inversion)):
        raise UserError(
            "words are explained in one walk over the whole picture; leave out masks, edits and "
            "second passes"
        )
    if (resolved.guidance_start, resolved.guidance_end) != (0.0, 1.0):
        raise UserError("words are explained where every step is guided; leave start and end out")
    if resolved.deep_cache_interval > 1:
        raise UserError(
            "words are explained where every step is computed; leave the deep cache out"
        )
    if contexts_of(resolved).positive is not None:
        raise UserError("contexts have no words to explain; give a prompt")
    plan = plan_of(Batch((resolved,), (0,)))
    assert resolved.height is not None and resolved.width is not None
    _, height, width = pipeline.geometry.latent_shape(resolved.height, resolved.width)
    heat: dict[tuple[int, str, int], list[Tensor]] = {}
    weights: dict[tuple[int, str, int], float] = {}
    first = len(plan.negatives)

    with AttentionRecorder(pipeline.bundle.unet, (height, width)) as recorder:

        def record(step: PipelineStep) -> None:
            maps, told = recorder.take(), plan.at(step.index, step.total)
            if len(maps) != len(told):
                raise UserError(
                    "this U-Net draws prompts of several lengths apart, and then cannot be "
                    "explained; shorten the prompt, or leave --long-prompts chunk out"
                )
            for part, text in enumerate(told[first:]):
                for key, weight, columns in _words(pipeline, text, resolved, part):
                    total = maps[first + part, columns].mean(dim=0).cpu()
                    held = heat.setdefault(key, [torch.zeros_like(total), torch.zeros(())])
                    held[0] += total
                    held[1] += 1
                    weights[key] = weight
            if on_step is not None:
                on_step(step)

        (picture,) = pipeline.draw([resolved], on_step=record)
    words = tuple(
        WordMap(
            word=key[1],
            weight=weights[key],
            part=key[0],
            heat=(total / count).numpy().astype(np.float32),
        )
        for key, (total, count) in heat.items()
    )
    return Explained(picture=picture, words=words)


def _words(
    pipeline: TextToImagePipeline, text: WeightedText, request: Request, part: int
) -> list[tuple[tuple[int, str, int], float, list[int]]]:
    """(part, word, how many of it came before), its weight, and its tokens' columns."""
    tokenizer = pipeline.bundle.light.tokenizer
    length = int(tokenizer.model_max_length)
    found: list[tuple[tuple[int, str, int], float, list[int]]] = []
    spelled, columns = "", []
    for token in weighted_text.ledger(tokenizer, text, long=request.long_prompts):
        if token.chunk is None:
            break
        spelled += token.text
        columns.append(token.chunk * length + token.place)
        if not token.ends_word:
            continue
        word = spelled.strip()
        if any(letter.isalnum() for letter in word):
            count = sum(key[1] == word for key, _, _ in found)
            found.append(((part, word, count), token.weight, columns))
        spelled, columns = "", []
    return found


def overlay(image: Image.Image, heat: NDArray[np.float32], *, reach: float = 1.0) -> Image.Image:
    """The picture in grey under a heat map (h, w): nothing over its least value, and over its
    largest the colour at `reach` of the scale, 0 … 1."""
    low, high = float(heat.min()), float(heat.max())
    unit = reach * (heat - low) / max(high - low, 1e-12)
    wide = Image.fromarray(unit.astype(np.float32)).resize(image.size, Image.Resampling.BICUBIC)
    hot = np.clip(np.asarray(wide), 0.0, 1.0)
    stops = np.linspace(0.0, 1.0, len(INFERNO))
    colours: Sequence[NDArray[np.float64]] = [
        np.interp(hot, stops, [colour[k] for colour in INFERNO]) for k in range(3)
    ]
    grey = np.asarray(image.convert("L"), dtype=np.float64)
    opacity = 0.8 * np.sqrt(hot)
    mixed = np.stack([(1 - opacity) * grey + opacity * c for c in colours], axis=2)
    return Image.fromarray(mixed.round().astype(np.uint8))


def _square(image: Image.Image) -> Image.Image:
    """The picture, as large as a cell lets it, in the middle of a square one."""
    scale = CELL / max(image.size)
    width, height = (max(1, round(side * scale)) for side in image.size)
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    side = CELL
    ground = Image.new("RGB", (side, side), (250, 250, 248))
    ground.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return ground
