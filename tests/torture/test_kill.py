"""Two hundred times SIGKILL at a random instant: the run ends as the one that nobody touched."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import shutil
import time
from collections import Counter
from pathlib import Path

import pytest
import torch
from children import done, fast_folder, fork, kill, wait
from run_task import run_task
from tiny_runs import BATCH, SCENES, TRAIN, bits, build_parts, noted, text_to_image_task

from latentdiff import files
from latentdiff.checkpoints import store as checkpoints
from latentdiff.data.rendered.scene_pictures import row_of

KILLS, SHARES = 200, 2
STEPS = 30
"""Ten epochs."""

pytestmark = pytest.mark.torture


class Victim:
    """One run that is killed and resumed until it ends by itself."""

    def __init__(self, folder: Path, parts: Path) -> None:
        self.folder, self.samples = folder / "run", folder / "samples.jsonl"
        self.log = folder / "words.txt"
        folder.mkdir()
        # Built once: a child takes it over as it is here, never trained.
        self.task = noted(text_to_image_task(parts), self._note)

    def _note(self, positions: list[int]) -> None:
        line = json.dumps(positions) + "\n"
        to = os.open(self.samples, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.write(to, line.encode())
        os.close(to)

    def newest(self) -> int:
        """The step that a resume would begin with; 0 when there is nothing."""
        found = checkpoints.newest_whole(self.folder / "checkpoints")
        assert found.skipped == (), "a kill left a damaged checkpoint in sight"
        return 0 if found.path is None else checkpoints.read_state(found.path).step

    def train(self, workers: int) -> None:
        """A sitting, until the end."""
        resume = bool(checkpoints.stored(self.folder / "checkpoints"))
        run_task(
            self.task,
            dataclasses.replace(
                TRAIN,
                run_dir=self.folder,
                steps=STEPS,
                gradient_accumulation=2,
                checkpoint_minutes=1e-9,
                num_workers=workers,
                resume=resume,
            ),
        )

    def seen(self) -> dict[int, list[int]]:
        """step -> the positions it learned from; the same however often it was done again."""
        steps: dict[int, list[int]] = {}
        half = BATCH // 2
        for line in self.samples.read_text().splitlines():
            positions = json.loads(line)
            assert positions == list(range(positions[0], positions[0] + half)), positions
            known = steps.setdefault(positions[0] // BATCH, [])
            known.extend(p for p in positions if p not in known)
        return steps


@pytest.fixture(scope="module")
def place():
    with fast_folder() as folder:
        yield folder


@pytest.fixture(scope="module")
def parts(place) -> Path:
    torch.set_num_threads(1)
    (place / "parts").mkdir()
    return build_parts(place / "parts")


@pytest.fixture(scope="module")
def untouched(place, parts) -> dict[str, bytes]:
    """The bits of the run that nobody kills."""
    victim = Victim(place / "untouched", parts)
    done(lambda: victim.train(0), victim.log)
    return bits(victim.folder, STEPS)


def assert_complete(victim: Victim, untouched: dict[str, bytes]) -> None:
    assert bits(victim.folder, STEPS) == untouched
    steps = victim.seen()
    assert sorted(steps) == list(range(STEPS))
    positions = [p for step in sorted(steps) for p in sorted(steps[step])]
    assert positions == list(range(STEPS * BATCH))
    rows = [row_of(position, SCENES, TRAIN.seed) for position in positions]
    for epoch in range(STEPS * BATCH // SCENES):
        assert sorted(rows[epoch * SCENES : (epoch + 1) * SCENES]) == list(range(SCENES))


@pytest.mark.parametrize("share", range(SHARES))
def test_killed_two_hundred_times_it_ends_with_the_same_bits(
    place, parts, untouched, record_property, share
):
    draw = random.Random(share)
    began, span = time.monotonic(), 1.0
    count: Counter[str] = Counter()
    victim = Victim(place / f"victim-{share}-0", parts)
    newest = 0
    while count["kills"] < KILLS // SHARES:
        workers = 2 if draw.random() < 0.15 else 0
        child = fork(lambda victim=victim, workers=workers: victim.train(workers), victim.log)
        code = wait(child, draw.uniform(0, span))
        if code is not None:
            assert code == 0, victim.log.read_text()
            assert_complete(victim, untouched)
            count["runs"] += 1
            shutil.rmtree(victim.folder.parent)
            victim, newest = Victim(place / f"victim-{share}-{count['runs']}", parts), 0
            continue
        kill(child)
        count["kills"] += 1
        count["in a write"] += any(victim.folder.rglob(".tmp-*"))
        before, newest = newest, victim.newest()
        assert newest >= before, "a kill lost a checkpoint"
        count["without progress"] += newest == before
        export = victim.folder / "export"
        assert not export.exists() or files.verify_manifest(export) == []
        # However fast the machine is: most children come to save once or a few times.
        span = (
            min(60.0, span * 1.15)
            if newest == before
            else max(0.2, span * 0.9 ** (newest - before))
        )
    done(lambda: victim.train(0), victim.log)
    assert_complete(victim, untouched)
    count["runs"] += 1
    assert list(victim.folder.rglob(".tmp-*")) == []
    assert count["in a write"] >= KILLS // SHARES // 10
    took = time.monotonic() - began
    record_property(f"share {share}", f"{dict(count)}, {took:.0f} s")
