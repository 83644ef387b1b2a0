"""Takes the pictures of docs/serve.md anew: `python tests/web/screenshots.py` (some minutes).

A server of the embedded model draws a few prompts, a real browser shows them at two widths.
"""

from __future__ import annotations

import io
import sys
import tempfile
from pathlib import Path

from browsing import Browser, chromium
from PIL import Image
from serving import Served, make_studio, served

DOCS = Path(__file__).parents[2] / "docs" / "images"
PROMPTS = (
    *("a cat in the snow", "a dog on the beach", "a penguin in the desert", "a robot in the city"),
    *("a rocket in space", "a fox in the forest", "an octopus underwater", "a red car at sunset"),
)
SHOWN = "a fox in the forest"


def save(page: Browser, name: str) -> None:
    """The window as a JPEG of the documentation."""
    shot = Image.open(io.BytesIO(page.driver.get_screenshot_as_png())).convert("RGB")
    shot.save(DOCS / name, quality=88, optimize=True)
    print(DOCS / name, (DOCS / name).stat().st_size)


def show(page: Browser, server: Served) -> None:
    """The page with one picture on stage, the rest in the gallery."""
    page.open(server.address)
    page.script("document.querySelector(`#wall [title='${arguments[0]}']`).click()", SHOWN)
    page.until(lambda: "Seed" in page.text("#facts"))
    page.click("Use its settings")


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        studio = make_studio(Path(folder), Path("snowglobe"))
        with (
            served(studio) as server,
            chromium(Path(folder) / "profile", width=1280, height=1130) as page,
        ):
            for seed, prompt in enumerate(PROMPTS):
                server.until(server.draw(prompt=prompt, seed=seed), "done")
            show(page, server)
            save(page, "web-desk.jpg")
            phone = {"width": 390, "height": 1120, "deviceScaleFactor": 1.5, "mobile": True}
            page.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
            show(page, server)
            page.script("document.querySelector('#settings').open = false; scrollTo(0, 0)")
            save(page, "web-phone.jpg")
            page.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
            page.open(server.address)
            page.script("document.querySelector('#reset').click()")
            page.write("#prompt", PROMPTS[0])
            page.script("document.querySelectorAll('[data-step]')[1].click()")
            page.click("Draw")
            page.until(lambda: "step 2" in page.text("#state"), "it was not drawn")
            page.write("#prompt", PROMPTS[3])
            page.click("Draw")
            page.until(lambda: page.count(".waiting") and page.count("#strip button") == 1)
            save(page, "web-drawing.jpg")
    return 0


if __name__ == "__main__":
    sys.exit(main())
