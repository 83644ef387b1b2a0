"""What measurements keep and show: parts that are found again, tables, plots, pages, provenance."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
import tiny
from PIL import Image

from latentdiff.errors import UserError
from latentdiff.measure.measured_model import MeasuredModel
from latentdiff.measure.results import plots, report
from latentdiff.measure.results.plots import Chart, Line
from latentdiff.measure.results.report import Report, Table
from latentdiff.measure.results.store import ResultStore, Share
from latentdiff.pipelines import TextToImagePipeline

KEY = {"kind": "test", "weights": {"unet": "ab"}, "rows": [1, 2]}


def test_a_part_is_found_by_all_that_it_depends_on_and_nothing_else(tmp_path: Path) -> None:
    store = ResultStore(tmp_path)
    assert store.get(KEY) is None and not store.has(KEY)
    store.put(KEY, {"x": np.arange(3), "text": np.array(["a", "ü"])})
    found = ResultStore(tmp_path).get(dict(reversed(KEY.items())))
    assert found is not None and list(found) == ["x", "text"]
    assert found["text"].tolist() == ["a", "ü"]
    assert store.get({**KEY, "rows": [1, 3]}) is None


def test_a_damaged_part_counts_as_missing(tmp_path: Path) -> None:
    store = ResultStore(tmp_path)
    store.put(KEY, {"x": np.arange(1000)})
    whole = store.path(KEY).read_bytes()
    for broken in (whole[: len(whole) // 2], b"", whole[:50] + b"\x00\x01" + whole[52:]):
        store.path(KEY).write_bytes(broken)
        found = store.get(KEY)
        assert found is None or found["x"].tolist() == list(range(1000))


def test_shares_are_disjoint_and_cover_all_work() -> None:
    shares = [Share.parse(f"{k}/3") for k in (1, 2, 3)]
    for number in range(10):
        assert sum(share.mine(number) for share in shares) == 1
    for wrong in ("0/2", "3/2", "2", "a/b", "1/0"):
        with pytest.raises(UserError, match="shard"):
            Share.parse(wrong)


def chart() -> Chart:
    line = Line(name="a", x=[10, 100], y=[2.0, 1.0], low=[1.5, 0.9], high=[2.5, 1.1])
    floor = Line(name="floor", x=[10, 100], y=[0.5, float("nan")], reference=True)
    return Chart(name="c", title="Title", x_label="x", y_label="y", lines=[line, floor], log_x=True)


def test_a_plot_is_a_picture_with_ink_on_it() -> None:
    drawn = Image.open(io.BytesIO(plots.png(chart())))
    assert drawn.width > 600 and len(drawn.convert("RGB").getcolors(1 << 20) or []) > 10


def test_a_report_is_a_page_without_links_numbers_and_markdown(tmp_path: Path) -> None:
    model = MeasuredModel(pipeline=TextToImagePipeline(tiny.tiny()), name="tiny & <b>")
    made = Report(
        title="Title",
        lead="what was measured on <tiny>",
        tables=[Table(title="Cells", header=["a", "b"], rows=[["1", "2.5 [2.0, 3.0]"]])],
        charts=[chart()],
        sheets={"pictures": Image.new("RGB", (8, 8), "red")},
        numbers={"found": 2.5},
    )
    facts = report.provenance("test", [model], {"count": 3})
    page, numbers, *_ = report.write(made, tmp_path, facts)
    told = json.loads(numbers.read_text("utf-8"))
    assert told["found"] == 2.5 and told["options"] == {"count": 3}
    assert told["models"][0]["dtype"] == "float32" and told["environment"]["processor"]
    text = page.read_text("utf-8")
    assert "<script" not in text and 'src="http' not in text
    assert (
        text.count("data:image/png") == 2 and "&lt;tiny&gt;" in text and "&amp; &lt;b&gt;" in text
    )
    markdown = (tmp_path / report.TABLES).read_text("utf-8")
    assert "| a | b |\n| :-- | --: |\n| 1 | 2.5 [2.0, 3.0] |" in markdown
    assert "2.5 [2.0, 3.0]" in made.text()


def test_without_matplotlib_the_rest_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plots, "there", lambda: False)
    made = Report(title="t", lead="l", tables=[], charts=[chart()])
    written = report.write(made, tmp_path, report.provenance("test", [], {}))
    assert all(path.suffix != ".png" for path in written) and written[0].is_file()
