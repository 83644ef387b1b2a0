"""Captions as people write them -> clean ones, with a word for all that was mended.

A caption comes out as one line of valid Unicode without control characters. Emoji, right-to-left
text and everything else that can be printed stay as they are.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from latentdiff.errors import UserError
from latentdiff.files.text_file import encoding_of, lines_of

MAX_CHARACTERS = 20_000  # of one caption; no model reads more than a few hundred
MAX_SIDECAR = 1 << 20  # bytes of one .txt file

_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1f\x7f\x80-\x84\x86-\x9f]")
_SURROGATE = re.compile(r"[\ud800-\udfff]")


@dataclass(frozen=True)
class Finding:
    """Something about a caption. fatal: the caption cannot be used."""

    code: str
    reason: str
    fatal: bool = False


def from_value(value: object) -> tuple[list[str], list[Finding]]:
    """The captions in a value of a table: a string, or a list of them, or what stands there."""
    if isinstance(value, str):
        return _from_string(value)
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return [], [Finding("caption-missing", "the caption is missing (null)", True)]
    if isinstance(value, (list, tuple)):
        return _from_list(list(value))
    if isinstance(value, bytes):
        return from_file(value)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        captions, findings = _from_string(str(value))
        return captions, [Finding("caption-number", "the caption is a number"), *findings]
    kind = type(value).__name__
    return [], [Finding("caption-type", f"the caption is a {kind}, not a string", True)]


def from_file(data: bytes) -> tuple[list[str], list[Finding]]:
    """The captions in a sidecar file: one a line, blank lines passed over."""
    if len(data) > MAX_SIDECAR:
        reason = f"the caption file is longer than {MAX_SIDECAR:,} bytes"
        return [], [Finding("caption-long", reason, True)]
    encoding = encoding_of(data)
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        reason = f"the caption is not {encoding.upper()} (byte {error.start}); save it as UTF-8"
        return [], [Finding("caption-encoding", reason, True)]
    captions, findings = _from_list(lines_of(text) or [""], blank_lines=True)
    if encoding not in ("utf-8", "utf-8-sig"):
        findings.append(Finding("caption-encoding", f"the caption was {encoding.upper()}"))
    return captions, findings


def _from_list(
    values: list[object] | list[str], *, blank_lines: bool = False
) -> tuple[list[str], list[Finding]]:
    captions: list[str] = []
    findings: list[Finding] = []
    for value in values:
        more, found = ([], []) if isinstance(value, (list, tuple)) else from_value(value)
        captions += more
        # One bad caption among good ones is dropped by name; alone it costs the picture.
        blank = {"caption-empty"} if blank_lines else set()
        findings += [Finding(f.code, f.reason) for f in found if f.code not in blank]
    if not captions:
        worst = findings[0] if findings else Finding("caption-empty", "the caption is empty")
        return [], [Finding(worst.code, worst.reason, True)]
    return captions, findings


def _from_string(text: str) -> tuple[list[str], list[Finding]]:
    findings = []
    if not text.isascii() or not text.isprintable():
        if _SURROGATE.search(text):
            if any("\udc80" <= c <= "\udcff" for c in text):
                reason = "the caption is not UTF-8; save the file as UTF-8"
                return [], [Finding("caption-encoding", reason, True)]
            text = _SURROGATE.sub("\ufffd", text)
            findings.append(Finding("caption-encoding", "half a character was replaced"))
        if _CONTROL.search(text):
            text = _CONTROL.sub(" ", text)
            findings.append(Finding("caption-control", "control characters were removed"))
    text = " ".join(text.split())
    if not text:
        return [], [Finding("caption-empty", "the caption is empty", True)]
    if len(text) > MAX_CHARACTERS:
        reason = f"the caption has {len(text):,} characters; at most {MAX_CHARACTERS:,} are read"
        return [], [Finding("caption-long", reason, True)]
    return [text], findings


def check_template(template: str) -> None:
    """Refuse a caption template that cannot be filled in."""
    try:
        if "{label}" in template and template.format(label="") is not None:
            return
    except (KeyError, IndexError, ValueError):
        pass
    raise UserError(
        f"the caption template {template!r} must hold {{label}} and no other brace, "
        'as in "a photo of a {label}"'
    )


def from_label(label: str, template: str) -> str:
    """The caption of a class: "red_fox" -> "a photo of a red fox"; "a" before a vowel is "an"."""
    words = " ".join(label.replace("_", " ").replace("-", " ").split())
    if words[:1].lower() in tuple("aeiou"):
        template = re.sub(r"\b([Aa]) \{label\}", r"\1n {label}", template)
    return template.format(label=words)
