"""The `--help` of a command whose options are the fields of a config.

All of it is read from the config's class: names, types, defaults, the docstring under each field,
and the docstrings of the configs nested in it, which title their options.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
import shutil
import textwrap
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_COLUMN = 28
MOST_USED = "Most used"
_NAMES: dict[object, str] = {int: "INT", float: "FLOAT", str: "TEXT", Path: "PATH"}


@dataclass(frozen=True, kw_only=True)
class Option:
    """One option or argument. flag: its own name; names: all as they are written; value: what
    follows, "" for a switch; title: of the group it is listed in."""

    flag: str
    names: tuple[str, ...]
    value: str
    text: str
    title: str
    is_argument: bool = False
    is_required: bool = False

    def lines(self, width: int) -> list[str]:
        """Its name and value, and beside or below them what it is for."""
        written = f"{', '.join(self.names)} {self.value}".strip()
        name = f"  {written}"
        body = textwrap.wrap(self.text, width - _COLUMN, break_on_hyphens=False)
        indented = [" " * _COLUMN + line for line in body]
        if len(name) < _COLUMN - 1 and indented:
            return [name.ljust(_COLUMN) + body[0], *indented[1:]]
        return [name, *indented]


def render(
    cls: type[Any],
    default: Any,
    *,
    prog: str,
    description: str,
    whole: bool,
    presets: Sequence[str] = (),
) -> str:
    """The text of `PROG --help`, at most as wide as the terminal.

    default: an instance whose values are the defaults shown; None takes those of the class.
    whole: with every option; otherwise, of a class with `HELP_FIRST`, only those, and the titles of
    the others. presets: names that `--preset` takes; `HELP_PRESETS` of the class describes them.
    """
    options = options_of(cls, default)
    width = min(100, shutil.get_terminal_size().columns)
    arguments = [option for option in options if option.is_argument]
    rest = [option for option in options if not option.is_argument]
    usage = " ".join(["usage:", prog, "[OPTIONS]", *(o.value for o in arguments)])
    lines = [*textwrap.wrap(usage, width, subsequent_indent="  "), ""]
    for paragraph in description.strip().split("\n\n"):
        lines += [*textwrap.wrap(paragraph, width), ""]
    groups: dict[str, list[Option]] = {"Arguments": arguments}
    first = tuple(getattr(cls, "HELP_FIRST", ()))
    if first:
        groups[MOST_USED] = []
    for option in rest:
        groups.setdefault(option.title, []).append(option)
    if first:
        order = [_flag(name) for name in first]
        groups[MOST_USED].sort(key=lambda option: order.index(option.flag))
    others = [title for title in groups if title not in ("Arguments", MOST_USED)]
    for title, listed in groups.items():
        if listed and (whole or not first or title not in others):
            lines += [f"{title}:", *(line for o in listed for line in o.lines(width)), ""]
    lines += _general(first, getattr(cls, "HELP_PRESETS", {}), presets, width)
    if first and not whole:
        count = sum(len(groups[title]) for title in others)
        said = f"--help-all lists {count} more: {'; '.join(others)}."
        lines += ["", *textwrap.wrap(said, width)]
    return "\n".join(lines).rstrip()


def _general(
    first: Sequence[str],
    about: Mapping[str, str],
    presets: Sequence[str],
    width: int,
) -> list[str]:
    """What every command takes besides its own options."""
    shared = [
        _plain("--config", "FILE.yaml", "Defaults for all options; they win over a preset's."),
        _plain("--help", "", "Show this and leave."),
    ]
    if first:
        shared.append(_plain("--help-all", "", "Show every option."))
    if presets:
        named = " ".join(f"{name}: {about[name]}" for name in presets if name in about)
        text = f"Defaults for all options. {named}".strip()
        shared.insert(0, _plain("--preset", "{" + ",".join(presets) + "}", text))
    return ["Settings and help:", *(line for option in shared for line in option.lines(width))]


def _plain(flag: str, value: str, text: str) -> Option:
    names = ("-h", flag) if flag == "--help" else (flag,)
    return Option(flag=flag, names=names, value=value, text=text, title="")


def options_of(cls: type[Any], default: Any = None) -> list[Option]:
    """The options of a config and of those nested in it, in the order of their fields."""
    first = {_flag(name): MOST_USED for name in getattr(cls, "HELP_FIRST", ())}
    titles = {**_titles(cls), **first}
    return list(_walk(cls, default, "Options", titles))


def _walk(
    cls: type[Any], default: Any, title: str, titles: Mapping[str, str]
) -> typing.Iterator[Option]:
    hints, texts = typing.get_type_hints(cls, include_extras=True), _docstrings(cls)
    nested = []
    for field in dataclasses.fields(cls):
        hint, value = hints[field.name], _default(field, default)
        if dataclasses.is_dataclass(hint):
            nested.append((typing.cast(Any, hint), value))
            continue
        yield _option(field.name, hint, value, texts.get(field.name, ""), title, titles)
    for inner, value in nested:
        own = re.split("[.:]( |$)", " ".join((inspect.getdoc(inner) or "").split()))[0]
        given = None if value is dataclasses.MISSING else value
        yield from _walk(inner, given, own or "Other options", titles)


def _option(
    name: str, hint: Any, value: Any, text: str, title: str, titles: Mapping[str, str]
) -> Option:
    """One field as an option, or as an argument where its hint is marked so."""
    hint, marks = _unmarked(hint)
    settings = next((m for m in marks if hasattr(m, "metavar")), None)
    flag = (settings and settings.name and f"--{settings.name}") or _flag(name)
    written = getattr(settings, "metavar", None)
    required = value is dataclasses.MISSING
    shown = "" if required else _shown(value)
    words = " ".join(text.split())
    words += f" (default: {shown})" if shown else ""
    if "Positional" in map(str, marks):
        several = typing.get_origin(hint) is tuple
        label = (written or name.upper()) + (" …" if several else "")
        label = label if required else f"[{label}]"
        return Option(
            flag=flag,
            names=(),
            value=label,
            text=words,
            title="Arguments",
            is_argument=True,
            is_required=required,
        )
    aliases = tuple(getattr(settings, "aliases", None) or ())
    names = (*aliases, flag)
    if hint is bool:
        names = (*names, f"--no-{flag[2:]}")
        label = ""
    else:
        label = written or _value(hint, append="UseAppendAction" in map(str, marks))
    words += " (required)" if required else ""
    title = titles.get(flag, title)
    return Option(
        flag=flag, names=names, value=label, text=words, title=title, is_required=required
    )


def _unmarked(hint: Any) -> tuple[Any, list[Any]]:
    """A type without the marks around it and the None beside it, and the marks."""
    marks: list[Any] = []
    while True:
        if typing.get_origin(hint) is typing.Annotated:
            hint, *found = typing.get_args(hint)
            marks += found
        elif typing.get_origin(hint) in (typing.Union, types.UnionType):
            parts = [part for part in typing.get_args(hint) if part is not type(None)]
            if len(parts) != 1:
                return hint, marks
            (hint,) = parts
        else:
            return hint, marks


def _value(hint: Any, *, append: bool = False) -> str:
    """What is written after an option's name."""
    hint, _ = _unmarked(hint)
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return "{" + ",".join(str(a) if a != "" else '""' for a in arguments) + "}"
    if origin is tuple and Ellipsis in arguments:
        one = _value(arguments[0])
        return one if append else f"{one} …"
    if origin is tuple:
        return " ".join(map(_value, arguments))
    return _NAMES.get(hint, "VALUE")


def _shown(value: Any) -> str:
    """A default as it would be typed; "" where there is nothing to show."""
    if value is None or value == "" or value == ():
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (tuple, list)):
        return " ".join(map(_shown, value))
    return repr(value) if isinstance(value, str) and " " in value else str(value)


def _default(field: dataclasses.Field[Any], instance: Any) -> Any:
    """A field's value in an instance, or by itself; MISSING where it has none."""
    if instance is not None:
        return getattr(instance, field.name)
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def _titles(cls: type[Any]) -> dict[str, str]:
    """Flag → title, of a config and of those nested in it, by their `HELP_GROUPS`."""
    found = {
        _flag(name): title
        for title, names in getattr(cls, "HELP_GROUPS", {}).items()
        for name in names
    }
    for hint in typing.get_type_hints(cls).values():
        if dataclasses.is_dataclass(hint):
            for flag, title in _titles(typing.cast(Any, hint)).items():
                found.setdefault(flag, title)
    return found


def _docstrings(cls: type[Any]) -> dict[str, str]:
    """Field → the string that stands below it in the source, inherited ones included."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if not dataclasses.is_dataclass(base):
            continue
        (node,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
        assert isinstance(node, ast.ClassDef)
        for field, below in zip(node.body, node.body[1:], strict=False):
            match field, below:
                case ast.AnnAssign(), ast.Expr(value=ast.Constant(value=str(text))):
                    found[ast.unparse(field.target)] = text
    return found


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"
