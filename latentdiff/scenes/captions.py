"""Words for a scene: short, lower-case, always true of its record.

A template's fields are `{one}`, `{two}` (noun phrases with their article), `{bare}`, `{bare_two}`
(nouns alone), `{where}` (a phrase for the setting), `{scene}` (a noun phrase for the setting) and
`{adjective}`. `vocabulary` walks the same tables, so it cannot fall behind the captions.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from string import Formatter

import numpy as np

from latentdiff.errors import UserError, unknown_name
from latentdiff.scenes.catalog import (
    RELATIONS,
    SETTINGS,
    SUBJECTS,
    Setting,
    Subject,
    find_setting,
    find_subject,
)
from latentdiff.scenes.records import SceneRecord

# (template, weight). The first, the canonical prompt, carries almost half of the weight.
SINGLE: tuple[tuple[str, float], ...] = (
    ("{one} {where}", 10.0),
    ("{bare} {where}", 2.0),
    ("the {bare} is {where}", 1.5),
    ("there is {one} {where}", 1.0),
    ("a picture of {one} {where}", 1.5),
    ("a photo of {one} {where}", 1.5),
    ("an image of {one} {where}", 1.0),
    ("{where}, {one}", 1.0),
    ("{scene} with {one}", 1.5),
    ("{one}, {scene}", 0.8),
    ("{one}", 0.6),
)
ADJECTIVE: tuple[tuple[str, float], ...] = (
    ("{adjective}", 1.5),
    ("a photo of {adjective}", 0.8),
    ("a picture of {adjective}", 0.7),
)
PAIR: tuple[tuple[str, float], ...] = (
    ("{pair} {where}", 10.0),
    ("a picture of {pair} {where}", 1.5),
    ("a photo of {pair} {where}", 1.5),
    ("there is {pair} {where}", 1.0),
    ("{where}, {pair}", 1.0),
    ("{scene} with {pair}", 1.2),
)
# Ways to say each relation; the second list says the same from the second subject's side. Where no
# side is said, the one on the left comes first.
RELATION_WORDS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "and": (("{one} and {two}",),) * 2,
    "next to": (("{one} next to {two}",) * 2 + ("{one} beside {two}", "{one} and {two}"),) * 2,
    "left of": (
        ("{one} left of {two}",) * 2 + ("{one} to the left of {two}",),
        ("{two} to the right of {one}",),
    ),
    "right of": (
        ("{one} right of {two}",) * 2 + ("{one} to the right of {two}",),
        ("{two} to the left of {one}",),
    ),
}
_CANONICAL_RELATION = {
    "and": "{one} and {two}",
    "next to": "{one} next to {two}",
    "left of": "{one} left of {two}",
    "right of": "{one} right of {two}",
}
#: How often a caption uses a synonym or another phrase in place of the canonical one.
SYNONYM_RATE = 0.35


def with_article(noun: str) -> str:
    """The noun with "a" or "an", by the sound of the first letter ("a unicorn", "a ufo")."""
    vowel = noun[0] in "aeiou" and not re.match(r"uni|ufo", noun)
    return f"{'an' if vowel else 'a'} {noun}"


def _noun_phrase(subject: Subject, noun: str) -> str:
    return noun if subject.mass else with_article(noun)


def prompt(subjects: Sequence[str], setting: str, relation: str | None = None) -> str:
    """The canonical prompt, such as "a cat in the snow" or "a fox left of an owl at night".

    One or two subjects and a setting by key or name; a relation (default "and") only for two.
    UserError names an unknown subject, setting or relation.
    """
    place = find_setting(setting).phrase
    nouns = [_noun_phrase(s, s.name) for s in map(find_subject, subjects)]
    if len(nouns) == 1 and relation is None:
        return f"{nouns[0]} {place}"
    if len(nouns) != 2:
        raise UserError(
            f"found {len(nouns)} subjects with relation {relation!r}, expected one subject alone "
            f"or two with a relation"
        )
    relation = "and" if relation is None else relation
    if relation not in RELATIONS:
        raise unknown_name("relation", relation, RELATIONS)
    return f"{_CANONICAL_RELATION[relation].format(one=nouns[0], two=nouns[1])} {place}"


def prompt_of(record: SceneRecord) -> str:
    """The canonical prompt of a scene."""
    return prompt(record.named, record.setting, record.relation)


def caption(record: SceneRecord, draw: np.random.Generator) -> str:
    """A caption of at most 20 words that is true of the record; the draw picks the wording."""
    setting = find_setting(record.setting)
    where = _pick(setting.phrase, setting.phrases, draw)
    nouns = [_pick(SUBJECTS[key].name, SUBJECTS[key].synonyms, draw) for key in record.named]
    phrases = [
        _noun_phrase(SUBJECTS[key], noun) for key, noun in zip(record.named, nouns, strict=True)
    ]
    if record.relation is None:
        templates = SINGLE if setting.adjective is None else (*SINGLE, *ADJECTIVE)
        return _weighted(templates, draw).format(
            one=phrases[0],
            bare=nouns[0],
            where=where,
            scene=setting.scene,
            adjective=_with_adjective(SUBJECTS[record.named[0]], nouns[0], setting),
        )
    forward, backward = RELATION_WORDS[record.relation]
    wordings = backward if draw.random() < 0.25 else forward
    pair = wordings[int(draw.integers(len(wordings)))].format(one=phrases[0], two=phrases[1])
    return _weighted(PAIR, draw).format(pair=pair, where=where, scene=setting.scene)


def _with_adjective(subject: Subject, noun: str, setting: Setting) -> str:
    described = f"{setting.adjective} {noun}"
    return described if subject.mass else with_article(described)


def _pick(canonical: str, others: tuple[str, ...], draw: np.random.Generator) -> str:
    # Both draws happen always, so that a longer synonym list does not shift later ones.
    use, which = draw.random(), draw.random()
    if not others or use >= SYNONYM_RATE:
        return canonical
    return others[int(which * len(others))]


def _weighted(templates: tuple[tuple[str, float], ...], draw: np.random.Generator) -> str:
    point = draw.random() * sum(weight for _, weight in templates)
    for template, weight in templates:
        point -= weight
        if point < 0:
            return template
    return templates[-1][0]


def words(text: str) -> list[str]:
    """The words of a caption or prompt: lower-case, without punctuation."""
    return re.findall(r"[a-z0-9]+", text.lower())


def vocabulary(subjects: Iterable[str] = tuple(SUBJECTS)) -> tuple[str, ...]:
    """Every word that captions about these subjects can hold, sorted; by default about any."""
    texts = ["a an and"]
    for key in subjects:
        texts += SUBJECTS[key].nouns
    for setting in SETTINGS.values():
        texts += [*setting.all_phrases, setting.scene, setting.adjective or ""]
    patterns = [template for template, _ in (*SINGLE, *ADJECTIVE, *PAIR)]
    patterns += _CANONICAL_RELATION.values()
    for forward, backward in RELATION_WORDS.values():
        patterns += [*forward, *backward]
    for pattern in patterns:
        texts += [literal for literal, _, _, _ in Formatter().parse(pattern)]
    return tuple(sorted({word for text in texts for word in words(text)}))
