"""The words of a visit are addressed, dropped as often as asked, and never lost unsaid."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from latentdiff.data import captions
from latentdiff.data.captions import CaptionConfig, CaptionPolicy, lengths, static
from latentdiff.data.records import Problem, Source
from latentdiff.errors import UserError

THREE = ("a cat", "a black cat", "the neighbour's cat")
TAGS = "cat, black , sleeping,, on a chair"


def policy(seed: int = 1, **settings: Any) -> CaptionPolicy:
    return CaptionPolicy(CaptionConfig(**settings), seed)


class Rows:
    """A source of captions alone."""

    name = summary = "rows"
    problems: Sequence[Problem] = ()

    def __init__(self, rows: Sequence[tuple[str, ...]]) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def id(self, row: int) -> str:
        return f"{row}.jpg"

    def captions(self, row: int) -> tuple[str, ...]:
        return self.rows[row]

    def read(self, row: int) -> bytes:
        raise AssertionError("no picture is needed to count words")

    def stamp(self, row: int) -> str:
        return ""


def count_words(texts: Sequence[str]) -> list[int]:
    """A token a word, and the two marks."""
    return [len(text.split()) + 2 for text in texts]


def lost_words(texts: Sequence[str]) -> dict[str, tuple[str, ...]]:
    return {text: tuple(text.split()[4:]) for text in texts}


def test_a_tenth_is_dropped_by_default_and_the_rest_is_chosen_evenly() -> None:
    seen = Counter(policy().pick(THREE, p) for p in range(6000))
    assert set(seen) == {"", *THREE}
    assert abs(seen[""] / 6000 - 0.1) < 0.012
    for caption in THREE:
        assert abs(seen[caption] / 6000 - 0.3) < 0.02


def test_a_pick_depends_on_seed_and_position_alone() -> None:
    through = [policy().pick(THREE, p) for p in range(200)]
    same = policy()
    assert [same.pick(THREE, p) for p in reversed(range(200))] == through[::-1]
    assert [policy(seed=2).pick(THREE, p) for p in range(200)] != through


def test_dropout_leaves_the_other_choices_alone() -> None:
    settings: dict[str, Any] = {"shuffle_tags": True, "keep_tags": 0}
    without = [policy(caption_dropout=0.0, **settings).pick((TAGS, *THREE), p) for p in range(300)]
    half = [policy(caption_dropout=0.5, **settings).pick((TAGS, *THREE), p) for p in range(300)]
    assert 90 < half.count("") < 210
    assert all(h in ("", w) for h, w in zip(half, without, strict=True))
    assert not any(policy(caption_dropout=1.0).pick(THREE, p) for p in range(50))


def test_the_first_caption_alone_can_be_asked_for() -> None:
    first = policy(caption_choice="first", caption_dropout=0.0)
    assert {first.pick(THREE, p) for p in range(50)} == {THREE[0]}


def test_shuffled_tags_keep_the_first_and_lose_none() -> None:
    shuffling = policy(shuffle_tags=True, keep_tags=1, caption_dropout=0.0)
    seen = Counter(shuffling.pick((TAGS,), p) for p in range(6000))
    assert len(seen) == 6  # 3! orders of the other three
    for caption, count in seen.items():
        tags = caption.split(", ")
        assert tags[0] == "cat"
        assert sorted(tags[1:]) == ["black", "on a chair", "sleeping"]
        assert abs(count / 6000 - 1 / 6) < 0.02
    assert policy(shuffle_tags=True, keep_tags=9, caption_dropout=0).pick((TAGS,), 0) == (
        "cat, black, sleeping, on a chair"
    )


def test_another_separator_keeps_commas_together() -> None:
    shuffling = policy(shuffle_tags=True, keep_tags=0, tag_separator="|", caption_dropout=0.0)
    seen = {shuffling.pick(("a, b|c",), p) for p in range(40)}
    assert seen == {"a, b| c", "c| a, b"}


def test_without_shuffling_a_caption_stays_as_it_is_written() -> None:
    assert policy(caption_dropout=0.0).pick((TAGS,), 3) == TAGS


def test_trigger_words_come_once_and_are_dropped_with_the_caption() -> None:
    named = policy(trigger_words="sks", caption_dropout=0.5)
    seen = {named.pick(("a cat", "sks, a dog"), p) for p in range(99)}
    assert seen == {"", "sks, a cat", "sks, a dog"}
    assert {named.pick((), p) for p in range(99)} == {"", "sks"}
    assert named.text("a photo of sks") == "a photo of sks"
    assert named.text("the sksual") == "sks, the sksual"
    shuffled = policy(trigger_words="sks", shuffle_tags=True, keep_tags=0, caption_dropout=0.0)
    assert all(shuffled.pick((TAGS,), p).startswith("sks, ") for p in range(40))


def test_a_picture_without_caption_is_seen_without_one() -> None:
    assert {policy().pick(none, p) for p in range(30) for none in ((), ("",))} == {""}


@pytest.mark.parametrize("choice", ["first", "random"])
@pytest.mark.parametrize("several", [THREE, (TAGS,), (), ("",), ("a", "a")])
@pytest.mark.parametrize("trigger", ["", "sks"])
def test_texts_are_all_that_a_visit_can_see(
    choice: str, several: tuple[str, ...], trigger: str
) -> None:
    picking = policy(caption_choice=choice, trigger_words=trigger)
    seen = {picking.pick(several, p) for p in range(200)} - {""}
    texts = picking.texts(several)
    assert set(texts) == seen
    assert len(texts) == len(seen)


def test_only_shuffled_tags_keep_embeddings_out_of_a_cache() -> None:
    assert static(CaptionConfig(caption_dropout=0.5, trigger_words="sks"))
    assert not static(CaptionConfig(shuffle_tags=True))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"caption_dropout": 1.5}, "1.5, expected 0 … 1"),
        ({"keep_tags": -1}, "-1, expected 0 or more"),
        ({"tag_separator": " "}, "between them"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        policy(**settings)


ROWS = Rows([("one",), ("one two three four", "a b c d e f"), (), ("",), ("x " * 20,)])


def test_lengths_count_every_caption_and_name_those_that_do_not_fit() -> None:
    report = lengths(ROWS, count_words, 6, lost_words=lost_words)
    assert isinstance(ROWS, Source)
    assert {k: int(n) for k, n in enumerate(report.histogram) if n} == {3: 1, 6: 1, 8: 1, 22: 1}
    assert (report.longest, report.over) == (22, 2)
    assert [(long.id, long.tokens, long.lost) for long in report.long] == [
        ("1.jpg", 8, ("e", "f")),
        ("4.jpg", 22, ("x",) * 16),
    ]
    assert report.without.tolist() == [2, 3]
    with pytest.raises(UserError, match=r"2 captions are over .* 6 tokens .*1\.jpg.*: e f\)"):
        report.refuse_long()


def test_lengths_look_at_what_is_seen() -> None:
    first = lengths(ROWS, count_words, 6, config=CaptionConfig(caption_choice="first"))
    assert [long.row for long in first.long] == [4]
    longer = lengths(ROWS, count_words, 6, config=CaptionConfig(trigger_words="sks"))
    assert [long.tokens for long in longer.long] == [7, 9, 23]
    assert longer.histogram[3] == 2  # the two without caption see the trigger word


def test_captions_that_fit_are_not_refused() -> None:
    report = lengths(ROWS, count_words, 22)
    report.refuse_long()
    assert (report.over, report.long) == (0, ())


def test_the_text_shows_a_bar_a_range_and_what_is_beyond() -> None:
    rows = Rows([("w " * n,) for n in (1, 1, 1, 6, 8, 30)] + [()])
    assert lengths(rows, count_words, 10, lost_words=lost_words).text().splitlines() == [
        " tokens  captions",
        "      3         3  " + "█" * 30,
        "      4         0",
        "      5         0",
        "      6         0",
        "      7         0",
        "      8         1  " + "█" * 10,
        "      9         0",
        "     10         1  " + "█" * 10,
        "over 10         1  " + "█" * 10,
        "5.jpg: 32 tokens, beyond the limit: " + ("w " * 26).strip(),
        "1 picture has no caption",
    ]


@pytest.mark.parametrize("limit", [5, 24, 77, 256])
def test_every_caption_stands_in_one_bar(limit: int) -> None:
    rows = Rows([("w " * n,) for n in range(300)])
    lines = lengths(rows, count_words, limit).text().splitlines()
    bars = lines[1 : next(k for k, line in enumerate(lines) if "over" in line) + 1]
    counts = [int(line.split("█")[0].split()[-1].replace(",", "")) for line in bars]
    assert bars[0].split()[0] == {5: "3", 24: "1-3", 77: "0-5", 256: "0-22"}[limit]
    assert sum(counts) == 299  # the empty caption is none
    assert counts[-1] == 300 + 2 - 1 - limit


def test_many_long_captions_are_counted_whole_and_named_in_part(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(captions, "LISTED", 5)
    monkeypatch.setattr(captions, "_TOGETHER", 7)
    calls = []

    def counted(texts: Sequence[str]) -> list[int]:
        calls.append(len(texts))
        return count_words(texts)

    rows = Rows([("the same nine words for every picture that is here",)] * 40)
    report = lengths(rows, counted, 6)
    assert (report.over, len(report.long)) == (40, 5)
    assert report.histogram[12] == report.histogram.sum() == 40
    assert calls == [1] * 6
    assert report.lines()[-1] == "… and 35 more over 6 tokens"
    assert np.array_equal(report.without, [])
