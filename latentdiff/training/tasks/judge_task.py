"""The judge's training task: name every subject and the setting of renders, clean and degraded.

It sees all subjects, those held out of the generator's training included, and held-out pairs too.
Its verdicts are for measuring only: nothing here is ever used to condition, guide or train the
generator.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from latentdiff import seeding
from latentdiff.data.rendered.pixel_pool import PixelPool, build_pool
from latentdiff.data.rendered.scene_pictures import PoolPictures, WorldPictures, row_of
from latentdiff.errors import UserError
from latentdiff.evaluation import degradations
from latentdiff.evaluation import judge_network as judging
from latentdiff.pixels import to_pixels
from latentdiff.scenes.catalog import SETTINGS, SUBJECTS
from latentdiff.scenes.records import Scene, SceneRecord
from latentdiff.scenes.world import World
from latentdiff.sheet import Cell, labelled_sheet
from latentdiff.training.context import RunContext
from latentdiff.training.task import Batch
from latentdiff.training.train_config import TrainConfig

SHEET_ROWS, SHEET_COLUMNS = 4, 8


@dataclass(frozen=True, kw_only=True)
class JudgeConfig:
    """What the judge learns from, and how."""

    HELP_PRESETS: ClassVar[dict[str, str]] = {
        "cpu": "the embedded model's judge.",
        "h100": "the same on one GPU.",
        "tiny": "four steps of a toy, to see that all works.",
    }

    pool: Path | None = None
    """Pool of scenes with all subjects and no pair held out; none: scenes are drawn as needed."""
    render: int = 0
    """Render this many scenes into the pool first; one that is there is finished, not redone."""
    render_workers: int = 0
    """Processes that render; 0: one a core."""
    output: Path | None = None
    """Also write the newest judge into this folder, such as MODEL/judge."""
    world_seed: int = 202
    """Seed of the world to draw from when there is no pool."""
    validation_seed: int = 909_001
    """Seed of the world whose scenes it is validated on; no other seed is used for those."""
    validation_count: int = 512
    """Fresh scenes a validation judges, clean and degraded."""
    train: TrainConfig = field(
        default_factory=lambda: TrainConfig(
            batch_size=64,
            learning_rate=2e-3,
            weight_decay=0.02,
            ema_decay=0.998,
            channels_last=True,
            validate_every=1000,
        )
    )
    """The loop's settings."""

    def __post_init__(self) -> None:
        """Refuse what cannot work."""
        if self.validation_count < 1:
            raise UserError(f"validation_count is {self.validation_count}, expected at least 1")
        if self.render < 0 or self.render_workers < 0:
            raise UserError("render and render_workers cannot be negative")
        if self.render and self.pool is None:
            raise UserError("render needs a pool: the folder to render into")
        if self.validation_seed == self.world_seed:
            raise UserError("validation_seed equals world_seed: scenes would not be fresh")


def judge_world(seed: int) -> World:
    """The world as the judge sees it: every subject, every pair."""
    return World(seed, subjects=tuple(SUBJECTS), hold_out_pairs=False)


def render_pool(config: JudgeConfig) -> None:
    """Render the judge's pool, or finish it: every subject, no pair held out."""
    assert config.pool is not None
    build_pool(
        config.pool,
        world_seed=config.world_seed,
        count=config.render,
        workers=config.render_workers or os.cpu_count() or 1,
        subjects=tuple(SUBJECTS),
        hold_out_pairs=False,
        progress=lambda done, whole: print(f"\rrendered {done:,} of {whole:,}", end="", flush=True),
    )
    print()


class JudgeObjective(nn.Module):
    """Cross-entropy of both heads on degraded pixels; two subjects share the target half and half.

    The batch: `pixels` (B, 128, 128, 3) uint8, `subjects` (B, 2) class numbers (the same twice
    for one subject), `setting` (B,), and the stacked draws of `degradations.draw`.
    """

    def __init__(self, judge: judging.Judge) -> None:
        super().__init__()
        self.judge = judge
        self.degrade = degradations.Degrade()

    def forward(self, batch: Batch) -> Batch:
        with torch.no_grad():
            pixels = to_pixels(batch["pixels"])
            pixels = self.degrade(pixels, batch)
        logits = self.judge(pixels)
        subject, setting = logits.subject.float(), logits.setting.float()
        first, second = batch["subjects"].unbind(dim=1)
        of_subject = 0.5 * (
            functional.cross_entropy(subject, first) + functional.cross_entropy(subject, second)
        )
        of_setting = functional.cross_entropy(setting, batch["setting"])
        right = subjects_right(subject.detach(), batch["subjects"])
        return {
            "loss": of_subject + of_setting,
            "subject_accuracy": right.float().mean(),
            "setting_accuracy": (setting.detach().argmax(1) == batch["setting"]).float().mean(),
        }


def subjects_right(logits: Tensor, subjects: Tensor) -> Tensor:
    """(B,) bool: the first choice is the one subject, or the first two are the two subjects."""
    top = logits.topk(2, dim=1).indices
    single = subjects[:, 0] == subjects[:, 1]
    both = (top.sort(dim=1).values == subjects.sort(dim=1).values).all(dim=1)
    return torch.where(single, top[:, 0] == subjects[:, 0], both)


class JudgeTask:
    """The training loop's view of the judge (see `training.task.Task`)."""

    name = "judge"

    def __init__(self, config: JudgeConfig, context: RunContext) -> None:
        self.config = config
        self.seed = config.train.seed
        torch.manual_seed(seeding.integers(2**31, self.seed, "initial weights"))
        self.module: nn.Module = JudgeObjective(judging.Judge(tuple(SUBJECTS), tuple(SETTINGS)))
        self._images: PoolPictures | WorldPictures | None = None
        self._subject = {key: number for number, key in enumerate(SUBJECTS)}
        self._setting = {key: number for number, key in enumerate(SETTINGS)}
        self._fresh: tuple[NDArray[np.uint8], list[SceneRecord]] | None = None

    @property
    def images(self) -> PoolPictures | WorldPictures:
        """The scenes; opened before."""
        assert self._images is not None, "the data are not open"
        return self._images

    def open_data(self, context: RunContext) -> None:
        """Open the pool, rendered or finished first where that is asked for, or the world."""
        if self.config.render and context.is_main:
            render_pool(self.config)
        if self.config.render and context.team.world_size > 1:
            torch.distributed.barrier()
        self._images = self._open(self.config)

    def _open(self, config: JudgeConfig) -> PoolPictures | WorldPictures:
        if config.pool is None:
            return WorldPictures(judge_world(config.world_seed), judging.PICTURE_SIZE)
        pool = PixelPool(config.pool)
        if pool.size != judging.PICTURE_SIZE:
            raise UserError(
                f"{config.pool} holds {pool.size} px pictures; the judge sees "
                f"{judging.PICTURE_SIZE} px ones"
            )
        missing = sorted(set(SUBJECTS) - set(pool.spec.subjects or ()))
        if missing or pool.spec.hold_out_pairs:
            what = f"no {missing[0]}" if missing else "no held-out pairs"
            raise UserError(
                f"{config.pool} holds {what}, and the judge must know them all: render one with "
                "`python -m latentdiff.train_scripts.judge --pool DIR --render 40000`"
            )
        return PoolPictures(pool)

    def batch(self, positions: Sequence[int]) -> Batch:
        """Pictures, class numbers and degradations of these positions; see `JudgeObjective`."""
        rows = [row_of(position, self.images.count, self.seed) for position in positions]
        scenes = [self._scene(row) for row in rows]
        records = [scene.record for scene in scenes]
        drawn = [degradations.draw(self.seed, position) for position in positions]
        batch = {key: torch.from_numpy(np.stack([d[key] for d in drawn])) for key in drawn[0]}
        batch["pixels"] = torch.from_numpy(np.stack([scene.image for scene in scenes]))
        batch["subjects"], batch["setting"] = self.targets(records)
        return batch

    def _scene(self, row: int) -> Scene:
        if isinstance(self.images, WorldPictures):
            return self.images.world.scene(row)
        return Scene(self.images.picture(row), self.images.record(row))

    def targets(self, records: Sequence[SceneRecord]) -> tuple[Tensor, Tensor]:
        """Class numbers: subjects (B, 2), twice the same for one subject, and settings (B,)."""
        subjects = [[self._subject[r.subjects[0]], self._subject[r.subjects[-1]]] for r in records]
        settings = [self._setting[record.setting] for record in records]
        return torch.tensor(subjects), torch.tensor(settings)

    def prepare(self, device: torch.device) -> None:
        """Nothing is frozen, nothing to move."""

    def fresh(self) -> tuple[NDArray[np.uint8], list[SceneRecord]]:
        """The validation scenes: pictures (N, 128, 128, 3) uint8 and their records."""
        if self._fresh is None:
            world = judge_world(self.config.validation_seed)
            scenes = [world.scene(k) for k in range(self.config.validation_count)]
            self._fresh = np.stack([s.image for s in scenes]), [s.record for s in scenes]
        return self._fresh

    @torch.no_grad()
    def _logits(self, module: nn.Module, degraded: bool) -> judging.JudgeLogits:
        assert isinstance(module, JudgeObjective)
        pictures, records = self.fresh()
        device = next(module.parameters()).device
        found: list[judging.JudgeLogits] = []
        for chunk in judging.batches(range(len(records)), 64):
            pixels = to_pixels(pictures[chunk]).contiguous().to(device)
            if degraded:
                drawn = [degradations.draw(self.config.validation_seed, k) for k in chunk]
                stacked = {
                    key: torch.from_numpy(np.stack([d[key] for d in drawn])).to(device)
                    for key in drawn[0]
                }
                pixels = module.degrade(pixels, stacked)
            found.append(module.judge(pixels))
        names = [field.name for field in dataclasses.fields(judging.JudgeLogits)]
        return judging.JudgeLogits(
            **{name: torch.cat([getattr(x, name).float().cpu() for x in found]) for name in names}
        )

    def validate(self, module: nn.Module, step: int) -> dict[str, float]:
        """Accuracies on fresh renders, clean and degraded, and of two-subject pictures apart."""
        subjects, settings = self.targets(self.fresh()[1])
        single = subjects[:, 0] == subjects[:, 1]
        numbers: dict[str, float] = {}
        for prefix, degraded in (("", False), ("degraded_", True)):
            logits = self._logits(module, degraded)
            right = subjects_right(logits.subject, subjects).float()
            numbers[f"{prefix}subject_accuracy"] = _mean(right[single])
            numbers[f"{prefix}pair_accuracy"] = _mean(right[~single])
            numbers[f"{prefix}relation_accuracy"] = self._relations(logits)
            numbers[f"{prefix}setting_accuracy"] = _mean(
                (logits.setting.argmax(1) == settings).float()
            )
        return numbers

    def _relations(self, logits: judging.JudgeLogits) -> float:
        """Share of two-subject pictures of which it is seen who stands on the left."""
        right = []
        for n, record in enumerate(self.fresh()[1]):
            if len(record.placements) == 2:
                places = logits.across[n, [self._subject[key] for key in record.subjects]]
                middles = [placement.center[0] for placement in record.placements]
                right.append(bool(places[0] < places[1]) == (middles[0] < middles[1]))
        return _mean(torch.tensor(right).float())

    def sheet(self, module: nn.Module, step: int) -> Image.Image | None:
        """Fresh scenes with the judge's verdict under them, the wrong ones first."""
        pictures, records = self.fresh()
        logits = self._logits(module, degraded=False)
        subjects, settings = self.targets(records)
        right = subjects_right(logits.subject, subjects) & (logits.setting.argmax(1) == settings)
        order = torch.argsort(right.int(), stable=True)[: SHEET_ROWS * SHEET_COLUMNS].tolist()
        names, places = tuple(SUBJECTS), tuple(SETTINGS)
        cells = []
        for n in order:
            count = len(records[n].subjects)
            named = [names[i] for i in logits.subject[n].topk(count).indices.tolist()]
            label = f"{' + '.join(named)} / {places[int(logits.setting[n].argmax())]}"
            cells.append(Cell(picture=pictures[n], label=label, right=bool(right[n])))
        return labelled_sheet(cells, columns=SHEET_COLUMNS)

    def export(self, module: nn.Module, folder: Path) -> None:
        """`judge.safetensors` (float16) and `config.json`; the same into the config's `output`."""
        assert isinstance(module, JudgeObjective)
        judging.save(module.judge, folder)
        if self.config.output is not None:
            judging.save(module.judge, self.config.output)

    def initialise(self, folder: Path) -> None:
        """Start from a saved judge; its classes must be the catalog's."""
        found = judging.load(folder)
        assert isinstance(self.module, JudgeObjective)
        own = self.module.judge
        if (found.subjects, found.settings) != (own.subjects, own.settings):
            raise UserError(f"the judge in {folder} knows other subjects or settings; train anew")
        own.load_state_dict(found.state_dict())


def _mean(values: Tensor) -> float:
    return float(values.mean()) if len(values) else 1.0


def _on_gpu() -> TrainConfig:
    return TrainConfig(
        batch_size=256,
        max_minutes=1.5,
        learning_rate=3e-3,
        weight_decay=0.02,
        warmup_steps=100,
        ema_decay=0.998,
        decay_fraction=0.3,
        channels_last=True,
        num_workers=4,
        log_every=100,
        validate_every=0,
        sheet_every=0,
    )


PRESETS: dict[str, JudgeConfig] = {
    "cpu": JudgeConfig(),
    "h100": JudgeConfig(train=_on_gpu()),
    "tiny": JudgeConfig(
        validation_count=8,
        train=TrainConfig(batch_size=4, steps=4, warmup_steps=1, tensorboard=False, log_every=1),
    ),
}
