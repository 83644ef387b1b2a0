"""What the world holds: its subjects, its settings and its relations. Frozen names, no pixels.

Every word here ends up in the tokenizer's vocabulary and every key in data sets and model cards:
keys and names are only ever added to, never renamed. Subjects are 3D Fluent Emoji pictures by
Microsoft (MIT licence, `assets/LICENSE`), kept under their Unicode code points.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from latentdiff.errors import unknown_name
from latentdiff.scenes.subject_table import BASE, CORE, HELD_OUT


@dataclass(frozen=True)
class Subject:
    """One thing that can stand in a scene.

    key: the name in records and on command lines, equal to `name` with `-` for spaces.
    name: the noun in canonical prompts; synonyms: other nouns that captions may use for it.
    code: Unicode code points of the picture, `assets/{code}.webp`.
    held_out: kept out of all base training, for fine-tuning tutorials and tests.
    airborne: hangs above the ground, its shadow below it.
    mass: a mass noun, which takes no "a" ("popcorn in the snow").
    upright: hardly ever leans, as walls and wheels do not.
    scale: factor on the drawn size.
    """

    key: str
    name: str
    synonyms: tuple[str, ...]
    code: str
    held_out: bool = False
    airborne: bool = False
    mass: bool = False
    upright: bool = False
    scale: float = 1.0

    @property
    def nouns(self) -> tuple[str, ...]:
        """Every noun that names this subject, the canonical one first."""
        return (self.name, *self.synonyms)


@dataclass(frozen=True)
class Setting:
    """One place, weather, hour or backdrop.

    phrase: follows the subject in canonical prompts; phrases: others that mean the same.
    adjective: fits before the noun ("a snowy cat"), or None where that would not be true.
    scene: a noun phrase with its article ("a snowy scene").
    plain: a smooth coloured backdrop without anything in it.
    """

    key: str
    phrase: str
    phrases: tuple[str, ...]
    scene: str
    adjective: str | None = None
    plain: bool = False

    @property
    def all_phrases(self) -> tuple[str, ...]:
        """Every phrase for this setting, the canonical one first."""
        return (self.phrase, *self.phrases)


_SCALES = {"s": 0.9, "l": 1.04}


def _subjects(
    rows: Iterable[tuple[str, str, str, str]], held_out: bool
) -> Iterable[tuple[str, Subject]]:
    for name, code, synonyms, letters in rows:
        key = name.replace(" ", "-")
        yield (
            key,
            Subject(
                key=key,
                name=name,
                synonyms=tuple(filter(None, synonyms.split(","))),
                code=code,
                held_out=held_out,
                airborne="a" in letters,
                mass="m" in letters,
                upright="u" in letters,
                scale=next((s for letter, s in _SCALES.items() if letter in letters), 1.0),
            ),
        )


SUBJECTS: dict[str, Subject] = dict(
    (*_subjects(BASE, held_out=False), *_subjects(HELD_OUT, held_out=True))
)

_ILLUSTRATED: tuple[Setting, ...] = (
    Setting(
        "snow",
        "in the snow",
        ("in snow", "in winter", "in a snowy landscape"),
        "a snowy scene",
        "snowy",
    ),
    Setting(
        "beach",
        "on the beach",
        ("at the beach", "on a sandy beach", "by the sea"),
        "a beach scene",
    ),
    Setting(
        "forest",
        "in the forest",
        ("in a forest", "in the woods", "among the trees"),
        "a forest scene",
    ),
    Setting(
        "night",
        "at night",
        ("in the night", "under the moon", "in the moonlight"),
        "a night scene",
        "moonlit",
    ),
    Setting(
        "desert",
        "in the desert",
        ("in a desert", "among sand dunes", "in a dry desert"),
        "a desert scene",
    ),
    Setting(
        "meadow",
        "in a meadow",
        ("in the meadow", "on the grass", "in a field of flowers"),
        "a meadow scene",
    ),
    Setting(
        "city",
        "in the city",
        ("in a city", "in town", "on a city street"),
        "a city scene",
    ),
    Setting(
        "underwater",
        "underwater",
        ("under water", "under the sea", "at the bottom of the ocean"),
        "an underwater scene",
    ),
    Setting(
        "rain",
        "in the rain",
        ("in rain", "on a rainy day", "in rainy weather"),
        "a rainy scene",
        "rainy",
    ),
    Setting(
        "space",
        "in space",
        ("in outer space", "among the stars", "floating in space"),
        "a space scene",
    ),
    Setting(
        "sunset",
        "at sunset",
        ("at dusk", "in the evening sun", "under an orange sky"),
        "a sunset scene",
        "sunlit",
    ),
    Setting(
        "mountains",
        "in the mountains",
        ("in front of mountains", "near the mountains", "in the alps"),
        "a mountain scene",
    ),
    Setting(
        "autumn",
        "in autumn",
        ("in the fall", "among autumn leaves", "in an autumn park"),
        "an autumn scene",
    ),
    Setting(
        "clouds",
        "in the clouds",
        ("on a cloud", "above the clouds", "in a pink sky"),
        "a dreamy sky scene",
    ),
    Setting(
        "room",
        "in a room",
        ("in the living room", "on a wooden floor", "at home"),
        "a cozy room",
    ),
)

PLAIN_COLORS: tuple[str, ...] = (
    "red",
    "orange",
    "yellow",
    "green",
    "blue",
    "purple",
    "pink",
    "white",
    "gray",
    "black",
)


def _article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"


def _plain(color: str) -> Setting:
    a = _article(color)
    return Setting(
        key=color,
        phrase=f"on {a} {color} background",
        phrases=(
            f"on {color}",
            f"in front of {a} {color} background",
            f"against {a} {color} background",
            f"on a plain {color} background",
            *(("on a grey background",) if color == "gray" else ()),
        ),
        scene=f"{a} {color} background",
        plain=True,
    )


SETTINGS: dict[str, Setting] = {
    s.key: s for s in (*_ILLUSTRATED, *(_plain(color) for color in PLAIN_COLORS))
}

#: How two subjects can stand to one another; the first placement is the relation's first subject.
RELATIONS: tuple[str, ...] = ("and", "next to", "left of", "right of")


def base_subjects() -> tuple[str, ...]:
    """Keys of the subjects for base training, in a fixed order."""
    return tuple(key for key, subject in SUBJECTS.items() if not subject.held_out)


def core_subjects() -> tuple[str, ...]:
    """Keys of the base subjects that the embedded model draws, in a fixed order."""
    return tuple(key for key, subject in SUBJECTS.items() if subject.name in CORE)


def held_out_subjects() -> tuple[str, ...]:
    """Keys of the subjects kept out of base training, in a fixed order."""
    return tuple(key for key, subject in SUBJECTS.items() if subject.held_out)


def illustrated_settings() -> tuple[str, ...]:
    """Keys of the settings that are drawn places, in a fixed order."""
    return tuple(key for key, setting in SETTINGS.items() if not setting.plain)


def plain_settings() -> tuple[str, ...]:
    """Keys of the settings that are plain coloured backgrounds, in a fixed order."""
    return tuple(key for key, setting in SETTINGS.items() if setting.plain)


def find_subject(name: str) -> Subject:
    """The subject with this key, name or synonym, in any case; UserError when there is none."""
    wanted = name.strip().lower()
    for subject in SUBJECTS.values():
        if wanted == subject.key or wanted in subject.nouns:
            return subject
    raise unknown_name("subject", name, SUBJECTS)


def find_subjects(names: Sequence[str]) -> tuple[str, ...] | None:
    """Keys of these subjects, each once, in their order; None where no name is given.

    "core" stands for those that the embedded model draws, "base" for all of base training,
    "held-out" for those kept out of it.
    """
    groups = {"core": core_subjects, "base": base_subjects, "held-out": held_out_subjects}
    keys: dict[str, None] = {}
    for name in names:
        group = groups.get(name.strip().lower())
        keys.update(dict.fromkeys(group() if group else (find_subject(name).key,)))
    return tuple(keys) or None


def find_setting(name: str) -> Setting:
    """The setting with this key or phrase, in any case; UserError when there is none."""
    wanted = name.strip().lower()
    for setting in SETTINGS.values():
        if wanted == setting.key or wanted in setting.all_phrases:
            return setting
    raise unknown_name("setting", name, SETTINGS)
