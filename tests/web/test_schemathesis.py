"""The API against its own description: `make api` installs schemathesis and runs this."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from serving import make_studio, served

from latentdiff.web.limits import Limits

LIMITS = Limits(max_images=2, max_steps=4, max_pixels=64 * 64, max_sweep=4)
ENDLESS = "/v1/events"
UNFIT = "positive_data_acceptance,ensure_resource_availability"
"""Checks that do not fit: a well-formed request may ask for what the model cannot draw, and the id
of a job, which `POST /v1/images` gives, is not that of a picture."""


@pytest.mark.slow
def test_schemathesis_finds_nothing(tmp_path: Path, model: Path) -> None:
    program = Path(sys.executable).with_name("schemathesis")
    if not program.exists():
        pytest.skip("schemathesis is not installed; `make api` installs it")
    with served(make_studio(tmp_path, model, limits=LIMITS)) as server:
        command = [str(program), "run", f"{server.address}/openapi.json", "--exclude-path", ENDLESS]
        command += ["--exclude-checks", UNFIT, "--request-timeout", "60", "--seed", "1"]
        done = subprocess.run(
            [*command, "--max-examples", "25", "--continue-on-failure"],
            capture_output=True,
            text=True,
            cwd=tmp_path,
        )
    assert done.returncode == 0, done.stdout[-6000:]
