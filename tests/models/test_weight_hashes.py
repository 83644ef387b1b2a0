"""Sums of weight files: of the file that was opened, made once, kept where that pays."""

from __future__ import annotations

import copy
import hashlib
import os
from pathlib import Path

import pytest
import tiny
import torch

from latentdiff.errors import UserError
from latentdiff.models import bundle as bundles
from latentdiff.models import weight_hashes, weights
from latentdiff.models.weight_hashes import FileHash, Hashes
from latentdiff.pipelines import TextToImagePipeline


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "latentdiff" / "weight_hashes.json"


def written(place: Path, data: bytes) -> str:
    place.write_bytes(data)
    return hashlib.sha256(data).hexdigest()


def test_a_large_files_sum_is_kept_until_the_file_changes(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weight_hashes, "WORTH_KEEPING", 1)
    place = tmp_path / "weights"
    first = written(place, b"one")
    assert FileHash(place).value == first
    reads: list[object] = []
    real = hashlib.file_digest
    monkeypatch.setattr(hashlib, "file_digest", lambda *a: reads.append(a) or real(*a))
    assert FileHash(place).value == first and not reads
    second = written(place, b"two")
    assert FileHash(place).value == second and len(reads) == 1
    cache.write_text("no JSON")
    assert FileHash(place).value == second and len(reads) == 2
    os.utime(place, ns=(0, 0))  # whatever the clock says
    assert FileHash(place).value == second and len(reads) == 3


def test_a_small_files_sum_is_made_each_time(tmp_path: Path, cache: Path) -> None:
    place = tmp_path / "weights"
    expected = written(place, b"small")
    assert FileHash(place).value == expected
    assert not cache.exists()


def test_the_sum_is_of_the_file_that_was_opened(tmp_path: Path) -> None:
    place, other = tmp_path / "weights", tmp_path / "other"
    first = written(place, b"one")
    opened = FileHash(place)
    written(other, b"two")
    other.replace(place)
    assert opened.value == first
    opened = FileHash(place)
    with place.open("r+b") as file:
        file.write(b"changed in place")
    assert opened.value == ""


def test_a_cache_that_cannot_be_written_is_done_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weight_hashes, "WORTH_KEEPING", 1)
    (tmp_path / "cache").write_text("a file where a folder was expected")
    place = tmp_path / "weights"
    expected = written(place, b"one")
    assert FileHash(place).value == expected


def test_sums_are_made_when_they_are_asked_for_and_once() -> None:
    made: list[str] = []

    def sum_of(part: str) -> str:
        made.append(part)
        return part.upper()

    hashes = Hashes({part: lambda part=part: sum_of(part) for part in ("unet", "vae")})
    assert list(hashes) == ["unet", "vae"] and not made and not hashes.made
    assert hashes["vae"] == hashes["vae"] == "VAE" and made == ["vae"]
    assert dict(hashes) == {"unet": "UNET", "vae": "VAE"}
    assert made == ["vae", "unet"] and copy.deepcopy(hashes) == hashes


def test_opening_a_model_hashes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tiny.save(tiny.tiny(), tmp_path / "model")
    monkeypatch.setattr(hashlib, "file_digest", None)
    hashes = bundles.load(folder).hashes
    monkeypatch.undo()
    for part in ("unet", "vae", "text_encoder"):
        (file,) = (folder / part).glob("*.safetensors")
        assert hashes[part] == hashlib.sha256(file.read_bytes()).hexdigest()


def test_nan_in_a_large_file_is_named_when_a_network_has_given_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = copy.deepcopy(tiny.tiny())
    folder = tiny.save(bundle, tmp_path / "model")
    from safetensors.torch import load_file, save_file

    place = folder / "unet" / "diffusion_pytorch_model.safetensors"
    state = load_file(place)
    state["conv_in.weight"][0, 0, 0, 0] = float("nan")
    save_file(state, place, {"format": "pt"})
    with pytest.raises(UserError, match=r"conv_in\.weight holds NaN or infinity, as stored"):
        bundles.load(folder)
    monkeypatch.setattr(weights, "READ_AT_ONCE", 0)
    pipe = TextToImagePipeline(bundles.load(folder))
    with pytest.raises(UserError, match=r"conv_in\.weight of its unet holds NaN"):
        pipe("a cat", seed=0, num_inference_steps=1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float8_e4m3fn])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf"), 1.0])
def test_finite_sees_one_bad_element(dtype: torch.dtype, value: float) -> None:
    tensor = torch.zeros(5, 7)
    tensor[3, 2] = value
    bad = tensor.to(dtype)
    assert weights.finite(bad) == bool(torch.isfinite(bad.float()).all())
    assert weights.finite(torch.zeros(0, 3))
