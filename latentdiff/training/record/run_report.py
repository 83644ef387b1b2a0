"""report.html: a run on one page that needs no network, no script and no other file.

It is made from the run folder's own files alone, so it can be made anew at any time, also of a
run that is still going on or that broke down.
"""

from __future__ import annotations

import datetime
import io
import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from PIL import Image

import latentdiff
from latentdiff import files
from latentdiff.html import page, values
from latentdiff.html.charts import Curve, line_chart, smooth
from latentdiff.html.page import Html
from latentdiff.training.record.report_validation import best_step, overall, validation
from latentdiff.training.record.run_history import RunHistory, Sheet, read_history
from latentdiff.training.record.validation import change

NAME = "report.html"
_SHEETS = 10
_SHEET_BYTES = 300_000
_SHEET_WIDTH = 1024
# Curves with a chart of their own place; whatever else a task logs is drawn after them.
_LEADING = ("loss", "learning_rate", "grad_norm", "samples_per_second")
_ENDED = {
    "finished": "Finished",
    "time": "Stopped by its time limit",
    "interrupted": "Interrupted",
}
_NOT_DRAWN = ("positions", "minutes")


def write_report(run_dir: Path) -> Path:
    """Write RUN/report.html, atomically; returns its path. UserError when there is no run."""
    target = run_dir / NAME
    files.write_text(target, report_page(read_history(run_dir)))
    return target


def report_page(history: RunHistory) -> str:
    """The page's text."""
    sections = [
        _summary(history),
        validation(history),
        _samples(history),
        _training(history),
        _data(history),
        _settings(history),
        _environment(history),
        _notes(history),
    ]
    return page.page(
        history.path.resolve().name,
        *[part for part in sections if part],
        lead=_state(history),
        footer=f"Written by latentdiff {latentdiff.__version__} from the files of the run folder; "
        "`latentdiff report RUN` writes it anew.",
    )


def _state(history: RunHistory) -> Html:
    when = _time(history.last_time)
    at = f"step {history.last_step:,}" + (f", {when}" if when else "")
    if history.trouble:
        return page.element("span", f"Stopped at {at}: {history.trouble}", class_="bad")
    if history.ended:
        return page.text(f"{_ENDED.get(history.ended, history.ended)} at {at}.")
    return page.text(f"Last written at {at}.")


def _time(seconds: float) -> str:
    if not math.isfinite(seconds):
        return ""
    moment = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    return f"{moment:%Y-%m-%d %H:%M} UTC"


def _summary(history: RunHistory) -> Html:
    steps = _train_setting(history, "steps")
    tiles: list[tuple[str, object]] = [
        ("steps", f"{history.last_step:,}" + (f" of {steps:,}" if isinstance(steps, int) else ""))
    ]
    for title, value, form in (
        ("samples seen", history.last("positions"), "{:,.0f}"),
        ("minutes", history.last("minutes"), "{:,.1f}"),
        ("samples per second", _median(history, "samples_per_second"), "{:,.3g}"),
    ):
        if math.isfinite(value):
            tiles.append((title, form.format(value)))
    losses = history.train.get("loss", ([], []))[1]
    if losses:
        tiles.append(("training loss", f"{smooth(losses, window=_window(losses))[-1]:.4g}"))
    row = overall(history.validated[-1], "held-out") if history.validated else None
    if row is not None and len(history.validated) > 1:
        tiles.append(("held-out change", " ± ".join(change(row))))
    best = best_step(history)
    if best is not None and row is not None and len(history.validated) > 1:
        tiles.append(("best step", f"{best:,}"))
    if history.bad_counts:
        tiles.append(("bad samples", f"{sum(history.bad_counts.values()):,}"))
    return page.facts(tiles)


def _train_setting(history: RunHistory, name: str) -> Any:
    train = history.config.get("train", history.config)
    return train.get(name) if isinstance(train, Mapping) else None


def _median(history: RunHistory, name: str) -> float:
    values = [v for v in history.train.get(name, ([], []))[1] if math.isfinite(v)]
    return statistics.median(values) if values else math.nan


def _window(values: Sequence[float]) -> float:
    """How many log lines a smoothed curve averages over: a twentieth of the run."""
    return max(1.0, len(values) / 20)


def _samples(history: RunHistory) -> Html | None:
    if not history.sheets:
        return None
    count = len(history.sheets)
    picked = sorted({round(k * (count - 1) / (_SHEETS - 1)) for k in range(_SHEETS)})
    chosen = [history.sheets[k] for k in picked]
    *earlier, last = chosen
    note = "The same prompts and seeds each time."
    if len(chosen) < count:
        note += f" {len(chosen)} of {count} sheets; the others are in the run's sheets folder."
    figures = (
        page.element(
            "figure", page.element("figcaption", f"Step {s.step:,}"), _sheet(s, history.notes)
        )
        for s in earlier
    )
    return page.section(
        "Samples",
        page.element("h3", f"Step {last.step:,}"),
        _prompted(last) or _sheet(last, history.notes),
        _recipe(last.recipe),
        page.element("div", *figures, class_="charts") if earlier else "",
        note=note,
    )


def _prompted(sheet: Sheet) -> Html | None:
    """A sheet's pictures, each over its prompt; None where it is not told which is where."""
    told = sheet.recipe.get("pictures") if isinstance(sheet.recipe, Mapping) else None
    found = [(p.get("box"), p.get("prompt")) for p in _list(told) if isinstance(p, Mapping)]
    shown = []
    try:
        with Image.open(sheet.file) as opened:
            whole = opened.convert("RGB")
        for box, prompt in found:
            left, top, right, bottom = map(int, box)  # type: ignore[arg-type]
            if not (0 <= left < right <= whole.width and 0 <= top < bottom <= whole.height):
                return None
            buffer = io.BytesIO()
            whole.crop((left, top, right, bottom)).save(buffer, "PNG")
            data, kind = _small(buffer.getvalue())
            shown.append((page.image(data, kind, alt=str(prompt)), prompt))
    except (OSError, ValueError, TypeError, Image.DecompressionBombError):
        return None
    return page.element("div", page.pictures(shown), class_="samples") if shown else None


def _sheet(sheet: Sheet, notes: list[str]) -> Html:
    try:
        data, kind = _embedded(sheet.file)
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        notes.append(f"{sheet.file.name} cannot be read: {error}")
        return page.element("p", f"{sheet.file.name} cannot be read", class_="warn")
    return page.image(data, kind, alt=f"samples at step {sheet.step}", class_="sheet")


def _embedded(file: Path) -> tuple[bytes, str]:
    """The sheet's bytes and media type; a large one is scaled down and becomes a JPEG."""
    return _small(file.read_bytes())


def _small(data: bytes) -> tuple[bytes, str]:
    with Image.open(io.BytesIO(data)) as opened:
        opened.load()
        if len(data) <= _SHEET_BYTES and opened.format == "PNG":
            return data, "image/png"
        picture = opened.convert("RGB")
    picture.thumbnail((_SHEET_WIDTH, 4 * _SHEET_WIDTH), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=88)
    return buffer.getvalue(), "image/jpeg"


def _recipe(recipe: Any) -> Html | str:
    """The commands that draw a sheet's pictures again, folded away."""
    if not isinstance(recipe, Mapping):
        return ""
    pictures = [p for p in _list(recipe.get("pictures")) if isinstance(p, Mapping)]
    commands = [recipe.get("command"), *_list(recipe.get("commands"))]
    commands += [picture.get("command") for picture in pictures]
    lines = [str(command) for command in commands if command]
    if not lines:
        return ""
    return page.details("The commands that draw these again", page.element("pre", "\n".join(lines)))


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _training(history: RunHistory) -> Html | None:
    if not history.train:
        return None
    rest = [n for n in history.train if n not in _LEADING and n not in _NOT_DRAWN]
    marks = [(float(step), text) for step, text in history.marks]
    charts = []
    for name in itertools.chain(_LEADING, rest):
        if name not in history.train:
            continue
        x, y = history.train[name]
        if name == "learning_rate":
            curves = [Curve(x=x, y=y)]
        else:
            mean = smooth(y, window=_window(y))
            curves = [Curve(x=x, y=y, faint=True), Curve(x=x, y=mean)]
        chart = line_chart(
            curves,
            x_label="step",
            describes=f"{values.words(name)} over the run's steps",
            zero=name in ("learning_rate", "samples_per_second"),
            marks=marks,
        )
        charts.append((values.words(name), chart))
    return page.section(
        "Training",
        page.charts(charts),
        note="Faint: means between log lines. Strong: their running mean.",
    )


def _data(history: RunHistory) -> Html | None:
    parts: list[Html] = []
    if history.data is not None:
        parts += values.shown(history.data)
    if history.bad_counts:
        total = sum(history.bad_counts.values())
        rows = [
            (
                row.get("id", row.get("where", "")),
                values.unbroken(row.get("code", "")),
                row.get("reason", row.get("message", "")),
            )
            for row in history.bad_listed
        ]
        counted = ", ".join(f"{n:,} {code}" for code, n in history.bad_counts.most_common())
        parts += [
            page.element("h3", f"Bad samples: {total:,}, skipped"),
            page.element("p", counted),
            page.table(("sample", "code", "reason"), rows),
        ]
        if total > len(rows):
            parts.append(page.element("p", f"{total - len(rows):,} more in bad_samples.jsonl."))
    return page.section("Data", *parts) if parts else None


def _settings(history: RunHistory) -> Html | None:
    command = next((b["command"] for b in history.begins if b.get("command")), None)
    if not history.config and not command:
        return None
    parts: list[Html] = []
    if command:
        parts.append(page.element("pre", command))
    if history.config:
        text = yaml.safe_dump(history.config, sort_keys=False, allow_unicode=True)
        parts.append(page.details("All settings (config.yaml)", page.element("pre", text)))
    return page.section("Command and settings", *parts)


def _environment(history: RunHistory) -> Html | None:
    if not history.begins:
        return None
    known = [b["environment"] for b in history.begins if isinstance(b.get("environment"), Mapping)]
    entries = {str(name): value for name, value in known[-1].items()} if known else {}
    entries["processes"] = history.begins[-1].get("how", "")
    parts = [values.pairs(entries)]
    if history.processes:
        parts.append(page.element("h3", "Processes at the end"))
        parts += values.shown(history.processes)
    if len(history.begins) > 1:
        sittings = [
            (
                f"{begin.get('step', 0):,}",
                _time(begin["time"]) if isinstance(begin.get("time"), float) else "",
                str(begin.get("how", "")).partition(",")[0],
                Path(str(begin.get("source", ""))).name,
            )
            for begin in history.begins
        ]
        headers = ("from step", "begun", "processes", "state from")
        parts.append(page.element("h3", f"{len(sittings)} sittings"))
        parts.append(page.table(headers, sittings, numeric=(0,)))
    return page.section("Environment", *parts)


def _notes(history: RunHistory) -> Html | None:
    if not history.notes:
        return None
    return page.section(
        "Not shown", *(page.element("p", note, class_="warn") for note in history.notes)
    )
