"""`latentdiff info`: what a model is made of and what it knows."""

from pathlib import Path

import pytest
import tiny

from latentdiff.cli.main import run
from latentdiff.files import sha256_file


def test_parts_sizes_and_hashes_are_listed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tiny.save(tiny.stable_diffusion_2(), tmp_path / "model")
    assert run(["info", str(folder)]) == 0
    out = capsys.readouterr().out
    for part in ("unet", "vae", "text_encoder"):
        network = getattr(tiny.stable_diffusion_2(), part)
        (row,) = [line for line in out.splitlines() if line.startswith(part)]
        assert f"{sum(p.numel() for p in network.parameters()):,}" in row
        assert row.endswith(sha256_file(next((folder / part).glob("*.safetensors"))))
        assert "float32" in row
    assert "DDIMScheduler" in out
    assert "v_prediction" in out
    assert "up to 77" in out
    assert "subjects" not in out


def test_an_embedded_model_lists_what_it_knows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    card = {
        "subjects": ["cat", "penguin"],
        "settings": {"snow": "in the snow", "night": "at night"},
        "relations": ["left of"],
    }
    folder = tiny.save(tiny.with_card(tiny.tiny(), **card), tmp_path / "model")
    assert run(["info", str(folder)]) == 0
    out = capsys.readouterr().out
    assert "2 subjects:\n  cat, penguin" in out
    assert "2 settings:\n  in the snow, at night" in out
    assert "1 relations:\n  left of" in out


def test_a_wrong_path_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["info", str(tmp_path / "nothing")]) == 2
    err = capsys.readouterr().err
    assert err.startswith("latentdiff: error: no model at")
    assert err.count("\n") == 1
