"""What a user does with the page, and a server that bears it."""

from __future__ import annotations

import base64
import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tiny
from browsing import Browser
from serving import Served, make_studio, served

from latentdiff.web.limits import Limits

DROP = """
const bytes = Uint8Array.from(atob(arguments[0]), (c) => c.charCodeAt(0));
const carried = new DataTransfer();
carried.items.add(new File([bytes], arguments[1], {type: "image/png"}));
for (const kind of ["dragenter", "dragover", "drop"]) {
  const options = {dataTransfer: carried, bubbles: true, cancelable: true};
  document.body.dispatchEvent(new DragEvent(kind, options));
}
"""
SET = """
const [selector, value, kind] = arguments;
const field = document.querySelector(selector);
field.value = value;
field.dispatchEvent(new Event(kind ?? "input", {bubbles: true}));
"""
BUSY = "990"
"""Steps of a drawing that does not end before the test is done with it."""


@contextlib.contextmanager
def patient(folder: Path, model: Path) -> Iterator[Served]:
    """A server that takes drawings of many steps, and waits for a page that is loaded again."""
    studio = make_studio(folder, model, limits=Limits(max_steps=1000), grace=4.0)
    with served(studio) as running:
        yield running


def draw(page: Browser, prompt: str = tiny.PROMPT, steps: str = "") -> None:
    page.write("#prompt", prompt)
    page.script("document.querySelector('#settings').open = true")
    page.write("#steps", steps)
    page.click("Draw")


def shown(page: Browser) -> bool:
    """Whether a finished picture is on stage."""
    script = "const p = document.querySelector('#picture'); return !p.hidden && p.naturalWidth"
    return bool(page.script(script)) and "/v1/images/" in page.find("#picture").get_attribute("src")


def drop(page: Browser, data: bytes, name: str) -> None:
    page.script(DROP, base64.b64encode(data).decode(), name)


def newest(server: Served) -> dict[str, Any]:
    return dict(server.call("GET", "/v1/images?limit=1").json["images"][0])
