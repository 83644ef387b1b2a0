"""The page of `data check` tells all findings, by names that cannot become markup."""

import re

import numpy as np
import pytest
from few_pictures import FewPictures, encoded, problem, reencoded, scene

from latentdiff.data.buckets import assign, make_buckets
from latentdiff.data.captions import lengths
from latentdiff.data.check.check_page import TOGETHER, check_page
from latentdiff.data.check.checking import check, thumbnails

EVIL = "<img src=x onerror=alert(1)>\u202e.png"


def words(source):
    return lengths(
        source,
        lambda texts: [len(text.split()) + 2 for text in texts],
        8,
        lost_words=lambda texts: {text: text.split()[6:] for text in texts},
    )


@pytest.fixture(scope="module")
def result():
    rows = [(f"{k:02d}.png", (f"picture number {k}",), encoded(scene(k))) for k in range(12)]
    rows += [
        (EVIL, ("<script>evil</script>",), encoded(scene(20, size=96).crop((0, 0, 96, 70)))),
        ("bad.png", ("x",), b"\x89PNG\r\n\x1a\n"),
        ("copy.bmp", ("y",), encoded(scene(0), "BMP")),
        ("near.jpg", ("one two three four five six lost words",), encoded(reencoded(scene(1)))),
    ]
    source = FewPictures(rows, [problem("metadata.jsonl:9 <b>", "path-out")], name="my <i>set</i>")
    validation = FewPictures([("held.png", ("z",), encoded(scene(2)))])
    return check(
        source,
        validation=validation,
        count_tokens=words,
        deal=lambda sizes: assign(sizes, make_buckets(64, multiple=32), multiple=32),
        workers=2,
    )


def made(result):
    return check_page(
        result,
        lambda source, rows: thumbnails(source, rows, workers=1),
        command="latentdiff data check 'my <i>set</i>'",
    )


def test_the_page_tells_every_finding(result):
    text = made(result)
    sections = re.findall(r"<h2>(.*?)</h2>", text)
    assert sections == [
        "Problems",
        "Leaks into validation",
        "Copies",
        "Near-duplicates",
        "Contact sheet",
        "Sizes",
        "Buckets",
        "Captions",
    ]
    for words_of in (
        "bad.png",
        "metadata.jsonl:9",
        "path-out",
        "held.png",
        "lost words",
        "limit: 8",
    ):
        assert words_of in text
    assert {words: f"{count:,}" for words, count in result.counts} == facts_of(text)
    assert facts_of(text) == {
        "entries": "17",
        "usable, each once": "12",
        "left out": "5",
        "noted": "0",
        "groups of copies": "1",
        "groups alike": "1",
        "validation pictures": "1",
        "leaks": "1",
        "captions too long": "1",
    }


def facts_of(text):
    """The page's counts, in its words."""
    return dict(re.findall(r"<dt>(.*?)</dt><dd>(?:<span[^>]*>)?([\d,]+)", text))


def test_names_and_captions_are_shown_not_run(result):
    text = made(result)
    assert "<script" not in text
    assert "<img src=x" not in text
    assert "<i>" not in text
    assert "&lt;script&gt;evil&lt;/script&gt;" in text
    assert "\u202e" not in text


def test_all_pictures_are_inside_the_page(result):
    text = made(result)
    sources = re.findall(r'<img src="([^"]*)"', text)
    assert len(sources) == 15 + 2 + 2 + 2  # the sheet, a leak, copies, near-duplicates
    assert all(source.startswith("data:image/jpeg;base64,/9j/") for source in sources)


def test_a_picture_that_went_since_leaves_a_note(result):
    text = check_page(result, lambda source, rows: {})
    assert "<img" not in text
    assert "cannot be shown" in text


def test_many_problems_are_folded_by_kind_with_all_their_names():
    listed = [problem(f"row-{k}", "missing") for k in range(TOGETHER + 5)]
    result = check(FewPictures([("a.png", ("a",), encoded(scene(0)))], listed), workers=1)
    text = made(result)
    assert "<details><summary><b>missing</b> · 35</summary>" in text
    assert all(f"row-{k}<" in text for k in range(TOGETHER + 5))


def test_pictures_of_one_size_need_no_histogram_of_it():
    rows = [(f"{k}.png", (f"{k}",), encoded(scene(k))) for k in range(3)]
    text = made(check(FewPictures(rows), workers=1))
    assert "Shorter side" not in text
    assert "1 different sizes" not in text
    assert "all 64×64" in text


def test_a_set_without_any_usable_picture_still_has_a_page():
    text = made(check(FewPictures([("a.png", ("a",), b"")]), workers=1))
    assert "the file is empty" in text


def test_histograms_hold_every_picture(result):
    text = made(result)
    chart = re.search(r"<figcaption>Shorter side</figcaption>(<svg.*?</svg>)", text).group(1)
    counted = [int(n) for n in re.findall(r"<title>[^<]*: (\d+)</title>", chart)]
    assert sum(counted) == int(np.count_nonzero(result.looked.ok))
