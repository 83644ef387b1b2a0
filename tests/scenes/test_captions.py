"""Captions are true, short and within the vocabulary; prompts are canonical."""

import numpy as np
import pytest

from latentdiff.errors import UserError
from latentdiff.scenes import captions
from latentdiff.scenes.catalog import RELATIONS, SETTINGS, SUBJECTS, core_subjects
from latentdiff.scenes.records import Placement, SceneRecord
from latentdiff.scenes.world import World

LONG = sorted(SUBJECTS, key=lambda k: -max(len(n.split()) for n in SUBJECTS[k].nouns))


def record_of(subjects, setting, relation=None):
    placements = tuple(Placement(s, (0, 0, 1, 1), False) for s in subjects)
    return SceneRecord(0, 0, setting, placements, relation)


def many_records():
    draw = np.random.default_rng(0)
    keys, settings = list(SUBJECTS), list(SETTINGS)
    for key in keys:
        yield record_of([key], str(draw.choice(settings)))
    for key in keys:
        other = str(draw.choice([k for k in keys if k != key]))
        yield record_of([key, other], str(draw.choice(settings)), str(draw.choice(RELATIONS)))
    for setting in settings:
        yield record_of(LONG[:1], setting)
        for relation in RELATIONS:
            yield record_of(LONG[:2], setting, relation)


def named_in(text, keys):
    """Keys in the order in which their nouns first appear, longest nouns first."""
    found = []
    for key in keys:
        places = [text.find(noun) for noun in SUBJECTS[key].nouns if noun in text]
        assert places, (text, key)
        found.append((min(places), key))
    return [key for _, key in sorted(found)]


def test_every_caption_is_short_and_every_word_is_in_the_vocabulary():
    known = set(captions.vocabulary())
    draw = np.random.default_rng(1)
    for record in many_records():
        for _ in range(12):
            text = captions.caption(record, draw)
            assert len(text.split()) <= 20, text
            assert set(captions.words(text)) <= known, text
            assert "{" not in text and "  " not in text


def test_vocabulary_holds_held_out_names_and_fits_a_small_tokenizer():
    known = set(captions.vocabulary())
    for subject in SUBJECTS.values():
        for noun in subject.nouns:
            assert set(noun.split()) <= known
    assert len(known) < 500
    assert list(captions.vocabulary()) == sorted(known)


def test_the_vocabulary_of_some_subjects_lacks_the_others_nouns():
    known = captions.vocabulary(("cat", "red-car"))
    assert {"kitty", "automobile", "snow", "left"} <= set(known)
    assert not {"owl", "dragon"} & set(known)


def test_captions_name_their_subjects_and_tell_sides_truly():
    draw = np.random.default_rng(2)
    for relation in ("left of", "right of"):
        record = record_of(["fox", "owl"], "forest", relation)
        left, right = ("fox", "owl") if relation == "left of" else ("owl", "fox")
        for _ in range(200):
            text = captions.caption(record, draw)
            first, second = named_in(text, ["fox", "owl"])
            if "left of" in text:
                assert (first, second) == (left, right), text
            else:
                assert "right of" in text and (first, second) == (right, left), text


def test_where_no_side_is_said_the_one_on_the_left_is_named_first():
    draw, world = np.random.default_rng(3), World(3, subjects=core_subjects(), pair_rate=1.0)
    for record in filter(lambda r: r.relation in ("and", "next to"), map(world.record, range(200))):
        left, right = sorted(record.placements, key=lambda p: p.center[0])
        for text in (captions.caption(record, draw), captions.prompt_of(record)):
            assert "left" not in text and "right" not in text
            assert named_in(text, record.subjects) == [left.subject, right.subject]


def test_only_settings_with_an_adjective_describe_the_subject():
    """A colour is the background's, never the subject's."""
    draw = np.random.default_rng(4)
    for _ in range(300):
        text = captions.caption(record_of(["cat"], "blue"), draw)
        assert "blue cat" not in text and "blue kitty" not in text


def test_wordings_vary_and_the_canonical_one_is_frequent():
    draw = np.random.default_rng(5)
    texts = [captions.caption(record_of(["cat"], "snow"), draw) for _ in range(2000)]
    assert len(set(texts)) > 25
    assert texts.count("a cat in the snow") > 200
    assert "a snowy cat" in texts and "a photo of a snowy cat" in texts and "cat in snow" in texts


def test_the_same_draw_gives_the_same_caption():
    record = record_of(["cat"], "snow")
    assert [captions.caption(record, np.random.default_rng(9)) for _ in range(3)] == [
        captions.caption(record, np.random.default_rng(9))
    ] * 3


@pytest.mark.parametrize(
    ("subjects", "setting", "relation", "expected"),
    [
        (["cat"], "snow", None, "a cat in the snow"),
        (["dog"], "beach", None, "a dog on the beach"),
        (["penguin"], "desert", None, "a penguin in the desert"),
        (["robot"], "city", None, "a robot in the city"),
        (["rocket"], "space", None, "a rocket in space"),
        (["fox"], "forest", None, "a fox in the forest"),
        (["octopus"], "underwater", None, "an octopus underwater"),
        (["red-car"], "sunset", None, "a red car at sunset"),
        (["castle"], "night", None, "a castle at night"),
        (["cat", "dog"], "meadow", None, "a cat and a dog in a meadow"),
        (["owl", "snowman"], "snow", "next to", "an owl next to a snowman in the snow"),
        (["fox", "owl"], "forest", "left of", "a fox left of an owl in the forest"),
        (["cat"], "blue", None, "a cat on a blue background"),
        (["unicorn"], "orange", None, "a unicorn on an orange background"),
        (["ufo"], "night", None, "a ufo at night"),
        (["popcorn"], "night", None, "popcorn at night"),
    ],
)
def test_canonical_prompts(subjects, setting, relation, expected):
    assert captions.prompt(subjects, setting, relation) == expected


def test_prompt_refuses_what_it_cannot_say():
    with pytest.raises(UserError, match="unknown subject"):
        captions.prompt(["qwerty"], "snow")
    with pytest.raises(UserError, match="unknown relation 'left off'; did you mean 'left of'"):
        captions.prompt(["cat", "dog"], "snow", "left off")
    with pytest.raises(UserError, match="one subject alone"):
        captions.prompt(["cat"], "snow", "next to")
    with pytest.raises(UserError, match="found 3 subjects"):
        captions.prompt(["cat", "dog", "fox"], "snow")
