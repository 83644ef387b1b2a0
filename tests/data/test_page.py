"""Pages fetch nothing and run nothing, and text from a data set never becomes markup."""

import re
from html.parser import HTMLParser

import pytest

from latentdiff.html import page

EVIL = '<script>alert("1")</script>\'" onload=x \x00 \u202e \udcff'


class Tags(HTMLParser):
    """Checks that tags close in order; collects names, attributes and text."""

    def __init__(self, text):
        super().__init__()
        self.names, self.attributes, self.open, self.text = [], [], [], ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.names.append(tag)
        self.attributes += attrs
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def whole():
    chart = page.histogram([1, 0, 5], [0, 1, 2, 3], x_label=EVIL, mark=(1.5, EVIL))
    return page.page(
        EVIL,
        page.section(EVIL, page.table((EVIL, "n"), [(EVIL, 3)], numeric=(1,)), note=EVIL),
        page.facts([(EVIL, EVIL)]),
        page.pictures([(page.image(b"x", "image/png", alt=EVIL), EVIL)]),
        page.charts([(EVIL, chart)]),
        page.details(EVIL, EVIL, opened=True),
        lead=EVIL,
        footer=EVIL,
    )


def test_no_text_becomes_markup_anywhere():
    found = Tags(whole())
    assert "script" not in found.names
    assert not [name for name, _ in found.attributes if name.startswith("on")]
    assert found.text.count('<script>alert("1")</script>') >= 10


def test_controls_direction_marks_and_lone_surrogates_are_written_out():
    text = page.printable("a\x00b\u202ec\udcffd")
    assert text == "a\\x00b\\u202ec\\udcffd"
    whole().encode("utf-8")
    assert page.printable("قطة 🐱 👩‍🚀 é\n") == "قطة 🐱 👩‍🚀 é\n"


def test_a_page_asks_nothing_of_the_network():
    text = whole()
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text).group(1)
    assert policy.startswith("default-src &#x27;none&#x27;")
    assert not re.search(r'(src|href|url)\s*[=(]\s*["\']?(?!data:)[a-z]+:', text)
    assert not {"link", "iframe", "object"} & set(Tags(text).names)


def test_ready_markup_passes_and_plain_text_is_escaped():
    made = page.element("p", "a < b", page.element("b", "c"), class_="x", data_kind='"')
    assert made == '<p class="x" data-kind="&quot;">a &lt; b<b>c</b></p>'
    assert page.join(["<", page.Html("<br>")], " & ") == "&lt; &amp; <br>"


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0, 7, [0, 2, 4, 6]),
        (0.1, 0.13, [0.1, 0.11, 0.12, 0.13]),
        (-3, 3, [-2, 0, 2]),
        (5, 5, [5]),
        (0, 1e6, [0, 250000, 500000, 750000, 1000000]),
    ],
)
def test_ticks_are_round_and_inside(low, high, ticks):
    assert page.nice_ticks(low, high) == pytest.approx(ticks)


def test_a_bar_is_as_tall_as_its_count_and_says_it():
    drawn = page.histogram([2, 0, 4], [0, 1, 2, 3], x_label="n", height=170)
    bars = re.findall(r'<rect[^>]*y="([\d.]+)"[^>]*height="([\d.]+)"', drawn)
    heights = [float(height) for _, height in bars]
    assert len(heights) == 2  # a count of 0 has no bar
    assert heights[1] == pytest.approx(2 * heights[0], abs=0.02)
    assert len({round(float(y) + float(h), 1) for y, h in bars}) == 1
    assert "2 to 3: 4" in drawn
