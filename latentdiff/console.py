"""What is printed, on any terminal, file or pipe: nothing to print stops the work.

`install` puts a `Console` in the place of standard output and standard error. Characters that the
terminal's encoding lacks are written in other words; control characters and marks that turn the
direction of writing, as they may stand in file names and captions, are written out; and when
nobody reads any more, or the disk is full, the rest is dropped and the work goes on.
"""

from __future__ import annotations

import codecs
import contextlib
import io
import os
import re
import shutil
import sys
import threading
import time
from typing import TextIO

ERRORS = "latentdiff-console"
"""The name of the codec error handler below."""
_IN_WORDS = {
    "…": "...",
    "×": "x",
    "→": "->",
    "←": "<-",
    "↔": "<->",
    "±": "+-",
    "·": "*",
    "–": "-",
    "—": "-",
    "−": "-",
    "≥": ">=",
    "≤": "<=",
    "≈": "~",
    "√": "sqrt",
    "²": "^2",
    "₂": "2",
    "█": "#",
    "░": ".",
    "▏": "|",
    "│": "|",
    "┃": "|",
    "─": "-",
    "━": "-",
    "“": '"',
    "”": '"',
    "‘": "'",
    "’": "'",
    "ᾱ": "alpha_bar",
    "α": "alpha",
    "β": "beta",
    "ε": "eps",
    "η": "eta",
    "σ": "sigma",
    "✓": "ok",
    "✗": "x",
}
_HIDDEN = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\xad"  # controls
    "\u061c\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f"  # direction and invisible marks
    "\u2028\u2029\ufeff\ufff9-\ufffb]"  # line separators, byte-order mark, annotations
)
_COLOUR = re.compile("\x1b\\[[0-9;]*m")


def visible(text: str) -> str:
    """`text` with control characters and direction marks written out, as \\x1b and \\u202e.

    Line breaks, tabs, carriage returns and what joins one emoji are kept.
    """
    return _HIDDEN.sub(lambda found: _escaped(found.group()), text)


def _escaped(character: str) -> str:
    if "\udc80" <= character <= "\udcff":  # a byte of a name that is no text
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode("ascii")


def _other_words(error: UnicodeError) -> tuple[str, int]:
    """The codec error handler: what cannot be encoded, in characters that can."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    found = error.object[error.start : error.end]
    words = "".join(_IN_WORDS.get(character) or _escaped(character) for character in found)
    return words, error.end


codecs.register_error(ERRORS, _other_words)

written_at = time.monotonic()
"""When a word last came out, to standard output or standard error."""
_passing = 0  # characters on the terminal's line that the next word overwrites
_beating = threading.RLock()  # held while another thread writes: a fork must not copy that
os.register_at_fork(
    before=_beating.acquire, after_in_parent=_beating.release, after_in_child=_beating.release
)


def write_passing(text: str) -> None:
    """A line on standard error that, on a terminal, the next word takes the place of."""
    global _passing
    with _beating:
        if sys.stderr is None:
            return
        if not sys.stderr.isatty():
            print(text, file=sys.stderr, flush=True)
            return
        width = shutil.get_terminal_size().columns - 1
        sys.stderr.write(f"\r{text[:width].ljust(width)}")
        sys.stderr.flush()
        _passing = width


def _clear_passing() -> None:
    global _passing
    if _passing:
        width, _passing = _passing, 0
        sys.stderr.write(f"\r{' ' * width}\r")
        sys.stderr.flush()


class Console(io.TextIOWrapper):
    """A text stream whose writes never raise. `lost` is the error that ended it, if one did."""

    lost: OSError | None = None
    _waiting = False  # whether something is buffered

    def write(self, text: str) -> int:
        """Write `text`, made `visible`; colours pass on a terminal. Returns its length."""
        if self.lost is None:
            try:
                if self.isatty():
                    _clear_passing()
                super().write(self._shown(text))
                self._waiting = not self.line_buffering
                if self.line_buffering:
                    _came_out()
            except OSError as error:
                self._lose(error)
        return len(text)

    def flush(self) -> None:
        """Write what is buffered."""
        if self.lost is None:
            try:
                super().flush()
                if self._waiting:
                    self._waiting = False
                    _came_out()
            except OSError as error:
                self._lose(error)

    def close(self) -> None:
        """Flush; the file under it is the stream's whose place it took, and stays open."""
        self.flush()

    def _shown(self, text: str) -> str:
        if "\x1b" in text and self.isatty():
            between = _COLOUR.split(text)
            colours = [*_COLOUR.findall(text), ""]
            return "".join(visible(a) + b for a, b in zip(between, colours, strict=True))
        return visible(text)

    def _lose(self, error: OSError) -> None:
        """Send the rest, what is buffered included, to nowhere."""
        self.lost = error
        with contextlib.suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())
            os.close(nowhere)


def _came_out() -> None:
    global written_at
    written_at = time.monotonic()


def install() -> None:
    """Put a Console in the place of sys.stdout and sys.stderr; streams without a file are left."""
    sys.stdout = _wrapped(sys.stdout)
    sys.stderr = _wrapped(sys.stderr)


def _wrapped(stream: TextIO | None) -> TextIO:
    if isinstance(stream, Console) or not isinstance(stream, io.TextIOWrapper):
        return stream  # type: ignore[return-value]  # None where the stream is closed
    with contextlib.suppress(OSError, ValueError):
        stream.flush()
    return Console(
        stream.buffer,
        encoding=stream.encoding,
        errors=ERRORS,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )


def finish(code: int) -> int:
    """Flush both streams; the exit code: `code`, or 2 where output was lost to more than a reader
    that went away, which is then said on standard error."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    lost = getattr(sys.stdout, "lost", None)
    if lost is None or isinstance(lost, BrokenPipeError) or code != 0:
        return code
    why = lost.strerror or str(lost)
    print(f"latentdiff: error: standard output could not be written ({why})", file=sys.stderr)
    return 2
