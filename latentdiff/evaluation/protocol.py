"""What is measured, fixed in one place: seeds, groups, prompts, paraphrases.

Training draws from other world seeds. Everything here is a pure function of these constants, so
two measurements of two models that draw the same subjects meet the same prompts, the same noise and
the same renders.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from latentdiff import seeding
from latentdiff.errors import UserError
from latentdiff.scenes.captions import prompt
from latentdiff.scenes.catalog import RELATIONS, SETTINGS, base_subjects, find_subject
from latentdiff.scenes.world import is_held_out_pair

EVALUATION_WORLD_SEED = 770_003
"""World of every measured scene; training and the judge use other seeds."""
FLOOR_WORLD_SEED = 770_017
"""World of the pictures that the PCA floor is fitted to."""
SELECTION_SEED = 770_021
"""Which pairs are measured, and in which order."""
PICTURE_SEED = 1_000_000
"""Item n is drawn from noise seed PICTURE_SEED + n."""

TRAINED, HELD_OUT, TWO, PARAPHRASE, NAMED = (
    "trained pairs",
    "held-out pairs",
    "two subjects",
    "paraphrases",
    "named subjects",
)
GROUPS = (TRAINED, HELD_OUT, TWO, PARAPHRASE)
"""The groups of the full measurement; NAMED is that of `items_of`."""

# (text, subject, setting): what a person might type. Some words no caption holds.
PARAPHRASES: tuple[tuple[str, str, str], ...] = (
    ("cat in snow", "cat", "snow"),
    ("A CAT, in the snow!", "cat", "snow"),
    ("a photo of a snowy cat", "cat", "snow"),
    ("the snow, with a kitty in it", "cat", "snow"),
    ("dog beach", "dog", "beach"),
    ("a happy dog at the beach", "dog", "beach"),
    ("There is a robot in the city.", "robot", "city"),
    ("an image of a rocket flying through outer space", "rocket", "space"),
    ("a fox standing in the woods", "fox", "forest"),
    ("octopus under the sea", "octopus", "underwater"),
    ("at night, a castle", "castle", "night"),
    ("a castle under the moon", "castle", "night"),
    ("picture of an elephant in a green meadow", "elephant", "meadow"),
    ("a bunny in the forest", "rabbit", "forest"),
    ("an owl on a rainy day", "owl", "rain"),
    ("tiger, evening sun", "tiger", "sunset"),
    ("a cow in the alps", "cow", "mountains"),
    ("a pumpkin among autumn leaves", "pumpkin", "autumn"),
    ("a   teapot   on a plain yellow background", "teapot", "yellow"),
    ("teddy bear in the living room please", "teddy-bear", "room"),
)


@dataclass(frozen=True, kw_only=True)
class Item:
    """One picture to ask for, and what must be in it.

    `index` numbers the item's render in the evaluation world; `seed` is the generator's.
    """

    index: int
    group: str
    subjects: tuple[str, ...]
    setting: str
    relation: str | None
    prompt: str
    seed: int


def singles(subjects: Sequence[str] = ()) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """All (subject, setting) pairs in hash order: trained ones, held-out ones.

    subjects: keys of those that the model draws; all base subjects where none are given.
    """
    every = [(subject, setting) for subject in subjects or base_subjects() for setting in SETTINGS]
    order = seeding.permutation(len(every), SELECTION_SEED, "pairs")
    trained = [every[i] for i in order if not is_held_out_pair(*every[i])]
    held_out = [every[i] for i in order if is_held_out_pair(*every[i])]
    return trained, held_out


def items(count: int, *, extras: bool = True, subjects: Sequence[str] = ()) -> tuple[Item, ...]:
    """`count` single-subject items, a quarter of them held-out pairs (as far as they reach).

    With `extras`, also count // 8 two-subject items and the paraphrases. subjects: keys of those
    that the model draws; all base subjects where none are given. Raises UserError when `count` is
    below 4 or above what there is.
    """
    trained, held_out = singles(subjects)
    known = tuple(subjects) or base_subjects()
    of_held_out = min(count // 4, len(held_out))
    if count < 4 or count - of_held_out > len(trained):
        raise UserError(
            f"count is {count}; 4 … {len(trained) + len(held_out)} (subject, setting) pairs "
            "can be measured"
        )
    # (group, subjects, setting, relation, prompt; None for the canonical one)
    rows: list[tuple[str, tuple[str, ...], str, str | None, str | None]] = []
    rows += [(TRAINED, (s,), where, None, None) for s, where in trained[: count - of_held_out]]
    rows += [(HELD_OUT, (s,), where, None, None) for s, where in held_out[:of_held_out]]
    if extras:
        rows += [(TWO, *two_subjects(n, known), None) for n in range(count // 8)]
        rows += [(PARAPHRASE, (s,), where, None, t) for t, s, where in PARAPHRASES if s in known]
    return tuple(
        Item(
            index=n,
            group=group,
            subjects=subjects,
            setting=where,
            relation=relation,
            prompt=prompt(subjects, where, relation) if text is None else text,
            seed=PICTURE_SEED + n,
        )
        for n, (group, subjects, where, relation, text) in enumerate(rows)
    )


def items_of(subjects: Sequence[str], count: int) -> tuple[Item, ...]:
    """`count` items that show only these subjects, held-out ones too, over all settings in turn.

    subjects: keys, names or synonyms; UserError names an unknown one.
    """
    if count < 1 or not subjects:
        raise UserError(f"{count} pictures of {len(subjects)} subjects; expected 1 or more of both")
    keys = [find_subject(name).key for name in subjects]
    every = [(key, setting) for setting in SETTINGS for key in keys]
    order = seeding.permutation(len(every), SELECTION_SEED, "named", *sorted(keys))
    rows = [every[int(order[n % len(every)])] for n in range(count)]
    return tuple(
        Item(
            index=n,
            group=NAMED,
            subjects=(subject,),
            setting=setting,
            relation=None,
            prompt=prompt((subject,), setting),
            seed=PICTURE_SEED + n,
        )
        for n, (subject, setting) in enumerate(rows)
    )


def two_subjects(n: int, known: Sequence[str]) -> tuple[tuple[str, str], str, str]:
    """The n-th two-subject prompt: two of the known, a setting that both have been trained in."""
    stream = seeding.generator(SELECTION_SEED, "two subjects", n)
    first, second = (known[int(k)] for k in stream.choice(len(known), size=2, replace=False))
    trained = [
        where
        for where in SETTINGS
        if not is_held_out_pair(first, where) and not is_held_out_pair(second, where)
    ]
    setting = trained[int(stream.integers(len(trained)))]
    return (first, second), setting, RELATIONS[int(stream.integers(len(RELATIONS)))]


def blind_items(count: int, salt: int, subjects: Sequence[str] = ()) -> tuple[Item, ...]:
    """`count` items for a person's blind test, shuffled; another salt, another selection."""
    trained, held_out = singles(subjects)
    every = trained + held_out
    if not 1 <= count <= len(every):
        raise UserError(f"count is {count}; 1 … {len(every)} pictures can be asked for")
    order = seeding.permutation(len(every), SELECTION_SEED, "blind", salt)[:count]
    return tuple(
        Item(
            index=n,
            group=HELD_OUT if is_held_out_pair(*every[i]) else TRAINED,
            subjects=(every[i][0],),
            setting=every[i][1],
            relation=None,
            prompt=prompt((every[i][0],), every[i][1]),
            seed=2 * PICTURE_SEED + 1000 * salt + n,
        )
        for n, i in enumerate(order)
    )


def prompts(chosen: Sequence[Item]) -> list[str]:
    """The items' prompts, in order."""
    return [item.prompt for item in chosen]
