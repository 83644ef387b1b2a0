"""The exceptions a user can meet: one line that says what was found, expected, and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A mistake that the user can mend. The command line prints its one line and exits with 2."""


def nearest(name: str, known: Iterable[str], count: int = 3) -> list[str]:
    """The known names most like `name`, best first; empty when none comes close."""
    return difflib.get_close_matches(name, list(known), n=count, cutoff=0.5)


def unknown_name(kind: str, name: str, known: Iterable[str]) -> UserError:
    """The error for a name that is not among the known ones, with the nearest or all of them.

    `kind` is the noun for the message: "scheduler", "preset", "key".
    """
    names = sorted(known)
    close = nearest(name, names)
    if close:
        hint = "did you mean " + " or ".join(repr(c) for c in close) + "?"
    elif not names:
        hint = "there are none"
    elif len(names) <= 24:
        hint = "known: " + ", ".join(names)
    else:
        hint = f"{len(names)} are known, none of them close"
    return UserError(f"unknown {kind} {name!r}; {hint}")


def needs_extra(what: str, error: ImportError, *, extra: str) -> UserError:
    """The error for a library that comes with one of the package's extras and is not installed.

    `what` is what it is wanted for: "reading parquet files". `extra`: as in latentdiff[train].
    """
    absent = (error.name or "a library").partition(".")[0]
    return UserError(
        f"{what} needs {absent}, which is not installed; run: pip install 'latentdiff[{extra}]'"
    )
