"""Takes the pictures of docs/serve.md anew: `python tests/web/screenshots.py` (some minutes).

A server of the embedded model draws a few prompts, a real browser shows what the page does with
them, at a desk by day and by night and on a phone. With names as arguments, only those are taken:
draw, drawing, inpaint, words, sweep, teach, phone.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import browsing
from browsing import Browser, chromium
from paging import SET
from PIL import Image
from selenium.webdriver.common.action_chains import ActionChains
from serving import Served, make_studio, served

from latentdiff.scenes.export import export
from latentdiff.scenes.world import World
from latentdiff.web.teach import process, teacher

DOCS = Path(__file__).parents[2] / "docs" / "images"
PROMPTS = (
    *("a cat in the snow", "a dog on the beach", "a penguin in the desert", "a robot in the city"),
    *("a rocket in space", "a fox in the forest", "an octopus underwater", "a red car at sunset"),
)
SHOWN = "a fox in the forest"
browsing.PATIENCE = 900.0


def save(page: Browser, name: str) -> None:
    """The window as a JPEG of the documentation."""
    time.sleep(0.6)  # transitions end
    shot = Image.open(io.BytesIO(page.driver.get_screenshot_as_png())).convert("RGB")
    shot.save(DOCS / f"web-{name}.jpg", quality=88, optimize=True)
    print(DOCS / f"web-{name}.jpg", (DOCS / f"web-{name}.jpg").stat().st_size, flush=True)


def show(page: Browser, server: Served, prompt: str = SHOWN) -> None:
    """The page with one picture on stage, the rest in the gallery."""
    page.open(server.address)
    page.script("document.querySelector(`#wall [title='${arguments[0]}']`).click()", prompt)
    page.until(lambda: "Seed" in page.text("#facts"))


def hover(page: Browser, selector: str) -> None:
    ActionChains(page.driver).move_to_element(page.find(selector)).perform()


def emulate(page: Browser, command: str, **settings: object) -> None:
    page.driver.execute_cdp_cmd(f"Emulation.{command}", settings)


@contextlib.contextmanager
def by_night(page: Browser) -> Iterator[None]:
    """With the dark colours."""
    features = [{"name": "prefers-color-scheme", "value": "dark"}]
    emulate(page, "setEmulatedMedia", features=features)
    yield
    emulate(page, "setEmulatedMedia", features=[])


def draw(page: Browser, server: Served) -> None:
    show(page, server)
    page.click("Use its settings")
    save(page, "desk")


def drawing(page: Browser, server: Served) -> None:
    page.open(server.address)
    page.script("document.querySelector('#reset').click()")
    page.write("#prompt", PROMPTS[0])
    page.script("document.querySelectorAll('[data-step]')[1].click()")
    page.click("Draw")
    page.until(lambda: "step 2" in page.text("#state"), "it was not drawn")
    page.write("#prompt", PROMPTS[3])
    page.click("Draw")
    page.until(lambda: page.count(".waiting") and page.count("#strip button") == 1)
    save(page, "drawing")
    for job in server.studio.drawing.all():
        server.studio.drawing.stop(job)


def inpaint(page: Browser, server: Served) -> None:
    show(page, server, PROMPTS[0])
    page.click("Repaint")
    page.until(lambda: page.find("#painter").is_displayed())
    canvas = page.find("#paint")
    width = canvas.size["width"]
    for row in (-0.06, 0.06, 0.18, 0.28):
        move = ActionChains(page.driver, duration=60)
        move.move_to_element_with_offset(canvas, round(-0.16 * width), round(row * width))
        move.click_and_hold().move_by_offset(round(0.32 * width), 4).release().perform()
    save(page, "paint")
    page.click("Done")
    page.until(lambda: "painted" in page.text("#source-how"))
    page.write("#prompt", "a red car in the snow")
    page.click("Draw")
    page.until(lambda: "in part" in page.text("#facts"))
    save(page, "inpaint")
    page.script("document.querySelector('#reset').click()")


def words(page: Browser, server: Served) -> None:
    with by_night(page):
        show(page, server, PROMPTS[7])
        page.click("See where each word acted")
        page.until(lambda: page.count(".word") == 5)
        hover(page, ".word:nth-of-type(3)")
        page.until(lambda: page.find("#heat").is_displayed())
        save(page, "words")


def sweep(page: Browser, server: Served) -> None:
    page.open(server.address)
    page.script("document.querySelector('#reset').click()")
    page.script("for (const id of ['settings', 'sweep']) document.getElementById(id).open = true")
    page.script(SET, "[data-axis='0']", "steps")
    page.script(SET, "[data-values='0']", "5, 10, 25")
    page.script(SET, "[data-axis='1']", "guidance_scale")
    page.script(SET, "[data-values='1']", "1, 4")
    page.script(SET, "#seed", "5")
    page.write("#prompt", SHOWN)
    page.click("Draw 6")
    page.until(lambda: page.count(".strip td img[src*='/png']") == 6)
    page.until(lambda: page.script(browsing.BUTTON, "The grid as one picture"))
    save(page, "sweep")
    page.script("document.querySelector('#reset').click()")


def teach(page: Browser, server: Served) -> None:
    teacher.EVERY = 10  # sooner, and smaller, than a user would want it: this is for a picture
    teacher.SMALL += ("--validation-pairs=4", "--validation-pictures=4", "--sheet-steps=6")
    process.NICE = 0
    here = "/v1/lessons/" + server.call("POST", "/v1/lessons", {"title": "a dragon"}).json["id"]
    for k, (caption, picture) in enumerate(dragons(12)):
        sent = f"{here}/pictures?caption={quote(caption)}"
        assert server.call("POST", sent, picture, {"content-type": "image/png"}).status == 201, k
    page.driver.get(f"{server.address}/#teach")
    page.until(lambda: page.count(".lesson-tile") == 12)
    page.script(SET, "#teaching [name='batch_size']", "2")
    page.script(SET, "#minutes", "20")
    page.click("Teach")
    page.until(lambda: page.count("#sheet-picture[src*='/sheets/10?']") == 1)
    page.until(lambda: page.script("return document.querySelector('#sheet-picture').complete"))
    page.script("document.querySelector('#lesson-wall').style.maxHeight = '420px'")
    emulate(
        page, "setDeviceMetricsOverride", width=1280, height=1720, deviceScaleFactor=1, mobile=False
    )
    save(page, "teach")
    emulate(page, "clearDeviceMetricsOverride")
    page.click("Stop")


def dragons(count: int) -> Iterator[tuple[str, bytes]]:
    """Captions and PNG files of scenes with a dragon, which the embedded model never saw."""
    world = World(5, size=256, subjects=["dragon"])
    with tempfile.TemporaryDirectory() as folder:
        made = export(Path(folder) / "dragons", world, count)
        for line in (made / "metadata.jsonl").read_text("utf-8").splitlines():
            row = json.loads(line)
            yield row["text"], (made / row["file_name"]).read_bytes()


def phone(page: Browser, server: Served) -> None:
    emulate(
        page, "setDeviceMetricsOverride", width=390, height=1120, deviceScaleFactor=1.5, mobile=True
    )
    show(page, server)
    page.script("document.querySelector('#settings').open = false")
    page.click("Use its settings")
    time.sleep(1.5)  # it has scrolled to the picture by then
    page.script("document.activeElement.blur(); scrollTo({top: 0, behavior: 'instant'})")
    save(page, "phone")
    emulate(page, "clearDeviceMetricsOverride")


SHOTS = {one.__name__: one for one in (draw, phone, drawing, inpaint, words, sweep, teach)}


def main(names: list[str]) -> int:
    with tempfile.TemporaryDirectory() as folder:
        studio = make_studio(Path(folder), Path("snowglobe"))
        with (
            served(studio) as server,
            chromium(Path(folder) / "profile", width=1280, height=1273) as page,
        ):
            for seed, prompt in enumerate(PROMPTS if names != ["teach"] else ()):
                server.until(server.draw(prompt=prompt, seed=seed, num_inference_steps=12), "done")
            for name in names or list(SHOTS):
                SHOTS[name](page, server)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
