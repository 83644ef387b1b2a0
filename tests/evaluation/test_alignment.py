"""Counting verdicts, against verdicts made by hand."""

import numpy as np
import pytest

from latentdiff.evaluation import alignment, protocol
from latentdiff.evaluation.judge_network import Verdicts
from latentdiff.scenes.catalog import SETTINGS, SUBJECTS

KEYS, PLACES = tuple(SUBJECTS), tuple(SETTINGS)


def verdicts(items: tuple[protocol.Item, ...], wrong_subject: set[int], wrong_setting: set[int]):
    """A judge that is right except where told."""
    subject = np.zeros((len(items), len(KEYS)), np.float32)
    setting = np.zeros((len(items), len(PLACES)), np.float32)
    for n, item in enumerate(items):
        for rank, key in enumerate(item.subjects):
            subject[n, KEYS.index(key)] = 0.5 - 0.1 * rank
        setting[n, PLACES.index(item.setting)] = 1.0
        if n in wrong_subject:
            # One subject too many, ahead of the last one asked for.
            spare = next(k for k in range(len(KEYS)) if KEYS[k] not in item.subjects)
            subject[n, spare] = 0.45 if len(item.subjects) == 2 else 0.9
        if n in wrong_setting:
            setting[n] = np.roll(setting[n], 1)
    return Verdicts(
        subjects=KEYS,
        settings=PLACES,
        subject=subject,
        setting=setting,
        across=np.full_like(subject, 0.5),
    )


@pytest.fixture(scope="module")
def items() -> tuple[protocol.Item, ...]:
    return protocol.items(16)


def test_a_perfect_judge_counts_everything(items: tuple[protocol.Item, ...]) -> None:
    scores = alignment.summarise(items, alignment.outcomes(items, verdicts(items, set(), set())))
    assert all(score.both.value == 1.0 for score in scores.values())
    assert scores[alignment.ALL_PAIRS].both.count == 16
    assert scores[protocol.HELD_OUT].both.count == 4
    assert scores[protocol.TWO].both.count == 2


def test_mistakes_are_counted_in_their_group(items: tuple[protocol.Item, ...]) -> None:
    two = alignment.members(items, protocol.TWO)[0]
    held_out = alignment.members(items, protocol.HELD_OUT)[0]
    found = alignment.outcomes(items, verdicts(items, {0, two}, {0, 1, held_out}))
    scores = alignment.summarise(items, found)
    assert scores[protocol.TRAINED].subject.successes == 11
    assert scores[protocol.TRAINED].setting.successes == 10
    assert scores[protocol.TRAINED].both.successes == 10
    assert scores[protocol.HELD_OUT].setting.successes == 3
    assert scores[protocol.TWO].subject.successes == 1
    assert scores[alignment.ALL_PAIRS].both.successes == 13
    assert scores[protocol.PARAPHRASE].both.value == 1.0


def test_ratios_are_shares_of_the_ceiling(items: tuple[protocol.Item, ...]) -> None:
    own = alignment.summarise(items, alignment.outcomes(items, verdicts(items, {0, 1, 2}, set())))
    ceiling = alignment.summarise(items, alignment.outcomes(items, verdicts(items, {0}, set())))
    share = alignment.ratios(own, ceiling)[protocol.TRAINED]
    assert share["subject"] == pytest.approx(9 / 11)
    assert share["setting"] == 1.0


def test_clip_scores_are_means_of_their_group(items: tuple[protocol.Item, ...]) -> None:
    found = alignment.outcomes(items, verdicts(items, set(), set()))
    scores = alignment.summarise(items, found, np.arange(len(items), dtype=np.float32))
    assert scores[protocol.TRAINED].clip_score == pytest.approx(np.arange(12).mean())
    assert scores[alignment.ALL_PAIRS].clip_score == pytest.approx(np.arange(16).mean())


def test_the_table_shows_every_group_and_column(items: tuple[protocol.Item, ...]) -> None:
    score = alignment.summarise(items, alignment.outcomes(items, verdicts(items, {0}, set())))
    text = alignment.print_table({alignment.GENERATED: score, alignment.CEILING: score})
    lines = text.splitlines()
    assert len(lines) == 2 + 2 * 5
    assert all(any(line.startswith(group) for line in lines) for group in protocol.GROUPS)
    assert "100 / 100 / 100" in text and "91.7 [64.6, 98.5]" in text


def test_a_missing_picture_is_noticed(items: tuple[protocol.Item, ...]) -> None:
    with pytest.raises(ValueError, match="verdicts for"):
        alignment.outcomes(items, verdicts(items[:-1], set(), set()))


@pytest.mark.parametrize("first_place", [0.2, 0.8])
def test_a_side_is_judged_only_where_it_was_asked_for_and_both_are_there(
    first_place: float,
) -> None:
    items = [i for i in protocol.items(512) if i.group == protocol.TWO]
    sided = [n for n, i in enumerate(items) if i.relation in alignment.RELATIONS]
    assert {items[n].relation for n in sided} == {"left of", "right of"}
    found = verdicts(items, {sided[0]}, set())
    for n, item in enumerate(items):
        first, second = (KEYS.index(key) for key in item.subjects)
        found.across[n, first], found.across[n, second] = first_place, 1 - first_place
    for n, outcome in enumerate(alignment.outcomes(items, found)):
        if n not in sided or n == sided[0]:
            assert outcome.relation is None
        else:
            assert outcome.relation == ((items[n].relation == "left of") == (first_place < 0.5))
    score = alignment.summarise(items, alignment.outcomes(items, found))[protocol.TWO]
    assert score.relation is not None
    assert score.relation.count == len(sided) - 1
