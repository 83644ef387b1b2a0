"""Draws the pictures of README.md and docs/ that the embedded model makes: `make pictures`.

Each comes from the commands that its page shows, run as they stand there, in an empty folder. Names
given on the command line draw only those: `python docs/draw_pictures.py row words`.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from latentdiff.pipelines import TextToImagePipeline, read_recipe
from latentdiff.pipelines.explain import explain
from latentdiff.sheet import Cell, labelled_sheet

ROOT = Path(__file__).parents[1]
IMAGES = ROOT / "docs" / "images"
WORD = "car"
"""Whose heat map ends the row of the README."""


def commands(page: str, heading: str) -> str:
    """The first shell block below a heading of a page."""
    text = (ROOT / page).read_text("utf-8")
    below = text[text.index(f"\n{heading}\n") :]
    found = re.search(r"^```bash\n(.*?)^```", below, re.M | re.S)
    assert found, f"{page} shows no commands below {heading}"
    return found[1]


def run(block: str, folder: Path) -> None:
    """The commands, in a folder where the pages' own files are found too."""
    (folder / "docs").symlink_to(ROOT / "docs")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    command = ["bash", "-euxo", "pipefail", "-c", block]
    subprocess.run(command, cwd=folder, env={**os.environ, "PATH": path}, check=True)


def row(folder: Path) -> Image.Image:
    """Original, masked, repainted, interpolated, heat map."""
    run(commands("README.md", "## Pictures from pictures"), folder)
    car, sky, night, way = (
        Image.open(folder / name).convert("RGB")
        for name in ("car.png", "sky.png", "night.png", "way/frame-1.png")
    )
    faded = Image.blend(car, Image.new("RGB", car.size, "white"), 0.8)
    masked = Image.composite(faded, car, sky.convert("L"))
    request = read_recipe(folder / "car.png").request
    found = explain(TextToImagePipeline.from_pretrained("snowglobe"), request)
    (word,) = (one for one in found.words if one.word == WORD)
    cells = [
        Cell(picture=car, label="a red car at sunset"),
        Cell(picture=masked, label="white is to be repainted"),
        Cell(picture=night, label="repainted: at night"),
        Cell(picture=way, label="half-way to a red car in the snow"),
        Cell(picture=found.shown(word), label=f'where the word "{WORD}" acts'),
    ]
    return labelled_sheet(cells, columns=len(cells), size=192, font_size=14)


def words(folder: Path) -> Image.Image:
    """A sheet of heat maps."""
    run(commands("docs/prompts.md", "## Where a word acts"), folder)
    return Image.open(folder / "penguin-words.png")


def consistency(folder: Path) -> Image.Image:
    """The same noise in ten steps to a thousand."""
    run(commands("docs/pictures-from-pictures.md", "## One noise, one picture"), folder)
    return Image.open(folder / "consistent.png")


def twelve(folder: Path) -> Image.Image:
    """The grid on top of the README."""
    run(commands("README.md", "## The pictures above"), folder)
    return Image.open(folder / "twelve.png")


PICTURES: dict[str, tuple[Callable[[Path], Image.Image], str]] = {
    "row": (row, "row.jpg"),
    "words": (words, "words.jpg"),
    "consistency": (consistency, "consistency.png"),
    "twelve": (twelve, "twelve.png"),
}


def main() -> int:
    """Draw those that are named, or all."""
    for name in sys.argv[1:] or PICTURES:
        draw, file = PICTURES[name]
        with tempfile.TemporaryDirectory() as folder:
            made = draw(Path(folder))
            place = Path(folder) / f"made-{file}"
            made.convert("RGB").save(place, **({"quality": 92} if file.endswith(".jpg") else {}))
            shutil.copy(place, IMAGES / file)
        print(IMAGES / file, (IMAGES / file).stat().st_size)
    return 0


if __name__ == "__main__":
    sys.exit(main())
