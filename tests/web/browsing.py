"""A real Chromium, where the machine has one."""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")

from selenium.webdriver.chrome.service import Service  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402

SWITCHES = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    "--hide-scrollbars",
    "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
)
PATIENCE = 60.0
BUTTON = """
const buttons = [...document.querySelectorAll("button")];
return buttons.find((one) => one.checkVisibility() && one.textContent === arguments[0]);
"""


class Browser:
    """One window. What it waits for takes as long as it takes, up to `PATIENCE` seconds."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def open(self, address: str) -> None:
        self.driver.get(address)
        self.until(lambda: self.script("return document.documentElement.dataset.ready") == "yes")

    def until(self, fact: Callable[[], Any], what: str = "") -> Any:
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            found = fact()
            if found:
                return found
            time.sleep(0.02)
        raise AssertionError(what or "what was waited for did not happen")

    def script(self, text: str, *arguments: Any) -> Any:
        return self.driver.execute_script(text, *arguments)

    def find(self, selector: str) -> Any:
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def count(self, selector: str) -> int:
        return len(self.driver.find_elements(By.CSS_SELECTOR, selector))

    def text(self, selector: str) -> str:
        script = "return document.querySelector(arguments[0])?.textContent ?? ''"
        return str(self.script(script, selector))

    def value(self, selector: str) -> str:
        return str(self.script("return document.querySelector(arguments[0]).value", selector))

    def write(self, selector: str, text: str) -> None:
        field = self.find(selector)
        field.clear()
        field.send_keys(text)

    def click(self, text: str) -> None:
        """Click the button of that text, once it is there."""
        button = self.until(lambda: self.script(BUTTON, text), f"no button {text!r}")
        self.script("arguments[0].click()", button)

    def outside(self) -> list[str]:
        """Addresses that the page asked for and that are not this machine's."""
        asked = []
        for entry in self.driver.get_log("performance"):
            message = json.loads(entry["message"])["message"]
            if message["method"] == "Network.requestWillBeSent":
                asked.append(message["params"]["request"]["url"])
        return [u for u in asked if not u.startswith(("http://127.0.0.1", "data:", "blob:"))]


@contextlib.contextmanager
def chromium(folder: Path, *, width: int = 1280, height: int = 900) -> Iterator[Browser]:
    """A fresh browser with a profile in `folder`; the test is skipped where there is none."""
    binary = shutil.which("chromium") or shutil.which("google-chrome")
    driver_binary = shutil.which("chromedriver")
    if binary is None or driver_binary is None:
        pytest.skip("no chromium with chromedriver here (apt-get install chromium chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for switch in (*SWITCHES, f"--window-size={width},{height}", f"--user-data-dir={folder}"):
        options.add_argument(switch)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(driver_binary))
    try:
        yield Browser(driver)
    finally:
        driver.quit()
