"""Text as people's editors and shells write it: UTF-8 or UTF-16, lines that end as in files."""

from __future__ import annotations

import codecs
import re
import sys
from pathlib import Path

from latentdiff.errors import UserError

STANDARD_INPUT = Path("-")
_BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16: its mark begins with that one's
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_LINE_END = re.compile("\r?\n")


def encoding_of(head: bytes) -> str:
    """The encoding that a byte-order mark names; UTF-8 without one."""
    return next((name for mark, name in _BOMS if head.startswith(mark)), "utf-8")


def lines_of(text: str) -> list[str]:
    """The lines of a text. They end at \\n and \\r\\n alone: U+2028, U+0085, form feeds and
    vertical tabs, at which `str.splitlines` breaks too, stand inside of lines."""
    lines = _LINE_END.split(text)
    return lines[:-1] if lines[-1] == "" else lines


def read_entries(path: Path, noun: str) -> list[str]:
    """`read_lines` without white space around, empty lines and # comments."""
    found = (line.strip() for line in read_lines(path, noun))
    return [line for line in found if line and not line.startswith("#")]


def read_lines(path: Path, noun: str) -> list[str]:
    """The lines of a file, or of standard input for "-".

    noun: what the lines are, for messages: "prompts". Raises UserError for what cannot be read.
    """
    standard = path == STANDARD_INPUT
    name = "standard input" if standard else str(path)
    try:
        data = sys.stdin.buffer.read() if standard else path.read_bytes()
        text = data.decode(encoding_of(data))
    except UnicodeDecodeError as error:
        raise UserError(
            f"cannot read the {noun} in {name}: it is not {error.encoding.upper()} (byte "
            f"{error.start}); save it as UTF-8"
        ) from error
    except OSError as error:
        raise UserError(f"cannot read the {noun} in {name} ({error.strerror})") from error
    return lines_of(text)
