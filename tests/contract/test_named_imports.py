"""Code inside strings (of children, commands, pages) asks for names that exist."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
HOMES = {"pipelines": ROOT / "pipelines", "train_scripts": ROOT / "train_scripts"}
IMPORT = re.compile(r"from (latentdiff[\w.]*) import (\w[\w ]*(?:, *\w[\w ]*)*)")


def place(module: str) -> Path:
    """Where a module of the package lies, without its suffix."""
    first, *rest = [*module.split(".")[1:], ""]
    home = HOMES.get(first, ROOT / "latentdiff" / first)
    return home.joinpath(*filter(None, rest))


@cache
def names(module: str) -> frozenset[str]:
    """What can be imported from a module: its own names, and the modules inside it."""
    folder = place(module)
    if not folder.is_dir() and not folder.with_suffix(".py").is_file():
        return frozenset()
    own = folder / "__init__.py" if folder.is_dir() else folder.with_suffix(".py")
    found = {path.stem for path in folder.glob("*") if path.suffix in ("", ".py")}
    for node in ast.walk(ast.parse(own.read_text("utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            found |= {(a.asname or a.name).split(".")[0] for a in node.names}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.add(node.value)  # names that a module gives by `__getattr__`
    return frozenset(found)


def test_every_import_in_tests_and_pages_names_something_that_exists() -> None:
    missing = []
    for folder, suffix in (("tests", "py"), ("docs", "md"), ("docs", "py")):
        for path in sorted((ROOT / folder).rglob(f"*.{suffix}")):
            for module, asked in IMPORT.findall(path.read_text("utf-8")):
                wanted = {name.split(" as ")[0].strip() for name in asked.split(",")}
                lost = wanted - names(module)
                missing += [f"{path.relative_to(ROOT)}: {module}: {name}" for name in sorted(lost)]
    assert not missing
