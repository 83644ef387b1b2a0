"""One tiny model and one server for the tests of a file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="the page's extra is not installed (latentdiff[web])")

from serving import Served, make_studio, save_tiny, served


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Iterator[Served]:
    with served(make_studio(tmp_path_factory.mktemp("web"), model)) as running:
        yield running
