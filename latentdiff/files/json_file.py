"""JSON of other people's files: read, or refused in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from latentdiff.errors import UserError

LARGEST = 64 * 2**20
"""Bytes of a JSON file that is read at most; the largest known, a tokenizer's, has 4 MB."""


def parse_json(text: str, where: object) -> Any:
    """The value that a text holds. UserError, naming `where`, for what is no JSON or nested too
    deep to be read."""
    try:
        return json.loads(text)
    except ValueError as error:
        raise UserError(f"{where} is not valid JSON ({error})") from error
    except RecursionError:
        raise UserError(f"{where} is not valid JSON here: it is nested too deep") from None


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file, or a one-line UserError."""
    try:
        size = path.stat().st_size
        if size > LARGEST:
            raise UserError(f"{path} has {size:,} bytes; JSON is read up to {LARGEST:,}")
        text = path.read_text("utf-8")
    except FileNotFoundError:
        raise UserError(f"{path} is missing") from None
    except OSError as error:
        raise UserError(f"cannot read {path} ({error.strerror})") from error
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON ({error})") from error
    value = parse_json(text, path)
    if not isinstance(value, dict):
        raise UserError(f"{path} holds a {type(value).__name__}; a JSON object was expected")
    return value
