"""Folders of the user's own images, for tests of every task that trains on them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

WORDS = ("a cat in the snow", "a red fox", "a blue bird at night", "two dogs")


def make_images(
    folder: Path,
    sizes: Sequence[tuple[int, int]] = ((32, 32),) * 8 + ((48, 24),) * 6,
    captions: Sequence[str] = WORDS,
) -> Path:
    """Noise images with metadata.jsonl; image k has caption k mod len(captions)."""
    folder.mkdir(parents=True)
    lines = []
    for k, size in enumerate(sizes):
        pixels = np.random.default_rng(k).integers(0, 256, (size[1], size[0], 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{k:02d}.png")
        lines.append({"file_name": f"{k:02d}.png", "text": captions[k % len(captions)]})
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }
