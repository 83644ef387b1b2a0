"""Holds the documentation against the program. Run by `make docs`.

1. Every Python block of README.md and docs/ runs, the blocks of a page in order, in an empty
   folder. A page's blocks after `<!-- not run -->` on the line above the fence are only compiled.
2. Every `latentdiff …` line of a shell block names a command that exists, with options that its
   `--help` lists. A block after `<!-- run -->` is executed.
3. Commands and options in the last column of a table of docs/compare.md exist too: `--option` alone
   is one of `latentdiff generate`.
4. Every relative link points to a file of the checkout.

The Python of the course's pages is run by tests/course, with its plots.
"""

from __future__ import annotations

import contextlib
import functools
import io
import os
import re
import shlex
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from latentdiff.cli.main import run

ROOT = Path(__file__).parents[1]
FENCE = re.compile(
    r"^(?:<!-- (?P<mark>[a-z ]+) -->\n)?```(?P<kind>\w*)\n(?P<body>.*?)^```", re.M | re.S
)
LINK = re.compile(
    r"\]\((?!https?:|mailto:|#)(?P<path>[^)#\s]+)(?:#[^)]*)?\)|<img [^>]*src=\"(?P<src>[^\"]+)\""
)
GROUPS = {
    ("bench",),
    ("train",),
    ("evaluate",),
    ("scenes",),
    ("lora",),
    ("data",),
    ("data", "cache"),
}
SCRIPT = re.compile(r"-m latentdiff\.train_scripts\.(vae|clip|judge|text_to_image) (?P<rest>.*)")


@dataclass(frozen=True)
class Block:
    page: Path
    line: int
    kind: str
    mark: str
    body: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(page: Path) -> list[Block]:
    text = page.read_text("utf-8")
    return [
        Block(page, text.count("\n", 0, m.start()) + 1, m["kind"], m["mark"] or "", m["body"])
        for m in FENCE.finditer(text)
    ]


@functools.cache
def help_of(words: tuple[str, ...]) -> str:
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        try:
            code = run([*words, "--help-all"])
        except SystemExit as stop:
            code = stop.code or 0
    return out.getvalue() if code == 0 else ""


def check_command(line: str) -> str | None:
    """What is wrong with one `latentdiff …` line, or None."""
    words = shlex.split(line.split(" #")[0], comments=True)[1:]
    if not words or words[0].startswith("-") or words[0].isupper():
        return None
    depth = 1
    while tuple(words[:depth]) in GROUPS and words[depth:] and not words[depth].startswith("-"):
        depth += 1
    text = help_of(tuple(words[:depth]))
    if not text:
        return f"no command {' '.join(words[:depth])!r}"
    for word in words[depth:]:
        option = word.split("=")[0]
        if option in ("--help", "--help-all"):
            continue
        if option.startswith("--") and not re.search(rf"{re.escape(option)}\b", text):
            return f"{' '.join(words[:depth])} has no option {option}"
    return None


def shell_lines(body: str) -> list[str]:
    joined = re.sub(r"\\\n\s*", " ", body)
    return [line.lstrip("$ ").strip() for line in joined.splitlines()]


def check_shell(block: Block) -> list[str]:
    problems = []
    for line in shell_lines(block.body):
        launched = SCRIPT.search(line)
        if launched:
            options = launched["rest"].replace('"', "")  # it may stand within a variable's quotes
            line = f"latentdiff train {launched[1].replace('_', '-')} {options}"
        if line.startswith("latentdiff "):
            problem = check_command(line)
            if problem:
                problems.append(f"{block}: {problem}")
    if block.mark == "run":
        with tempfile.TemporaryDirectory() as folder:
            path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
            done = subprocess.run(
                ["bash", "-euo", "pipefail", "-c", block.body],
                cwd=folder,
                env={**os.environ, "PATH": path},
                capture_output=True,
                text=True,
            )
        if done.returncode:
            problems.append(f"{block}: exit code {done.returncode}\n{done.stderr[-2000:]}")
    return problems


def check_tables(page: Path) -> list[str]:
    """What is wrong with commands in the last cells of a page's tables."""
    problems = []
    for number, row in enumerate(page.read_text("utf-8").splitlines(), 1):
        if not row.startswith("| "):
            continue
        last = re.split(r"(?<!\\)\|", row)[-2]
        for span in re.findall(r"`([^`]+)`", last):
            span = span.replace("\\|", "|").replace("…", "X")
            line = f"latentdiff generate {span}" if span.startswith("--") else span
            problem = check_command(line) if line.startswith("latentdiff ") else None
            if problem:
                problems.append(f"{page.relative_to(ROOT)}:{number}: {problem}")
    return problems


def check_python(page: Path, found: list[Block]) -> list[str]:
    names: dict[str, object] = {"__name__": "__main__"}
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            for block in found:
                try:
                    code = compile(block.body, str(block), "exec")
                    if block.mark != "not run":
                        exec(code, names)
                except Exception as error:
                    return [f"{block}: {type(error).__name__}: {error}"]
        finally:
            os.chdir(before)
    return []


def check_links(page: Path) -> list[str]:
    problems = []
    for match in LINK.finditer(page.read_text("utf-8")):
        path = match["path"] or match["src"]
        if not path.startswith("http") and not (page.parent / path).exists():
            problems.append(f"{page.relative_to(ROOT)}: the link to {path} leads nowhere")
    return problems


def main() -> int:
    problems: list[str] = []
    course = sorted((ROOT / "docs" / "course").glob("*.md"))
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *course]
    count = 0
    for page in pages:
        found = blocks(page)
        count += len(found)
        problems += check_links(page)
        problems += check_tables(page) if page.name == "compare.md" else []
        for block in found:
            if block.kind in ("bash", "sh", "console"):
                problems += check_shell(block)
        if page not in course:
            problems += check_python(page, [b for b in found if b.kind == "python"])
    for problem in problems:
        print(problem, file=sys.stderr)
    print(f"{len(pages)} pages, {count} blocks, {len(problems)} problems")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
