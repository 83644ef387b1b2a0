"""A real server on a free port of this machine, over a tiny model, and a caller for it."""

from __future__ import annotations

import contextlib
import http.client
import json
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tiny
import uvicorn

from latentdiff.web import serve
from latentdiff.web.app import create_app
from latentdiff.web.artist import Artist
from latentdiff.web.gallery import Gallery
from latentdiff.web.guard import Access
from latentdiff.web.limits import Limits
from latentdiff.web.shelf import Shelf
from latentdiff.web.studio import Studio

MATRIX = [[0.3, 0.2, 0.2], [0.2, 0.3, 0.2], [0.1, 0.2, 0.3], [0.2, 0.2, 0.2]]
CARD = {
    "preview": {"matrix": MATRIX, "bias": [0, 0, 0]},
    "num_inference_steps": 4,
    "guidance_scale": 2.0,
    "subjects": ["cat", "owl"],
    "settings": {"snow": "in the snow"},
    "vocabulary": ["a", "cat", "in", "the", "snow", "owl"],
}
ENDLESS = {"num_inference_steps": 150, "num_images": 16}
"""A drawing, within the limits, that is still being drawn when the test is done with it."""


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Served:
    """A running server. browser: the name in the cookie that its calls send, if any."""

    studio: Studio
    port: int
    browser: str | None = None

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def call(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        sent = {} if self.browser is None else {"cookie": f"latentdiff_browser={self.browser}"}
        data = body
        if body is not None and not isinstance(body, bytes):
            data, sent = json.dumps(body).encode(), sent | {"content-type": "application/json"}
        link = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        with contextlib.closing(link):
            link.request(method, path, body=data, headers=sent | dict(headers or {}))
            answer = link.getresponse()
            return Answer(answer.status, dict(answer.getheaders()), answer.read())

    def draw(self, **asked: Any) -> dict[str, Any]:
        """Put a drawing in line; the job."""
        answer = self.call("POST", "/v1/images", {"prompt": tiny.PROMPT, **asked})
        assert answer.status == 202, answer.body
        return dict(answer.json)

    def job(self, job: Mapping[str, Any], wait: float = 30) -> dict[str, Any]:
        """The job once it ended."""
        return dict(self.call("GET", f"/v1/jobs/{job['id']}?wait={wait}").json)

    def until(self, job: Mapping[str, Any], *states: str) -> dict[str, Any]:
        """The job once it is in one of the states."""
        while True:
            now = self.job(job, wait=0)
            if now["state"] in states:
                return now
            assert now["state"] not in ("done", "failed", "stopped"), now
            time.sleep(0.01)


def save_tiny(folder: Path) -> Path:
    """A tiny model's folder, with a card as the embedded model has."""
    model = tiny.save(tiny.tiny(), folder)
    (model / "snowglobe.json").write_text(json.dumps(CARD))
    return model


def make_studio(
    folder: Path,
    model: Path,
    *,
    limits: Limits | None = None,
    access: Access | None = None,
    loras: Path | None = None,
    grace: float = 0.2,
) -> Studio:
    """A studio over a model, its gallery in `folder`."""
    shelf = Shelf(model=str(model), loras_folder=loras)
    artist = Artist(shelf, Gallery(folder / "gallery"), limits or Limits())
    artist.open()
    return Studio.of(artist, access, grace=grace)


@contextlib.contextmanager
def served(studio: Studio) -> Iterator[Served]:
    """The studio's server, while the block runs."""
    listener = serve.listen("127.0.0.1", 0)
    server = uvicorn.Server(
        uvicorn.Config(create_app(studio), log_level="error", timeout_graceful_shutdown=1)
    )
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive(), "the server did not start"
        time.sleep(0.01)
    try:
        yield Served(studio, listener.getsockname()[1])
    finally:
        server.should_exit = True
        studio.close(0)
        thread.join(20)
        assert not thread.is_alive(), "the server did not end"
