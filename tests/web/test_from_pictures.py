"""The API draws from pictures that were sent, and nobody sends a path."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from PIL import Image
from serving import Served, make_studio, served

from latentdiff.pipelines.recipes.picture_file import read_recipe
from latentdiff.pipelines.request import Given, Request
from latentdiff.pipelines.request_records import Blend, Inpaint, Source
from latentdiff.pipelines.text_to_image import TextToImagePipeline
from latentdiff.web.limits import Limits
from latentdiff.web.uploads import Uploads

SIZE = (32, 32)


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def noise(seed: int = 0, size: tuple[int, int] = SIZE) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    return Image.fromarray(pixels)


def half(size: tuple[int, int] = SIZE) -> Image.Image:
    """A mask whose left half is white."""
    mask = Image.new("L", size)
    mask.paste(255, (0, 0, size[0] // 2, size[1]))
    return mask


def send(server: Served, image: Image.Image) -> str:
    answer = server.call("POST", "/v1/uploads", png(image), {"content-type": "image/png"})
    assert answer.status == 201, answer.body
    assert (answer.json["width"], answer.json["height"]) == image.size
    return str(answer.json["id"])


def drawn(server: Served, **asked: Any) -> tuple[str, Any]:
    job = server.job(server.draw(**asked))
    assert job["state"] == "done", job
    data = server.call("GET", f"/v1/images/{job['images'][0]}/png").body
    return job["images"][0], np.asarray(Image.open(io.BytesIO(data)))


def test_a_sent_picture_and_mask_are_drawn_from_as_python_does(
    server: Served, model: Path, tmp_path: Path
) -> None:
    image, mask = noise(), half()
    source = {"image": send(server, image), "inpaint": {"mask": send(server, mask), "feather": 2}}
    name, found = drawn(server, seed=3, num_inference_steps=3, source=source)
    pipe = TextToImagePipeline.from_pretrained(model)
    request = Request(
        prompt=tiny.PROMPT,
        seed=3,
        num_inference_steps=3,
        source=Source(inpaint=Inpaint(feather=2)),
        given=Given(image=image, mask=mask),
    )
    (own,) = pipe.draw([request])
    assert np.array_equal(found, np.asarray(own.image))
    assert np.array_equal(found[:, 16:], np.asarray(image)[:, 16:])
    assert not np.array_equal(found[:, :16], np.asarray(image)[:, :16])
    # The recipe names files that stay, so it draws again.
    (again,) = pipe.draw([read_recipe(server.studio.gallery.path(name)).request])
    assert np.array_equal(np.asarray(again.image), found)


def test_a_recipe_is_shown_with_ids_that_can_be_sent_back(server: Served) -> None:
    upload = send(server, noise(1))
    name, found = drawn(server, seed=4, source={"image": upload, "strength": 0.5})
    shown = server.call("GET", f"/v1/images/{name}").json["recipe"]["request"]["source"]
    assert (shown["image"], shown["strength"]) == (upload, 0.5)
    again = {"image": shown["image"], "strength": shown["strength"], "resize": shown["resize"]}
    assert np.array_equal(drawn(server, seed=4, source=again)[1], found)
    folder = str(server.studio.gallery.folder.resolve().parent)
    jobs = server.call("GET", "/v1/jobs").body.decode()
    assert folder not in jobs
    assert folder not in json.dumps(
        server.call("GET", "/v1/images").json["images"][0]["recipe"]["request"]
    )


def test_a_picture_of_the_gallery_is_drawn_from_by_its_id(server: Served) -> None:
    first, _ = drawn(server, seed=5)
    name, found = drawn(
        server, seed=6, source={"image": first, "inpaint": {"expand": [0, 0, 8, 4]}}
    )
    assert found.shape == (36, 40, 3)
    shown = server.call("GET", f"/v1/images/{name}").json["recipe"]["request"]["source"]
    assert shown["image"] == first


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ({"image": "/etc/passwd"}, "should match pattern"),
        ({"image": "../gallery/x"}, "should match pattern"),
        ({"image": "0" * 64}, "this picture is not here any more"),
        ({"image": ""}, "source names no picture"),
        ({"image": "x", "image_sha256": "0"}, "image_sha256"),
        ({"image": "x", "inpaint": {"mask": "a/b"}}, "should match pattern"),
        ({"image": "x", "strength": 0}, "strength"),
        ({"image": "x", "inpaint": {"expand": [0, 0, 0, 9000]}}, "expand"),
    ],
    ids=str,
)
def test_no_path_reaches_a_file_and_every_bound_holds(
    server: Served, source: dict[str, Any], said: str
) -> None:
    answer = server.call("POST", "/v1/images", {"prompt": "a", "source": source})
    assert answer.status == 422
    assert said in answer.json["error"], answer.json


def test_what_is_added_around_a_picture_counts_against_the_limit(
    tmp_path: Path, model: Path
) -> None:
    with served(make_studio(tmp_path, model, limits=Limits(max_pixels=40 * 40))) as server:
        upload = send(server, noise())
        inpaint = {"expand": [0, 0, 16, 16]}
        for more in ({}, {"only_masked": True}):
            source = {"image": upload, "inpaint": inpaint | more}
            answer = server.call("POST", "/v1/images", {"prompt": "a", "source": source})
            assert (answer.status == 422) == (not more), answer.body
        up = {"prompt": "a", "upscale": {"scale": 2}}
        answer = server.call("POST", "/v1/images", up)
        assert "64 x 64 is more than this server's 1,600 pixels" in answer.json["error"]


def test_what_is_no_picture_is_refused_and_what_was_sent_is_given_back(server: Served) -> None:
    answer = server.call("POST", "/v1/uploads", b"GIF89a", {"content-type": "image/png"})
    assert (answer.status, "cannot be used" in answer.json["error"]) == (422, True)
    data = png(noise(9))
    sent = server.call("POST", "/v1/uploads", data, {"content-type": "image/png"}).json
    back = server.call("GET", f"/v1/uploads/{sent['id']}")
    assert (back.body, back.headers["content-type"]) == (data, "image/png")
    for name in ("0" * 64, "..", "x"):
        assert server.call("GET", f"/v1/uploads/{name}").status == 404


def test_the_oldest_uploads_leave_memory_and_those_drawn_from_stay(tmp_path: Path) -> None:
    data = [png(noise(k)) for k in range(3)]
    uploads = Uploads(tmp_path, max_pixels=10_000, held_bytes=len(data[0]) * 2 + 100)
    first = uploads.add(data[0]).id
    kept = uploads.path(first)
    second, _third = (uploads.add(one).id for one in data[1:])
    uploads.add(data[0])
    assert uploads.path(first) == kept
    assert kept.read_bytes() == data[0]
    with pytest.raises(Exception, match="not here any more"):
        uploads.read(second)


def test_a_variation_keeps_the_seed_and_counts_its_own(server: Served, model: Path) -> None:
    blend = {"seed": 70, "amount": 0.3}
    job = server.job(server.draw(seed=5, num_images=2, num_inference_steps=2, blend=blend))
    pipe = TextToImagePipeline.from_pretrained(model)
    for k, name in enumerate(job["images"]):
        request = Request(
            prompt=tiny.PROMPT, seed=5, num_inference_steps=2, blend=Blend(seed=70 + k, amount=0.3)
        )
        (own,) = pipe.draw([request])
        data = server.call("GET", f"/v1/images/{name}/png").body
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(data))), np.asarray(own.image))


def test_a_sweep_draws_every_combination_of_one_seed_and_a_labelled_grid(server: Served) -> None:
    sweep = ["steps=1,2", "guidance_scale=1,3,5"]
    job = server.job(server.draw(sweep=sweep))
    assert (job["state"], len(job["images"])) == ("done", 6)
    recipes = [server.call("GET", f"/v1/images/{n}").json["recipe"] for n in job["images"]]
    asked = [(r["request"]["num_inference_steps"], r["request"]["guidance_scale"]) for r in recipes]
    assert asked == [(s, g) for g in (1, 3, 5) for s in (1, 2)]
    assert len({r["request"]["seed"] for r in recipes}) == 1
    grid = server.call("GET", f"/v1/images/{job['grid']}").json
    assert grid["pictures"] == 6
    assert grid["width"] > 2 * SIZE[0]
    assert job["asked"]["sweep"][0] == {"name": "steps", "values": ["1", "2"]}


@pytest.mark.parametrize(
    ("sweep", "said"),
    [
        (["source.image=/etc/passwd,b"], "unknown field of a sweep"),
        (["steps=5,500"], "num_inference_steps"),
        (["width=32,33"], "33"),
        (["steps"], "cannot be read"),
        (["steps=1,2", "steps=1,2"], "different names"),
        (["seed=" + ",".join(map(str, range(65)))], "at most 64"),
    ],
    ids=str,
)
def test_a_sweep_that_cannot_be_drawn_is_refused(
    server: Served, sweep: list[str], said: str
) -> None:
    job = server.call("POST", "/v1/images", {"prompt": "a", "sweep": sweep})
    if job.status == 202:  # the model itself refuses it
        job = server.call("GET", f"/v1/jobs/{job.json['id']}?wait=20")
    assert said in str(job.json["error"]), job.json


def test_a_pictures_words_are_explained_on_the_picture_itself(server: Served) -> None:
    name, _ = drawn(server, prompt="a cat in the snow", seed=8, num_inference_steps=2)
    assert server.call("GET", f"/v1/images/{name}").json["words"] is None
    job = server.job(server.call("POST", f"/v1/images/{name}/words").json)
    assert (job["state"], job["kind"], job["notes"]) == ("done", "words", [])
    words = server.call("GET", f"/v1/images/{name}").json["words"]
    assert [word["word"] for word in words] == ["a", "cat", "in", "the", "snow"]
    assert all(word["heat"].startswith("data:image/webp") for word in words)
    assert server.call("POST", "/v1/images/nothing/words").status == 404
