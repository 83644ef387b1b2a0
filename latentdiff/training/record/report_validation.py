"""The report's section on validation: curves with error bars, the last comparison, its meaning."""

from __future__ import annotations

import math

from latentdiff.evaluation.paired import Estimate
from latentdiff.html import page, values
from latentdiff.html.charts import Curve, line_chart
from latentdiff.html.page import Html
from latentdiff.training.record.run_history import RunHistory
from latentdiff.training.record.validation import ALL, Difference, Stored, change

FEW_UPDATES = 20
"""Between validations that are compared, before their difference is given a meaning."""
_STYLE_OF = {"held-out": 1, "train": 2}


def overall(record: Stored, group: str) -> Difference | None:
    """The difference of a group over all its timesteps."""
    found = (d for d in record.differences if d.group == group and d.bin_name == ALL)
    return next(found, None)


def best_step(history: RunHistory) -> int | None:
    """The last record that was a new best; the first one when none was; None without records."""
    if not history.validated:
        return None
    chosen = [r.step for r in history.validated if r.best]
    return chosen[-1] if chosen else history.validated[0].step


def _half(row: Difference) -> float:
    """Half the 95 % interval of a difference."""
    estimate = Estimate(
        mean=row.difference, standard_error=row.standard_error, n=row.n, clusters=row.pictures
    )
    return estimate.interval()[1] - row.difference


def validation(history: RunHistory) -> Html | None:
    """The section; None when nothing was validated."""
    if not history.validated:
        return _plain_validation(history)
    last = history.validated[-1]
    charts = []
    for name in dict.fromkeys(d.bin_name for r in history.validated for d in r.differences):
        curves = []
        for group, style in _STYLE_OF.items():
            rows = [
                (record.step, row)
                for record in history.validated
                for row in record.differences
                if row.group == group and row.bin_name == name
            ]
            if rows:
                curve = Curve(
                    x=[float(step) for step, _ in rows],
                    y=[row.difference for _, row in rows],
                    error=[_half(row) for _, row in rows],
                    name=group,
                    style=style,
                )
                curves.append(curve)
        title = "All timesteps" if name == ALL else f"Timesteps {name.removeprefix('t ')}"
        describes = f"difference of the validation loss, {title}"
        charts.append((title, line_chart(curves, x_label="step", describes=describes, zero=True)))
    body = [
        (
            row.group,
            "all" if row.bin_name == ALL else row.bin_name.removeprefix("t "),
            *change(row),
            _verdict(row),
            f"{row.mean_now:.4f}",
            f"{row.pictures:,}",
            f"{row.n:,}",
        )
        for row in last.differences
    ]
    headers = ("pictures", "t", "change", "± SE", "", "loss", "count", "pairs")
    return page.section(
        "Validation",
        page.element("p", _conclusion(history, last)),
        page.charts(charts) if len(history.validated) > 1 else "",
        page.element("h3", _against(last)),
        page.table(headers, body, numeric=(2, 3, 5, 6, 7)),
        note="Change of the loss since the first validation, on the same pictures with the same "
        "timesteps and noise; below zero is better. Bars are 95 % intervals, clustered by picture. "
        "n.s.: not significant.",
    )


def _against(record: Stored) -> str:
    sentence = f"At step {record.step:,}"
    return sentence if record.since == record.step else f"{sentence}, against step {record.since:,}"


def _verdict(row: Difference) -> Html:
    if not row.significant:
        return page.element("span", "n.s.", class_="note")
    better = row.difference < 0
    return page.element("span", "lower" if better else "higher", class_="good" if better else "bad")


def _conclusion(history: RunHistory, last: Stored) -> str:
    row = overall(last, "held-out")
    if row is None:
        return "No held-out pictures were measured, so nothing can be said about new pictures."
    if len(history.validated) == 1:
        return "Measured once so far: there is nothing to compare with."
    apart = last.step - last.since
    if apart < FEW_UPDATES:
        lie = "update lies" if apart == 1 else "updates lie"
        return (
            f"Only {apart:,} {lie} between this validation and the one that it is compared with: "
            "too few to say anything."
        )
    if row.significant and row.difference < 0:
        sentence = f"The held-out loss is significantly below that of step {last.since:,}."
    elif row.significant:
        sentence = (
            f"The held-out loss is significantly above that of step {last.since:,}: the model has "
            "become worse on pictures that it is not trained on."
        )
    else:
        sentence = (
            f"The held-out loss does not differ significantly from that of step {last.since:,}."
        )
    best = best_step(history)
    if best is not None and best != last.step:
        later = "step {:,} is significantly worse" if last.worse else "nothing later is better"
        sentence += f" The best step is {best:,}: {later.format(last.step)}."
    train = overall(last, "train")
    if train is not None and train.significant and train.difference < 0 <= row.difference:
        sentence += " The loss on training pictures has fallen, that on held-out ones has not: "
        sentence += "overfitting."
    return sentence


def _plain_validation(history: RunHistory) -> Html | None:
    curves = {name: xy for name, xy in history.validate.items() if "/" not in name}
    if not curves:
        return None
    charts = [
        (
            values.words(name),
            line_chart(
                [Curve(x=x, y=y, error=[math.nan] * len(x))],
                x_label="step",
                describes=f"validation {name}",
            ),
        )
        for name, (x, y) in curves.items()
    ]
    return page.section("Validation", page.charts(charts))
