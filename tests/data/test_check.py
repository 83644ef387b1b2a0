"""`data check` names what is wrong with each sample, and what samples share."""

import io
import os
from pathlib import Path

import bad_input
import numpy as np
import pytest
from few_pictures import FewPictures, cropped, encoded, problem, reencoded, scene
from PIL import Image

from latentdiff.data.buckets import assign, make_buckets
from latentdiff.data.check import checking as checks
from latentdiff.data.check.checking import check, look, look_at, shared_captions, thumbnails
from latentdiff.data.records import BadPicture
from latentdiff.data.sources import open_source
from latentdiff.data.sources.packed import printable

PNG = encoded(scene(0))


def rows_of(images, captions=None):
    return [
        (f"{k}.png", (f"caption {k}",) if captions is None else captions[k], data)
        for k, data in enumerate(images)
    ]


def codes(looked):
    return [(row, p.where, p.code, p.fatal) for row, p in looked.problems]


def test_every_picture_is_decoded_and_every_bad_one_named_with_its_row():
    gone = BadPicture("missing", "the file is not there")
    wide = encoded(Image.effect_noise((90, 50), 60).convert("RGB"), "JPEG")
    half = PNG[: len(PNG) // 2]
    source = FewPictures(rows_of([PNG, b"", half, gone, wide, b"<html>"]))
    done = []
    looked = look_at(source, workers=2, progress=done.append)
    assert done == sorted(done)
    assert done[-1] == 6
    assert looked.ok.tolist() == [True, False, False, False, True, False]
    assert looked.sizes[[0, 4]].tolist() == [[64, 64], [90, 50]]
    assert looked.size[4] == len(wide)
    assert looked.formats == {"PNG": 1, "JPEG": 1}
    assert codes(looked) == [
        (1, "1.png", "empty", True),
        (2, "2.png", "truncated", True),
        (3, "3.png", "missing", True),
        (5, "5.png", "format", True),
    ]


def test_a_picture_that_hangs_or_kills_its_decoder_is_named_and_the_rest_go_on(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    monkeypatch.setattr(look, "LOOK", "guarded_jobs:stuck_look")
    source = FewPictures(rows_of([PNG, b"hang", b"die", encoded(scene(1))]))
    looked = look_at(source, workers=1, seconds=3.0)
    assert looked.ok.tolist() == [True, False, False, True]
    assert codes(looked) == [(1, "1.png", "time", True), (2, "2.png", "crashed", True)]


def test_what_was_mended_is_said_and_stays_usable():
    clear = encoded(Image.new("RGBA", (40, 40), (0, 0, 0, 0)))
    grey = encoded(Image.new("RGB", (40, 40), (9, 9, 9)))
    looked = look_at(FewPictures(rows_of([clear, grey, PNG])), workers=1)
    assert looked.ok.all()
    assert codes(looked) == [(0, "0.png", "blank", False), (1, "1.png", "blank", False)]


def test_gif_is_read_only_on_request():
    source = FewPictures(rows_of([encoded(scene(0), "GIF")]))
    assert not look_at(source, workers=1).ok[0]
    assert look_at(source, workers=1, allow_gif_tiff=True).ok[0]


@pytest.fixture(scope="module")
def found():
    """Two sides with everything that they can share."""
    same = encoded(scene(1), "BMP")
    training = [
        PNG,  # 0: the same file as validation 0
        encoded(scene(1)),  # 1: the pixels of validation 1
        reencoded(scene(2)),  # 2: looks like validation 2
        scene(3),  # 3: of its own
        encoded(scene(3), "BMP"),  # 4: a copy of 3
        encoded(scene(3)),  # 5: and another
        cropped(scene(3), left=1),  # 6: alike
        scene(4),
        reencoded(scene(2)),  # 8: the pixels of 2
        b"",  # 9
    ]
    data = [item if isinstance(item, bytes) else encoded(item) for item in training]
    captions = [(f"caption {k}", "") for k in range(10)]
    captions[7] = ("",)
    validation = FewPictures(rows_of([PNG, same, encoded(scene(2)), encoded(scene(9))]))
    listed = [problem("table:7", "missing"), problem("table:8", "caption-control", False)]
    source = FewPictures(rows_of(data, captions), listed)
    done = []
    result = check(
        source,
        validation=validation,
        workers=2,
        deal=lambda sizes: assign(sizes, make_buckets(64, multiple=32), multiple=32),
        progress=lambda *numbers: done.append(numbers),
    )
    assert done[-1] == (14, 14)
    return result


def test_copies_are_equal_pixels_in_any_format(found):
    assert [group.tolist() for group in found.copies] == [[2, 8], [3, 4, 5]]


def test_near_duplicates_are_told_apart_from_copies(found):
    assert [group.tolist() for group in found.alike] == [[3, 6]]


def test_leaks_say_how_two_pictures_are_the_same_and_copies_leak_too(found):
    assert [(k.row, k.validation_row, k.how) for k in found.leaks] == [
        (0, 0, "file"),
        (1, 1, "pixels"),
        (2, 2, "look"),
        (8, 2, "look"),
    ]


def test_what_is_left_out_is_bad_without_caption_leaked_or_a_copy_but_never_the_first(found):
    assert found.left_out == {
        9: "empty",
        7: "caption-missing",
        0: "leak",
        1: "leak",
        2: "leak",
        8: "leak",
        4: "copy",
        5: "copy",
    }
    assert not found.clean


def test_problems_are_those_of_the_list_of_decoding_and_of_captions(found):
    assert [(p.where, p.code) for p in found.problems] == [
        ("table:7", "missing"),
        ("table:8", "caption-control"),
        ("9.png", "empty"),
        ("7.png", "caption-missing"),
    ]


def test_a_chain_of_likeness_to_validation_is_a_leak():
    steps = [scene(3).point(lambda v, add=add: v // 2 + add) for add in (0, 18, 36, 54)]
    images = [encoded(image) for image in steps]
    alone = check(FewPictures(rows_of([images[0], images[3]])), workers=1)
    assert alone.alike == ()
    result = check(
        FewPictures(rows_of(images[1:])), validation=FewPictures(rows_of(images[:1])), workers=1
    )
    assert [(k.row, k.how) for k in result.leaks] == [(0, "look"), (1, "look"), (2, "look")]


def test_copies_alone_and_leaks_alone_are_not_clean_but_likeness_is():
    one, other = encoded(scene(0)), encoded(scene(1))
    assert not check(FewPictures(rows_of([one, one])), workers=1).clean
    validation = FewPictures(rows_of([other]))
    assert not check(FewPictures(rows_of([one, other])), validation=validation, workers=1).clean
    assert check(FewPictures(rows_of([one, encoded(reencoded(scene(0)))])), workers=1).clean


def test_different_pictures_are_clean():
    source = FewPictures(rows_of([encoded(scene(k)) for k in range(8)]))
    other = FewPictures(rows_of([encoded(scene(k)) for k in range(8, 16)]))
    result = check(source, validation=other, workers=2)
    assert (result.copies, result.alike, result.leaks) == ((), (), ())
    assert result.left_out == {}
    assert result.clean


def test_a_picture_too_small_for_the_model_is_named():
    small = encoded(scene(1).resize((16, 16)))
    result = check(
        FewPictures(rows_of([PNG, small])),
        workers=1,
        deal=lambda sizes: assign(sizes, make_buckets(64, multiple=32), multiple=32),
    )
    assert [(p.where, p.code, p.fatal) for p in result.problems] == [("1.png", "too-small", True)]
    assert result.left_out == {1: "too-small"}


def test_a_source_without_a_usable_picture_is_reported_not_crashed_on():
    result = check(FewPictures(rows_of([b"", b"x"])), workers=1, deal=lambda sizes: None)
    assert not result.looked.ok.any()
    assert result.left_out == {0: "empty", 1: "format"}
    assert result.plan is None


def test_a_caption_of_many_pictures_is_counted_once_a_picture():
    many = [(("the same", "the same"), PNG)] * checks._SHARED + [(("rare",), PNG)] * 2
    source = FewPictures((str(k), captions, data) for k, (captions, data) in enumerate(many))
    assert shared_captions(source) == (("the same", checks._SHARED),)


def test_thumbnails_are_small_jpegs_of_those_that_can_be_decoded():
    gone = BadPicture("missing", "gone since")
    source = FewPictures(rows_of([encoded(scene(0, size=400)), b"", gone, PNG]))
    made = thumbnails(source, [0, 1, 2, 3], workers=1)
    assert sorted(made) == [0, 3]
    with Image.open(io.BytesIO(made[0])) as image:
        assert (image.format, max(image.size)) == ("JPEG", look.THUMBNAIL_SIDE)


def test_pixels_are_hashed_with_their_shape():
    tall = Image.fromarray(np.zeros((20, 10, 3), np.uint8))
    wide = Image.fromarray(np.zeros((10, 20, 3), np.uint8))
    one, other = (look.read_answer(look.look(encoded(image))) for image in (tall, wide))
    assert one.pixels != other.pixels
    assert look.read_answer(look.look(encoded(wide, "BMP"))).pixels == other.pixels


def test_every_bad_picture_there_is_gets_its_verdict_in_one_pass(tmp_path):
    """At most 5 s and 512 MB for each, by the limits that the workers stand under."""
    bad_input.bad_pictures(tmp_path / "bad")
    source = open_source(tmp_path / "bad", need_captions=False)
    looked = look_at(source, workers=2, seconds=5.0)
    said: dict[str, list[tuple[str, bool]]] = {source.id(row): [] for row in range(len(source))}
    for _, p in looked.problems:
        said[p.where].append((p.code, p.fatal))
    usable = {source.id(row) for row in np.flatnonzero(looked.ok)}
    expected = {
        printable(
            os.fsencode(name)
            if not name.startswith("cut-")
            else f"{name}.{name.split('-')[1].lower()}"
        ): e
        for name, e in bad_input.PICTURES.items()
        if e.listed and not (name == "unreadable.png" and os.getuid() == 0)
    }
    assert set(expected) <= set(said)
    for name, verdict in expected.items():
        if verdict.code is not None:
            assert said[name] == [(verdict.code, True)], name
            assert name not in usable
        else:
            assert name in usable
            assert verdict.note is None or (verdict.note, False) in said[name], name
            assert not any(fatal for _, fatal in said[name]), name
