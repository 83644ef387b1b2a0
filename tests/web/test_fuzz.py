"""Thousands of requests that nobody should send: every one is answered, none breaks anything."""

from __future__ import annotations

import gc
import http.client
import json
import random
from pathlib import Path
from typing import Any

import psutil
import pytest
from serving import Served, make_studio, served
from test_from_pictures import noise, png

from latentdiff.web.limits import Limits

TEXTS = (
    "",
    "a cat",
    "\x00",
    "\ud800",
    "🦉" * 50,
    "a" * 5000,
    "../x",
    "%2e",
    "' OR 1=1",
    "(((",
    "[]",
)
NUMBERS = (0, -1, 1, 2.5, 1e308, -1e308, 10**30, 2**32, float("nan"), float("inf"), 8, 64, 33)
OTHER = (None, True, [], {}, [[]], {"a": 1}, [{"name": "x"}])
FIELDS = (
    *("prompt", "negative_prompt", "seed", "width", "height", "num_inference_steps", "eta"),
    *("guidance_scale", "guidance_rescale", "scheduler", "clip_skip", "long_prompts", "given"),
    *("num_images", "model", "loras", "schema", "x", "source", "blend", "upscale", "sweep"),
)
RECORDS = (
    *({"image": "0" * 64}, {"image": "../x"}, {"image": "a", "inpaint": {"expand": [1, 2]}}),
    *({"seed": 1, "amount": 0.5}, {"amount": 2}, {"scale": 2}, {"scale": 1.5, "strength": 0.2}),
    *(["steps=1,2"], ["source.image=/etc/passwd"], ["eta=0,9", "steps=1"], ["prompt=a|" + "b" * 9]),
)
PATHS = (
    *(
        "/v1/images",
        "/v1/recipes",
        "/v1/jobs",
        "/v1/login",
        "/v1/leave",
        "/v1/server",
        "/v1/models",
    ),
    *("/v1/uploads", "/v1/uploads/{}", "/v1/images/{}/words", "/v1/lessons", "/v1/lessons/{}"),
    *("/v1/lessons/{}/pictures", "/v1/lessons/{}/pictures/{}", "/v1/lessons/{}/sheets/{}"),
    *("/v1/lessons/{}/check", "/v1/lessons/{}/rehearsal", "/v1/lessons/{}/training"),
    *("/v1/images/{}", "/v1/images/{}/png", "/v1/images/{}/restore", "/v1/jobs/{}"),
    *(
        "/v1/jobs/{}/stop",
        "/v1/jobs/{}/events",
        "/v1/images?limit={}",
        "/v1/images?before={}",
        "/v1/jobs/{}?wait={}",
    ),
    *("/", "/{}", "/login", "/api", "/openapi.json"),
)
METHODS = ("GET", "POST", "DELETE", "PUT", "PATCH", "HEAD", "OPTIONS", "TRACE", "FOO")


def value(rng: random.Random) -> Any:
    return rng.choice(rng.choice((TEXTS, NUMBERS, OTHER, RECORDS)))


def body(rng: random.Random) -> bytes:
    kind = rng.randrange(8)
    if kind == 0:
        return rng.randbytes(rng.randrange(200))
    if kind == 1:
        return b'{"prompt":' * rng.choice((1, 2000)) + b"1"
    if kind == 2 and rng.random() < 0.5:
        return png(noise(rng.randrange(9)))
    if kind == 2:
        return b"\x89PNG\r\n\x1a\n" + rng.randbytes(100)
    asked = {rng.choice(FIELDS): value(rng) for _ in range(rng.randrange(5))}
    if kind > 4:  # mostly sound, so that it comes further
        wrong = dict(list(asked.items())[: rng.randrange(2)])
        asked = {"prompt": "a cat", "num_inference_steps": 1} | wrong
    return json.dumps(asked).encode()


def path(rng: random.Random) -> str:
    part = rng.choice(("a", "..", "%2e%2e%2f", "%00", "%ff%fe", "0" * 300, "-1", "1e9", "nan", "é"))
    return rng.choice(PATHS).replace("{}", part).encode("ascii", "ignore").decode()


@pytest.mark.parametrize("requests", [300, pytest.param(10_000, marks=pytest.mark.slow)])
def test_no_request_breaks_the_server_or_makes_it_hang(
    tmp_path: Path, model: Path, requests: int
) -> None:
    rng = random.Random(requests)
    process, codes = psutil.Process(), dict[int, int]()
    before = 0
    limits = Limits(max_images=2, max_steps=8, max_queue=3, max_queue_each=3)
    with served(make_studio(tmp_path, model, limits=limits)) as server:
        for number in range(requests):
            method, to = rng.choice(METHODS), path(rng)
            if rng.random() < 0.5:
                method, to = "POST", "/v1/images"
            headers = {"content-type": rng.choice(("application/json", "image/png", "x", ""))}
            data = body(rng) if method in ("POST", "PUT", "PATCH") else None
            answer = server.call(method, to, data, headers)
            told = answer.body
            codes[answer.status] = codes.get(answer.status, 0) + 1
            assert answer.status < 500, (method, to, data, told)
            if answer.status >= 400 and method != "HEAD":
                assert json.loads(told)["error"], (method, to, data, told)
            if number == requests // 3:
                gc.collect()
                before = process.memory_info().rss
        assert server.job(server.draw(), wait=30)["state"] == "done"
    gc.collect()
    grown = process.memory_info().rss - before
    print(f"{requests} requests: {codes}, {grown / 1e6:+.1f} MB after the first third")
    assert grown < 100e6
    assert {200, 202, 404, 405, 422} <= set(codes), codes


def test_a_caller_that_leaves_in_the_middle_leaves_nothing_behind(server: Served) -> None:
    lines = server.studio.lines
    for _ in range(20):
        link = http.client.HTTPConnection("127.0.0.1", server.port, timeout=120)
        link.request("GET", "/v1/events")
        link.getresponse()
        link.close()
    assert server.job(server.draw())["state"] == "done"
    for _ in range(200):
        if all(not line.listeners for line in lines):
            break
        server.call("GET", "/v1/server")
    assert all(not line.listeners for line in lines)
