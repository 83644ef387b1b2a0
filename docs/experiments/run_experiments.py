"""Runs the experiments of docs/experiments.md and writes what they found into it.

make experiments                                  all of them (about 20 minutes of one core)
python docs/experiments/run_experiments.py NAME … some
python docs/experiments/run_experiments.py --write   no measuring: from what lies in outputs/

An experiment is one command of `latentdiff`. Its parts are kept in outputs/experiments, so one that
was stopped goes on; the page's text stays as it is, and the block of each experiment is made anew:
command, date, processor, model, table, plots, pictures.
"""

from __future__ import annotations

import io
import json
import re
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from latentdiff.cli.main import run

HERE = Path(__file__).parent
PAGE = HERE.parent / "experiments.md"
OUTPUTS = Path("outputs") / "experiments"
WIDEST = 1100
VERSION = re.compile(r"^# snowglobe, (version \d+)", re.M)


@dataclass(frozen=True)
class Experiment:
    """command: after `latentdiff`; shown: the files of its output that the page shows."""

    command: str
    shown: tuple[str, ...]


PLAIN = "--guidance-scale 1"
"""The conditional network alone: what the papers' tables are about."""
FRAMES = "frames.png"
EXPERIMENTS = {
    "steps-and-eta": Experiment(
        "evaluate sweep --sweep steps=10,20,50 "
        '--sweep "with=eta=0|eta=0.2|eta=0.5|eta=1|scheduler=ddim-sigma-hat" '
        f"--reference with=eta=0 --count 16 --most-calls 320 {PLAIN}",
        ("frechet.png", "pictures-1.png"),
    ),
    "targets": Experiment(
        "evaluate trials --sweep prediction=epsilon,v_prediction,sample,posterior_mean "
        "--base samples=960 --count 64",
        ("loss-by-level.png", "brightness.png", "pictures.png"),
    ),
    "guidance": Experiment(
        "evaluate sweep --sweep guidance_scale=1,3,8 "
        '--sweep "with=nothing|guidance_rescale=0.7|guidance_start=0.2+guidance_end=0.8" '
        "--reference guidance_scale=1 --count 16 --steps 12",
        ("frechet.png", "subject.png", "pictures-1.png"),
    ),
    "speed": Experiment(
        "evaluate sweep --sweep steps=5,10,20,50 --sweep scheduler=ddim,dpmsolver++,unipc "
        f"--reference steps=50 --count 16 --most-calls 320 {PLAIN}",
        ("frechet-over-calls.png", "psnr.png", "pictures-1.png"),
    ),
    "bound": Experiment(
        "evaluate likelihood --count 32 --terms 10 --levels 100 200 1000",
        ("terms.png",),
    ),
    "reconstruction": Experiment(
        "evaluate reconstruction --steps 10 20 50 100 --count 12 --most-calls 400",
        ("reconstruction.png", "there-and-back.png"),
    ),
    "no-noise": Experiment(
        "evaluate sweep --sweep steps=10,50 "
        '--sweep "with=scheduler=ddpm-fixed-small|scheduler=ddpm-zero|scheduler=ddim" '
        f"--reference with=scheduler=ddpm-fixed-small --count 16 --most-calls 320 {PLAIN}",
        ("setting.png", "pictures-2.png"),
    ),
    "schedules": Experiment(
        'evaluate trials --sweep "with=schedule=own|schedule=linear|schedule=cosine|schedule=su|'
        'timesteps=100|prediction=epsilon|prediction=epsilon+weighting=min_snr" '
        "--base samples=480+width=16 --count 64",
        ("loss-by-level.png", "pictures.png"),
    ),
    "learning": Experiment(
        'evaluate trials --sweep "with=optimizer=muon|optimizer=adamw|batch_size=64|'
        'conditioning=cross" --base samples=480+width=16 --count 64',
        ("loss.png", "loss-by-level.png", "pictures.png"),
    ),
    "consistency": Experiment(
        f"evaluate sweep --sweep steps=10,20,50,100,500 --reference steps=500 --count 4 {PLAIN}",
        ("psnr.png", "pictures.png"),
    ),
    "interpolation": Experiment(
        'interpolate "a snowman in the snow" "a castle at night" --seeds 1,2 --frames 7 --steps 20',
        (FRAMES,),
    ),
}


def words(name: str) -> list[str]:
    """The command's words, its output and shared parts among them."""
    command, folder = shlex.split(EXPERIMENTS[name].command), OUTPUTS / name
    if command[0] != "evaluate":
        return [*command, "-o", str(folder / FRAMES)]
    return [*command, "-o", str(folder), "--parts", str(OUTPUTS)]


def measure(name: str) -> int:
    """Run one; the command's exit code."""
    print(f"== {name}", flush=True)
    sys.argv = ["latentdiff", *words(name)]  # what the numbers remember as their command
    return run(words(name))


def block(name: str) -> str | None:
    """The part of the page that a measurement makes; None where it has not been made."""
    folder, found = OUTPUTS / name, EXPERIMENTS[name]
    shown = [file for file in found.shown if (folder / file).is_file()]
    if not (folder / "numbers.json").is_file():
        return made_of(name, found.command, "", "", shown) if shown else None
    facts = json.loads((folder / "numbers.json").read_text("utf-8"))
    tables = (folder / "tables.md").read_text("utf-8").strip()
    lead, _, rest = tables.partition("\n\n")
    model = facts["models"][0]
    version = VERSION.search((HERE.parent / "snowglobe.md").read_text("utf-8"))
    assert version is not None, "docs/snowglobe.md says which version is shipped"
    weights = ", ".join(f"{part} `{digest[:8]}`" for part, digest in model["hashes"].items())
    made_by = (
        f"*{facts['environment']['processor']}, {facts['date'][:10]}; "
        f"snowglobe, {version[1]} ({weights}). {lead}.*"
    )
    return made_of(name, found.command, made_by, rest, shown)


def made_of(name: str, command: str, made_by: str, tables: str, shown: list[str]) -> str:
    """The block: command, what measured it, tables, and pictures, which are kept beside."""
    pictures = []
    for file in shown:
        kept = HERE / f"{name}-{file}"
        kept.write_bytes(small(OUTPUTS / name / file))
        alt = Path(file).stem.replace("-", " ")
        pictures.append(f"![{alt}](experiments/{kept.name})")
    parts = [f"```bash\nlatentdiff {command}\n```", made_by, tables, *pictures]
    return "\n\n".join(part for part in parts if part)


def small(path: Path) -> bytes:
    """A picture no wider than the page wants it, in 256 colours."""
    image = Image.open(path).convert("RGB")
    if image.width > WIDEST:
        height = round(image.height * WIDEST / image.width)
        image = image.resize((WIDEST, height), Image.Resampling.LANCZOS)
    held = io.BytesIO()
    image.quantize(256).save(held, format="PNG", optimize=True)
    return held.getvalue()


def draw_loss_table() -> None:
    """The table of optimizers in docs/snowglobe.md as a plot: held-out loss over samples."""
    from latentdiff.measure.results import plots

    text = (HERE.parent / "snowglobe.md").read_text("utf-8")
    rows = [
        [cell.strip(" *") for cell in line.strip("|").split("|")]
        for line in text.splitlines()
        if re.match(r"\| (AdamW|Muon|the same).*\| \d+ \| 0\.", line)
    ]
    lines = []
    for name, batch, *losses in rows:
        points = [(1000.0 * (k + 1), float(x)) for k, x in enumerate(losses) if x != "–"]
        x, y = zip(*points, strict=True)
        lines.append(plots.Line(name=f"{name}, batch {batch}", x=x, y=y))
    if lines and plots.there():
        chart = plots.Chart(
            name="loss",
            title="Held-out loss (docs/snowglobe.md; the last 30 % with a falling rate)",
            x_label="samples",
            y_label="loss on v",
            lines=lines,
        )
        (HERE / "learning-snowglobe.png").write_bytes(plots.png(chart))


def write_page() -> None:
    """Put every measured block between its marks on the page."""
    text = PAGE.read_text("utf-8")
    for name in EXPERIMENTS:
        marks = f"<!-- begin {name} -->", f"<!-- end {name} -->"
        assert all(text.count(mark) == 1 for mark in marks), f"the page has no place for {name}"
        made = block(name)
        if made is not None:
            before, rest = text.split(marks[0])
            text = f"{before}{marks[0]}\n\n{made}\n\n{marks[1]}{rest.split(marks[1])[1]}"
    PAGE.write_text(text, "utf-8")


def main(names: list[str]) -> int:
    """Measure, then write the page after each experiment."""
    wanted = [] if names == ["--write"] else names or list(EXPERIMENTS)
    unknown = [name for name in wanted if name not in EXPERIMENTS]
    if unknown:
        print(f"no experiment {unknown[0]}; there are {', '.join(EXPERIMENTS)}", file=sys.stderr)
        return 2
    for name in wanted:
        code = measure(name)
        if code:
            return code
        write_page()
    write_page()
    draw_loss_table()
    return 0


def names_on_page() -> list[str]:
    """The experiments that the page has a place for."""
    return re.findall(r"<!-- begin ([\w-]+) -->", PAGE.read_text("utf-8"))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
