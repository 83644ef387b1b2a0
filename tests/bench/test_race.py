"""Races: turns alternate, memory is each entrant's own, who cannot run is named."""

import sys
from pathlib import Path

import pytest

from latentdiff.bench.race import Command, Entrant, race
from latentdiff.bench.report import Race, Report
from latentdiff.bench.spread import spread


@pytest.fixture(autouse=True)
def sleepers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))


def test_turns_alternate_and_every_other_round_runs_backwards(tmp_path: Path) -> None:
    place = str(tmp_path / "order")
    entrants = [
        Entrant(name=name, maker="sleepers:notes", settings={"place": place, "name": name})
        for name in "ab"
    ]
    race(entrants, repeats=2, warmups=1)
    assert Path(place).read_text().split() == ["b-1", "a-1", "a0", "b0", "b1", "a1"]


def test_warm_ups_do_not_count_and_facts_come_back() -> None:
    (found,) = race(
        [Entrant(name="a", maker="sleepers:counts", settings={"start": 10})], repeats=2, warmups=3
    )
    assert [turn.facts for turn in found.turns] == [
        {"number": 0, "seen": 14},
        {"number": 1, "seen": 15},
    ]


def test_peak_memory_is_each_entrants_own() -> None:
    large, small = race(
        [
            Entrant(name=str(mebi), maker="sleepers:holds", settings={"mebi": mebi})
            for mebi in (300, 1)
        ],
        repeats=1,
    )
    assert 250 * 2**20 < large.peak_bytes - small.peak_bytes < 350 * 2**20


def test_who_cannot_run_is_named_and_stops_nobody() -> None:
    found = race(
        [
            Entrant(name="lost", maker="sleepers:lacks_a_package"),
            Entrant(name="late", maker="sleepers:fails_later"),
            Entrant(name="fine", maker="sleepers:counts", settings={"start": 0}),
        ],
        repeats=1,
    )
    assert "No module named 'teapot'" in found[0].trouble
    assert "no picture in turn -1" in found[1].trouble
    assert len(found[2].turns) == 1 and not found[2].trouble
    said = Race(title="t", work="w", outcomes=found, base="lost").text()
    assert "lost did not run" in said and "late did not run" in said and "fine" in said


def test_a_command_is_run_anew_for_every_turn_in_a_fresh_folder() -> None:
    code = "import pathlib, sys; pathlib.Path(sys.argv[1], 'made').touch(exist_ok=False)"
    (found,) = race(
        [
            Command(
                name="cold",
                command=[sys.executable, "-c", code, "OUT"],
                facts=lambda folder: {"made": (folder / "made").exists()},
            )
        ],
        repeats=2,
        warmups=0,
    )
    assert [turn.facts for turn in found.turns] == [{"made": True}, {"made": True}]
    assert found.peak_bytes > 2**20


def test_a_report_tells_exact_rows_from_approximate_ones() -> None:
    entrants = [
        Entrant(name=name, maker="sleepers:counts", settings={"start": 0}, exact=exact)
        for name, exact in (("peer", True), ("rough", False))
    ]
    one = Race(title="t", work="w", outcomes=race(entrants, repeats=1, warmups=0), base="peer")
    assert [row[0] for row in one.rows(exact=True)] == ["peer"]
    assert [row[0] for row in one.rows(exact=False)] == ["rough"]
    report = Report(benchmark="b", races=[one], machine={"processor": "p"})
    assert report.to_json()["races"][0]["outcomes"][1]["exact"] is False
    assert "approximate" in report.text() and "approximate" in report.page()


def test_the_interval_of_a_median_is_known_from_order_statistics() -> None:
    # n = 6: P(outside the whole range) = 2 / 64 < 0.05; n = 9: the second values, 2 · 10 / 512.
    six, nine, three = (spread(list(map(float, range(n)))) for n in (6, 9, 3))
    assert (six.low, six.value, six.high) == (0.0, 2.5, 5.0)
    assert (nine.low, nine.value, nine.high) == (1.0, 4.0, 7.0)
    assert (three.low, three.high) == (0.0, 2.0)
