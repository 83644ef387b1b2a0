"""A hub on loopback, and processes of their own that know no other."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from loopback import LoopbackHub

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def hub() -> Iterator[LoopbackHub]:
    server = LoopbackHub()
    yield server
    server.stop()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """HF_HOME of the processes."""
    return tmp_path / "hf-home"


@pytest.fixture
def fresh(hub: LoopbackHub, home: Path, tmp_path: Path) -> Run:
    """Run Python in a process that has imported nothing, against the hub; `env` adds to it."""

    def run(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
        (tmp_path / "here").mkdir(exist_ok=True)
        return subprocess.run(
            [sys.executable, *arguments],
            env=kept | {"HF_ENDPOINT": hub.url, "HF_HOME": str(home), "NO_PROXY": "*"} | env,
            cwd=tmp_path / "here",
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    return run
