"""Which pairs are measured, and that training never meets them by seed."""

import pytest

from latentdiff.errors import UserError
from latentdiff.evaluation import protocol
from latentdiff.scenes.catalog import SETTINGS, base_subjects
from latentdiff.scenes.world import is_held_out_pair


def test_the_full_set_has_512_pairs_and_the_extras() -> None:
    chosen = protocol.items(512)
    by_group = {g: [i for i in chosen if i.group == g] for g in protocol.GROUPS}
    counts = {group: len(found) for group, found in by_group.items()}
    assert counts == {
        protocol.TRAINED: 384,
        protocol.HELD_OUT: 128,
        protocol.TWO: 64,
        protocol.PARAPHRASE: 20,
    }
    pairs = {(i.subjects, i.setting) for i in chosen if i.group in protocol.GROUPS[:2]}
    assert len(pairs) == 512


def test_groups_hold_what_their_names_say() -> None:
    for item in protocol.items(512):
        held_out = [is_held_out_pair(subject, item.setting) for subject in item.subjects]
        assert all(held_out) if item.group == protocol.HELD_OUT else not any(held_out)
        assert set(item.subjects) <= set(base_subjects()) and item.setting in SETTINGS
        assert len(set(item.subjects)) == (2 if item.group == protocol.TWO else 1)


def test_seeds_and_renders_are_one_apiece() -> None:
    chosen = protocol.items(64)
    assert (
        len({item.seed for item in chosen}) == len({item.index for item in chosen}) == len(chosen)
    )


def test_the_choice_is_always_the_same() -> None:
    assert protocol.items(16) == protocol.items(16)


def test_a_smaller_measurement_is_a_part_of_a_larger() -> None:
    small = {i.prompt for i in protocol.items(32, extras=False)}
    assert small < {i.prompt for i in protocol.items(128, extras=False)}


def test_canonical_prompts_name_their_subjects() -> None:
    chosen = [i for i in protocol.items(64) if i.group != protocol.PARAPHRASE]
    for item in chosen:
        assert all(subject.replace("-", " ") in item.prompt for subject in item.subjects)


def test_paraphrases_are_twenty_trained_pairs() -> None:
    assert len(protocol.PARAPHRASES) == len({text for text, _, _ in protocol.PARAPHRASES}) == 20


def test_a_model_is_asked_for_the_subjects_that_it_draws_alone() -> None:
    chosen = protocol.items(48, subjects=("cat", "owl", "fox"))
    assert {s for item in chosen for s in item.subjects} == {"cat", "owl", "fox"}
    paraphrased = {item.subjects[0] for item in chosen if item.group == protocol.PARAPHRASE}
    assert paraphrased == {"cat", "owl", "fox"}
    assert {s for i in protocol.blind_items(24, 0, ("owl",)) for s in i.subjects} == {"owl"}
    with pytest.raises(UserError, match="4 … 25 "):
        protocol.items(30, subjects=("owl",))


@pytest.mark.parametrize("count", [0, 3, 100_000])
def test_impossible_counts_are_refused(count: int) -> None:
    with pytest.raises(UserError, match=f"count is {count}"):
        protocol.items(count)


def test_another_salt_gives_another_blind_test() -> None:
    a, b = protocol.blind_items(24, 0), protocol.blind_items(24, 1)
    assert len({i.prompt for i in a}) == 24
    assert {i.prompt for i in a} != {i.prompt for i in b}
    assert not {i.seed for i in a} & {i.seed for i in b}


def test_named_subjects_are_shown_in_every_setting_before_any_comes_again():
    chosen = protocol.items_of(["dragon"], 64)
    assert {item.subjects for item in chosen} == {("dragon",)}
    first = [item.setting for item in chosen[: len(SETTINGS)]]
    assert sorted(first) == sorted(SETTINGS)
    assert len({item.seed for item in chosen}) == 64
    with pytest.raises(UserError, match="dargon"):
        protocol.items_of(["dargon"], 4)
