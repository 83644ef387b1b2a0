"""The page in a real browser: what peers' pages are hated for does not happen here."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from browsing import Browser, chromium
from paging import BUSY, draw, drop, newest, patient, shown
from serving import Served, make_studio, served

from latentdiff.web.guard import Access


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Iterator[Served]:
    with patient(tmp_path_factory.mktemp("web"), model) as running:
        yield running


def test_a_prompt_becomes_a_picture_with_its_settings_below(page: Browser, server: Served) -> None:
    tiles = page.count("#wall button")
    draw(page, "a cat in the snow")
    page.until(lambda: shown(page), "no picture came")
    page.until(lambda: "Seed" in page.text("#facts"))
    assert page.text("#said") == "a cat in the snow"
    assert str(newest(server)["recipe"]["request"]["seed"]) in page.text("#facts")
    assert page.count("#wall button") == tiles + 1


def test_previews_come_while_it_is_drawn(page: Browser) -> None:
    draw(page, steps=BUSY)
    source = "return document.querySelector('#picture').src"
    page.until(lambda: page.script(source).startswith("data:image/webp"), "no preview came")
    first = page.script(source)
    page.until(lambda: page.script(source) != first, "the preview stands still")
    assert "of 990" in page.until(lambda: page.text("#state"))


def test_stop_stops_and_the_next_is_drawn(page: Browser, server: Served) -> None:
    draw(page, steps=BUSY)
    page.until(lambda: "Step" in page.text("#state"))
    page.find("#buttons button").click()  # by the mouse: a button made anew would miss it
    page.until(lambda: page.text("#state") == "Stopped.", "it did not stop")
    assert not server.studio.drawing._active()
    draw(page)
    page.until(lambda: shown(page), "the worker was not free")


def test_a_waiting_job_shows_its_place_and_can_be_stopped(page: Browser, server: Served) -> None:
    draw(page, "a cat", steps=BUSY)
    page.until(lambda: "Step" in page.text("#state"))
    draw(page, "an owl", steps=BUSY)
    assert page.until(lambda: page.text(".waiting .place")) == "2nd in line"
    page.click("Stop")  # the one on stage comes first in the page
    page.until(lambda: page.text("#said") == "an owl" and "Step" in page.text("#state"))
    assert page.count(".waiting") == 0


def test_a_reload_keeps_the_running_job_the_gallery_and_the_settings(page: Browser) -> None:
    draw(page)
    page.until(lambda: shown(page))
    tiles = page.count("#wall button")
    draw(page, "an owl in the snow", steps=BUSY)
    page.until(lambda: "Step" in page.text("#state"))
    page.driver.refresh()
    page.until(lambda: "of 990" in page.text("#state"), "the running job is forgotten")
    assert page.text("#said") == "an owl in the snow"
    assert page.count("#wall button") == tiles
    assert page.value("#prompt") == "an owl in the snow"
    assert page.value("#steps") == BUSY


def test_a_closed_page_stops_its_jobs(
    page: Browser, server: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A fast processor is done with all steps within the patience that a reload needs.
    monkeypatch.setattr(server.studio.presence, "grace", 0.1)
    draw(page, steps=BUSY)
    page.until(lambda: "Step" in page.text("#state"))
    page.driver.get("about:blank")
    page.until(lambda: not server.studio.drawing._active(), "it goes on for nobody")
    assert [job.state for job in server.studio.drawing._jobs.values()][-1] == "stopped"


def test_a_dropped_png_gives_its_settings_back_and_the_running_job_stays(
    page: Browser, server: Served
) -> None:
    job = server.job(server.draw(prompt="a cat", seed=77, num_inference_steps=3, eta=0.5))
    data = server.call("GET", f"/v1/images/{job['images'][0]}/png").body
    draw(page, "an owl", steps=BUSY)
    page.until(lambda: "Step" in page.text("#state"))
    drop(page, data, "cat.png")
    page.until(lambda: page.value("#prompt") == "a cat", "the settings did not come back")
    assert [page.value(x) for x in ("#seed", "#steps", "#eta")] == ["77", "3", "0.5"]
    assert page.text("#said") == "an owl"
    assert "of 990" in page.text("#state")


def test_what_a_pictures_recipe_holds_and_the_page_cannot_ask_for_is_named(page: Browser) -> None:
    taken = {
        "request": {"schema": 1, "prompt": "a cat", "given": ["latents"], "long_prompts": "chunk"},
        "model": "elsewhere/other",
        "loras": [{"file": "x/owl.safetensors", "scale": 0.5}],
    }
    script = """
    const { Form } = await import("/form.js");
    const form = Object.create(Form.prototype);
    Object.assign(form, {form: document.querySelector("#composer"), models: [{name: "tiny",
      subjects: [], settings: []}], known: [], loras: new Map(), server: args[1], count: 1});
    form.source = {restore: async () => []};
    form.sweep = {set: () => null, count: 0, request: () => []};
    args[2](await form.take(args[0]));
    """
    limits = {"limits": {"max_images": 4}, "fields": ["prompt", "long_prompts"]}
    lost = page.driver.execute_async_script(
        f"(async (...args) => {{{script}}})(...arguments)", taken, limits
    )
    assert lost == [
        "Its model elsewhere/other is not here.",
        "Its LoRA owl is not here.",
        "Its given cannot be set here.",
    ]


def test_a_mistake_is_shown_as_a_sentence(page: Browser) -> None:
    page.write("#prompt", "a cat")
    page.script("document.querySelector('[name=width]').value = 33")
    page.click("Draw")
    page.until(lambda: page.find("#problem").is_displayed())
    said = page.text("#problem")
    assert said.startswith("Width 33 does not fit; expected a multiple of 4 pixels")
    assert said.endswith(".")
    drop(page, b"no picture", "letter.png")
    page.until(lambda: page.text("#problem").startswith("This is no PNG picture"))


def test_a_deleted_picture_comes_back_with_undo(page: Browser, server: Served) -> None:
    draw(page)
    page.until(lambda: shown(page) and "Seed" in page.text("#facts"))
    name = newest(server)["id"]
    page.click("Delete")
    page.until(lambda: page.count(f"[data-id='{name}']") == 0)
    page.click("Undo")
    page.until(lambda: page.count(f"[data-id='{name}']") == 1)


def test_a_second_browser_does_not_disturb_the_first(
    page: Browser, server: Served, tmp_path: Path
) -> None:
    draw(page, "a cat", steps=BUSY)
    page.until(lambda: "Step" in page.text("#state"))
    with chromium(tmp_path) as other:
        other.open(server.address)
        draw(other, "an owl", steps=BUSY)
        other.until(lambda: other.text("#state") == "Next in line")
        assert page.text("#said") == "a cat"
        other.click("Stop")
        other.until(lambda: other.text("#state") == "Stopped.")
        assert "of 990" in page.text("#state")


def test_nothing_is_loaded_from_elsewhere_and_no_script_fails(
    page: Browser, server: Served
) -> None:
    page.outside()
    draw(page)
    page.until(lambda: shown(page))
    page.driver.get(f"{server.address}/api")
    page.until(lambda: page.count(".call") > 10)
    assert page.outside() == []
    severe = [e for e in page.driver.get_log("browser") if e["level"] == "SEVERE"]
    assert [e for e in severe if "422" not in e["message"]] == []


@pytest.mark.parametrize("width", [320, 390, 1280])
def test_the_page_fits_a_phone(page: Browser, width: int) -> None:
    size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 800}
    page.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        page.script("document.querySelectorAll('details').forEach((d) => d.open = true)")
        assert page.script("return document.documentElement.scrollWidth") <= width
    finally:
        page.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_the_password_is_asked_for_at_the_door(
    browser: Browser, tmp_path: Path, model: Path
) -> None:
    with served(make_studio(tmp_path, model, access=Access(password="correct horse"))) as server:
        browser.driver.get(server.address)
        browser.write("#password", "wrong horse")
        browser.click("Open")
        browser.until(lambda: browser.text("#problem") == "This is not the password.")
        browser.write("#password", "correct horse")
        browser.click("Open")
        browser.until(lambda: browser.count("#prompt"))
