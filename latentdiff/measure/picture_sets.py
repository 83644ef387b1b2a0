"""Sets of pictures that are measured part by part: a model's, the world's, a data set's.

`gather` makes what is missing of them, keeps features and verdicts in a store, and gives them back.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from latentdiff.data.decode.decoding import decode
from latentdiff.data.records import BadPicture, Source
from latentdiff.data.sources.find import open_source
from latentdiff.errors import UserError
from latentdiff.evaluation import alignment, protocol
from latentdiff.evaluation.clip_score import ClipScorer
from latentdiff.evaluation.judge_network import Judge, judge_pictures
from latentdiff.evaluation.protocol import Item
from latentdiff.measure.drawing import Drawing, Picture, renders, scene_size
from latentdiff.measure.measured_model import MeasuredModel, digest_of
from latentdiff.measure.results.store import Arrays, ResultStore, Work
from latentdiff.measure.vision_features import VisionFeatures
from latentdiff.pipelines.planning import scheduler_of
from latentdiff.pipelines.request import PER_PICTURE, Request
from latentdiff.pipelines.walk.batch import PipelineStep
from latentdiff.seeding import permutation

PART = 16
"""Pictures of one part: what a kill may lose."""


class PictureSet(Protocol):
    """Pictures by row. items: what each must show; empty where nobody asked for anything."""

    @property
    def name(self) -> str: ...

    @property
    def items(self) -> Sequence[Item]: ...

    def __len__(self) -> int: ...

    def cost(self) -> int:
        """Of one picture, in calls of a network, about."""
        ...

    def key(self, rows: range) -> dict[str, Any]:
        """What these pictures depend on."""
        ...

    def make(self, rows: range) -> Made:
        """The pictures of these rows; fewer where some cannot be had."""
        ...


@dataclass(frozen=True, kw_only=True)
class Made:
    """Pictures and the rows that they are; calls: of the U-Net for one picture, both halves of
    guidance counted."""

    pictures: list[Picture]
    rows: list[int]
    calls: float = 0.0


@dataclass(frozen=True, kw_only=True)
class RenderedScenes:
    """The world's own pictures (size, size, 3) of the items."""

    items: Sequence[Item]
    size: int
    name: str = "scenes"

    def __len__(self) -> int:
        return len(self.items)

    def cost(self) -> int:
        return 1

    def key(self, rows: range) -> dict[str, Any]:
        asked = [(i.index, i.subjects, i.setting, i.relation) for i in _of(self.items, rows)]
        world = protocol.EVALUATION_WORLD_SEED
        return {"kind": "renders", "world": world, "size": self.size, "items": asked}

    def make(self, rows: range) -> Made:
        return Made(pictures=renders(_of(self.items, rows), self.size), rows=list(rows))


@dataclass(frozen=True, kw_only=True)
class DrawnPictures:
    """A model's pictures of the items."""

    model: MeasuredModel
    items: Sequence[Item]
    drawing: Drawing = field(default_factory=Drawing)
    name: str = ""

    def __len__(self) -> int:
        return len(self.items)

    def cost(self) -> int:
        request = self.drawing.resolved(self.model.pipeline)
        steps = scheduler_of(request, self.model.pipeline.bundle.scheduler_config).grid()
        return len(steps) * (2 if request.guidance.active else 1)

    def key(self, rows: range) -> dict[str, Any]:
        told = self.drawing.resolved(self.model.pipeline).to_json()
        bare = Request(prompt="").to_json()
        asked = [(i.prompt, i.seed, i.subjects, i.setting) for i in _of(self.items, rows)]
        return {
            "kind": "drawn",
            "weights": self.model.digests,
            "dtype": self.model.dtype_name,
            "request": {k: v for k, v in told.items() if k not in PER_PICTURE and v != bare.get(k)},
            "negative": self.drawing.request.negative_prompt,
            "items": asked,
        }

    def make(self, rows: range) -> Made:
        items, seen = _of(self.items, rows), 0
        pipeline = self.model.pipeline
        guidance = self.drawing.resolved(pipeline).guidance
        timesteps = pipeline.bundle.scheduler_config.num_train_timesteps

        def count(step: PipelineStep) -> None:
            nonlocal seen
            guided = guidance.active and guidance.at(step.t, timesteps)
            seen += len(step.places) * (2 if guided else 1)

        drawing = dataclasses.replace(self.drawing, progress=None, on_step=count)
        pictures = list(drawing.items(pipeline, items))
        return Made(pictures=pictures, rows=list(rows), calls=seen / len(items))


@dataclass(frozen=True, kw_only=True)
class SourcePictures:
    """The first `count` pictures of a data set, in an order drawn by its size alone."""

    source: Source
    count: int
    items: Sequence[Item] = ()

    @property
    def name(self) -> str:
        return self.source.name

    def __len__(self) -> int:
        return min(self.count, len(self.source))

    def cost(self) -> int:
        return 1

    def rows(self) -> list[int]:
        """Rows of the source."""
        order = permutation(len(self.source), 0, "measured pictures")
        return [int(row) for row in order[: len(self)]]

    def key(self, rows: range) -> dict[str, Any]:
        chosen = self.rows()
        stamps = [self.source.stamp(chosen[row]) for row in rows]
        return {"kind": "source", "name": self.source.name, "stamps": stamps}

    def make(self, rows: range) -> Made:
        chosen, pictures, readable = self.rows(), [], []
        for row in rows:
            try:
                image = decode(self.source.read(chosen[row])).image
            except BadPicture:
                continue
            pictures.append(np.asarray(_square(image.convert("RGB"))))
            readable.append(row)
        return Made(pictures=pictures, rows=readable)


def caption_items(source: Source, count: int) -> tuple[Item, ...]:
    """What a model is asked for beside a data set: the captions of its measured pictures."""
    rows = SourcePictures(source=source, count=count).rows()
    found = []
    for n, row in enumerate(rows):
        prompt = next(iter(source.captions(row)), "")
        found.append(
            Item(
                index=n,
                group="captions",
                subjects=(),
                setting="",
                relation=None,
                prompt=prompt,
                seed=protocol.PICTURE_SEED + n,
            )
        )
    return tuple(found)


def open_pictures(where: Path | str, count: int, *, captions: bool = False) -> SourcePictures:
    """Pictures of a folder, parquet file, tar …; UserError where there are too few to measure."""
    source = open_source(where, need_captions=captions)
    if len(source) < 4:
        raise UserError(f"{where} holds {len(source)} pictures; at least 4 are needed")
    return SourcePictures(source=source, count=count)


def scenes_for(model: MeasuredModel | None, count: int) -> RenderedScenes:
    """Renders of the protocol's first single-subject items, of the model's size (128 without)."""
    size = 128 if model is None else scene_size(model.pipeline)
    subjects = () if model is None else model.subjects
    items = protocol.items(count, extras=False, subjects=subjects)
    return RenderedScenes(items=items, size=size)


@dataclass(frozen=True, kw_only=True)
class Readers:
    """What is asked of every picture: features always; the judge and CLIP where they are given."""

    features: VisionFeatures
    judge: Judge | None = None
    scorer: ClipScorer | None = None

    def key(self) -> dict[str, str]:
        """What their answers depend on."""
        found = {"features": self.features.digest}
        if self.judge is not None:
            found["judge"] = digest_of(self.judge)
        if self.scorer is not None:
            found["clip"] = digest_of(self.scorer.vision)
        return found

    def read(self, pictures: Sequence[Picture], items: Sequence[Item]) -> Arrays:
        """features (N, D); subject, setting (N,) bool; clip, image, text embeddings (N, P)."""
        found: Arrays = {"features": self.features.embed(pictures)}
        if self.judge is not None and items and items[0].subjects:
            outcomes = alignment.outcomes(items, judge_pictures(self.judge, pictures))
            found["subject"] = np.array([o.subject for o in outcomes])
            found["setting"] = np.array([o.setting for o in outcomes])
        if self.scorer is not None and items:
            found["image"] = self.scorer.embed_pictures(pictures).numpy()
            found["text"] = self.scorer.embed_prompts(protocol.prompts(items)).numpy()
        return found


@dataclass(frozen=True, kw_only=True)
class Readings:
    """What was read of a set, (N, …) by name (`Readers.read`), and its pictures where they lie.

    calls: (N,) of the U-Net for each picture; seconds: (N,), drawing alone.
    """

    name: str
    arrays: Arrays
    calls: NDArray[np.float64]
    seconds: NDArray[np.float64]
    parts: Callable[[], Iterator[list[Picture]]]

    @property
    def features(self) -> NDArray[np.float32]:
        """(N, D)."""
        return self.arrays["features"]

    def __len__(self) -> int:
        return len(self.features)

    def pictures(self, count: int | None = None) -> Iterator[Picture]:
        """The first `count` pictures, all by default, read as they are asked for."""
        left = len(self) if count is None else count
        for part in self.parts():
            yield from part[: max(0, left)]
            left -= len(part)
            if left <= 0:
                return


def gather(work: Work, sets: Sequence[PictureSet], readers: Readers) -> list[Readings]:
    """Make the parts that are missing, then read all; with a share of several, make its own only.

    Progress counts calls of networks. Returns [] for one share of several.
    """
    store = work.store
    asked = readers.key()
    pieces = [(one, rows, _key(one, rows, asked)) for one in sets for rows in _parts(one)]
    pieces.sort(key=lambda piece: -piece[0].cost() * len(piece[1]))  # dealt out evenly
    pieces = [piece for number, piece in enumerate(pieces) if work.share.mine(number)]
    missing = [piece for piece in pieces if not store.has(piece[2])]
    total, done = sum(one.cost() * len(rows) for one, rows, _ in missing), 0
    for one, rows, key in missing:
        began = time.monotonic()
        made = one.make(rows)
        seconds = time.monotonic() - began
        read = readers.read(made.pictures, _of(one.items, made.rows)) if made.pictures else {}
        each = np.full(len(made.pictures), 1.0)
        shown = {f"picture{n}": picture for n, picture in enumerate(made.pictures)}
        timed = {"calls": made.calls * each, "seconds": seconds / max(1, len(rows)) * each}
        store.put(key, {**read, **timed, **shown})
        done += one.cost() * len(rows)
        work.tell(done, total)
    return [_collect(store, one, asked) for one in sets] if work.whole else []


def _collect(store: ResultStore, one: PictureSet, asked: dict[str, str]) -> Readings:
    keys = [_key(one, rows, asked) for rows in _parts(one)]
    found = []
    for key in keys:
        part = store.get(key)
        if part is None:
            raise UserError(
                f"{store.path(key)} is damaged or was removed; delete it and run this again"
            )
        found.append({n: a for n, a in part.items() if not n.startswith("picture")})
    found = [part for part in found if "features" in part]
    if not found:
        raise UserError(f"no picture of {one.name} can be read")
    joined = {name: np.concatenate([part[name] for part in found]) for name in found[0]}

    def parts() -> Iterator[list[Picture]]:
        for key in keys:
            arrays = store.get(key) or {}
            count = sum(name.startswith("picture") for name in arrays)
            yield [arrays[f"picture{n}"] for n in range(count)]

    calls, seconds = joined.pop("calls"), joined.pop("seconds")
    return Readings(name=one.name, arrays=joined, calls=calls, seconds=seconds, parts=parts)


def _parts(one: PictureSet) -> list[range]:
    return [range(k, min(k + PART, len(one))) for k in range(0, len(one), PART)]


def _key(one: PictureSet, rows: range, asked: dict[str, str]) -> dict[str, Any]:
    return {**one.key(rows), "readers": asked}


def _of(items: Sequence[Item], rows: Sequence[int]) -> list[Item]:
    return [items[row] for row in rows] if items else []


def _square(image: Any) -> Any:
    """The middle square."""
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.crop((left, top, left + side, top + side))
