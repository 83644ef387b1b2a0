"""The formats that pictures are written in, by the suffix of their files. No torch, no PIL."""

from __future__ import annotations

from typing import Literal

Format = Literal["png", "jpg", "webp"]
SUFFIXES: dict[str, Format] = {".png": "png", ".jpg": "jpg", ".jpeg": "jpg", ".webp": "webp"}
