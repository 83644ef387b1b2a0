"""Scenes as an imagefolder that `datasets.load_dataset("imagefolder")` reads.

`metadata.jsonl` holds one line a picture: `file_name`, `text` and the ground truth.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from PIL import Image

from latentdiff import files, seeding
from latentdiff.errors import UserError
from latentdiff.scenes.captions import caption
from latentdiff.scenes.records import SceneRecord
from latentdiff.scenes.source import render_range
from latentdiff.scenes.world import World


def scene_caption(record: SceneRecord) -> str:
    """The caption that an exported scene is given, a pure function of (world seed, index)."""
    draw = seeding.generator(record.world_seed, "scenes/export-caption", record.index)
    return caption(record, draw)


def metadata_row(file_name: str, record: SceneRecord) -> dict[str, Any]:
    """One line of `metadata.jsonl`; `relation` is "" for one subject, boxes are in pixels."""
    return {
        "file_name": file_name,
        "text": scene_caption(record),
        "world_seed": record.world_seed,
        "index": record.index,
        "setting": record.setting,
        "relation": record.relation or "",
        "subjects": list(record.subjects),
        "boxes": [list(p.box) for p in record.placements],
        "mirrored": [p.mirrored for p in record.placements],
    }


def export(folder: Path, world: World, count: int, *, start: int = 0, workers: int = 0) -> Path:
    """Write scenes start … start + count - 1 of the world as PNG files with `metadata.jsonl`.

    The folder must not exist; it appears all at once when everything is written. UserError when it
    exists or the count is below 1.
    """
    if count < 1:
        raise UserError(f"found a count of {count}, expected 1 or more scenes")
    if folder.exists():
        raise UserError(f"{folder} exists already; name a new folder, nothing was written")
    folder.parent.mkdir(parents=True, exist_ok=True)
    digits = max(6, len(str(start + count - 1)))
    with files.publish_folder(folder, manifest=False) as work:
        lines = []
        for k, image, record in render_range(world, start, start + count, workers):
            name = f"{k:0{digits}d}.png"
            Image.fromarray(image).save(work / name)
            lines.append(json.dumps(metadata_row(name, record)))
        (work / "metadata.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder
