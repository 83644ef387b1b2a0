"""The page in a real browser: pictures from pictures, words, sweeps, variations, lessons."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browsing import BUTTON, Browser
from paging import SET, draw, drop, newest, patient, shown
from PIL import Image
from selenium.webdriver.common.action_chains import ActionChains
from serving import Served
from test_from_pictures import noise, png
from test_lessons import picture

PAINTED = """
const mask = document.querySelector("#paint");
const data = mask.getContext("2d").getImageData(0, 0, mask.width, mask.height).data;
return [...data].filter((value, k) => k % 4 === 3 && value > 0).length / (mask.width * mask.height);
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Iterator[Served]:
    with patient(tmp_path_factory.mktemp("web"), model) as running:
        yield running


def drawn(page: Browser, server: Served, prompt: str = "a cat in the snow") -> str:
    """Draw a picture and wait for it on stage; its id."""
    draw(page, prompt, steps="2")
    page.until(lambda: shown(page) and "Seed" in page.text("#facts"), "no picture came")
    return str(newest(server)["id"])


def pixels(server: Served, picture_id: str) -> Any:
    data = server.call("GET", f"/v1/images/{picture_id}/png").body
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)


def next_picture(page: Browser, server: Served, before: str) -> dict[str, Any]:
    page.until(lambda: newest(server)["id"] != before and shown(page), "nothing was drawn")
    return newest(server)


def stroke(page: Browser, across: float) -> None:
    """Paint from the middle to the right, so far as a share of the picture's width."""
    canvas = page.find("#paint")
    move = ActionChains(page.driver, duration=10).move_to_element(canvas).click_and_hold()
    move.move_by_offset(round(canvas.size["width"] * across), 0).release().perform()


def test_what_is_painted_is_drawn_anew_and_the_rest_stays_bit_equal(
    page: Browser, server: Served
) -> None:
    first = drawn(page, server)
    page.click("Repaint")
    page.until(lambda: page.find("#painter").is_displayed())
    stroke(page, 0.3)
    share = page.script(PAINTED)
    assert 0.02 < share < 0.4
    stroke(page, -0.3)
    assert page.script(PAINTED) > share
    page.click("Undo")
    assert page.script(PAINTED) == share
    page.click("Done")
    page.until(lambda: "the painted part is drawn anew" in page.text("#source-how"))
    page.write("#prompt", "an owl at night")
    page.click("Draw")
    found = next_picture(page, server, first)
    record = found["recipe"]["request"]["source"]
    assert record["image"] == first
    changed = np.abs(pixels(server, found["id"]) - pixels(server, first)).max(axis=2) > 0
    assert 0 < changed.mean() <= share + 0.05
    assert not changed[:, :8].any()  # nothing was painted at the left


def test_a_finger_and_the_keyboard_paint_too_and_cancel_changes_nothing(
    page: Browser, server: Served
) -> None:
    drawn(page, server)
    page.click("Repaint")
    page.until(lambda: page.find("#painter").is_displayed())
    assert page.script("return getComputedStyle(document.querySelector('#paint')).touchAction") == (
        "none"
    )
    box = page.find("#paint").rect
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    for kind, dx in (("touchStart", 0), ("touchMove", 30), ("touchMove", 60), ("touchEnd", 0)):
        points = [] if kind == "touchEnd" else [{"x": x + dx, "y": y}]
        page.driver.execute_cdp_cmd(
            "Input.dispatchTouchEvent", {"type": kind, "touchPoints": points}
        )
    by_finger = page.until(lambda: page.script(PAINTED), "a finger paints nothing")
    page.find("#paint").send_keys("\ue015\ue015\ue015\ue015\ue015 ")  # down, down …, dab
    assert page.script(PAINTED) > by_finger
    page.click("Cancel")
    page.until(lambda: not page.find("#painter").is_displayed())
    assert "drawn over as a whole" in page.text("#source-how")


def test_a_dropped_picture_without_settings_is_one_to_start_from(
    page: Browser, server: Served
) -> None:
    before = newest(server)["id"] if server.call("GET", "/v1/images").json["images"] else ""
    drop(page, png(noise(5, (48, 32))), "photo.png")
    page.until(lambda: page.text("#source-name") == "photo.png", "it was not taken")
    page.script(SET, "#strength", "0.4")
    page.write("#prompt", "a cat")
    page.click("Draw")
    found = next_picture(page, server, before)
    assert found["recipe"]["request"]["source"]["strength"] == 0.4
    page.driver.refresh()  # and a reload keeps it
    page.until(lambda: page.text("#source-how").startswith("48 × 32"), "it is forgotten")
    page.script(SET, "[data-side='2']", "8")
    assert "becomes 56 × 32" in page.text("#source-how")
    page.click("Draw")
    wide = next_picture(page, server, found["id"])
    assert (wide["width"], wide["height"]) == (56, 32)


def test_a_picture_that_the_server_forgot_is_sent_again(page: Browser, server: Served) -> None:
    drop(page, png(noise(6)), "photo.png")
    page.until(lambda: page.text("#source-name") == "photo.png")
    server.studio.uploads._held.clear()
    page.write("#prompt", "a cat")
    before = newest(server)["id"]
    page.click("Draw")
    assert next_picture(page, server, before)["recipe"]["request"]["source"]


def test_a_variation_is_one_click_away(page: Browser, server: Served) -> None:
    first = drawn(page, server)
    seed = newest(server)["recipe"]["request"]["seed"]
    page.click("Vary")
    found = next_picture(page, server, first)["recipe"]["request"]
    assert found["seed"] == seed
    assert found["blend"]["amount"] == 0.25
    page.until(lambda: "0.25 towards seed" in page.text("#facts"))


def test_hovering_a_word_shows_where_it_acted(page: Browser, server: Served) -> None:
    drawn(page, server, "a cat in the snow")
    page.click("See where each word acted")
    page.until(lambda: page.count(".word") == 5, "its words cannot be hovered")
    cat = page.driver.find_elements("css selector", ".word")[1]
    assert cat.text == "cat"
    ActionChains(page.driver, duration=10).move_to_element(cat).perform()
    page.until(lambda: page.find("#heat").is_displayed(), "no heat map")
    assert "“cat” acted" in page.text("#word-hint")
    picture, heat = page.find("#picture").rect, page.find("#heat").rect
    assert picture == heat
    ActionChains(page.driver, duration=10).move_to_element(page.find("#draw")).perform()
    page.until(lambda: not page.find("#heat").is_displayed(), "the heat map stays")


def test_a_sweep_is_a_grid_with_its_labels(page: Browser, server: Served) -> None:
    page.script("document.querySelector('#settings').open = true")
    page.script(SET, "[data-axis='0']", "steps")
    page.script(SET, "[data-values='0']", "1, 2, 3")
    page.script(SET, "[data-axis='1']", "guidance_scale")
    page.script(SET, "[data-values='1']", "1, 4")
    page.write("#prompt", "a cat")
    page.click("Draw 6")
    page.until(lambda: page.count(".strip td img[src*='/png']") == 6, "the grid is not full")
    page.until(lambda: page.script(BUTTON, "The grid as one picture"))
    heads = page.script(
        "return [...document.querySelectorAll('.strip th')].map((head) => head.innerText)"
    )
    assert heads == ["Steps 1", "Steps 2", "Steps 3", "Guidance 1", "Guidance 4"]
    page.click("The grid as one picture")
    page.until(lambda: page.text("#facts").startswith("Pictures6"))


def at_width(page: Browser, width: int) -> None:
    size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": True}
    page.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


def test_the_painter_and_the_lessons_fit_a_phone(page: Browser, server: Served) -> None:
    wide = "return document.documentElement.scrollWidth"
    drawn(page, server)
    lesson = server.call("POST", "/v1/lessons", {"title": "a very long name " * 5}).json["id"]
    kind = {"content-type": "image/png"}
    server.call("POST", f"/v1/lessons/{lesson}/pictures?caption=x", picture(1), kind)
    at_width(page, 390)
    try:
        page.script("document.querySelectorAll('details').forEach((d) => d.open = true)")
        page.click("Repaint")
        page.until(lambda: page.find("#painter").is_displayed())
        assert page.script(wide) <= 390
        for name in ("#paint", "#brush", "#paint-done"):
            box = page.find(name).rect
            assert box["x"] >= 0, name
            assert box["x"] + box["width"] <= 390, name
            assert box["y"] + box["height"] <= 800, name
        page.click("Cancel")
        page.script(f"location.hash = '#teach/{lesson}'")
        page.until(lambda: page.count(".lesson-tile") == 1)
        assert page.script(wide) <= 390
    finally:
        page.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_every_control_has_a_name(page: Browser, server: Served) -> None:
    drawn(page, server)
    nameless = """
    const named = (one) => one.ariaLabel || one.textContent.trim() || one.title || one.placeholder
      || one.labels?.length || one.getAttribute("aria-labelledby");
    return [...document.querySelectorAll("button, input:not([hidden]), select, textarea, canvas")]
      .filter((one) => !named(one)).map((one) => one.outerHTML);
    """
    assert page.script(nameless) == []


def lesson_files(count: int = 6) -> list[tuple[str, str]]:
    """Names and base64 contents of pictures with captions beside them."""
    found = []
    for k in range(count):
        found.append((f"{k}.png", base64.b64encode(picture(k)).decode()))
        found.append((f"{k}.txt", base64.b64encode(b"an owl at night").decode()))
    return found


DROP_ALL = """
const carried = new DataTransfer();
for (const [name, content] of arguments[0]) {
  const bytes = Uint8Array.from(atob(content), (c) => c.charCodeAt(0));
  carried.items.add(new File([bytes], name));
}
const options = {dataTransfer: carried, bubbles: true, cancelable: true};
document.querySelector("#drop-here").dispatchEvent(new DragEvent("drop", options));
"""


def new_lesson(page: Browser, title: str) -> None:
    page.script("location.hash = '#teach'")
    page.until(lambda: page.find("#lesson-title").is_displayed())
    page.write("#lesson-title", title)
    page.click("New lesson")
    page.until(lambda: page.text("#lesson-name") == title, "the lesson is not there")


def test_dropped_pictures_and_captions_are_looked_through(page: Browser, server: Served) -> None:
    new_lesson(page, "an owl")
    files = lesson_files(5)
    page.script(DROP_ALL, [*files, ("9.png", files[0][1]), ("bad.png", "bm8=")])
    page.until(lambda: page.count(".lesson-tile") == 6, "they were not taken")
    page.until(
        lambda: "Not taken: bad.png, this picture cannot be used" in page.text("#teach-problem")
    )
    assert page.value(".lesson-tile textarea") == "an owl at night"
    page.click("Check the pictures")
    page.until(lambda: "5 to learn from" in page.text("#lesson-count"), "nothing was found")
    page.until(lambda: "the caption is empty" in page.text(".left-out .why"))
    page.driver.refresh()
    page.until(lambda: "5 to learn from" in page.text("#lesson-count"), "it is forgotten")


@pytest.mark.slow
def test_a_lora_is_taught_in_the_page_survives_a_reload_and_draws(
    page: Browser, server: Served
) -> None:
    new_lesson(page, "an owl at school")
    page.script(DROP_ALL, lesson_files(8))
    page.until(lambda: page.count(".lesson-tile") == 8)
    page.script("document.querySelectorAll('#teaching details').forEach((d) => d.open = true)")
    page.script(SET, "#minutes", "")
    page.script(SET, "[name='steps']", "12")
    page.click("Teach")
    page.until(
        lambda: page.text("#teach-state") in ("Starting", "Looking at what it can do before")
    )
    page.driver.refresh()
    page.until(lambda: page.script("return !document.querySelector('#teach-bar').hidden"))
    # Drawing goes on meanwhile, and says why it is slower.
    page.script("location.hash = '#draw'")
    page.until(lambda: "drawing is slower meanwhile" in page.text("#queue"))
    drawn(page, server, "a cat")
    page.script("location.hash = '#teach'")
    for _ in range(40):  # several times the patience of `until`
        if "has learnt" in page.text("#teach-state"):
            break
        try:
            page.until(lambda: "has learnt" in page.text("#teach-state"))
        except AssertionError:
            continue
    assert page.text("#teach-state").startswith("It has learnt all its updates. 12 updates")
    page.until(lambda: page.count("#curve polyline") == 2)
    page.until(lambda: page.script("return document.querySelector('#sheet-picture').naturalWidth"))
    page.click("Try it")
    page.until(lambda: page.text("#loras b") == "an-owl-at-school")
    page.write("#prompt", "an owl")
    before = newest(server)["id"]
    page.click("Draw")
    found = next_picture(page, server, before)
    assert "an-owl-at-school" in json.dumps(found["recipe"]["loras"])
