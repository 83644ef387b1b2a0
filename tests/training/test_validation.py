"""Paired validation: what it calls a difference, and what it calls best."""

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from latentdiff import seeding
from latentdiff.errors import UserError
from latentdiff.training.paired_losses import Group, PairedLosses, spread_timesteps
from latentdiff.training.record.validation import ValidationLog, compare, read_record, read_summary

PICTURES, PER_PICTURE = 24, 4


def pairs(
    shift: float | NDArray[np.float64] = 0.0, *, noise: str = "", T: int = 1000
) -> PairedLosses:
    """24 held-out and 24 train pictures at 4 timesteps; losses differ widely between pairs."""
    n = 2 * PICTURES * PER_PICTURE
    losses = 1.0 + seeding.generator(0, "hard and easy pairs").random(n)
    if noise:
        losses = losses + 0.01 * seeding.generator(0, noise).standard_normal(n)
    held_out: tuple[Group, ...] = ("held-out",) * (n // 2)
    train: tuple[Group, ...] = ("train",) * (n // 2)
    return PairedLosses(
        ids=tuple(f"{k // PER_PICTURE}.png" for k in range(n)),
        t=spread_timesteps(2 * PICTURES, PER_PICTURE, T).reshape(-1),
        losses=losses + shift,
        group=held_out + train,
        num_train_timesteps=T,
    )


def test_a_small_shift_is_seen_though_the_losses_vary_far_more() -> None:
    first, now = pairs(), pairs(-0.005, noise="a")
    overall = compare(first, now)[0]
    assert overall.group == "held-out" and overall.bin_name == "all"
    assert overall.n == PICTURES * PER_PICTURE and overall.pictures == PICTURES
    assert overall.significant
    assert overall.difference == pytest.approx(-0.005, abs=3 * overall.standard_error)
    # Unpaired, the standard error alone would be twenty times the shift's.
    assert first.losses.std() / math.sqrt(overall.n) > 5 * abs(overall.difference)


def test_noise_alone_is_seldom_significant() -> None:
    found = [compare(pairs(), pairs(noise=f"null {k}"))[0].significant for k in range(200)]
    # 5 % of 200 is 10; the standard deviation is 3.
    assert 1 <= sum(found) <= 20


def test_each_group_and_bin_is_compared_for_itself() -> None:
    first = pairs()
    # Better at low t on the train pictures only.
    shift = np.where((first.t < 250) & (np.asarray(first.group) == "train"), -0.5, 0.0)
    rows = {(d.group, d.bin_name): d for d in compare(first, pairs(shift, noise="b"))}
    assert [name for group, name in rows if group == "train"] == [
        "all", "t 0–249", "t 250–499", "t 500–749", "t 750–999",
    ]  # fmt: skip
    assert rows["train", "t 0–249"].difference == pytest.approx(-0.5, abs=0.01)
    assert rows["train", "all"].significant
    assert abs(rows["held-out", "t 0–249"].difference) < 0.02
    assert not rows["train", "t 750–999"].significant
    for group in ("train", "held-out"):
        assert sum(d.n for (g, name), d in rows.items() if g == group and name != "all") == 96


def test_other_pairs_are_not_compared() -> None:
    other = pairs(T=500)
    with pytest.raises(ValueError, match="different pairs"):
        compare(pairs(), other)


def test_timesteps_cover_every_bin_equally_with_any_count() -> None:
    for pictures, per_picture in ((40, 4), (7, 8), (16, 1)):
        t = spread_timesteps(pictures, per_picture, 1000)
        assert t.shape == (pictures, per_picture) and t.min() >= 0 and t.max() < 1000
        counts = np.histogram(t, bins=4, range=(0, 1000))[0]
        assert counts.max() - counts.min() <= 1 + pictures * per_picture // 16
        # Each picture has one timestep in each of its ranges.
        assert (np.sort(t // math.ceil(1000 / per_picture), axis=1) == range(per_picture)).all()


def test_best_needs_a_significant_gain_over_the_best_so_far(tmp_path: Path) -> None:
    log = ValidationLog(tmp_path / "validation")
    first = log.record(0, pairs())
    assert not first.best and log.best_step == 0
    assert not log.record(10, pairs(-0.0001, noise="c")).best
    assert log.record(20, pairs(-0.1, noise="d")).best
    # Far below the first, but no better than step 20.
    assert not log.record(30, pairs(-0.1001, noise="e")).best
    worse = log.record(40, pairs(-0.05, noise="f"))
    assert worse.worse and not worse.best and "worse than at step 20" in worse.line
    assert log.best_step == 20


def test_a_gain_on_the_train_pictures_alone_is_never_best(tmp_path: Path) -> None:
    log = ValidationLog(tmp_path)
    log.record(0, pairs())
    shift = np.where(np.asarray(pairs().group) == "train", -0.5, 0.0)
    assert not log.record(10, pairs(shift, noise="g")).best


def test_a_resumed_run_goes_on_where_it_was(tmp_path: Path) -> None:
    through, stopped = ValidationLog(tmp_path / "a"), ValidationLog(tmp_path / "b")
    series = {0: pairs(), 10: pairs(-0.1, noise="h"), 20: pairs(-0.2, noise="i")}
    for step, losses in series.items():
        through.record(step, losses)
    stopped.record(0, series[0])
    stopped.record(10, series[10])
    # This future is undone by the resume at step 10.
    stopped.record(20, pairs(-0.9))
    stopped.record(30, pairs(-0.9))
    again = ValidationLog(tmp_path / "b")
    assert again.best_step == 20
    assert again.record(20, series[20]).best
    assert again.steps == through.steps == (0, 10, 20)
    assert not (tmp_path / "b" / "step-00000030.json").exists()
    for step in series:
        name = f"step-{step:08d}.json"
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_records_are_exact_and_survive_a_broken_network(tmp_path: Path) -> None:
    broken = pairs(np.where(np.arange(192) == 5, np.nan, 0.1))
    said = ValidationLog(tmp_path).record(0, broken)
    assert not said.best and math.isnan(said.scalars["held-out/loss"])
    stored = read_record(tmp_path / "step-00000000.json")
    assert np.array_equal(stored.losses, broken.losses, equal_nan=True)
    assert stored.same_pairs(broken)
    assert not ValidationLog(tmp_path).record(10, pairs()).best


def test_scalars_and_line_say_what_the_differences_say(tmp_path: Path) -> None:
    log = ValidationLog(tmp_path)
    log.record(0, pairs())
    said = log.record(10, pairs(-0.25, noise="j"))
    assert said.scalars["held-out/difference"] == pytest.approx(-0.25, abs=0.01)
    assert said.scalars["train/t500-749/standard_error"] > 0
    assert all(re.fullmatch(r"[\w/-]+", name) for name in said.scalars)
    assert said.line.startswith("step 10: held-out loss 1.") and "since step 0" in said.line
    assert said.line.endswith("best so far")
    stored = read_summary(tmp_path / "step-00000010.json")
    assert (stored.step, stored.since, stored.best, stored.worse) == (10, 0, True, False)
    assert stored.differences == said.differences


def test_a_small_change_is_written_with_the_digits_that_mean_something(tmp_path: Path) -> None:
    log = ValidationLog(tmp_path)
    log.record(0, pairs())
    line = log.record(10, pairs(-2.5e-6)).line
    assert re.search(r"\(-0\.00000250* ± 0\.0+ since step 0", line)


def test_changed_pairs_begin_a_new_comparison(tmp_path: Path) -> None:
    log = ValidationLog(tmp_path)
    log.record(0, pairs(5.0))
    said = log.record(10, pairs(T=500))
    assert "have changed" in said.line and not said.best
    assert log.record(20, pairs(-0.1, noise="k", T=500)).best
    assert ValidationLog(tmp_path).best_step == 20


def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    ValidationLog(tmp_path).record(0, pairs())
    file = tmp_path / "step-00000000.json"
    value = json.loads(file.read_text())
    for text in (file.read_text()[:100], "[]", json.dumps({**value, "losses": [1.0]})):
        file.write_text(text)
        with pytest.raises(UserError, match=r"step-00000000\.json is not a validation record"):
            ValidationLog(tmp_path)
