"""Entrants for the tests of races: they do next to nothing."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


def counts(*, start: int) -> Callable[[int], Mapping[str, Any]]:
    """Each turn says how many came before it."""
    seen = [start]

    def turn(number: int) -> Mapping[str, Any]:
        print("a library's chatter")
        seen[0] += 1
        return {"number": number, "seen": seen[0]}

    return turn


def notes(*, place: str, name: str) -> Callable[[int], None]:
    """Each turn leaves its name in a file."""

    def turn(number: int) -> None:
        with Path(place).open("a") as file:
            file.write(f"{name}{number} ")

    return turn


def holds(*, mebi: int) -> Callable[[int], None]:
    """Each turn touches so much memory and lets it go."""

    def turn(number: int) -> None:
        bytearray(b"x") * (mebi * 2**20)

    return turn


def lacks_a_package() -> None:
    """Cannot start."""
    raise ImportError("No module named 'teapot'")


def fails_later() -> Callable[[int], None]:
    """Fails in its first turn."""

    def turn(number: int) -> None:
        raise ValueError(f"no picture in turn {number}")

    return turn
