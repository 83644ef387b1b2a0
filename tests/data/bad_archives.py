"""Bad tar archives, made on the spot; `ARCHIVES` says what has to come of each."""

from __future__ import annotations

import gzip
import io
import tarfile
from dataclasses import dataclass
from pathlib import Path

from bad_input import encoded, scene


@dataclass(frozen=True)
class ExpectedArchive:
    """What comes of an archive. keys: of the samples left; codes: of the problems."""

    keys: tuple[str, ...] = ("good",)
    codes: frozenset[str] = frozenset()


def _archive(*codes: str, keys: tuple[str, ...] = ("good",)) -> ExpectedArchive:
    return ExpectedArchive(keys, frozenset(codes))


ARCHIVES: dict[str, ExpectedArchive] = {
    "absolute.tar": _archive("path-out"),
    "dot-dot.tar": _archive("path-out"),
    "link-out.tar": _archive("member-kind"),
    "hard-link-out.tar": _archive("member-kind"),
    "device.tar": _archive("member-kind"),
    "fifo.tar": _archive("member-kind"),
    "member-twice.tar": _archive("member-twice"),
    "many-empty.tar": _archive("too-many", "empty", "picture-missing"),
    "ratio-bomb.tar.gz": _archive("ratio", "truncated", "too-large", "picture-missing"),
    "cut.tar": _archive("truncated", "caption-missing"),
    "cut-gzip.tar.gz": _archive("truncated", keys=("good", "odd")),
    "gzip-checksum.tar.gz": _archive("checksum", keys=("good", "odd")),
    "wrong-checksum.tar": _archive("checksum"),
    "no-tar.tar": ExpectedArchive((), frozenset({"checksum"})),
    "tar-inside.tar": _archive("archive-inside"),
    "names-by-case.tar": _archive("names-by-case", keys=("good", "GOOD")),
    "long-names.tar": _archive(keys=("good", "d/" * 60 + "é" * 100)),
    "no-end.tar": _archive("truncated"),
}


def sample(key: str, caption: str = "a good picture") -> list[tuple[tarfile.TarInfo, bytes]]:
    """The two members of a good sample."""
    members = []
    for name, data in ((f"{key}.png", encoded(scene(), "PNG")), (f"{key}.txt", caption.encode())):
        info = tarfile.TarInfo(name)
        info.size = len(data)
        members.append((info, data))
    return members


def special(name: str, kind: bytes, link: str = "") -> tuple[tarfile.TarInfo, bytes]:
    """A member without content: a link, a device, a FIFO."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info, b""


def tar_bytes(members: list[tuple[tarfile.TarInfo, bytes]]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for info, data in members:
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def _ratio_bomb() -> bytes:
    """A gigabyte of zeros behind a good sample, in a megabyte of gzip."""
    info = tarfile.TarInfo("odd.png")
    info.size = 1 << 30
    head = tar_bytes(sample("good"))
    head = head[: len(head) - len(head) % 512].rstrip(b"\0")
    head += bytes(-len(head) % 512) + info.tobuf(tarfile.USTAR_FORMAT)
    zeros = gzip.compress(bytes(1 << 24))
    return gzip.compress(head) + zeros * 64


def bad_archives(folder: Path, *, empty_members: int = 1_000_000) -> dict[str, Path]:
    """Write every archive of ARCHIVES, each with a good sample "good" first. The one of many empty
    members takes 512 bytes for each."""
    folder.mkdir(parents=True, exist_ok=True)
    good = sample("good")
    odd = sample("odd", "an odd picture")
    twice = sample("good", "another caption")
    inner = tarfile.TarInfo("inner.tar")
    whole = tar_bytes(good + odd)
    inner.size = len(whole)
    damaged = bytearray(whole)
    second = whole.index(b"odd.png")
    damaged[second + 148] ^= 1
    packed = gzip.compress(whole)
    spoiled = bytearray(packed)
    spoiled[-8] ^= 1
    renamed = [(info, data) for info, data in sample("../odd")]
    data = {
        "absolute.tar": tar_bytes(good + sample("/tmp/odd")),
        "dot-dot.tar": tar_bytes(good + renamed),
        "link-out.tar": tar_bytes([*good, special("odd.png", tarfile.SYMTYPE, "/etc/passwd")]),
        "hard-link-out.tar": tar_bytes([*good, special("odd.png", tarfile.LNKTYPE, "/etc/passwd")]),
        "device.tar": tar_bytes([*good, special("odd.png", tarfile.CHRTYPE)]),
        "fifo.tar": tar_bytes([*good, special("odd.png", tarfile.FIFOTYPE)]),
        "member-twice.tar": tar_bytes(good + twice),
        "ratio-bomb.tar.gz": _ratio_bomb(),
        "cut.tar": whole[: second + 512 + 20],
        "cut-gzip.tar.gz": packed[:-9],
        "gzip-checksum.tar.gz": bytes(spoiled),
        "wrong-checksum.tar": bytes(damaged),
        "no-tar.tar": b"this is no archive\n" * 100,
        "tar-inside.tar": tar_bytes([*good, (inner, whole)]),
        "names-by-case.tar": tar_bytes(good + sample("GOOD")),
        "long-names.tar": tar_bytes(good + sample("d/" * 60 + "é" * 100)),
        "no-end.tar": tar_bytes(good)[: _used(tar_bytes(good))],
    }
    paths = {}
    for name in ARCHIVES:
        paths[name] = folder / name
        if name in data:
            paths[name].write_bytes(data[name])
    empty = tarfile.TarInfo("e.png").tobuf(tarfile.USTAR_FORMAT)
    with paths["many-empty.tar"].open("wb") as file:
        file.write(tar_bytes(good)[: _used(tar_bytes(good))])
        for _ in range(empty_members // 1000):
            file.write(empty * 1000)
        file.write(bytes(1024))
    return paths


def _used(archive: bytes) -> int:
    """Where the last member's content ends, in whole blocks."""
    end = len(archive.rstrip(b"\0"))
    return end + -end % 512
