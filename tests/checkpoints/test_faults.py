"""Every call by which a save changes the disk: killed there, failed there, or the power gone there.

Whatever happens, a whole checkpoint loads afterwards, the one before or the new one, and what was
left half-written goes at the next start.
"""

from __future__ import annotations

import errno
import os
import shutil
import warnings
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from faults import KILLED, WORLDS, Disk, Replay, dying, raising, tree

from latentdiff import files
from latentdiff.checkpoints import store as checkpoints
from latentdiff.checkpoints.state import TrainState
from latentdiff.checkpoints.store import Checkpoint
from latentdiff.errors import UserError

pytestmark = pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs Linux's /proc")


def checkpoint(step: int, *, keep: bool = False) -> Checkpoint:
    state = TrainState(task="t", step=step, positions=step * 4, minutes=1.5, keep=keep)
    values = torch.arange(60.0).reshape(1, 3, 4, 5).to(memory_format=torch.channels_last) + step
    return Checkpoint(
        state=state,
        weights={"w": values, "gain": torch.tensor(2.0 + step)},
        ema={"w": values - 1},
        optimizer={"exp_avg.w": values * 2, "step.w": torch.tensor(float(step))},
    )


def same(a: Checkpoint, b: Checkpoint) -> bool:
    return a.state == b.state and all(
        getattr(a, part).keys() == getattr(b, part).keys()
        and all(torch.equal(t, getattr(b, part)[name]) for name, t in getattr(a, part).items())
        for part in ("weights", "ema", "optimizer")
    )


Case = namedtuple("Case", "old new exchange")
CASES = {
    "a new step": Case(checkpoint(1), checkpoint(2), True),
    "the same step again": Case(checkpoint(2), checkpoint(2, keep=True), True),
    "the same step where nothing can be exchanged": Case(
        checkpoint(2), checkpoint(2, keep=True), False
    ),
}


@pytest.fixture(params=CASES, ids=str)
def case(request) -> Case:
    return CASES[request.param]


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch):
    """Really syncing is slow and shows nothing here: `Replay` tells what a sync is good for."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture
def before(case, tmp_path) -> Path:
    """A folder with the old checkpoint."""
    checkpoints.save(tmp_path / "before", case.old)
    return tmp_path / "before"


def save_and_rotate(root: Path, new: Checkpoint) -> None:
    checkpoints.save(root, new)
    checkpoints.rotate(root, 1)


def recorded(case: Case, before: Path) -> Disk:
    """A save without any fault, on a copy beside `before`."""
    root = before.with_name("recorded")
    shutil.copytree(before, root)
    with Disk(root, exchange=case.exchange) as disk:
        save_and_rotate(root, case.new)
    return disk


def assert_recovers(root: Path, case: Case, where: str) -> Checkpoint:
    """As the next start does: sweep, find, load; then save again."""
    files.remove_temporaries(root)
    found = checkpoints.newest_whole(root)
    assert found.path is not None and not found.skipped, (where, found)
    loaded = checkpoints.load(found.path)
    assert same(loaded, case.old) or same(loaded, case.new), where
    assert all(p.name.startswith("step-") for p in root.iterdir()), where
    return loaded


def each_strike(
    case: Case, before: Path, attempt: Callable[[Path, int], None]
) -> list[tuple[str, Checkpoint]]:
    """Let every call of a save be struck in turn; what was loaded after each."""
    outcomes = []
    for number, call in enumerate(recorded(case, before).calls):
        root = before.with_name("struck")
        shutil.copytree(before, root)
        attempt(root, number)
        outcomes.append((str(call), assert_recovers(root, case, f"call {number}: {call}")))
        save_and_rotate(root, case.new)
        assert same(checkpoints.load(checkpoints.stored(root)[-1][1]), case.new)
        assert len(list(root.iterdir())) == 1
        shutil.rmtree(root)
    return outcomes


def test_the_counted_calls_are_all_that_a_save_does_to_the_disk(case, before):
    disk = recorded(case, before)
    replay = Replay(before)
    for call in disk.calls:
        replay.apply(call)
    replay.write(before.with_name("replayed"))
    assert list(tree(before.with_name("replayed"))) == list(tree(disk.root))
    names = {call.name for call in disk.calls}
    assert {"mkdir", "create", "write", "fsync", "rename", "unlink", "rmdir"} <= names
    assert len(disk.calls) > 40


def test_killed_at_any_call_a_whole_checkpoint_loads(case, before):
    def attempt(root: Path, number: int) -> None:
        child = os.fork()
        if child == 0:
            with Disk(root, at=number, strike=dying, exchange=case.exchange):
                save_and_rotate(root, case.new)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == KILLED

    outcomes = each_strike(case, before, attempt)
    assert any(same(loaded, case.old) for _, loaded in outcomes)
    assert any(same(loaded, case.new) for _, loaded in outcomes)


@pytest.mark.parametrize("lasting", [False, True], ids=["once", "from then on"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO], ids=["disk full", "I/O error"])
def test_an_error_at_any_call_leaves_a_whole_checkpoint(case, before, number, lasting):
    # A full disk still lets go of what is removed; a broken one does nothing at all.
    spare = ("unlink", "rmdir", "fsync") if number == errno.ENOSPC else ()
    messages = []

    def attempt(root: Path, at: int) -> None:
        strike = raising(number, spare=spare)
        with (
            warnings.catch_warnings(),
            Disk(root, at=at, strike=strike, lasting=lasting, exchange=case.exchange),
        ):
            warnings.simplefilter("ignore")  # rotation warns of what it cannot remove
            try:
                save_and_rotate(root, case.new)
            except UserError as error:
                messages.append(str(error))

    each_strike(case, before, attempt)
    said = "the disk is full" if number == errno.ENOSPC else "Input/output error"
    assert messages and all(said in message for message in messages)


def test_the_message_of_a_full_disk_counts_the_bytes_that_are_missing(tmp_path, monkeypatch):
    checkpoints.save(tmp_path, checkpoint(1))
    whole = sum(p.stat().st_size for p in (tmp_path / "step-00000001").iterdir())
    usage = namedtuple("usage", "total used free")
    free = {"bytes": 1 << 30}
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(1 << 40, 0, free["bytes"]))

    def fill(call):
        free["bytes"] = 1000
        raise OSError(errno.ENOSPC, "No space left on device")

    with (
        Disk(tmp_path, at=12, strike=fill),
        pytest.raises(UserError, match="disk is full") as caught,
    ):
        checkpoints.save(tmp_path, checkpoint(2))
    takes, free_now, missing = numbers(str(caught.value))
    assert (free_now, missing) == (1000, takes - 1000)
    assert whole <= takes < whole + 20_000
    with (
        Disk(tmp_path) as untouched,
        pytest.raises(UserError, match=f"1,000 are free, {missing:,} bytes are missing"),
    ):
        checkpoints.save(tmp_path, checkpoint(2))
    assert {call.name for call in untouched.calls} <= {"mkdir"}  # refused before the first byte
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000001"]


def numbers(message: str) -> list[int]:
    words = message[message.index(" takes ") :].replace(",", "").split()
    return [int(word) for word in words if word.isdigit()]


@pytest.mark.parametrize("world", WORLDS, ids=lambda world: world.__name__)
def test_the_power_may_go_at_any_call(case, before, world):
    replay = Replay(before)
    for number, call in enumerate([None, *recorded(case, before).calls]):
        if call is not None:
            replay.apply(call)
        root = before.with_name("after")
        replay.write(root, world)
        assert_recovers(root, case, f"after call {number}: {call}")
        shutil.rmtree(root)


def test_an_old_checkpoint_that_cannot_be_removed_is_named_and_the_run_goes_on(tmp_path):
    for step in (1, 2):
        checkpoints.save(tmp_path, checkpoint(step))
    with (
        Disk(tmp_path, at=0, strike=raising(errno.EIO)),
        pytest.warns(UserWarning, match="cannot remove the old checkpoint .*step-00000001"),
    ):
        assert checkpoints.rotate(tmp_path, 1) == []
    assert [p.name for p in checkpoints.rotate(tmp_path, 1)] == ["step-00000001"]
