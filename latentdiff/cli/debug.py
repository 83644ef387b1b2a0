"""`latentdiff debug DIR`: replay the batch at which a training run stopped."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import tyro

from latentdiff import config as configs

if TYPE_CHECKING:
    from latentdiff.training.run.non_finite import Findings, Kept
    from latentdiff.training.run.replay import Event

_SHOWN = 12


@dataclass(frozen=True, kw_only=True)
class DebugConfig:
    """Which stop to look at."""

    folder: tyro.conf.Positional[Path]
    """RUN/non_finite/step-XXXXXXXX, or a run (its newest one)."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where to replay."""
    all: bool = False
    """Show every module, not only those around the first offender."""


def main(argv: Sequence[str]) -> int:
    """Run `latentdiff debug` and return its exit code."""
    config = configs.parse(
        DebugConfig,
        argv,
        prog="latentdiff debug",
        description="A training run that meets a loss or gradient that is not finite stops before "
        "its weights move, and keeps the batch, the weights and its settings. This replays them in "
        "float32, forward and backward, and shows module by module where the numbers stop being "
        "finite, and which samples do it alone.",
    )
    from latentdiff.devices import find_device
    from latentdiff.training.run import non_finite

    device = find_device(config.device)
    kept = non_finite.read(config.folder)
    findings = non_finite.debug(kept, non_finite.rebuild(kept), device)
    print(describe(kept, findings, every=config.all))
    return 0


def describe(kept: Kept, findings: Findings, *, every: bool = False) -> str:
    """What stopped the run, what the replay shows, and what follows from the two."""
    report = kept.report
    lines = [
        f"{kept.folder}",
        f"step {report['step']} of {report['task']}: loss {report['loss']}, on "
        f"{report['processes']}",
        f"replayed: process {report['rank']}, micro-batch {report['micro_batch']}, positions "
        f"{report['positions'][0]}…{report['positions'][-1]}",
        "",
        *(f"when it happened: {seen['explanation']}" for seen in report["passes"][:1]),
        f"now, in float32:  {findings.whole.explain()}",
        "",
        *_table(findings.whole.events, every),
        "",
        *_samples(report, findings, kept.batch.get("t")),
        _advice(report, findings),
    ]
    return "\n".join(lines)


def _table(events: Sequence[Event], every: bool) -> list[str]:
    from latentdiff.training.run.replay import HEADER

    rows = list(events)
    if not every:
        first = next((k for k, event in enumerate(rows) if event.bad), None)
        if first is None:  # what came nearest to the end of float32's, or float16's, range
            rows = sorted(rows, key=lambda event: -event.largest)[:_SHOWN]
        else:
            inputs = [event for event in rows[:first] if event.phase == "input"]
            rows = inputs + rows[max(first - _SHOWN // 2, len(inputs)) : first + _SHOWN // 2]
    hidden = len(events) - len(rows)
    note = [f"… {hidden} more rows with --all"] if hidden else []
    return [HEADER, *(event.line() for event in rows), *note]


def _samples(report: dict[str, Any], findings: Findings, t: Any) -> Iterable[str]:
    """The samples that are not finite alone, with their timestep where there is one."""
    if findings.losses is None:
        return ["samples cannot be replayed one by one: the loss takes several at once"]
    bad = [k for k, loss in enumerate(findings.losses) if not math.isfinite(loss)]
    names = report["samples"] or [""] * len(findings.losses)
    listed = [
        f"position {report['positions'][k]}"
        + (f", {names[k]}" if names[k] else "")
        + (f", t {int(t[k])}" if t is not None else "")
        + f": loss {findings.losses[k]}"
        for k in bad
    ]
    if not bad:
        low, high = min(findings.losses), max(findings.losses)
        return [f"alone, every sample's loss is finite: {low:.4g} … {high:.4g}"]
    return [f"alone, {len(bad)} of {len(findings.losses)} samples are not finite:", *listed]


def _advice(report: dict[str, Any], findings: Findings) -> str:
    first = findings.whole.first
    if first is None and "float32" not in report["passes"][0]["precision"]:
        return (
            f"float32 can hold it and {report['passes'][0]['precision']} could not: go on with "
            "--mixed-precision no, or bf16 instead of fp16"
        )
    if first is None:
        return "it does not come again: the cause was outside the batch, the weights and the module"
    if first.phase == "input":
        return "the data are at fault: look at the samples above"
    return "look at the largest values above: weights that grow want a lower learning rate"
