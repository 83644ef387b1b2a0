"""One tiny model and one server for the tests of a file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

pytest.importorskip("fastapi", reason="the page's extra is not installed (latentdiff[web])")

from serving import Served, make_studio, save_tiny, served

if TYPE_CHECKING:
    from browsing import Browser


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Iterator[Served]:
    with served(make_studio(tmp_path_factory.mktemp("web"), model)) as running:
        yield running


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    from browsing import chromium

    with chromium(tmp_path_factory.mktemp("profile")) as found:
        yield found


@pytest.fixture
def page(browser: Browser, server: Served) -> Iterator[Browser]:
    """The page, as a browser sees it that was never here."""
    browser.driver.delete_all_cookies()
    browser.open(server.address)
    browser.script("localStorage.clear()")
    browser.driver.delete_all_cookies()
    browser.open(server.address)
    yield browser
    for line in server.studio.lines:
        for job in line.all():
            line.stop(job)
