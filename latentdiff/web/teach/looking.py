"""`latentdiff data check` for a lesson: what is usable, and what is wrong with the rest."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from latentdiff.conditioning.text import dropped_words, token_counts
from latentdiff.data.buckets import BucketConfig, assign
from latentdiff.data.captions import CaptionReport, lengths
from latentdiff.data.check.checking import Findings, check
from latentdiff.data.check.guarded import default_workers
from latentdiff.data.check.manifest import write_manifest
from latentdiff.data.records import Source
from latentdiff.data.sources import SourceConfig
from latentdiff.errors import UserError
from latentdiff.files.json_file import read_json
from latentdiff.models import geometry, model_folder
from latentdiff.models.tokenizer_files import load_tokenizer
from latentdiff.web.teach.lessons import Lesson

FEW = 4
"""Pictures below which nothing can be learnt and held out."""
SAID = {
    "copy": "the same picture as another one",
    "caption-missing": "it has no caption",
    "caption-long": "its caption is longer than the model reads",
    "too-small": "it is too small for the model",
}


def look_through(
    lesson: Lesson, model: str, progress: Callable[[int, int], object]
) -> dict[str, Any]:
    """Look at every picture and caption and write the manifest of the usable ones.

    model: what `from_pretrained` takes. Returns plain values: usable, a number; left_out, picture →
    why; noted, picture → what was mended or looks odd; said, lines on all of them. Raises UserError
    when too few are left.
    """
    if not lesson.pictures:
        raise UserError("there are no pictures yet; drop some")
    source = SourceConfig().open(str(lesson.picture_folder))
    count_tokens, deal = _of_model(model)
    findings = check(
        source,
        count_tokens=count_tokens,
        deal=deal,
        workers=min(default_workers(), len(source)) or 1,
        progress=progress,
    )
    lesson.manifest.unlink(missing_ok=True)
    usable = len(source) - len(findings.left_out)
    if usable:
        write_manifest(lesson.manifest, findings)
    return told(findings) | {"usable": usable, "enough": usable >= FEW}


def told(findings: Findings) -> dict[str, Any]:
    """The findings as plain values, by the names of files."""
    source = findings.source
    reasons = {p.where: p.reason for _, p in findings.looked.problems if p.fatal}
    left_out = {
        source.id(row): reasons.get(source.id(row), SAID.get(code, code))
        for row, code in findings.left_out.items()
    }
    for problem in source.problems:
        left_out.setdefault(problem.where, problem.reason)
    noted: defaultdict[str, list[str]] = defaultdict(list)
    for _, problem in findings.looked.problems:
        if not problem.fatal:
            noted[problem.where].append(problem.reason)
    for group in findings.alike:
        names = [source.id(row) for row in group.tolist()]
        for name in names:
            noted[name].append("looks much like another one")
    said = []
    if findings.captions is not None:
        said += findings.captions.lines(3)
    if findings.shared:
        text, count = findings.shared[0]
        said.append(f"{count} pictures share the caption {text[:80]!r}")
    return {"left_out": _short(left_out), "noted": _short(noted), "said": said}


def _short(by_where: dict[str, Any]) -> dict[str, Any]:
    """The same by file names alone; a place in a table ends with the name that stands there."""
    return {Path(where.split()[-1]).name: value for where, value in by_where.items()}


def _of_model(model: str) -> tuple[Callable[[Source], CaptionReport], Callable[[Any], Any]]:
    """What counts tokens and what deals into buckets; only the model's settings are read."""
    folder = model_folder.resolve(model).path
    if not folder.is_dir():
        raise UserError(f"{folder.name} is no folder in diffusers format; lessons need one")
    read = {part: read_json(folder / part / "config.json") for part in model_folder.NETWORKS}
    found = geometry.of_configs(read["vae"], read["unet"])
    positions = int(read["text_encoder"].get("max_position_embeddings", 77))
    tokenizer = load_tokenizer(folder / "tokenizer", positions).light
    size = max(found.own_size or (0,))
    if not size:
        raise UserError(f"the model {folder.name} does not say its size; it cannot be taught here")
    buckets = BucketConfig().make(size, found.coarsest)
    deal = partial(assign, buckets=buckets, multiple=found.coarsest, upscale=True)
    return partial(_lengths, tokenizer=tokenizer), deal


def _lengths(source: Source, *, tokenizer: Any) -> CaptionReport:
    return lengths(
        source,
        lambda texts: token_counts(tokenizer, texts),
        int(tokenizer.model_max_length),
        lost_words=lambda texts: dropped_words(tokenizer, texts),
    )
