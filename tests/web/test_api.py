"""The JSON API on a real server: what is drawn, stopped, kept and refused."""

from __future__ import annotations

import http.client
import io
import json
import re
from pathlib import Path
from typing import Any

import loras
import numpy as np
import pytest
import tiny
from PIL import Image, PngImagePlugin
from serving import ENDLESS, Served, make_studio, served

from latentdiff.pipelines.recipes.picture_file import read_recipe
from latentdiff.pipelines.request import Request
from latentdiff.pipelines.text_to_image import TextToImagePipeline
from latentdiff.web.limits import Limits
from latentdiff.web.pages import FOLDER


def pixels(data: bytes) -> Any:
    return np.asarray(Image.open(io.BytesIO(data)))


def test_a_drawing_is_the_pipelines_own_picture_with_its_recipe(
    server: Served, model: Path, tmp_path: Path
) -> None:
    job = server.job(server.draw(seed=5, num_images=2, num_inference_steps=3))
    assert job["state"] == "done"
    assert len(job["images"]) == 2
    own = TextToImagePipeline.from_pretrained(model)
    for k, name in enumerate(job["images"]):
        data = server.call("GET", f"/v1/images/{name}/png").body
        request = Request(prompt=tiny.PROMPT, seed=5 + k, num_inference_steps=3)
        (picture,) = own.draw([request])
        assert np.array_equal(pixels(data), np.asarray(picture.image))
        (tmp_path / "a.png").write_bytes(data)
        assert read_recipe(tmp_path / "a.png") == picture.recipe


def test_a_job_stops_within_one_step(server: Served) -> None:
    job = server.draw(**ENDLESS)
    link = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    link.request("GET", f"/v1/jobs/{job['id']}/events")
    stream, seen = link.getresponse(), 0
    while seen < 3:
        line = stream.readline().decode()
        if line.startswith("data: "):
            seen = json.loads(line[6:])["step"]
    stopped = server.call("POST", f"/v1/jobs/{job['id']}/stop").json
    assert stopped["state"] == "stopping"
    ended = [json.loads(x[6:]) for x in stream.read().decode().split("\n") if x[:6] == "data: "][-1]
    link.close()
    assert ended["state"] == "stopped"
    assert ended["step"] <= stopped["step"] + 1
    assert ended["images"] == []


def test_events_tell_every_step_with_a_preview_and_end_with_the_job(server: Served) -> None:
    body = server.call("GET", f"/v1/jobs/{server.draw()['id']}/events").body.decode()
    jobs = [json.loads(line[6:]) for line in body.split("\n") if line.startswith("data: ")]
    assert jobs[-1]["state"] == "done"
    assert jobs[-1]["progress"] == 1
    previews = [preview for job in jobs for preview in job["previews"]]
    assert all(preview.startswith("data:image/webp;base64,") for preview in previews)


def test_callers_see_their_own_jobs_and_wait_in_turn(server: Served) -> None:
    one, two = (Served(server.studio, server.port, name * 32) for name in "ab")
    first = one.draw(**ENDLESS)
    one.until(first, "running")
    second, third = one.draw(), two.draw()
    assert third["ahead"] == 1
    assert one.job(second, wait=0)["ahead"] == 2
    assert [job["id"] for job in two.call("GET", "/v1/jobs").json] == [third["id"]]
    one.call("POST", f"/v1/jobs/{first['id']}/stop")
    assert one.job(second)["state"] == two.job(third)["state"] == "done"


def test_jobs_of_a_closed_page_are_stopped_unless_it_comes_back(server: Served) -> None:
    gone, back = (Served(server.studio, server.port, name * 32) for name in "cd")
    job, kept = gone.draw(**ENDLESS), back.draw(**ENDLESS)
    link = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    for one in (gone, back):
        assert one.call("POST", "/v1/leave").status == 204
    link.request("GET", "/v1/events", headers={"cookie": f"latentdiff_browser={back.browser}"})
    link.getresponse()
    assert gone.job(job)["state"] == "stopped"
    assert back.job(kept, wait=0)["state"] in ("waiting", "running")
    back.call("POST", f"/v1/jobs/{kept['id']}/stop")
    link.close()


def test_a_lora_changes_the_picture_by_its_strength_and_leaves_no_trace(
    tmp_path: Path, model: Path
) -> None:
    folder = tmp_path / "loras"
    loras.saved(loras.trained(tiny.tiny()), folder / "owl", trigger_words=("owl",))
    with served(make_studio(tmp_path, model, loras=folder)) as server:
        offered = server.call("GET", "/v1/loras").json
        assert offered == [{"name": "owl", "words": ["owl"], "prompt": ""}]

        def drawn(*scales: float) -> Any:
            asked = [{"name": "owl", "scale": scale} for scale in scales]
            (name,) = server.job(server.draw(seed=1, loras=asked))["images"]
            return pixels(server.call("GET", f"/v1/images/{name}/png").body)

        plain, half, whole = drawn(), drawn(0.5), drawn(1.0)
        assert not np.array_equal(plain, half)
        assert not np.array_equal(half, whole)
        assert np.array_equal(drawn(), plain)
        refused = server.call("POST", "/v1/images", {"prompt": "a", "loras": [{"name": "owk"}]})
        assert refused.status == 422
        assert "did you mean 'owl'?" in refused.json["error"]


def test_a_removed_picture_can_be_restored(server: Served) -> None:
    (name,) = server.job(server.draw())["images"]
    assert server.call("DELETE", f"/v1/images/{name}").status == 204
    assert server.call("GET", f"/v1/images/{name}").status == 404
    assert server.call("POST", f"/v1/images/{name}/restore").status == 200
    listed = server.call("GET", "/v1/images?limit=1").json
    assert listed["images"][0]["id"] == name
    older = server.call("GET", f"/v1/images?limit=1&before={listed['next']}").json
    assert older["images"][0]["id"] < name


@pytest.mark.parametrize(
    "name", ["../secret", "..%2fsecret", "%2e%2e%2fsecret", ".", "trash/a", "a%00b", "%ff"]
)
def test_no_picture_lies_outside_the_gallery(server: Served, name: str) -> None:
    (server.studio.gallery.folder.parent / "secret.png").write_bytes(b"x")
    for path in (f"/v1/images/{name}", f"/v1/images/{name}/png"):
        assert server.call("GET", path).status == 404


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"prompt": "a", "stepz": 3}, "stepz"),
        ({"prompt": "a", "num_inference_steps": 500}, "num_inference_steps: "),
        ({"prompt": "a", "num_images": 99}, "num_images"),
        ({"prompt": "a", "width": 33}, "width 33 does not fit; expected a multiple of 4"),
        (
            {"prompt": "a", "width": 4096, "height": 4096},
            "more than this server's",
        ),
        ({"prompt": "a", "scheduler": "eular"}, "did you mean 'euler'"),
        ({"prompt": "a", "model": "tinny"}, "did you mean 'tiny'"),
        ({"prompt": "a", "seed": 2**32 - 1, "num_images": 2}, "the last picture's seed"),
        ({"prompt": "a", "given": ["latents"]}, "given"),
        ({}, "prompt"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_a_request_that_cannot_be_drawn_is_refused_in_one_sentence(
    server: Served, body: dict[str, Any], said: str
) -> None:
    answer = server.call("POST", "/v1/images", body)
    assert answer.status == 422
    assert said in answer.json["error"]
    assert "\n" not in answer.json["error"]


def test_a_dropped_picture_gives_its_settings_back(server: Served) -> None:
    (name,) = server.job(server.draw(seed=9))["images"]
    data = server.call("GET", f"/v1/images/{name}/png").body
    found = server.call("POST", "/v1/recipes", data, {"content-type": "image/png"}).json
    assert found["recipes"][0]["request"]["seed"] == 9


def test_a_dropped_file_without_settings_is_told_in_one_sentence(server: Served) -> None:
    plain, huge = io.BytesIO(), io.BytesIO()
    Image.new("RGB", (8, 8)).save(plain, format="PNG")
    Image.new("1", (9000, 9000)).save(huge, format="PNG")
    cases = [
        (b"no picture", "this is no PNG picture"),
        (b"", "this is no PNG picture"),
        (plain.getvalue(), "this picture holds no"),
        (huge.getvalue(), "this picture has 81,000,000 pixels"),
    ]
    for data, said in cases:
        answer = server.call("POST", "/v1/recipes", data, {"content-type": "image/png"})
        assert (answer.status, said in answer.json["error"]) == (422, True), answer.body


def test_what_a_foreign_png_says_never_reaches_the_gallery_as_an_error(server: Served) -> None:
    chunks = PngImagePlugin.PngInfo()
    chunks.add_itxt("latentdiff", '{"request": {"prompt": 3}}')
    folder = server.studio.gallery.folder
    Image.new("RGB", (8, 8)).save(folder / "zz-other.png", pnginfo=chunks)
    (folder / "zz-broken.png").write_bytes(b"no picture")
    found = {image["id"]: image for image in server.call("GET", "/v1/images").json["images"]}
    assert found["zz-other"]["recipe"] is None
    assert "zz-broken" not in found
    (folder / "zz-other.png").unlink()


def test_a_full_line_says_when_to_come_back(tmp_path: Path, model: Path) -> None:
    limits = Limits(max_queue=2, max_queue_each=2, max_upload_mb=1)
    with served(make_studio(tmp_path, model, limits=limits)) as server:
        server.until(server.draw(**ENDLESS), "running")
        server.draw(), server.draw()
        answer = server.call("POST", "/v1/images", {"prompt": "a"})
        assert answer.status == 429
        assert answer.headers["retry-after"] == "10"
        big = server.call("POST", "/v1/recipes", bytes(1_000_001))
        assert (big.status, "1,000,000 bytes" in big.json["error"]) == (413, True)


def test_the_page_names_no_outside_address() -> None:
    for file in FOLDER.iterdir():
        text = file.read_text("utf-8").replace('xmlns="http://www.w3.org/2000/svg"', "")
        assert not re.findall(r"https?:|[\"'(]//", text), file


def test_the_description_names_every_call_and_its_limits(server: Served) -> None:
    table = server.call("GET", "/openapi.json").json
    body = table["components"]["schemas"]["DrawBody"]["properties"]
    assert body["num_images"]["maximum"] == server.studio.limits.max_images
    assert "guidance" in body["guidance_scale"]["description"]
    assert not {"given", "template"} & set(body), "these are Python's, or the recipe's"
    assert server.call("GET", "/api").status == 200


def test_an_unknown_method_is_told_the_known_ones(server: Served) -> None:
    answer = server.call("PUT", "/v1/images")
    assert (answer.status, answer.headers["allow"]) == (405, "GET, POST")
    assert answer.json["error"] == "PUT is not known here"
