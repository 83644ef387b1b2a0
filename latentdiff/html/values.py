"""Plain JSON values on a page: text, tables and histograms, whatever their keys are called."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeGuard

from latentdiff.html import page
from latentdiff.html.page import Html

_ROWS = 60


def words(name: str) -> str:
    """A key as a title."""
    known = {"grad_norm": "Gradient norm", "loss": "Training loss", "mse": "MSE"}
    text = name.replace("_", " ")
    return known.get(name, text[:1].upper() + text[1:])


def shown(value: Any, depth: int = 0) -> list[Html]:
    """Elements for a value: a text with line breaks is preformatted, a list of objects is a table,
    an object with `counts` (n) and `edges` (n + 1) a histogram, any other object its entries."""
    if isinstance(value, str) and "\n" in value.strip():
        return [page.element("pre", value)]
    if isinstance(value, Mapping):
        counts, edges = value.get("counts"), value.get("edges")
        if _numbers(counts) and _numbers(edges) and len(edges) == len(counts) + 1:
            chart = page.histogram(counts, edges, x_label=str(value.get("label", "")))
            return [page.charts([(value.get("title", ""), chart)])]
        if depth < 3:
            return _mapping(value, depth)
    if isinstance(value, list) and value and all(isinstance(row, Mapping) for row in value):
        headers = list(dict.fromkeys(str(key) for row in value for key in row))
        rows = [[cell(row.get(name, "")) for name in headers] for row in value[:_ROWS]]
        numeric = [k for k, n in enumerate(headers) if _numbers([r.get(n, 0) for r in value])]
        found = [page.table([h.replace("_", " ") for h in headers], rows, numeric=numeric)]
        if len(value) > _ROWS:
            found.append(page.element("p", f"and {len(value) - _ROWS:,} more", class_="note"))
        return found
    return [page.element("p", cell(value))]


def pairs(entries: Mapping[str, Any]) -> Html:
    """Names and single values, a line each; names stay whole on a phone."""
    return page.table(("", ""), [(unbroken(name), cell(value)) for name, value in entries.items()])


def unbroken(text: object) -> Html:
    """Text that stays on one line."""
    return page.element("span", text, style="white-space:nowrap")


def _mapping(value: Mapping[Any, Any], depth: int) -> list[Html]:
    simple = {k: v for k, v in value.items() if not isinstance(v, (Mapping, list)) and v != ""}
    simple |= {
        k: ", ".join(map(cell, v))
        for k, v in value.items()
        if isinstance(v, list) and v and not any(isinstance(x, (Mapping, list)) for x in v)
    }
    lines = {k: v for k, v in simple.items() if not (isinstance(v, str) and "\n" in v.strip())}
    parts: list[Html] = []
    if lines:
        parts.append(pairs({str(k).replace("_", " "): v for k, v in lines.items()}))
    for key, inner in value.items():
        if key not in lines and inner not in (None, "", [], {}):
            parts.append(page.element("h3", words(str(key))))
            parts += shown(inner, depth + 1)
    return parts


def _numbers(values: Any) -> TypeGuard[list[float]]:
    return (
        isinstance(values, list)
        and bool(values)
        and all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in values)
    )


def cell(value: Any) -> str:
    """A single value as text."""
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "none"}[value]
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.6g}"
    return str(value)
