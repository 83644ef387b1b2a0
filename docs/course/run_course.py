"""Runs the pages of the course and draws their plots: `make course`, or some pages by number.

python docs/course/run_course.py        all pages, plots into docs/course/images
python docs/course/run_course.py 3 4    these two
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
BLOCK = re.compile(r"^```python\n(.*?)^```", re.M | re.S)
PICTURE = re.compile(r"!\[[^\]]*\]\((images/[^)]+)\)")


def pages() -> list[Path]:
    """The pages, in order."""
    return sorted(HERE.glob("[0-9][0-9]-*.md"))


def run_page(page: Path, folder: Path) -> dict[str, object]:
    """Run a page's blocks in order, with `folder`/images to draw into; returns their names."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    names: dict[str, object] = {"__name__": "__main__"}
    text = page.read_text("utf-8")
    with contextlib.chdir(folder):
        sys.path.insert(0, str(HERE))
        try:
            for match in BLOCK.finditer(text):
                line = text.count("\n", 0, match.start(1))
                code = compile("\n" * line + match[1], str(page), "exec")
                exec(code, names)
        finally:
            sys.path.remove(str(HERE))
    return names


def pictures_of(page: Path) -> list[str]:
    """The pictures that a page shows."""
    return PICTURE.findall(page.read_text("utf-8"))


def main(numbers: list[str]) -> int:
    os.environ.setdefault("MPLBACKEND", "Agg")
    wanted = {int(number) for number in numbers}
    for page in pages():
        if wanted and int(page.name[:2]) not in wanted:
            continue
        began = time.monotonic()
        run_page(page, HERE)
        missing = [name for name in pictures_of(page) if not (HERE / name).is_file()]
        if missing:
            print(f"{page.name} shows {missing[0]}, which it does not draw", file=sys.stderr)
            return 1
        print(f"{page.name:40} {time.monotonic() - began:5.1f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
