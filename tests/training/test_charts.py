"""Curves as SVG: known points in known places."""

import math
import re
from xml.etree import ElementTree

import pytest

from latentdiff.html.charts import Curve, line_chart, smooth, thin, tick_texts


def chart(*curves: Curve, **keywords: object) -> ElementTree.Element:
    return ElementTree.fromstring(
        line_chart(curves, x_label="step", describes="a test", **keywords)  # type: ignore[arg-type]
    )


def paths(root: ElementTree.Element, name: str) -> list[str]:
    return [e.attrib["d"] for e in root.iter("path") if e.attrib.get("class") == name]


def points(path: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in re.findall(r"[ML](-?[\d.]+) (-?[\d.]+)", path)]


def test_points_keep_their_proportions() -> None:
    root = chart(Curve(x=[0, 10, 40], y=[1.0, 3.0, 2.0]))
    (first, second, third) = points(paths(root, "line-1")[0])
    assert second[0] - first[0] == pytest.approx((third[0] - first[0]) / 4, abs=0.1)
    # Up is smaller: 1 → 3 is twice as far as 2 → 3.
    assert first[1] - second[1] == pytest.approx(2 * (third[1] - second[1]), abs=0.2)


def test_a_value_that_is_not_finite_interrupts_the_line() -> None:
    root = chart(Curve(x=range(5), y=[1.0, 2.0, math.nan, 2.0, math.inf]))
    (path,) = paths(root, "line-1")
    assert path.count("M") == 2 and path.count("L") == 1


def test_an_error_bar_reaches_as_far_as_its_interval() -> None:
    root = chart(Curve(x=[0, 1], y=[0.0, -1.0], error=[0.0, 0.5]), zero=True)
    circles = [float(e.attrib["cy"]) for e in root.iter("circle")]
    (bar,) = paths(root, "line-1")
    bottom, top = map(float, re.fullmatch(r"M[\d.]+ ([\d.]+)V([\d.]+)", bar).groups())  # type: ignore[union-attr]
    unit = circles[1] - circles[0]
    assert (bottom - top, circles[1] - top) == pytest.approx((unit, unit / 2), abs=0.2)


def test_a_spike_leaves_through_the_top_and_flattens_nothing() -> None:
    calm = [1.0 + 0.1 * (k % 2) for k in range(100)]
    spiked = [*calm[:50], 1000.0, *calm[50:]]
    heights = []
    for values in (calm, spiked):
        (path,) = paths(chart(Curve(x=range(len(values)), y=values)), "line-1")
        found = [y for _, y in points(path)]
        assert min(found) >= 12.0
        heights.append(max(found) - sorted(found)[3])
    assert heights[1] > heights[0] / 2


@pytest.mark.parametrize("y", [[], [math.nan], [5.0], [2.0, 2.0], [0.0, 0.0], [-1e-9, 1e12]])
def test_any_values_give_a_drawing(y: list[float]) -> None:
    text = line_chart([Curve(x=range(len(y)), y=y)], x_label="step", describes="x")
    ElementTree.fromstring(text)
    assert "nan" not in text and "inf" not in text


def test_steps_are_marked_at_whole_numbers_only() -> None:
    root = chart(Curve(x=range(11), y=[0.0] * 11))
    below = [e.text for e in root.iter("text") if e.attrib["y"] == "181.0"]
    assert below == ["0", "5", "10"]


def test_a_single_point_is_a_dot() -> None:
    root = chart(Curve(x=[20], y=[3.0]))
    assert len(list(root.iter("circle"))) == 1 and not paths(root, "line-1")


def test_names_are_escaped() -> None:
    text = line_chart(
        [Curve(x=[0], y=[1], name="<b>"), Curve(x=[0], y=[2], name="&")],
        x_label="<i>",
        describes='"',
        marks=[(0, "<u>")],
    )
    assert not re.search("<[biu]>", text)
    ElementTree.fromstring(text)


def test_the_running_mean_is_unbiased_from_the_first_value() -> None:
    assert smooth([3.0] * 5, window=4) == pytest.approx([3.0] * 5)
    assert smooth([1.0, 3.0], window=2) == pytest.approx([1.0, (0.5 * 1 + 3) / 1.5])
    assert smooth([1.0, 2.0, 5.0], window=1) == [1.0, 2.0, 5.0]
    assert smooth([math.nan, 2.0, math.nan], window=3)[1:] == [2.0, 2.0]


def test_thinning_keeps_the_mean_and_names_a_run_with_a_hole() -> None:
    x, y = thin(range(1000), [float(k % 10) for k in range(1000)], limit=100)
    assert len(x) == len(y) == 100 and set(y) == {4.5} and x[0] == 4.5
    _, holed = thin(range(1000), [math.nan if k == 5 else 1.0 for k in range(1000)], limit=100)
    assert math.isnan(holed[0]) and holed[1:] == [1.0] * 99


@pytest.mark.parametrize(
    ("ticks", "texts"),
    [
        ([0.332, 0.3322, 0.3324], ["0.3320", "0.3322", "0.3324"]),
        ([0.0, 0.05, 0.1], ["0.00", "0.05", "0.10"]),
        ([0.0, 0.025, 0.05], ["0.000", "0.025", "0.050"]),
        ([0.0, 2000.0, 4000.0], ["0", "2,000", "4,000"]),
        ([0.0, 0.0005, 0.001], ["0.0000", "0.0005", "0.0010"]),
        ([0.0, 5e-7, 1e-6], ["0", "5e-7", "1e-6"]),
    ],
)
def test_ticks_have_the_digits_that_tell_them_apart(ticks: list[float], texts: list[str]) -> None:
    found = tick_texts(ticks)
    if max(ticks) < 1e-3:
        assert [float(text) for text in found] == ticks and len(set(found)) == len(found)
    else:
        assert found == texts
