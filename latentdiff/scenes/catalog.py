"""What the world holds: its subjects, its settings and its relations. Frozen names, no pixels.

Every word here ends up in the tokenizer's vocabulary and every key in data sets and model cards:
keys and names are only ever added to, never renamed. Subjects are 3D Fluent Emoji pictures by
Microsoft (MIT licence, `assets/LICENSE`), kept under their Unicode code points.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from latentdiff.errors import unknown_name


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


# name, code, synonyms, letters: a = airborne, s = small, l = large, m = mass noun, u = upright.
_BASE: tuple[tuple[str, str, str, str], ...] = (
    # animals
    ("cat", "1f408", "kitty", ""),
    ("dog", "1f415-200d-1f9ba", "doggy", ""),
    ("penguin", "1f427", "", ""),
    ("fox", "1f98a", "", ""),
    ("octopus", "1f419", "", ""),
    ("owl", "1f989", "", ""),
    ("rabbit", "1f407", "bunny", ""),
    ("tiger", "1f405", "", ""),
    ("cow", "1f404", "", ""),
    ("pig", "1f416", "", ""),
    ("elephant", "1f418", "", "l"),
    ("monkey", "1f412", "", ""),
    ("rooster", "1f413", "", ""),
    ("snail", "1f40c", "", "s"),
    ("whale", "1f40b", "", "l"),
    ("dolphin", "1f42c", "", "a"),
    ("crab", "1f980", "", "s"),
    ("duck", "1f986", "", ""),
    ("shark", "1f988", "", "a"),
    ("butterfly", "1f98b", "", "as"),
    ("gorilla", "1f98d", "", "l"),
    ("giraffe", "1f992", "", "l"),
    ("zebra", "1f993", "", ""),
    ("peacock", "1f99a", "", ""),
    ("flamingo", "1f9a9", "", ""),
    ("swan", "1f9a2", "", ""),
    ("panda", "1f43c", "", ""),
    ("koala", "1f428", "", ""),
    ("frog", "1f438", "", "s"),
    ("turtle", "1f422", "tortoise", ""),
    ("bee", "1f41d", "bumblebee", "as"),
    ("ladybug", "1f41e", "ladybird", "s"),
    ("camel", "1f42a", "", "l"),
    ("horse", "1f40e", "pony", ""),
    ("sheep", "1f411", "", ""),
    ("dinosaur", "1f996", "tyrannosaurus", "l"),
    ("jellyfish", "1fabc", "", "a"),
    ("snake", "1f40d", "", ""),
    ("lion", "1f981", "", ""),
    ("unicorn", "1f984", "", ""),
    ("fish", "1f420", "", "as"),
    ("chick", "1f425", "", "s"),
    ("squirrel", "1f43f", "", ""),
    ("mouse", "1f401", "", "s"),
    ("seal", "1f9ad", "", ""),
    ("caterpillar", "1f41b", "", "s"),
    ("spider", "1f577", "", "s"),
    ("deer", "1f98c", "", ""),
    ("bear", "1f43b", "", ""),
    ("crocodile", "1f40a", "", ""),
    # vehicles
    ("red car", "1f697", "red automobile,car", "u"),
    ("blue car", "1f699", "blue automobile,car", "u"),
    ("rocket", "1f680", "spaceship", "al"),
    ("bus", "1f68c", "", "u"),
    ("taxi", "1f695", "cab", "u"),
    ("ambulance", "1f691", "", "u"),
    ("fire truck", "1f692", "fire engine", "u"),
    ("train", "1f682", "locomotive", "lu"),
    ("bicycle", "1f6b2", "bike", "u"),
    ("motorcycle", "1f3cd", "motorbike", "u"),
    ("airplane", "2708", "plane", "al"),
    ("sailboat", "26f5", "boat", "u"),
    ("ship", "1f6a2", "", "lu"),
    ("ufo", "1f6f8", "flying saucer", "a"),
    # buildings
    ("castle", "1f3f0", "", "lu"),
    ("house", "1f3e0", "", "lu"),
    ("church", "26ea", "", "lu"),
    ("tent", "26fa", "", "u"),
    ("hut", "1f6d6", "", "lu"),
    ("circus tent", "1f3aa", "", "lu"),
    ("temple", "1f3db", "", "lu"),
    # plants
    ("cactus", "1f335", "", ""),
    ("palm tree", "1f334", "", "lu"),
    ("pine tree", "1f332", "", "lu"),
    ("christmas tree", "1f384", "", "lu"),
    ("sunflower", "1f33b", "", ""),
    ("rose", "1f339", "", ""),
    ("mushroom", "1f344", "toadstool", ""),
    ("potted plant", "1fab4", "plant", ""),
    # food
    ("hamburger", "1f354", "burger", ""),
    ("pizza", "1f355", "", ""),
    ("donut", "1f369", "doughnut", ""),
    ("cupcake", "1f9c1", "", ""),
    ("birthday cake", "1f382", "cake", "u"),
    ("ice cream", "1f366", "", ""),
    ("watermelon", "1f349", "", ""),
    ("strawberry", "1f353", "", "s"),
    ("banana", "1f34c", "", ""),
    ("apple", "1f34e", "", "s"),
    ("lemon", "1f34b", "", "s"),
    ("carrot", "1f955", "", ""),
    ("avocado", "1f951", "", "s"),
    ("pumpkin", "1f383", "", ""),
    ("cheese", "1f9c0", "", "m"),
    ("popcorn", "1f37f", "", "m"),
    # objects
    ("teapot", "1fad6", "", ""),
    ("balloon", "1f388", "", "a"),
    ("gift", "1f381", "present", ""),
    ("guitar", "1f3b8", "", ""),
    ("drum", "1f941", "", ""),
    ("trumpet", "1f3ba", "", ""),
    ("umbrella", "2602", "", ""),
    ("crown", "1f451", "", ""),
    ("key", "1f511", "", ""),
    ("bell", "1f514", "", ""),
    ("trophy", "1f3c6", "", ""),
    ("camera", "1f4f7", "", ""),
    ("television", "1f4fa", "tv", "u"),
    ("backpack", "1f392", "", ""),
    ("top hat", "1f3a9", "hat", ""),
    ("lantern", "1f3ee", "", ""),
    ("soccer ball", "26bd", "ball", "s"),
    ("teddy bear", "1f9f8", "teddy", ""),
    ("alarm clock", "23f0", "clock", ""),
    ("chair", "1fa91", "", "u"),
    ("star", "2b50", "", "a"),
    ("diamond", "1f48e", "", ""),
    # figures
    ("snowman", "26c4", "", ""),
    ("robot", "1f916", "", ""),
    ("ghost", "1f47b", "", "a"),
    ("alien", "1f47d", "", ""),
    ("wizard", "1f9d9-200d-2642", "", ""),
    ("astronaut", "1f9d1-200d-1f680", "", ""),
    ("mermaid", "1f9dc-200d-2640", "", ""),
    ("ninja", "1f977", "", ""),
    ("princess", "1f478", "", ""),
)

_HELD_OUT: tuple[tuple[str, str, str, str], ...] = (
    ("poodle", "1f429", "", ""),
    ("parrot", "1f99c", "", ""),
    ("hedgehog", "1f994", "", "s"),
    ("dragon", "1f409", "", ""),
    ("kangaroo", "1f998", "", ""),
    ("raccoon", "1f99d", "", ""),
    ("llama", "1f999", "", ""),
    ("lobster", "1f99e", "", ""),
    ("dodo", "1f9a4", "", ""),
    ("helicopter", "1f681", "", "a"),
    ("tractor", "1f69c", "", "u"),
    ("scooter", "1f6f5", "", "u"),
    ("ferris wheel", "1f3a1", "", "lu"),
    ("pineapple", "1f34d", "", ""),
    ("croissant", "1f950", "", "s"),
    ("pretzel", "1f968", "", "s"),
    ("violin", "1f3bb", "", ""),
    ("telescope", "1f52d", "", ""),
    ("suitcase", "1f9f3", "", ""),
    ("skateboard", "1f6f9", "", ""),
    ("hourglass", "231b", "", ""),
    ("genie", "1f9de", "", ""),
    ("superhero", "1f9b8", "", ""),
    ("anchor", "2693", "", ""),
)

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
    (*_subjects(_BASE, held_out=False), *_subjects(_HELD_OUT, held_out=True))
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


def find_setting(name: str) -> Setting:
    """The setting with this key or phrase, in any case; UserError when there is none."""
    wanted = name.strip().lower()
    for setting in SETTINGS.values():
        if wanted == setting.key or wanted in setting.all_phrases:
            return setting
    raise unknown_name("setting", name, SETTINGS)
