"""Which kind of source stands where: `open_source`, and what to say when there is none.

What is looked for in a folder, in this order: a metadata table, .txt sidecars, parquet files, tar
shards, class-named folders. A second kind that would be passed over is said in the summary's
problems or refused, never ignored in silence.
"""

from __future__ import annotations

import glob
import json
import os
import re
import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import latentdiff.data.sources.folders.kohya as kohya
import latentdiff.data.sources.folders.picture_folder as folder
import latentdiff.data.sources.tars.tar as tar
from latentdiff.data.records import Source
from latentdiff.data.sources.folders.sidecars import Sidecars
from latentdiff.data.sources.listing import Listing, is_archive, walk
from latentdiff.data.sources.metadata import NAMES, Metadata
from latentdiff.data.sources.packed import printable
from latentdiff.data.sources.parquet_library import holds_bytes, parquet_library
from latentdiff.data.sources.text import check_template
from latentdiff.errors import UserError, nearest
from latentdiff.files import hub

SPLITS = ("train", "training", "validation", "valid", "val", "test", "testing", "dev", "eval")
CAPTIONS_FROM = ("metadata", "sidecars", "png")


@dataclass(frozen=True, kw_only=True)
class Options:
    """What `open_source` was told, beside the place."""

    split: str | None
    caption_template: str
    caption_column: str | None
    image_column: str | None
    captions_from: str | None
    need_captions: bool
    allow_gif_tiff: bool


def open_source(
    where: str | Path,
    *,
    split: str | None = None,
    caption_template: str = "a photo of a {label}",
    caption_column: str | None = None,
    image_column: str | None = None,
    captions_from: str | None = None,
    need_captions: bool = True,
    allow_gif_tiff: bool = False,
) -> Source:
    """The captioned pictures at `where`, listed: a folder, a table or parquet file, tar shards, a
    pattern of files ("shards/{000..017}.tar", "data/*.parquet"), or a data set of the hub
    ("owner/name").

    split: a folder, a part of the file names, or the hub's split. caption_template: for class
    names. caption_column, image_column: of tables; by default text, caption or prompt, and
    file_name or the one column with pictures. captions_from: "metadata" or "sidecars", where both
    stand and disagree; "png" for the prompts that generators left in PNG files.
    need_captions=False keeps pictures without one (captions are then ("",)).
    allow_gif_tiff: list those too. Raises UserError, which says what was expected and the fix.
    """
    if captions_from not in (None, *CAPTIONS_FROM):
        raise UserError(f"captions_from is {captions_from!r}; expected {', '.join(CAPTIONS_FROM)}")
    check_template(caption_template)
    options = Options(
        split=split,
        caption_template=caption_template,
        caption_column=caption_column,
        image_column=image_column,
        captions_from=captions_from,
        need_captions=need_captions,
        allow_gif_tiff=allow_gif_tiff,
    )
    name = str(where)
    path = Path(where).expanduser()
    try:
        if path.is_dir():
            return _folder(name, path, options)
        if path.exists():
            return _files(name, [path], options)
    except (OSError, ValueError) as error:  # a name too long, or with a zero byte
        raise UserError(f"{printable(name)[:200]!r} cannot be opened ({error})") from error
    files = expand(name)
    if files:
        return _files(name, files_of_split(files, options.split, name), options)
    # The network is not asked (and waited for) about a bare name or a slip of a path.
    if hub.parse(name) is not None:
        from latentdiff.data.sources.dataset import from_hub

        return from_hub(
            name,
            split=split,
            template=caption_template,
            caption_column=caption_column,
            image_column=image_column,
            need_captions=need_captions,
        )
    raise _not_there(name, path)


def expand_numbers(pattern: str) -> list[str]:
    """ "a-{008..010}.tar" -> "a-008.tar", "a-009.tar", "a-010.tar"."""
    names = [pattern]
    while match := re.search(r"\{(\d+)\.\.(\d+)\}", names[0]):
        low, high = match.groups()
        if not 0 <= int(high) - int(low) < 1_000_000:
            raise UserError(f"{match.group()} in {pattern!r} must count up, at most to a million")
        numbers = [str(i).zfill(len(low)) for i in range(int(low), int(high) + 1)]
        names = [name.replace(match.group(), i) for name in names for i in numbers]
    return names


def expand(pattern: str) -> list[Path]:
    """The files that a pattern names, sorted: {000..017} counts, * ? [] match."""
    names = [os.path.expanduser(name) for name in expand_numbers(pattern)]  # noqa: PTH111
    found = [sorted(glob.glob(name)) for name in names]  # noqa: PTH207  (the pattern is the user's)
    if any(found) and not all(found):
        absent = next(name for name, files in zip(names, found, strict=True) if not files)
        raise UserError(f"{absent} is missing, though others that {pattern!r} names are there")
    files = [Path(file) for files in found for file in files]
    return list(dict.fromkeys(file for file in files if file.is_file()))


def files_of_split(files: Sequence[Path], split: str | None, name: str) -> list[Path]:
    """Of files named for splits, those of one."""
    named: dict[str, list[Path]] = {}
    for file in files:
        words = re.split(r"[^a-z]+", file.name.lower())
        named.setdefault(next((s for s in SPLITS if s in words), ""), []).append(file)
    if split is not None:
        chosen = [f for f in files if split.lower() in re.split(r"[^a-z0-9]+", f.name.lower())]
        if not chosen:
            listed = ", ".join(f.name for f in files[:6])
            raise UserError(f"{name}: no file is named for the split {split!r}; found {listed}")
        return chosen
    if len(named) > 1:
        listed = ", ".join(repr(s) if s else "none" for s in sorted(named))
        raise UserError(
            f"{name} holds files of several splits ({listed}); say which: "
            f"--split {next(s for s in SPLITS if s in named)}"
        )
    return list(files)


def _files(name: str, files: list[Path], options: Options) -> Source:
    """Files that were named, all of one kind."""
    kinds = Counter(_kind(f) for f in files)
    if len(kinds) > 1:
        raise UserError(f"{name} names files of several kinds: {', '.join(sorted(kinds))}")
    kind = next(iter(kinds))
    if kind == "parquet" and not (len(files) == 1 and _is_metadata(files[0], options)):
        from latentdiff.data.sources.dataset import from_parquet

        return from_parquet(
            name,
            files,
            template=options.caption_template,
            caption_column=options.caption_column,
            image_column=options.image_column,
            need_captions=options.need_captions,
        )
    if kind == "tar":
        return tar.open_tar(
            name,
            files,
            template=options.caption_template,
            caption_column=options.caption_column,
            image_column=options.image_column,
            need_captions=options.need_captions,
            allow_gif_tiff=options.allow_gif_tiff,
        )
    if kind in ("table", "parquet") and len(files) == 1:
        empty = Listing(root=str(files[0].resolve().parent).encode("utf-8", "surrogateescape"))
        return folder.from_metadata(
            name, empty, _metadata(files[0], options), need_captions=options.need_captions
        )
    if kind == "table":
        raise UserError(f"{name} names {len(files)} tables; open one, or the folder it stands in")
    if kind == "picture":
        raise UserError(
            f"{name} is one picture; give the folder that holds the pictures: {files[0].parent}"
        )
    raise UserError(
        f"{name} is no data set: expected a folder, a .jsonl, .csv or .parquet "
        "table, or .tar shards"
    )


def _kind(file: Path) -> str:
    suffix = file.suffix.lower()
    if is_archive(file.name.encode("utf-8", "surrogateescape")):
        return "tar"
    if suffix in (".jsonl", ".csv"):
        return "table"
    if suffix == ".parquet":
        return "parquet"
    from latentdiff.data.decode.decoding import EXTENSIONS

    return "picture" if suffix in EXTENSIONS else "unknown"


def _is_metadata(file: Path, options: Options) -> bool:
    """A parquet file with a file_name column and no pictures names files beside it."""
    if file.name.lower() == NAMES[2]:
        return True
    pa, pq = parquet_library()
    try:
        schema = pq.read_schema(file)
    except (pa.ArrowException, OSError):
        return False
    holds = any(holds_bytes(pa, f.type) or pa.types.is_struct(f.type) for f in schema)
    return "file_name" in schema.names and not holds


def _metadata(file: Path, options: Options) -> Metadata:
    return Metadata(file, file_column=options.image_column, caption_column=options.caption_column)


def _folder(name: str, path: Path, options: Options) -> Source:
    if options.split is not None and (path / options.split).is_dir():
        path = path / options.split
        name = str(path)
        options = Options(**{**vars(options), "split": None})
    listing = walk(path, allow_gif_tiff=options.allow_gif_tiff)
    top = [t for t in listing.tables if b"/" not in t]
    tables = [path / n for n in NAMES if n.encode() in top]
    if len(tables) > 1:
        raise UserError(
            f"{name} holds {' and '.join(t.name for t in tables)}; open one of them: {tables[0]}"
        )
    if options.captions_from == "png" and listing.pictures:
        _no_split(name, options)
        return folder.from_png(name, listing, need_captions=options.need_captions)
    has_sidecars = bool(listing.texts) and bool(Sidecars(listing))
    if tables and not (options.captions_from == "sidecars" and has_sidecars):
        _no_split(name, options)
        return folder.from_metadata(
            name,
            listing,
            _metadata(tables[0], options),
            need_captions=options.need_captions,
            captions_from=options.captions_from,
        )
    if options.captions_from == "metadata" and not tables:
        raise UserError(f"{name} holds no {', '.join(NAMES)} to take the captions from")
    kohya.refuse_root(name, listing)
    if kohya.is_kohya(listing) and options.need_captions:
        _no_split(name, options)
        return folder.from_kohya(name, listing)
    if has_sidecars or (listing.pictures and not options.need_captions):
        _no_split(name, options)
        _refuse_splits(name, listing)
        return folder.from_sidecars(name, listing, need_captions=options.need_captions)
    packed = [path / Path(t.decode("utf-8", "surrogateescape")) for t in listing.tables]
    parquet = [p for p in packed if p.suffix.lower() == ".parquet" and p.name not in NAMES]
    if parquet and not listing.pictures:
        return _files(name, files_of_split(parquet, options.split, name), options)
    if listing.archives and not listing.pictures:
        shards = [path / Path(a.decode("utf-8", "surrogateescape")) for a in listing.archives]
        return _files(name, files_of_split(shards, options.split, name), options)
    nested = [t for t in listing.tables if t.rsplit(b"/", 1)[-1].decode("latin-1") in NAMES]
    if nested:
        where = path / Path(nested[0].decode("utf-8", "surrogateescape")).parent
        raise UserError(
            f"{name} holds no {NAMES[0]} or other table itself, but {where} does"
            f"{f', and {len(nested) - 1} more folders' if len(nested) > 1 else ''}; open that one"
        )
    _refuse_splits(name, listing)
    if any(b"/" in p for p in listing.pictures):
        _no_split(name, options)
        return folder.from_classes(name, listing, template=options.caption_template)
    raise _wrong_layout(name, listing)


def _no_split(name: str, options: Options) -> None:
    if options.split is not None:
        raise UserError(
            f"{name} has no folder {options.split!r} to take as the split; leave it out"
        )


def _refuse_splits(name: str, listing: Listing) -> None:
    """Folders named train, validation, … are no classes."""
    tops = sorted({p.split(b"/", 1)[0].decode("utf-8", "replace") for p in listing.pictures})
    splits = [t for t in tops if t.lower() in SPLITS]
    if splits and len(splits) == len(tops):
        raise UserError(
            f"{name} holds the splits {', '.join(splits)}; say which: --split {splits[-1]}"
            if len(splits) > 1
            else f"{name} holds one split; open it: {name}/{splits[0]}"
        )


def _wrong_layout(name: str, listing: Listing) -> UserError:
    """What was found, what was expected, the nearest guess, the two-line fix."""
    if any(t.endswith((b".arrow", b"state.json", b"dataset_info.json")) for t in listing.tables):
        return UserError(
            f"{name} was written by datasets' save_to_disk; export it once, then open the file:\n"
            "  from datasets import load_from_disk\n"
            f"  load_from_disk({name!r}).to_parquet('{Path(name).name}.parquet')"
        )
    if not listing.pictures:
        others = ", ".join(f"{n} {e}" for e, n in listing.others.most_common(4))
        found = f" It holds {others} files." if others else " It is empty."
        found = listing.problems.summary() + "." if len(listing.problems) else found
        return UserError(
            f"{name} holds no picture that is read (.jpg, .png, .webp, .bmp), "
            f"no parquet file and no tar shard.{found}"
        )
    first = printable(listing.pictures[0])
    stem = first.rsplit(".", 1)[0]
    guess = "the captions are still to be written"
    odd = [t for t in listing.tables if not t.endswith(b".arrow")]
    if odd:
        table = printable(odd[0])
        guess = f"{table} may hold the captions; a table is read when it is named {NAMES[0]}"
    elif listing.texts:
        text = printable(min(listing.texts))
        guess = f"{text} is named like no picture; {stem}.txt would be read"
    elif any(e in (".cap", ".captions", ".tags") for e in listing.others):
        guess = "the captions' files must end in .txt or .caption"
    elif kohya.folder_words(Path(name).name):
        guess = f"a folder of kohya's; open the one above it: {Path(name).parent}"
    line = json.dumps({"file_name": first, "text": "a photo of my dog"}, ensure_ascii=False)
    return UserError(
        f"{name} holds {len(listing.pictures):,} pictures without captions; expected "
        f"metadata.jsonl, .txt sidecars, or a folder for each class. Nearest guess: {guess}. "
        "Write one caption for each picture, either way:\n"
        f"  echo 'a photo of my dog' > {shlex.quote(f'{name}/{stem}.txt')}\n"
        f"  echo {shlex.quote(line)} >> {shlex.quote(f'{name}/metadata.jsonl')}"
    )


def _not_there(name: str, path: Path) -> UserError:
    shown = printable(name)[:300]
    near = _near(path)
    if near is not None:
        return UserError(f"{shown} is not there; did you mean {near}?")
    return UserError(
        f"{shown} is not there; expected a folder, a file, a pattern such as 'shards/*.tar', "
        "or a data set of the hub (owner/name)"
    )


def _near(path: Path) -> Path | None:
    """What stands beside a path that is not there, and is named much like it."""
    try:
        names = [p.name for p in path.parent.iterdir() if not p.name.startswith(".")]
    except (OSError, ValueError):
        return None
    close = nearest(path.name, names[:10_000])
    return path.parent / close[0] if close else None
