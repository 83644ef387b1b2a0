"""What `bench generate` says of pictures: by how much they differ, and the floor below all."""

import typing
from pathlib import Path

import numpy as np
import pytest

from latentdiff.bench.drawing import generation
from latentdiff.bench.drawing.drawers import Work, keep
from latentdiff.bench.drawing.floor import Floor
from latentdiff.bench.drawing.work import work_of
from latentdiff.bench.race import Outcome
from latentdiff.bench.report import Race
from latentdiff.bench.runners import Turn
from latentdiff.cli.bench import bench_generate
from latentdiff.errors import UserError


def work(folder: Path) -> Work:
    return Work(
        model="m", prompt="p", steps=2, guidance_scale=4.0, batch=1, height=8, width=8,
        folder=str(folder),
    )  # fmt: skip


def outcome(name: str, cpu: float) -> Outcome:
    return Outcome(name=name, exact=True, turns=[Turn(seconds=cpu, cpu_seconds=cpu)])


def test_pictures_are_compared_with_the_references(tmp_path: Path) -> None:
    black = np.zeros((1, 8, 8, 3), np.uint8)
    other = black.copy()
    other[0, 0, 0, 0] = 5
    keep(work(tmp_path), "diffusers", list(black))
    keep(work(tmp_path), "a, b", list(other))
    outcomes = [outcome(name, 1.0) for name in ("a, b", "diffusers", "lost")]
    levels, psnr = generation.compare(work(tmp_path), outcomes)
    assert levels == {"a, b": "5", "diffusers": "0"}
    # One value of 192 is off by 5: 10 log10(255^2 / (25 / 192)).
    assert psnr == {"a, b": "57.0", "diffusers": "∞"}


def test_the_floor_is_each_kind_of_product_at_its_own_rate() -> None:
    floor = Floor(conv_flops=6e9, other_flops=1e9, conv_rate=3e9, other_rate=0.5e9)
    assert floor.seconds == pytest.approx(4.0)
    assert "7.0 GFLOP" in floor.line() and "4 CPU-seconds" in floor.line()


def test_a_throughput_plot_shows_the_cost_of_one_picture() -> None:
    races = [
        (64, batch, Race(title="", work="", base="a", outcomes=[outcome("a", cpu)]))
        for batch, cpu in ((1, 2.0), (4, 4.0))
    ]
    (plot,) = generation.throughput(races)
    assert plot.curves[0].x == [1.0, 4.0] and plot.curves[0].y == [2.0, 1.0]


def test_the_work_is_the_models_own_where_nothing_is_named() -> None:
    found = work_of("snowglobe", "a cat", None, None, 2)
    assert (found.steps, found.batch, found.width) == (25, 2, found.height)
    assert Path(found.model).is_dir()
    with pytest.raises(UserError, match="at least 1"):
        work_of("snowglobe", "a cat", None, None, 0)


def test_the_command_line_offers_every_peer_backend_and_approximate_method() -> None:
    hints = typing.get_type_hints(bench_generate.Options)
    for option, drawers in (
        ("peers", generation.PEERS),
        ("backends", generation.BACKENDS),
        ("rough", generation.ROUGH),
    ):
        (names, _) = typing.get_args(hints[option])
        assert set(typing.get_args(names)) == set(drawers), option
