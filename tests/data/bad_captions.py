"""Bad captions, made on the spot; `CAPTIONS` says what has to come of each."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from bad_input import encoded, scene


@dataclass(frozen=True)
class ExpectedCaption:
    """What comes of "odd.png". captions: None when it is left out; codes: of the problems.

    refused: a part of the message, when the whole data set is refused.
    """

    captions: tuple[str, ...] | None = None
    codes: frozenset[str] = frozenset()
    refused: str | None = None


def _left_out(*codes: str) -> ExpectedCaption:
    return ExpectedCaption(None, frozenset(codes))


def _mended(captions: tuple[str, ...], *codes: str) -> ExpectedCaption:
    return ExpectedCaption(captions, frozenset(codes))


RIGHT_TO_LEFT = "שלום 🐶🏽 مرحبا 👩‍👩‍👧"
OVER_THE_LIMIT = " ".join(f"word{i}" for i in range(120))

CAPTIONS: dict[str, ExpectedCaption] = {
    "missing": _left_out("caption-missing"),
    "empty": _left_out("caption-empty"),
    "white-space": _left_out("caption-empty"),
    "nul": _mended(("an odd picture",), "caption-control"),
    "not-utf-8": _left_out("caption-encoding"),
    "utf-16": _mended(("an odd picture ünder a tree",), "caption-encoding"),
    "1-mb": _left_out("caption-long"),
    "over-the-limit": _mended((OVER_THE_LIMIT,)),
    "emoji-right-to-left": _mended((RIGHT_TO_LEFT,)),
    "several-lines": _mended(("first", "second")),
    "number": _mended(("7",), "caption-number"),
    "null": _left_out("caption-missing"),
    "object": _left_out("caption-type"),
    "list-with-empty": _mended(("one", "two"), "caption-empty"),
    "half-a-character": _mended(("odd \ufffd",), "caption-encoding"),
    "duplicate": _mended(("first", "second"), "file-name-twice"),
    "no-such-file": _left_out("missing", "caption-missing"),
    "absolute": _left_out("path-out", "caption-missing"),
    "dot-dot": _left_out("path-out", "caption-missing"),
    "cut-line": _left_out("metadata-line", "caption-missing"),
    "not-utf-8-line": _left_out("caption-encoding"),
    "blank-lines": _mended(("an odd picture",)),
    "utf-16-table": _mended(("an odd picture ünder a tree",)),
    "csv-quotes": _mended(('one, "two" three',)),
    "csv-too-many-fields": _left_out("metadata-line", "caption-missing"),
    "csv-no-header": ExpectedCaption(refused="has no header"),
    "disagree": ExpectedCaption(refused="disagree"),
}

_SIDECARS: dict[str, bytes] = {
    "empty": b"",
    "white-space": b" \n\t\r\n \n",
    "nul": b"an odd\0picture\n",
    "not-utf-8": b"an odd picture \xff\xfe\xfa\n",
    "utf-16": "an odd picture ünder a tree".encode("utf-16"),
    "1-mb": b"word " * 210_000,
    "over-the-limit": OVER_THE_LIMIT.encode(),
    "emoji-right-to-left": RIGHT_TO_LEFT.encode(),
    "several-lines": b"first\n\nsecond\r\n",
}
_GOOD_LINE = b'{"file_name": "good.png", "text": "a good picture"}\n'
_LINES: dict[str, bytes] = {
    "number": b'{"file_name": "odd.png", "text": 7}',
    "null": b'{"file_name": "odd.png", "text": null}',
    "object": b'{"file_name": "odd.png", "text": {"en": "a picture"}}',
    "list-with-empty": b'{"file_name": "odd.png", "text": ["one", "", "two", "one"]}',
    "half-a-character": rb'{"file_name": "odd.png", "text": "odd \ud83d"}',
    "duplicate": b'{"file_name": "odd.png", "text": "first"}\n'
    b'{"file_name": "./odd.png", "text": "second"}',
    "no-such-file": b'{"file_name": "other.png", "text": "an odd picture"}',
    "absolute": b'{"file_name": "/etc/passwd", "text": "an odd picture"}',
    "dot-dot": b'{"file_name": "../outside.png", "text": "an odd picture"}',
    "cut-line": b'{"file_name": "odd.png", "te',
    "not-utf-8-line": b'{"file_name": "odd.png", "text": "odd \xff"}',
    "blank-lines": b'\n\n  \n{"file_name": "odd.png", "text": "an odd picture"}\n\n',
}
_CSV: dict[str, str] = {
    "csv-quotes": 'file_name,text\ngood.png,a good picture\nodd.png,"one, ""two""\n\nthree"\n',
    "csv-too-many-fields": "file_name,text\ngood.png,a good picture\nodd.png,one, two, three\n",
    "csv-no-header": "good.png,a good picture\nodd.png,an odd picture\n",
}


def bad_captions(folder: Path) -> dict[str, Path]:
    """Write a small data set for each name of CAPTIONS: "good.png", whose caption is always
    "a good picture", and "odd.png". Name -> the data set's folder."""
    paths = {}
    for name in CAPTIONS:
        place = paths[name] = folder / name
        place.mkdir(parents=True)
        for k, picture in enumerate(("good.png", "odd.png")):
            (place / picture).write_bytes(encoded(scene(shade=50 * k), "PNG"))
        if name in _LINES:
            (place / "metadata.jsonl").write_bytes(_GOOD_LINE + _LINES[name])
        elif name in _CSV:
            (place / "metadata.csv").write_bytes(_CSV[name].encode())
        elif name == "utf-16-table":
            lines = _GOOD_LINE.decode() + json.dumps(
                {"file_name": "odd.png", "text": "an odd picture ünder a tree"}, ensure_ascii=False
            )
            (place / "metadata.jsonl").write_bytes(lines.encode("utf-16"))
        elif name == "disagree":
            line = b'{"file_name": "odd.png", "text": "a dog"}\n'
            (place / "metadata.jsonl").write_bytes(_GOOD_LINE + line)
            (place / "odd.txt").write_text("a cat")
        else:
            (place / "good.txt").write_text("a good picture")
            if name in _SIDECARS:
                (place / "odd.txt").write_bytes(_SIDECARS[name])
    (folder / "outside.png").write_bytes(encoded(scene(), "PNG"))
    return paths
