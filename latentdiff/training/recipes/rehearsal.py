"""`--rehearse`: everything that a run will do, once, in minutes, before it is left alone for hours.

Real processes, real data, the run's own settings: two updates with their validations, sheets and
checkpoint; then on from there, killed with SIGKILL in the middle; then resumed to its end; then a
picture from what it exported. What was measured on the way says what the whole run will take.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from latentdiff.devices import cores, has_device
from latentdiff.errors import UserError
from latentdiff.training.launch import config_path
from latentdiff.training.logging import clock
from latentdiff.training.tasks.text_to_image.text_to_image_config import TextToImageConfig
from latentdiff.training.train_config import TrainConfig

SCRIPT = "latentdiff.train_scripts.text_to_image"
FIRST, KILLED, LAST = 2, 4, 6
"""Updates of the first part; where the second is killed; where the third ends."""
PATIENCE = 1800.0
"""Seconds that one part may take."""
OWN_FLAGS = ("--rehearse", "--processes")


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What the whole run will take, from what the rehearsal took."""

    seconds_per_step: float
    evaluation_seconds: float
    save_seconds: float
    peak_mib: float
    checkpoint_bytes: int
    export_bytes: int

    def seconds(self, train: TrainConfig) -> float | None:
        """Of the whole run; None when it is not told how long to go on."""
        if train.steps is None:
            return None if train.max_minutes is None else train.max_minutes * 60
        steps = train.steps * self.seconds_per_step
        evaluations = 2.0 + (train.steps // train.validate_every if train.validate_every else 0)
        total = steps + evaluations * self.evaluation_seconds
        if train.checkpoint_minutes:
            total += total / (60 * train.checkpoint_minutes) * self.save_seconds
        if train.max_minutes is not None:
            total = min(total, train.max_minutes * 60)
        return total

    def disk_bytes(self, train: TrainConfig) -> int:
        """At most: the checkpoints that are kept, the one before the decay and the one that is
        being written, and an export, the best one, and one that is being written."""
        return (train.keep_checkpoints + 2) * self.checkpoint_bytes + 3 * self.export_bytes


def take_flags(argv: Sequence[str]) -> tuple[list[str], int] | None:
    """(the run's own options, processes) where --rehearse is among them; None where it is not."""
    if not any(word == "--rehearse" for word in argv):
        return None
    rest: list[str] = []
    processes = 1
    words = iter(argv)
    for word in words:
        name, equals, value = word.partition("=")
        if name not in OWN_FLAGS:
            rest.append(word)
        elif name == "--processes":
            value = value if equals else next(words, "")
            if not value.isdecimal() or int(value) < 1:
                raise UserError(f"--processes is {value!r}, expected a number of 1 or more")
            processes = int(value)
    return rest, processes


def launch_line(processes: int) -> list[str]:
    """What starts the script on so many processes of this machine, by the configs that ship."""
    if processes == 1:
        return [sys.executable, "-m", SCRIPT]
    shipped = config_path("gpu8" if has_device("cuda") else "cpu2")
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(shipped)]
    return [*launch, "--num_processes", str(processes), "-m", SCRIPT]


def rehearse(argv: Sequence[str], config: TextToImageConfig, processes: int) -> int:
    """Do all parts in a folder that goes afterwards, print what was found; the exit code.

    argv: the run's options, and `config` what they mean. Raises UserError when a part fails, with
    its last lines.
    """
    train = config.train
    if train.resume or train.dry_run:
        raise UserError("--rehearse tries a run from its beginning: leave out --resume, --dry-run")
    if train.steps is not None and train.steps <= KILLED + 1:
        raise UserError(f"--rehearse takes {LAST} updates, this run {train.steps}: just run it")
    began = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="latentdiff-rehearsal-", dir=_beside(config.train)))
    try:
        found = _parts(list(argv), config, processes, folder)
    except BaseException:
        print(f"the rehearsal's files are left in {folder}", file=sys.stderr)
        raise
    shutil.rmtree(folder, ignore_errors=True)
    _report(found, config.train, time.monotonic() - began)
    return 0


def _beside(train: TrainConfig) -> str | None:
    """The rehearsal writes where the run will, so that the disk is that disk."""
    if train.run_dir is None:
        return None
    there = next(
        p for p in (train.run_dir.absolute(), *train.run_dir.absolute().parents) if p.is_dir()
    )
    return str(there) if os.access(there, os.W_OK) else None


def _parts(argv: list[str], config: TextToImageConfig, processes: int, folder: Path) -> Estimate:
    run = folder / "run"
    common = [*argv, "--run-dir", str(run), "--log-every", "1", "--no-tensorboard"]
    often = ["--validate-every", "2", "--sheet-every", "2", "--checkpoint-minutes", "0"]
    command = [*launch_line(processes), *common, *often]

    # As many steps as the run will have: the rehearsal stops long before.
    command += [] if config.train.steps is not None else ["--steps", "1000000"]
    _say(f"1/4  two updates, validation, sheet, checkpoint, {_plural(processes)}")
    _finish([*command, "--stop-at", str(FIRST)], folder / "first.log")
    first = _events(run)
    _check_processes(first, processes, config.train, FIRST)

    if first[-1]["event"] != "end" or first[-1]["step"] != FIRST:
        raise UserError(f"the first part did not stop after {FIRST} updates; see {folder}")
    _say(f"2/4  on from there, killed after update {KILLED}")
    _kill_at([*command, "--resume"], folder / "second.log", run, KILLED)

    _say(f"3/4  resumed, to update {LAST}")
    _finish([*command, "--stop-at", str(LAST), "--resume"], folder / "third.log")
    events = _events(run)
    resumed = [e for e in events if e["event"] == "begin"][-1]
    if resumed["step"] != FIRST or events[-1]["event"] != "end" or events[-1]["step"] != LAST:
        raise UserError(f"the resumed part did not go from update {FIRST} to {LAST}; see {folder}")
    _check_processes(events, processes, config.train, LAST)

    _say("4/4  a picture from what it exported")
    _draw(config, run, folder)
    return _estimate(events, run)


def _say(text: str) -> None:
    print(f"rehearsal: {text}", flush=True)


def _plural(processes: int) -> str:
    return "1 process" if processes == 1 else f"{processes} processes"


def _start(command: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("wb") as out:
        return subprocess.Popen(
            list(command),
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def _finish(command: Sequence[str], log: Path) -> None:
    process = _start(command, log)
    try:
        code = process.wait(PATIENCE)
    except BaseException:
        _kill(process)
        raise
    if code:
        _failed(command, log, code)


def _kill_at(command: Sequence[str], log: Path, run: Path, step: int) -> None:
    """SIGKILL to all of its processes once it has logged that update."""
    process = _start(command, log)
    began = time.monotonic()
    try:
        while not any(e["event"] == "train" and e["step"] >= step for e in _events(run)):
            if process.poll() is not None:
                _failed(command, log, process.returncode)
            if time.monotonic() - began > PATIENCE:
                raise UserError(f"update {step} did not come within {PATIENCE:.0f} s; see {log}")
            time.sleep(0.05)
    finally:
        _kill(process)


def _kill(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL to a process and all below it: a launcher's workers have sessions of their own."""
    import psutil

    with contextlib.suppress(psutil.NoSuchProcess):
        launcher = psutil.Process(process.pid)
        family = [launcher, *launcher.children(recursive=True)]
        for member in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                member.kill()
        psutil.wait_procs(family[1:], timeout=30)
    process.wait()


def _failed(command: Sequence[str], log: Path, code: int) -> None:
    lines = log.read_text("utf-8", "replace").strip().splitlines()
    ours = [line for line in lines if ": error: " in line]
    errors = [line for line in lines if re.match(r"(\w+\.)*\w*(Error|Exception)\b", line)]
    last = next(iter(ours or errors[:1] or lines[-1:]), "it said nothing")
    raise UserError(
        f"the rehearsal failed (exit code {code}): {last}. All it said: {log}; "
        f"the command: {shlex.join(command)}"
    )


def _events(run: Path) -> list[dict[str, Any]]:
    """Whole lines of log.jsonl."""
    try:
        lines = (run / "log.jsonl").read_bytes().splitlines(keepends=True)
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in lines if line.endswith(b"\n")]


def _check_processes(
    events: Sequence[dict[str, Any]], processes: int, train: TrainConfig, step: int
) -> None:
    """Each process made every update, on its own samples, and all have the same weights."""
    accounts = events[-1].get("processes", [])
    if len(accounts) != processes:
        raise UserError(f"{len(accounts)} processes took part, {processes} were asked for")
    pieces = sorted(tuple(one["first"]) for one in accounts)
    size = train.batch_size // (train.gradient_accumulation * processes)
    begin = pieces[0][0]
    expected = [(begin + k * size, begin + (k + 1) * size) for k in range(processes)]
    if pieces != expected:
        raise UserError(f"the processes' samples are {pieces}, expected {expected}")
    if {one["step"] for one in accounts} != {step} or len({o["weights"] for o in accounts}) > 1:
        raise UserError("the processes made different updates, or ended with different weights")
    if processes > 1:
        _say(
            f"     {processes} processes, {step} updates each, {size} samples each a micro-batch, "
            f"equal weights {accounts[0]['weights'][:12]}…"
        )


def _draw(config: TextToImageConfig, run: Path, folder: Path) -> None:
    """`latentdiff generate` with the export."""
    sheets = sorted((run / "sheets").glob("*.json"))
    command = [sys.executable, "-m", "latentdiff", "generate"]
    if sheets:
        words = shlex.split(json.loads(sheets[-1].read_text("utf-8"))["pictures"][0]["command"])
        command += words[2:]
    else:
        from latentdiff.training.tasks.text_to_image.exports import how_to_load

        command += ["a picture", "--seed", "0", *how_to_load(config, run / "export")]
    _finish([*command, "-o", str(folder / "picture.png")], folder / "generate.log")


def _estimate(events: Sequence[dict[str, Any]], run: Path) -> Estimate:
    steps = _seconds(events, "train", "train")
    # The first update of a sitting warms up, and one after a look or a save waits for it.
    steps = sorted(steps)[: max(1, len(steps) // 2 + 1)]
    validations, sheets = (
        _seconds(events, "train", "validate"),
        _seconds(events, "validate", "sheet"),
    )
    saves = _seconds(events, "sheet", "checkpoint") or _seconds(events, "validate", "checkpoint")
    checkpoint = max((run / "checkpoints").iterdir(), key=lambda p: p.name)
    return Estimate(
        seconds_per_step=sum(steps) / len(steps),
        evaluation_seconds=max(validations, default=0.0) + max(sheets, default=0.0),
        save_seconds=max(saves, default=0.0),
        peak_mib=max(one["peak_mib"] for one in events[-1]["processes"]),
        checkpoint_bytes=_size(checkpoint),
        export_bytes=_size(run / "export"),
    )


def _seconds(events: Sequence[dict[str, Any]], one: str, other: str) -> list[float]:
    """Between neighbouring events of these two kinds."""
    return [
        b["time"] - a["time"]
        for a, b in itertools.pairwise(events)
        if (a["event"], b["event"]) == (one, other)
    ]


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def _report(found: Estimate, train: TrainConfig, seconds: float) -> None:
    whole = found.seconds(train)
    steps = "until it is stopped" if train.steps is None else f"for {train.steps:,} updates"
    rows = [
        ("peak memory", f"{found.peak_mib:,.0f} MiB a process"),
        ("an update", f"{found.seconds_per_step:.3g} s, {train.batch_size} samples"),
        ("a validation with its sheet", f"{found.evaluation_seconds:.1f} s"),
        ("a checkpoint", f"{found.checkpoint_bytes / 1e6:,.1f} MB, {found.save_seconds:.2f} s"),
        ("the whole run", f"{clock(whole)} {steps}"),
        ("disk for the whole run", f"{found.disk_bytes(train) / 1e6:,.0f} MB at most"),
    ]
    _say(f"all parts worked, {seconds:.0f} s on {cores()} cores")
    for name, value in rows:
        print(f"  {name:<28} {value}")
