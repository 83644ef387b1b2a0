"""`bench device`: no check stops the others, and each says why it does not hold."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from latentdiff.bench.device import apart, checks
from latentdiff.bench.device.apart import Apart, NeedsCudaError
from latentdiff.bench.device.page import DeviceReport, check_all
from latentdiff.bench.device.place import UPDATES, Place, losses, near
from latentdiff.cli.bench import bench_device
from latentdiff.errors import UserError


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """A place whose processes may take some seconds."""
    return Place(device="cpu", folder=tmp_path, apart=Apart(patience=60.0))


def add(a: int, b: int) -> int:
    print("a library's chatter")
    return a + b


def fail() -> None:
    raise ValueError("no kernel image\nis available")


def needs() -> None:
    raise NeedsCudaError("graphs")


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def hang() -> None:
    time.sleep(60)


HERE = __name__


def test_a_process_of_its_own_gives_what_the_function_gives(place: Place) -> None:
    assert place.apart.call(f"{HERE}:add", {"a": 1, "b": 2}) == 3


def test_started_afresh_it_gives_the_same(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["latentdiff"])
    afresh = replace(place.apart, forked=False)
    assert afresh.call("math:gcd", {}) == 0
    with pytest.raises(RuntimeError, match="ModuleNotFoundError"):
        afresh.call("no_such_module:f", {})


@pytest.mark.parametrize(
    ("work", "says"),
    [
        ("fail", "^ValueError: no kernel image is available$"),
        ("die", "ended by SIGKILL"),
        ("absent", "AttributeError"),
    ],
)
def test_what_fails_or_dies_is_one_line(place: Place, work: str, says: str) -> None:
    with pytest.raises(RuntimeError, match=says):
        place.apart.call(f"{HERE}:{work}", {})


def test_what_does_not_end_is_given_up(place: Place) -> None:
    with pytest.raises(RuntimeError, match="no end after"):
        replace(place.apart, patience=0.5).call(f"{HERE}:hang", {})


def test_ctrl_c_ends_what_is_under_way(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[int] = []
    end = apart._end
    monkeypatch.setattr(apart, "_end", lambda number: (ended.append(number), end(number)))
    signal.signal(signal.SIGALRM, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    signal.setitimer(signal.ITIMER_REAL, 0.5)
    with pytest.raises(KeyboardInterrupt):
        place.apart.call(f"{HERE}:hang", {})
    (number,) = ended
    with pytest.raises(ProcessLookupError):
        os.kill(number, 0)


def test_a_command_that_fails_says_its_last_line(place: Place) -> None:
    place.apart.run(("timeit", "-n", "1", "-r", "1", "1 + 1"))
    with pytest.raises(RuntimeError, match="use -h/--help for command line help"):
        place.apart.run(("timeit", "--no-such-option"))


def test_each_check_has_one_of_three_ends_and_the_next_one_runs(place: Place) -> None:
    def broken(place: Place) -> str:
        """Breaks."""
        place.apart.call(f"{HERE}:fail", {})
        return ""

    def absent(place: Place) -> str:
        place.need_cuda("graphs")
        return ""

    found = check_all(
        place, {"broken": broken, "absent": absent, "whole": lambda place: "bit-equal"}
    )
    assert [(f.name, f.state, f.text) for f in found] == [
        ("broken", "FAILS", "ValueError: no kernel image is available"),
        ("absent", "needs CUDA", "graphs"),
        ("whole", "holds", "bit-equal"),
    ]
    report = DeviceReport(benchmark="device", races=[], findings=tuple(found), device="cpu")
    assert report.fails == ["broken"]
    for said in (report.page(), report.text()):
        assert "no kernel image" in said and "bit-equal" in said and "FAILS" in said
    assert [f["state"] for f in report.to_json()["findings"]] == ["FAILS", "needs CUDA", "holds"]


def log_of(place: Place, name: str, values: Sequence[float]) -> Path:
    """A run's log with these losses."""
    run = place.folder / name
    run.mkdir()
    lines = [{"event": "train", "step": k + 1, "loss": loss} for k, loss in enumerate(values)]
    (run / "log.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return run


@pytest.mark.parametrize("values", [[0.5] * (UPDATES - 1), [0.5] * (UPDATES - 1) + [float("nan")]])
def test_a_run_of_too_few_updates_or_without_a_loss_does_not_hold(
    place: Place, values: list[float]
) -> None:
    with pytest.raises(RuntimeError, match="losses"):
        losses(log_of(place, "run", values))


def test_a_run_is_held_against_the_plain_one(place: Place) -> None:
    log_of(place, "plain", [0.5, 0.4, 0.3, 0.25])
    run = log_of(place, "run", [0.5, 0.4, 0.3, 0.26])
    assert near(place, run, 0.02).startswith("losses 0.5000 … 0.2600, off by 0.01")
    with pytest.raises(RuntimeError, match=r"at most 0\.001"):
        near(place, run, 0.001)


def test_on_a_cpu_what_needs_cuda_says_so_and_starts_nothing(place: Place) -> None:
    asked = {
        name: check
        for name, check in checks.CHECKS.items()
        if name.startswith(("float16", "FSDP2", "CUDA graphs", "no waiting"))
    }
    assert len(asked) == 6
    assert {f.state for f in check_all(place, asked)} == {"needs CUDA"}
    assert list(place.folder.iterdir()) == []


def test_overflow_is_met_as_by_torchs_grad_scaler(place: Place) -> None:
    assert "updates left out" in checks.overflow(place)


def test_waits_are_counted_a_step_and_not_what_is_done_once() -> None:
    from latentdiff.bench.device.inside import a_step

    assert a_step(lambda steps: 5 + 2 * steps) == 2
    assert a_step(lambda steps: 5) == 0
    assert checks.no_waits(0.0) == "0 waits a step"
    with pytest.raises(RuntimeError, match="2 waits a step"):
        checks.no_waits(2.0)


def test_an_accelerator_is_raced_in_bfloat16_too_and_a_cpu_without_what_compiles() -> None:
    from latentdiff.bench.device.races import drawers

    on_cpu, on_cuda = ([one.name for one in drawers(device)] for device in ("cpu", "cuda"))
    assert on_cpu == ["latentdiff", "diffusers"]
    assert on_cuda == [*on_cpu, "diffusers, tuned", "latentdiff, bfloat16"]
    assert all(dict(one.settings)["device"] == "cuda" for one in drawers("cuda"))


def test_a_check_that_is_not_there_and_a_device_that_is_not_there_are_named() -> None:
    with pytest.raises(UserError, match="no check begins with 'teapot'"):
        bench_device.main(["--device", "cpu", "--only", "teapot"])
    with pytest.raises(UserError, match="device cuda cannot be used"):
        bench_device._processes("cuda")


@pytest.mark.slow
def test_the_small_models_checks_hold_on_a_cpu(place: Place) -> None:
    place.prepare()
    asked = ("bfloat16", "gradient", "exact", "Muon", "memory")
    chosen = {n: c for n, c in checks.CHECKS.items() if n.startswith(asked)}
    found = check_all(place, chosen)
    assert [(f.name, f.state) for f in found] == [(name, "holds") for name in chosen], found
