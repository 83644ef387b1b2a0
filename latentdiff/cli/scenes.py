"""`latentdiff scenes sheet | export | list | render`: look at the world, export it, fill a pool."""

from __future__ import annotations

import importlib
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import tyro

from latentdiff import config, files
from latentdiff.cli import groups
from latentdiff.cli.outputs import Named, Output
from latentdiff.errors import UserError
from latentdiff.scenes.catalog import find_setting, find_subjects
from latentdiff.scenes.world import World

_DEFAULT_SEED = 0
"""The default world seed of this command: that of the shipped presets."""


@dataclass(frozen=True, kw_only=True)
class _Choice:
    """Which scenes."""

    seed: int = _DEFAULT_SEED
    """World seed: another seed is another endless set of scenes."""
    start: int = 0
    """Index of the first scene."""
    size: int = 256
    """Pictures are size × size pixels."""
    subject: tuple[str, ...] = ()
    """Only these subjects: keys, names, synonyms, or core (what snowglobe draws), base, held-out.
    Default: base."""
    setting: tuple[str, ...] = ()
    """Only these settings. Default: all."""
    hold_out_pairs: bool = True
    """Leave out the tenth of (subject, setting) pairs that training never sees."""
    lively: bool = False
    """Subjects of any size, turned, mirrored and anywhere, not in their calm places."""
    pairs: float | None = None
    """Share of scenes with two subjects, 0 … 1. Default: 0.25, or 0.35 if lively."""

    def world(self) -> World:
        """The world of these options. UserError names what is unknown."""
        if self.start < 0:
            raise UserError(f"found start {self.start}, expected 0 or more")
        return World(
            self.seed,
            size=self.size,
            subjects=find_subjects(self.subject),
            settings=[find_setting(name).key for name in self.setting] or None,
            hold_out_pairs=self.hold_out_pairs,
            lively=self.lively,
            pair_rate=self.pairs,
        )


@dataclass(frozen=True, kw_only=True)
class SheetConfig(_Choice):
    """A contact sheet of scenes."""

    output: Named = "sheet.png"
    """Where the sheet is written (PNG)."""
    count: int = 60
    """Scenes on the sheet."""
    columns: int = 10
    """Scenes in a row."""


@dataclass(frozen=True, kw_only=True)
class ExportConfig(_Choice):
    """An imagefolder of captioned scenes."""

    folder: tyro.conf.Positional[Path]
    """A new folder for the PNG files and metadata.jsonl."""
    count: int = 1000
    """Scenes to write."""
    workers: int = 0
    """Rendering processes; 0 renders in this one."""


@dataclass(frozen=True, kw_only=True)
class RenderConfig:
    """A pool of rendered scenes for training."""

    folder: tyro.conf.Positional[Path]
    """The pool's folder; a started pool goes on where it stopped."""
    seed: int = _DEFAULT_SEED
    """World seed."""
    count: int = 50_000
    """Scenes in the pool."""
    size: int = 256
    """Pictures are size × size pixels."""
    subject: tuple[str, ...] = ()
    """Only these subjects: keys, names, synonyms, or core (what snowglobe draws) and base.
    Default: base."""
    lively: bool = False
    """Subjects of any size, turned, mirrored and anywhere, not in their calm places."""
    pairs: float | None = None
    """Share of scenes with two subjects, 0 … 1. Default: 0.25, or 0.35 if lively."""
    workers: int = 0
    """Rendering processes; 0: one for each core."""


def sheet(argv: list[str]) -> int:
    """`latentdiff scenes sheet`."""
    from latentdiff.sheet import contact_sheet

    options = config.parse(
        SheetConfig,
        argv,
        prog="latentdiff scenes sheet",
        description="Draw scenes of the procedural world on one sheet.",
    )
    if options.count < 1 or options.columns < 1:
        raise UserError(
            f"found count {options.count}, columns {options.columns}, expected 1 or more"
        )
    world = options.world()
    pictures = [world.scene(options.start + i).image for i in range(options.count)]
    place = Output.of(options.output).file("sheet.png")
    with files.atomic_path(place) as path:
        contact_sheet(pictures, options.columns).save(path, format="PNG")
    print(place)
    return 0


def export(argv: list[str]) -> int:
    """`latentdiff scenes export`."""
    from latentdiff.scenes.export import export as write

    options = config.parse(
        ExportConfig,
        argv,
        prog="latentdiff scenes export",
        description="Write captioned scenes as an imagefolder.",
    )
    begun = time.monotonic()
    write(
        options.folder,
        options.world(),
        options.count,
        start=options.start,
        workers=options.workers,
    )
    print(f"{options.folder}: {options.count} scenes in {time.monotonic() - begun:.1f} s")
    return 0


def names(argv: list[str]) -> int:
    """`latentdiff scenes list`."""
    from latentdiff.scenes import catalog

    if argv:
        print("usage: latentdiff scenes list")
        return 0 if argv[0] in ("-h", "--help", "--help-all") else 2
    for title, keys in (
        ("subjects", catalog.base_subjects()),
        ("core subjects, which snowglobe draws", catalog.core_subjects()),
        ("held-out subjects", catalog.held_out_subjects()),
        ("settings", catalog.illustrated_settings()),
        ("plain backgrounds", catalog.plain_settings()),
        ("relations", catalog.RELATIONS),
    ):
        print(f"{title} ({len(keys)}): {', '.join(keys)}")
    return 0


def render(argv: list[str]) -> int:
    """`latentdiff scenes render`."""
    from latentdiff.scenes.source import default_workers

    options = config.parse(
        RenderConfig,
        argv,
        prog="latentdiff scenes render",
        description="Fill a pool of rendered scenes that training reads.",
    )
    pool = importlib.import_module("latentdiff.data.rendered.pixel_pool")
    begun = time.monotonic()

    def progress(done: int, count: int) -> None:
        rate = done / max(1e-9, time.monotonic() - begun)
        print(f"\r{done} of {count} scenes, {rate:.0f}/s", end="", file=sys.stderr, flush=True)

    pool.build_pool(
        options.folder,
        world_seed=options.seed,
        count=options.count,
        size=options.size,
        subjects=find_subjects(options.subject),
        lively=options.lively,
        pair_rate=options.pairs,
        workers=options.workers or default_workers(),
        progress=progress,
    )
    print(file=sys.stderr)
    print(options.folder)
    return 0


SUBCOMMANDS: dict[str, tuple[Callable[[list[str]], int], str]] = {
    "sheet": (sheet, "draw a contact sheet: -o sheet.png"),
    "export": (export, "write an imagefolder: DIR --count N [--subject …] [--setting …]"),
    "list": (names, "name all subjects, settings and relations"),
    "render": (render, "fill a training pool: DIR --count N"),
}


def main(argv: list[str]) -> int:
    """Run one `latentdiff scenes` command line and return its exit code."""
    return groups.run(argv, "latentdiff scenes", "command", SUBCOMMANDS)
