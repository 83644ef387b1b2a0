"""Captions in files beside the pictures: `a.txt` or `a.caption` for `a.png`, each line a caption.

Names that differ by case only belong together (`b.TXT`, or `A.txt` for `a.PNG`): file systems of
other machines do not tell them apart.
"""

# ruff: noqa: PTH118
# File names are bytes here: any name must survive, and pathlib takes text.

from __future__ import annotations

import functools
import os
import posixpath

import latentdiff.data.sources.text as text
from latentdiff.data.decode.regular import read_regular
from latentdiff.data.records import BadPicture
from latentdiff.data.sources.listing import Listing
from latentdiff.data.sources.packed import Problems, printable

_BEST, _SECOND = b".txt", b".caption"


class Sidecars:
    """Finds and reads the caption file of each picture of a listing, and knows which are left."""

    def __init__(self, listing: Listing) -> None:
        self._listing = listing
        self._used: set[bytes] = set()

    def __bool__(self) -> bool:
        """Whether a picture has a caption file."""
        return any(self.of(picture) is not None for picture in self._listing.pictures)

    def of(self, picture: bytes) -> bytes | None:
        """The path of a picture's caption file, below the root; None when it has none."""
        stem = posixpath.splitext(picture)[0]
        if stem + _BEST in self._listing.texts:
            return stem + _BEST
        fitting = [
            other
            for other in self._odd.get(stem.lower(), ())
            if posixpath.splitext(other)[0] == stem
            or posixpath.splitext(other)[0] not in self._stems
        ]
        return min(fitting, key=lambda other: _rank(other, stem), default=None)

    def read(self, picture: bytes) -> tuple[list[str], list[text.Finding]]:
        """A picture's captions, and what is to be said of them."""
        sidecar = self.of(picture)
        if sidecar is None:
            return [], [text.Finding("caption-missing", "no .txt or .caption file beside it", True)]
        self._used.add(sidecar)
        try:
            data = read_regular(os.path.join(self._listing.root, sidecar), max_bytes=_MAX)
        except BadPicture as problem:
            code = "caption-long" if problem.code == "too-large" else "caption-missing"
            return [], [text.Finding(code, f"the caption file: {problem}", True)]
        return text.from_file(data)

    def report_unused(self, problems: Problems) -> None:
        """Name the caption files that no `read` has used."""
        for sidecar in sorted(self._listing.texts - self._used):
            stem = posixpath.splitext(sidecar)[0]
            if stem in self._stems:
                reason = "a second caption file of one picture; the other is used"
                problems.add(printable(sidecar), "caption-twice", reason, fatal=False)
            else:
                reason = "a caption without a picture"
                problems.add(printable(sidecar), "picture-missing", reason, fatal=False)

    @functools.cached_property
    def _stems(self) -> set[bytes]:
        return {posixpath.splitext(picture)[0] for picture in self._listing.pictures}

    @functools.cached_property
    def _odd(self) -> dict[bytes, list[bytes]]:
        """Caption files that are not just the picture's name with .txt, by name in lower case."""
        found: dict[bytes, list[bytes]] = {}
        for sidecar in self._listing.texts:
            stem, ending = posixpath.splitext(sidecar)
            if ending != _BEST or stem not in self._stems:
                found.setdefault(stem.lower(), []).append(sidecar)
        return found


_MAX = text.MAX_SIDECAR


def _rank(sidecar: bytes, stem: bytes) -> tuple[bool, bool, bytes]:
    """The same name goes before one of another case, .txt before .caption."""
    own, ending = posixpath.splitext(sidecar)
    return own != stem, ending.lower() == _SECOND, sidecar
