"""WebDataset shards as a stream: for data that are too many to list, split over processes.

`datasets` deals the shards to the processes (`split_dataset_by_node`) and shuffles within a
buffer. What a process sees is a pure function of (shards, seed, process, number of processes):
nothing about the stream is ever saved, and resuming is reading on from a number of samples.
"""

from __future__ import annotations

import hashlib
import inspect
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from latentdiff import seeding
from latentdiff.data.records import Problem
from latentdiff.data.sources.dataset import short_names
from latentdiff.data.sources.find import expand, expand_numbers, files_of_split
from latentdiff.data.sources.listing import is_archive
from latentdiff.data.sources.packed import Problems, counted, printable
from latentdiff.data.sources.parquet_library import datasets_library
from latentdiff.data.sources.tars.tar import read_at
from latentdiff.data.sources.tars.tar_packed import is_packed, unpack
from latentdiff.data.sources.tars.tar_samples import TarOptions, shard_samples
from latentdiff.errors import UserError

OPEN_SHARDS = 8  # read at a time, a sample of each in turn, so that they are well mixed

StreamedSample = tuple[str, tuple[str, ...], bytes]


class StreamSource:
    """One process's share of an endless stream: epoch after epoch, each in an order of its own.

    With as many shards as processes, or a multiple, each process reads its own shards; otherwise
    each reads all headers and keeps every `world_size`-th sample. In both cases the processes
    together see each sample once an epoch.
    """

    def __init__(
        self,
        name: str,
        shards: Sequence[str],
        options: TarOptions,
        *,
        rank: int,
        world_size: int,
        seed: int,
        shuffle_buffer: int,
    ) -> None:
        if not 0 <= rank < world_size:
            raise UserError(f"rank is {rank} of {world_size}; expected 0 to {world_size - 1}")
        if shuffle_buffer < 1:
            raise UserError(f"shuffle_buffer is {shuffle_buffer}; expected 1 (no shuffle) or more")
        self._name, self._shards, self._options = name, list(shards), options
        self._shown = short_names([Path(shard) for shard in shards])
        self._rank, self._world_size = rank, world_size
        self._seed, self._buffer = seed, shuffle_buffer
        self._problems = Problems()
        self._heard: set[str] = set()  # shards whose problems are known
        self._at: tuple[int, Iterator[dict[str, Any]]] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """For a worker: it opens the stream anew."""
        return {**self.__dict__, "_at": None}

    @property
    def name(self) -> str:
        return self._name

    @property
    def summary(self) -> str:
        share = "" if self._world_size == 1 else f", share {self._rank + 1} of {self._world_size}"
        return (
            f"{self._name}: a stream of {counted(len(self._shards), 'tar shard')}{share}, "
            f"shuffled within {self._buffer:,}{self._problems.summary()}"
        )

    @property
    def problems(self) -> Sequence[Problem]:
        """What was found in the shards read so far."""
        return self._problems

    @property
    def fingerprint(self) -> str:
        """16 digits that change with the shards' names, sizes or times."""
        digest = hashlib.sha256()
        for shard in self._shards:
            state = ""
            if not _remote(shard):
                status = Path(shard).stat()
                state = f"|{status.st_size}|{status.st_mtime_ns}"
            digest.update(f"{printable(shard)}{state}\n".encode())
        return digest.hexdigest()[:16]

    def samples(self, start: int = 0) -> Iterator[StreamedSample]:
        """(id, captions, picture bytes) of this process's samples from its `start`-th on, endless.

        What is passed over is not read, only its headers are. Raises UserError when no sample
        falls to this process, and when a shard is gone.
        """
        return (self._fetch(example) for example in self._examples(start))

    def sample(self, index: int) -> StreamedSample:
        """Sample `index` of this process's share; cheap when asked for in rising order."""
        if self._at is None or index < self._at[0]:
            self._at = index, self._examples(index)
        position, examples = self._at
        for example in examples:
            position += 1
            if position > index:
                self._at = position, examples
                return self._fetch(example)
        raise AssertionError("an endless stream has ended")

    def _fetch(self, example: dict[str, Any]) -> StreamedSample:
        data = example["data"]
        if data is None:
            data = read_at(example["file"], example["offset"], example["size"])
        return example["id"], tuple(dict.fromkeys(example["captions"])) or ("",), data

    def _examples(self, start: int) -> Iterator[dict[str, Any]]:
        epoch, passed = 0, 0
        while True:
            before = passed
            for example in self._epoch(epoch):
                passed += 1
                if passed > start:
                    yield example
            if passed == before:
                raise UserError(
                    f"{self._name} holds no usable sample for process {self._rank} of "
                    f"{self._world_size}{self._problems.summary()}"
                )
            epoch += 1

    def _epoch(self, epoch: int) -> Iterator[dict[str, Any]]:
        """This process's samples of one epoch, the pictures still to be read."""
        datasets_library()
        from datasets import IterableDataset
        from datasets.distributed import split_dataset_by_node

        order = seeding.permutation(len(self._shards), self._seed, "shards", epoch)
        shards = [(self._shards[i], self._shown[i]) for i in order]
        # One job a process where that deals whole shards evenly; else one job that all processes
        # walk, each keeping its samples.
        jobs = self._world_size if len(shards) % self._world_size == 0 else 1
        stream = IterableDataset.from_generator(
            self._walk, gen_kwargs={"jobs": [shards[k::jobs] for k in range(jobs)]}
        )
        stream = split_dataset_by_node(stream, rank=self._rank, world_size=self._world_size)
        # Shards are mixed by `_walk`; newer versions would do it too, by a thread for each.
        mixing = {"max_buffer_input_shards": 1}
        if "max_buffer_input_shards" not in inspect.signature(stream.shuffle).parameters:
            mixing = {}
        seed = seeding.key(self._seed, "stream", epoch) % 2**63
        stream = stream.shuffle(seed=seed, buffer_size=self._buffer, **mixing)
        # By batches, because a plain loop over it inside a loader's worker would be cut into
        # shares once more; which positions a worker answers for is its caller's affair.
        for batch in stream.iter(batch_size=16):
            for values in zip(*batch.values(), strict=True):
                yield dict(zip(batch, values, strict=True))

    def _walk(self, jobs: Sequence[Sequence[tuple[str, str]]]) -> Iterator[dict[str, Any]]:
        """The samples of some jobs' shards, one of each open shard in turn."""
        for job in jobs:
            waiting = list(job)[::-1]
            opened: list[Iterator[dict[str, Any]]] = []
            while waiting or opened:
                while waiting and len(opened) < OPEN_SHARDS:
                    opened.append(self._open(*waiting.pop()))
                for shard in list(opened):
                    sample = next(shard, None)
                    if sample is None:
                        opened.remove(shard)
                    else:
                        yield sample

    def _open(self, shard: str, shown: str) -> Iterator[dict[str, Any]]:
        problems = self._problems if shard not in self._heard else Problems()
        self._heard.add(shard)
        if not _remote(shard):
            file = Path(shard)
            if not is_packed(file):
                yield from self._shard(file, shown, problems, keep=True)
                return
            file = unpack(file, shown, problems)
        else:
            file = _download(shard, shown, problems)
        try:
            yield from self._shard(file, shown, problems, keep=False)
        finally:
            file.unlink(missing_ok=True)

    def _shard(
        self, file: Path, shown: str, problems: Problems, *, keep: bool
    ) -> Iterator[dict[str, Any]]:
        """keep: the file stays, so that a picture can be read when it is its turn."""
        for sample in shard_samples(file, shown, self._options, problems):
            place = str(file)
            yield {
                "id": f"{shown}#{printable(sample.key)}",
                "captions": sample.captions,
                "file": place,
                "offset": sample.offset,
                "size": sample.size,
                "data": None if keep else read_at(place, sample.offset, sample.size),
            }


def _remote(shard: str) -> bool:
    return "://" in shard


def _download(url: str, shown: str, problems: Problems) -> Path:
    """A shard from elsewhere, as a plain tar in the folder for temporary files."""
    import fsspec

    descriptor, name = tempfile.mkstemp(prefix="latentdiff-", suffix=".tar")
    place = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as target, fsspec.open(url, "rb") as opened:
            shutil.copyfileobj(opened, target, 1 << 20)
        if is_packed(place):
            packed, place = place, unpack(place, shown, problems)
            packed.unlink()
    except Exception as error:  # each protocol has its own
        Path(name).unlink(missing_ok=True)
        words = str(error).strip().splitlines()[:1] or [type(error).__name__]
        raise UserError(f"{url} cannot be read ({words[0][:160]})") from error
    return place


def open_stream(
    where: str | Path,
    *,
    rank: int = 0,
    world_size: int = 1,
    seed: int = 0,
    shuffle_buffer: int = 1000,
    split: str | None = None,
    caption_template: str = "a photo of a {label}",
    caption_column: str | None = None,
    image_column: str | None = None,
    need_captions: bool = True,
    allow_gif_tiff: bool = False,
) -> StreamSource:
    """Tar shards as a stream: a folder of them, a pattern ("shards/{000..017}.tar"), or addresses
    that fsspec knows ("https://…/{000..017}.tar"). rank, world_size: the process that asks, among
    how many. shuffle_buffer: among how many samples is drawn; the shards' order is always shuffled.
    The other options are `open_source`'s. Raises UserError.
    """
    name = str(where)
    if _remote(name):
        shards = expand_numbers(name)
    else:
        path = Path(where).expanduser()
        files = sorted(path.rglob("*")) if path.is_dir() else expand(name)
        files = [f for f in files if f.is_file() and is_archive(os.fsencode(f.name))]
        if not files:
            raise UserError(
                f"{name} is no tar shard and holds none; a stream reads .tar files, "
                "such as 'shards/{000..017}.tar'"
            )
        shards = [str(f.resolve()) for f in files_of_split(files, split, name)]
    options = TarOptions(
        template=caption_template,
        caption_column=caption_column,
        image_column=image_column,
        need_captions=need_captions,
        allow_gif_tiff=allow_gif_tiff,
    )
    return StreamSource(
        name,
        shards,
        options,
        rank=rank,
        world_size=world_size,
        seed=seed,
        shuffle_buffer=shuffle_buffer,
    )
