"""Typed configs: load, validate, override, save.

A config is a keyword-only dataclass that checks itself when built (`__post_init__`). The same
class reads YAML files and command lines, so a name is spelled in one place only; an unknown key
is an error that names the nearest known one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import re
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml

from latentdiff import files, option_help
from latentdiff.errors import UserError, unknown_name

C = TypeVar("C")


def to_dict(config: Any) -> dict[str, Any]:
    """The config as plain values (dicts, lists, numbers, strings), fit for YAML and JSON."""
    return {f.name: _plain(getattr(config, f.name)) for f in dataclasses.fields(config)}


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return to_dict(value)
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return value


def from_dict(cls: type[C], mapping: Mapping[str, Any], *, base: C | None = None) -> C:
    """Build a config from plain values; keys that are not given come from `base` or defaults.

    Raises UserError for an unknown key or a value of the wrong type.
    """
    return _build(cls, mapping, base, where="")


def _build(cls: type[C], mapping: Mapping[str, Any], base: C | None, where: str) -> C:
    if not isinstance(mapping, Mapping):
        raise UserError(f"{where or 'the config'} holds {mapping!r}; a table of keys was expected")
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(typing.cast(Any, cls)) if f.init}
    names = list(fields)
    for name in mapping:
        if name not in names:
            raise unknown_name(f"key in {where or cls.__name__}", str(name), names)
    values: dict[str, Any] = {}
    for name in names:
        old = getattr(base, name) if base is not None else _nested_default(fields[name])
        if name in mapping:
            values[name] = _convert(hints[name], mapping[name], old, f"{where}.{name}".strip("."))
        elif base is not None:
            values[name] = old
    try:
        return cls(**values)
    except TypeError as error:
        raise UserError(f"{where or cls.__name__}: {error}") from error


def _nested_default(field: dataclasses.Field[Any]) -> Any:
    """The config that a field holds by default, for the keys that a table leaves out; else None."""
    made = (
        field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
    )
    return made if dataclasses.is_dataclass(made) else None


def _convert(hint: Any, value: Any, old: Any, where: str) -> Any:
    """`value` as the annotated type, or a UserError that says what was expected."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint):
        return _build(typing.cast(Any, hint), value, old, where)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        for option in (a for a in arguments if a is not type(None)):
            with contextlib.suppress(UserError):
                return _convert(option, value, old, where)
    elif origin is typing.Literal:
        if value in arguments:
            return value
        raise unknown_name(where, str(value), [str(a) for a in arguments])
    elif origin in (list, tuple) and isinstance(value, (list, tuple)):
        of = [a for a in arguments if a is not Ellipsis]
        fixed = origin is tuple and Ellipsis not in arguments
        if not fixed or len(value) == len(of):
            hints = of if fixed else of * len(value)
            return origin(_convert(h, v, None, where) for h, v in zip(hints, value, strict=True))
    elif origin is dict and isinstance(value, Mapping):
        return {k: _convert(arguments[1], v, None, where) for k, v in value.items()}
    elif hint is Path and isinstance(value, (str, Path)):
        return Path(value)
    elif hint is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    elif hint is float and isinstance(value, str):
        # YAML 1.1 reads 1e-4 (no point) as a string.
        with contextlib.suppress(ValueError):
            return float(value)
    elif hint is int and isinstance(value, int) and not isinstance(value, bool):
        return value
    elif hint in (str, bool) and isinstance(value, hint):
        return value
    elif hint is Any:
        return value
    kind = getattr(hint, "__name__", str(hint))
    raise UserError(f"{where} is {value!r}; {kind} was expected")


def load_yaml(cls: type[C], path: str | Path, *, base: C | None = None) -> C:
    """Read a config file; keys that it leaves out come from `base` or the defaults."""
    try:
        mapping = yaml.safe_load(Path(path).read_text("utf-8")) or {}
    except FileNotFoundError:
        raise UserError(f"no config file at {path}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the config file {path}: {error}") from error
    except RecursionError as error:
        raise UserError(f"{path} is nested too deep to be a config file") from error
    except yaml.YAMLError as error:
        problem = " ".join(str(error).split())
        raise UserError(f"{path} is not valid YAML: {problem}") from error
    return from_dict(cls, mapping, base=base)


def save_yaml(config: Any, path: str | Path) -> None:
    """Write the whole config, defaults included, atomically."""
    files.write_text(path, yaml.safe_dump(to_dict(config), sort_keys=False, allow_unicode=True))


def parse(
    cls: type[C],
    argv: Sequence[str],
    *,
    prog: str,
    description: str = "",
    default: C | None = None,
    presets: Mapping[str, C] | None = None,
) -> C:
    """Read a command line: `[--preset NAME] [--config FILE.yaml] [--key value …]`.

    Later ones win: defaults, then the preset, then the file, then the flags. A nested key's flag
    is its own name (`--max-minutes 5`), a file keeps the nesting; a bool is `--flag | --no-flag`.
    `--help` prints (`option_help.render`) and raises SystemExit(0); a mistake raises UserError. A
    class with `HELP_FIRST`, the fields that people use first, shows only them there, and the others
    with `--help-all`, under the titles of `HELP_GROUPS` (title -> fields), its own and those of the
    configs nested in it; `HELP_PRESETS` (name -> what it is for) describes its presets.
    """
    import tyro

    rest, chosen = _take(list(argv), ("--preset", "--config"), prog)
    if "--preset" in chosen:
        if not presets or chosen["--preset"] not in presets:
            raise unknown_name("preset", chosen["--preset"], presets or ())
        default = presets[chosen["--preset"]]
    if "--config" in chosen:
        default = load_yaml(cls, chosen["--config"], base=default)
    if not {"-h", "--help", "--help-all"}.isdisjoint(rest):
        names = list(presets or ())
        whole = "--help-all" in rest
        print(
            option_help.render(
                cls, default, prog=prog, description=description, whole=whole, presets=names
            )
        )
        raise SystemExit(0)
    captured = io.StringIO()
    try:
        with contextlib.redirect_stderr(captured):
            return tyro.cli(
                cls,
                args=rest,
                prog=prog,
                default=tyro.MISSING_NONPROP if default is None else default,
                config=(tyro.conf.OmitArgPrefixes,),
            )
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        raise UserError(_one_line(captured.getvalue(), prog, cls)) from None


def _take(argv: list[str], names: Sequence[str], prog: str) -> tuple[list[str], dict[str, str]]:
    rest: list[str] = []
    chosen: dict[str, str] = {}
    words = iter(argv)
    for word in words:
        name, equals, value = word.partition("=")
        if name not in names:
            rest.append(word)
            continue
        if not equals:
            following = next(words, None)
            if following is None:
                raise UserError(f"{prog}: {name} needs a value")
            value = following
        chosen[name] = value
    return rest, chosen


def _one_line(text: str, prog: str, cls: type[Any]) -> str:
    """tyro's boxed error message as one line: what is wrong, and the nearest right name."""
    lines = [line.strip("│┃ ╭╮╰╯─━\n") for line in text.splitlines() if not line.startswith("╭")]
    body: list[str] = []
    for line in lines:
        if line.startswith(("For full helptext", "Got errors:", "Argument helptext:")):
            break
        if line.strip("-"):
            body.append(line)
    if not body:
        return f"{prog}: the options could not be read; see {prog} --help"
    first, *rest = body
    if first.startswith("Unrecognized options:"):
        words = first.partition(":")[2].replace(",", " ").split()
        # What follows an unknown option is its value, as a rule.
        wrong = [word for word in words if word.startswith("-")] or words
        near = [line.split()[0] for line in rest if line.startswith("--")]
        hint = f"did you mean {' or '.join(near[:3])}?" if near else f"see {prog} --help"
        kind = "option" if wrong[0].startswith("-") else "argument"
        return f"unknown {kind} {' '.join(wrong)}; {hint}"
    if first.startswith("Missing from"):
        return f"missing: {' '.join(rest).removesuffix(' (required)')}"
    return _of_value(" ".join(body), cls)


def _of_value(message: str, cls: type[Any]) -> str:
    """What tyro says of a value, in the words of the option's help."""
    expected = {option.flag: option.value for option in option_help.options_of(cls)}
    if found := re.match(r"Missing value for argument '(--[\w-]+)'", message):
        return f"{found[1]} needs a value: {expected.get(found[1], '')}".rstrip(": ")
    if found := re.match(r"Error parsing (--[\w-]+): .*?('[^']*')\]?\.?$", message):
        return f"{found[1]} is {found[2]}; expected {expected.get(found[1], 'another value')}"
    if found := re.search(r"invalid choice '(.*)' for argument '(--[\w-]+)'", message):
        choices = expected.get(found[2], "").strip("{}").split(",")
        return f"{found[2]} is {found[1]!r}; expected one of {', '.join(choices)}"
    return message
