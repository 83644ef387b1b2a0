"""Every bad picture, caption and archive is used or left out with its reason; none crashes."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import bad_input
import pytest
from bad_archives import ARCHIVES, bad_archives
from bad_captions import CAPTIONS, bad_captions
from bad_input import PICTURES, bad_pictures

from latentdiff.data.decode.decoding import decode, header
from latentdiff.data.decode.regular import open_regular, read_regular
from latentdiff.data.records import BadPicture, Problem, Source
from latentdiff.data.sources import open_source
from latentdiff.data.sources.packed import printable
from latentdiff.errors import UserError


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    paths = bad_pictures(tmp_path_factory.mktemp("bad") / "pictures")
    yield paths
    paths["text-50-mb.png"].unlink()


@pytest.fixture(scope="module")
def opened(pictures: dict[str, Path]) -> Source:
    return open_source(pictures["1x1.png"].parent, need_captions=False)


def rows_by_id(source: Source) -> dict[str, int]:
    return {source.id(row): row for row in range(len(source))}


def problems_of(source: Source, where: str) -> list[Problem]:
    return [problem for problem in source.problems if problem.where == where]


def test_every_bad_picture_is_expected_and_every_expected_one_is_made(
    pictures: dict[str, Path],
) -> None:
    assert set(pictures) == set(PICTURES)


@pytest.mark.parametrize("name", [ascii(name)[1:-1][:60] for name in PICTURES])
def test_a_bad_picture_is_used_or_left_out_with_its_reason(
    name: str, pictures: dict[str, Path], opened: Source
) -> None:
    name = next(real for real in PICTURES if ascii(real)[1:-1][:60] == name)
    expected, where = PICTURES[name], printable(os.fsencode(pictures[name].name))
    if name == "unreadable.png" and os.access(pictures[name], os.R_OK):
        pytest.skip("this user may read everything")
    rows = rows_by_id(opened)
    if not expected.listed:
        assert where not in rows
        assert [(p.code, p.fatal) for p in problems_of(opened, where)] == [(expected.code, True)]
        return
    row = rows[where]
    assert isinstance(opened.stamp(row), str)
    if expected.code is not None:
        with pytest.raises(BadPicture) as refused:
            decode(opened.read(row))
        assert refused.value.code == expected.code
        assert "\n" not in str(refused.value)
        return
    data = opened.read(row)
    decoded = decode(data)
    assert decoded.image.mode == "RGB"
    codes = {note.partition(":")[0] for note in decoded.notes}
    assert codes == ({expected.note} if expected.note else set())
    said = header(data)
    assert decoded.image.size == (said.width, said.height)
    assert header(pictures[name]) == said


def test_the_permission_of_a_file_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(BadPicture) as refused, open_regular(tmp_path / "x.png"):
        pass
    assert refused.value.code == "permission"


def test_a_fifo_is_refused_without_waiting_for_a_writer(pictures: dict[str, Path]) -> None:
    with pytest.raises(BadPicture) as refused:
        read_regular(pictures["fifo.png"])
    assert refused.value.code == "not-a-file"


def test_a_file_that_disappears_after_listing_is_one_bad_picture(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.png").write_bytes(bad_input.encoded(bad_input.scene(), "PNG"))
        (tmp_path / f"{name}.txt").write_text("a picture")
    source = open_source(tmp_path)
    (tmp_path / "a.png").unlink()
    assert source.stamp(0).endswith("|missing")
    with pytest.raises(BadPicture) as gone:
        source.read(0)
    assert gone.value.code == "missing"
    assert decode(source.read(1)).image.size == (48, 32)


def test_a_file_that_becomes_a_link_out_after_listing_is_refused(tmp_path: Path) -> None:
    place = tmp_path / "data"
    place.mkdir()
    (place / "a.png").write_bytes(bad_input.encoded(bad_input.scene(), "PNG"))
    (place / "a.txt").write_text("a picture")
    source = open_source(place)
    (tmp_path / "secret.png").write_bytes((place / "a.png").read_bytes())
    (place / "a.png").unlink()
    (place / "a.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(BadPicture) as refused:
        source.read(0)
    assert refused.value.code == "path-out"


MEASURE = """
import json, pathlib, sys, time
from latentdiff.data.decode.decoding import decode
from latentdiff.data.records import BadPicture
from latentdiff.data.decode.regular import read_regular
slowest = 0.0
for name in json.loads(sys.stdin.read()):
    start = time.process_time()
    try:
        decode(read_regular(pathlib.Path(name)))
    except BadPicture:
        pass
    slowest = max(slowest, time.process_time() - start)
# Not getrusage: its peak counts the parent's memory before the program was started.
status = pathlib.Path("/proc/self/status").read_text()
peak = int(status.split("VmHWM:")[1].split()[0]) / 1024
print(json.dumps([slowest, peak]))
"""


def measured(paths: list[Path]) -> tuple[float, float]:
    """(processor seconds of the slowest, peak megabytes) of decoding them in a fresh process."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURE],
        input=json.dumps([str(path) for path in paths]),
        capture_output=True,
        text=True,
        check=True,
    )
    slowest, peak = json.loads(done.stdout)
    return slowest, peak


def test_no_bad_picture_takes_five_seconds_or_half_a_gigabyte(pictures: dict[str, Path]) -> None:
    slowest, peak = measured(list(pictures.values()))
    assert slowest < 5
    assert peak < 512


@pytest.mark.slow
def test_the_largest_pictures_that_are_decoded_stay_below_half_a_gigabyte(tmp_path: Path) -> None:
    from PIL import Image

    large = Image.new("RGB", (8000, 5000), (9, 99, 199))
    exif = Image.Exif()
    exif[0x0112] = 6
    large.save(tmp_path / "turned.jpg", exif=exif)
    large.save(tmp_path / "whole.bmp")
    large.convert("CMYK").save(tmp_path / "cmyk.jpg")
    large.convert("RGBA").save(tmp_path / "alpha.png", compress_level=1)
    large.resize((16_000, 10_000)).save(tmp_path / "halved.jpg")
    large.resize((6000, 4000)).convert("RGBA").save(tmp_path / "alpha.webp", quality=10, method=0)
    for path in sorted(tmp_path.iterdir()):
        slowest, peak = measured([path])
        assert (slowest < 5, peak < 512) == (True, True), (path.name, slowest, peak)
        assert decode(path.read_bytes()).image.mode == "RGB"


@pytest.fixture(scope="module")
def captioned(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return bad_captions(tmp_path_factory.mktemp("bad-captions"))


@pytest.mark.parametrize("name", CAPTIONS)
def test_a_bad_caption_is_mended_or_left_out_by_name(name: str, captioned: dict[str, Path]) -> None:
    expected = CAPTIONS[name]
    if expected.refused is not None:
        with pytest.raises(UserError, match=expected.refused):
            open_source(captioned[name])
        return
    source = open_source(captioned[name])
    rows = rows_by_id(source)
    assert source.captions(rows["good.png"]) == ("a good picture",)
    found = source.captions(rows["odd.png"]) if "odd.png" in rows else None
    assert found == expected.captions
    assert {problem.code for problem in source.problems} == expected.codes
    if expected.captions is None:
        assert any(problem.fatal for problem in source.problems)
    else:
        assert not any(problem.fatal for problem in source.problems)
    for problem in source.problems:
        assert "\n" not in problem.where + problem.reason


@pytest.mark.parametrize("name", [n for n, e in CAPTIONS.items() if e.refused is None])
def test_no_picture_is_lost_over_its_caption_when_captions_are_not_needed(
    name: str, captioned: dict[str, Path]
) -> None:
    source = open_source(captioned[name], need_captions=False)
    lost = {"missing", "path-out", "metadata-line"} & CAPTIONS[name].codes
    assert ("odd.png" in rows_by_id(source)) == (not lost)
    for row in range(len(source)):
        assert all(source.captions(row)) or source.captions(row) == ("",)


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    paths = bad_archives(tmp_path_factory.mktemp("bad-archives"))
    yield paths
    paths["many-empty.tar"].unlink()


@pytest.mark.parametrize("name", ARCHIVES)
def test_a_bad_archive_gives_its_good_samples_and_names_the_rest(
    name: str, archives: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = ARCHIVES[name]
    monkeypatch.chdir(tmp_path)
    if not expected.keys:
        with pytest.raises(UserError, match=next(iter(expected.codes))):
            open_source(archives[name])
        return
    source = open_source(archives[name])
    keys = tuple(source.id(row).split("#")[1] for row in range(len(source)))
    assert keys == expected.keys
    assert {problem.code for problem in source.problems} == expected.codes
    for row in range(len(source)):
        assert decode(source.read(row)).image.size == (48, 32)
    assert source.captions(0) == ("a good picture",)
    assert os.listdir(tmp_path) == []


def test_what_was_unpacked_goes_with_its_source(
    archives: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tempfile

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    source = open_source(archives["cut-gzip.tar.gz"])
    assert len(os.listdir(tmp_path)) == 1
    del source
    assert os.listdir(tmp_path) == []
