"""The latent cache of a source of pictures: what must be in it, made with the frozen networks.

`ensure_cache` is one call for all processes: it finds what is missing, encodes it, and hands out a
`CacheView` that gives moments by row and contexts by caption. A second start finds everything and
encodes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from latentdiff.conditioning import text
from latentdiff.data.buckets import BucketPlan
from latentdiff.data.cache import content_index
from latentdiff.data.cache import uses as cache_uses
from latentdiff.data.cache.build import Bad, Progress, Team, build
from latentdiff.data.cache.content_index import Contents
from latentdiff.data.cache.keys import Keys, first_of_each, picture_key, stack, text_key
from latentdiff.data.cache.latent_cache import CONTENTS, CONTEXTS, MOMENTS, LatentCache, Store
from latentdiff.data.decode.decoding import DECODER_VERSION, decode, header
from latentdiff.data.records import BadPicture, Source
from latentdiff.data.transforms import fit, transform_id
from latentdiff.errors import UserError
from latentdiff.models.autoencoder import Autoencoder
from latentdiff.pixels import to_pixels
from latentdiff.training.feeds.cache_identity import Precision, text_identity, vae_identity
from latentdiff.training.feeds.cache_view import CacheView

if TYPE_CHECKING:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from transformers import CLIPTextModel, CLIPTokenizer

Texts = Callable[[Sequence[str]], Sequence[str]]
"""A picture's captions to all texts that a sample may have, such as `CaptionPolicy.texts`."""
Show = Callable[[str], Progress]
"""Makes the progress display of one stage; its argument is the verb: "encoded"."""

PIXELS_AT_ONCE = {"cpu": 2**20, "cuda": 2**22}
CAPTIONS_AT_ONCE = {"cpu": 32, "cuda": 256}


@dataclass(frozen=True, kw_only=True)
class Encoders:
    """The frozen networks whose work is cached, and where and how they compute.

    The networks are moved to `device`. long_captions: what becomes of captions over the limit.
    precision: of the autoencoder; part of the keys. Contexts are always made in float32.
    """

    vae: AutoencoderKL
    text_encoder: CLIPTextModel
    tokenizer: CLIPTokenizer
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    long_captions: Literal["error", "truncate", "chunk"] = "error"
    precision: Precision = "float32"


@dataclass(frozen=True, kw_only=True)
class CacheSettings:
    """The latent cache that a feed fills and reads; contexts: whether captions are cached too."""

    folder: Path
    encoders: Encoders
    contexts: bool


def measure(data: bytes) -> tuple[int, int]:
    """Width and height of an encoded picture, upright. Raises BadPicture."""
    found = header(data)
    return found.width, found.height


def cut(
    data: bytes, bucket: tuple[int, int], *, flip: bool = False, upscale: bool = False
) -> NDArray[np.uint8]:
    """The pixels (height, width, 3) uint8 that a cache's moments are made from: a center crop."""
    return fit(decode(data).image, bucket, flip=flip, upscale=upscale)


def scan(
    cache: LatentCache,
    source: Source,
    *,
    team: Team | None = None,
    reread: bool = False,
    workers: int = 4,
    show: Show | None = None,
) -> Contents:
    """Sizes and hashes of the source's pictures: `content_index.scan` with this house's decoder."""
    return content_index.scan(
        cache,
        source,
        measure,
        team=team,
        reread=reread,
        workers=workers,
        progress=show("read") if show else None,
    )


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """All that a training reads of a source, which its cache must hold.

    contents, plan: from `scan` and `buckets.assign`. flip: the mirrored images too. upscale: as in
    the plan. texts: which contexts; None wants none, otherwise that of "" is always among them.
    about: what else tells this use of the cache from others, such as the resolution.
    """

    source: Source
    contents: Contents
    plan: BucketPlan
    flip: bool = False
    upscale: bool = False
    texts: Texts | None = None
    about: Mapping[str, str] = field(default_factory=dict)

    @property
    def flips(self) -> tuple[bool, ...]:
        """Whether mirrored, for each version of an image."""
        return (False, True) if self.flip else (False,)

    def left_out(self) -> dict[int, BadPicture]:
        """Rows that have no bucket: not readable, too small, or held out."""
        bad = dict(self.contents.bad)
        for row in np.flatnonzero(self.plan.bucket_of < 0).tolist():
            if row not in bad:
                width, height = self.contents.sizes[row].tolist()
                reason = f"it has {width}x{height} px, too small for a bucket"
                bad[row] = BadPicture("too-small", reason)
        return bad

    def describe(self, vae_id: str, precision: str, text_id: str) -> dict[str, str]:
        """What `latentdiff data cache list` says of this use."""
        encoder = {"text encoder": text_id[:12]} if text_id else {}
        return {
            **self.about,
            "data": self.source.name,
            "pictures": f"{picture_transform()}{', flipped too' if self.flip else ''}",
            "autoencoder": f"{vae_id[:12]} {precision}",
            **encoder,
        }


@dataclass(frozen=True, kw_only=True)
class Work:
    """How a cache is filled: by whom, how much at once, and what is shown of it.

    batch_size: images at once; by default so many as make a million pixels (four on CUDA). workers:
    threads that read and cut ahead. say: is handed a line for each damaged shard that was dropped.
    """

    team: Team = field(default_factory=Team)
    batch_size: int | None = None
    workers: int = 4
    show: Show | None = None
    say: Callable[[str], None] = lambda line: None

    def progress(self, what: str) -> Progress | None:
        """The display of one stage."""
        return self.show(what) if self.show else None


def ensure_cache(
    cache: LatentCache, wanted: Wanted, encoders: Encoders, work: Work | None = None
) -> CacheView:
    """Make the cache hold all that is wanted, and open it.

    All processes of `work.team` call it, and share the work.
    Raises UserError for non-finite values, a disk that is too small, failing processes.
    """
    work = work or Work()
    source, plan, texts = wanted.source, wanted.plan, wanted.texts
    assert len(source) == len(wanted.contents) == len(plan.bucket_of), (len(source), wanted)
    bad = wanted.left_out()
    rows = content_index.rows_without(len(source), bad)
    vae_id = vae_identity(encoders.vae, encoders.precision)
    keys = [_picture_keys(wanted, rows, mirrored, vae_id) for mirrored in wanted.flips]
    needed = {MOMENTS: np.concatenate(keys), CONTENTS: wanted.contents.keys}
    text_id = ""
    if texts is not None:
        text_id = text_identity(encoders.text_encoder, encoders.tokenizer, encoders.long_captions)
        needed[CONTEXTS] = stack(text_key(t, text_id) for t in _captions(source, texts))
    if work.team.rank == 0:
        # First, so that a build that is cut off has its entries kept by a cleaning.
        cache_uses.record(cache, wanted.describe(vae_id, encoders.precision, text_id), needed)
        for kind in (MOMENTS, CONTEXTS) if texts is not None else (MOMENTS,):
            for line in cache.store(kind).remove_damaged():
                work.say(f"{line}: dropped, its entries are made again")
    store = cache.store(MOMENTS)
    failed = _build_moments(store, needed[MOMENTS], wanted, encoders, rows, work)
    for mirrored_keys in keys:
        for row, key in zip(rows.tolist(), mirrored_keys, strict=True) if failed else ():
            if key.tobytes() in failed:
                bad[row] = failed[key.tobytes()]
    contexts = None
    if texts is not None:
        contexts = cache.store(CONTEXTS)
        captions = _captions(source, texts)
        _build_contexts(contexts, needed[CONTEXTS], captions, encoders, work)
    entries = []
    for mirrored_keys in keys:
        of_rows = np.full(len(source), -1, np.int64)
        of_rows[rows] = store.find(mirrored_keys)
        entries.append(of_rows)
    cache.forget(CONTENTS)
    return CacheView(store, contexts, tuple(entries), text_id, dict(sorted(bad.items())), cache)


def picture_transform() -> str:
    """What is done between a picture's bytes and its pixels, besides bucket and flip."""
    return f"{transform_id()} decoder-{DECODER_VERSION}"


def _picture_keys(wanted: Wanted, rows: NDArray[np.int64], flip: bool, vae_id: str) -> Keys:
    name, plan = picture_transform(), wanted.plan
    buckets = [tuple(bucket) for bucket in plan.buckets]
    digests = wanted.contents.digests[rows].tobytes()
    return stack(
        picture_key(digests[32 * k : 32 * k + 32], name, buckets[bucket], flip, vae_id)
        for k, bucket in enumerate(plan.bucket_of[rows].tolist())
    )


def _captions(source: Source, texts: Texts) -> Iterator[str]:
    """Every text that training may see, "" first, each as often as it comes."""
    yield ""
    for row in range(len(source)):
        yield from texts(source.captions(row))


def _build_moments(
    store: Store,
    keys: Keys,
    wanted: Wanted,
    encoders: Encoders,
    rows: NDArray[np.int64],
    work: Work,
) -> Bad:
    """keys: those of `rows`, and after them, if there are twice as many, of the mirrored ones."""
    source, plan, device = wanted.source, wanted.plan, encoders.device
    autoencoder = Autoencoder(encoders.vae.to(device))

    def load(i: int) -> NDArray[np.uint8]:
        row = int(rows[i % len(rows)])
        data = source.read(row)
        if content_index.digest(data) != wanted.contents.digests[row].tobytes():
            raise BadPicture("changed", "the picture changed while the cache was built")
        return cut(data, plan.bucket(row), flip=i >= len(rows), upscale=wanted.upscale)

    @torch.no_grad()
    def encode(pictures: list[NDArray[np.uint8]]) -> list[NDArray[np.float32]]:
        pixels = to_pixels(torch.from_numpy(np.stack(pictures)).to(device))
        low = encoders.precision == "bfloat16"
        with torch.autocast(device.type, torch.bfloat16, enabled=low):
            moments = autoencoder.encode_moments(pixels)
        return list(moments.float().cpu().contiguous().numpy())

    batch_size = work.batch_size
    if batch_size is None:
        area = max((width * height for width, height in plan.buckets), default=1)
        batch_size = max(1, _at_once(PIXELS_AT_ONCE, device) // area)
    return build(
        store,
        keys,
        load,
        encode,
        team=work.team,
        batch_size=batch_size,
        group=np.resize(plan.bucket_of[rows], len(keys)),
        name=lambda i: source.id(int(rows[i % len(rows)])),
        workers=work.workers,
        progress=work.progress("encoded pictures:"),
    )


def _build_contexts(
    store: Store, keys: Keys, captions: Iterator[str], encoders: Encoders, work: Work
) -> None:
    missing = np.flatnonzero(store.find(keys) < 0)
    missing = missing[first_of_each(keys[missing])]
    # Only the missing are held in memory; a million captions would not be small.
    left: list[str] = []
    if len(missing):
        is_missing = np.zeros(len(keys), bool)
        is_missing[missing] = True
        left = [caption for caption, wanted in zip(captions, is_missing, strict=True) if wanted]
    encoders.text_encoder.to(encoders.device)

    @torch.no_grad()
    def encode(several: list[str]) -> list[NDArray[np.float32]]:
        long: text.Long = "chunk" if encoders.long_captions == "chunk" else "truncate"
        tokens = text.tokenize(encoders.tokenizer, several, long=long)
        lost = [caption for caption, words in zip(several, tokens.dropped, strict=True) if words]
        if lost and encoders.long_captions == "error":
            raise UserError(
                f"a caption is over the text encoder's {tokens.input_ids.shape[-1]} tokens: "
                f"{lost[0][:80]!r}; shorten it, or use --long-captions truncate or chunk"
            )
        length = tokens.input_ids.shape[-1]
        contexts = text.encode(encoders.text_encoder, tokens.input_ids).float().cpu().numpy()
        # A caption's empty chunks stand only beside a longer one, and belong to that batch.
        return [c[: k * length] for c, k in zip(contexts, tokens.chunks, strict=True)]

    build(
        store,
        keys[missing],
        left.__getitem__,
        encode,
        team=work.team,
        batch_size=_at_once(CAPTIONS_AT_ONCE, encoders.device),
        name=lambda i: repr(left[i][:80]),
        workers=1,
        progress=work.progress("encoded captions:"),
    )


def _at_once(table: Mapping[str, int], device: torch.device) -> int:
    return table.get(device.type, table["cuda"])
