"""Commands that name something on a hub: each in a process that has imported nothing before."""

from __future__ import annotations

import io
from pathlib import Path

import loras
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiny
from conftest import Run
from loopback import LoopbackHub, files_of
from PIL import Image

from latentdiff.models.single_file_writer import write_single_file


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save(tiny.stable_diffusion_1(), tmp_path_factory.mktemp("model") / "model")


def latentdiff(fresh: Run, *arguments: str, **env: str) -> tuple[int, str, str]:
    done = fresh("-m", "latentdiff", *arguments, **env)
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout, done.stderr


def test_a_model_and_a_single_file_are_opened_by_their_names(
    hub: LoopbackHub, fresh: Run, model: Path, tmp_path: Path
) -> None:
    single = write_single_file(tiny.stable_diffusion_1(), tmp_path / "v1.safetensors")
    hub.add("them/model", files_of(model) | {"v1.safetensors": single.read_bytes()})
    code, out, _ = latentdiff(fresh, "info", "them/model")
    assert code == 0
    assert "unet" in out
    assert not [path for path in hub.asked if path.endswith("v1.safetensors")]
    code, out, _ = latentdiff(fresh, "info", "them/model/v1.safetensors")
    assert code == 0
    line = ("info", "them/model")
    code, again, _ = latentdiff(fresh, *line, HF_ENDPOINT="http://127.0.0.1:9")
    assert code == 0
    assert "is the copy in the cache" in again
    code, _, err = latentdiff(fresh, "info", "them/nothing")
    assert code == 2
    assert "the hub has no model of that name" in err


def test_a_lora_is_opened_by_its_repository_s_name(
    hub: LoopbackHub, fresh: Run, tmp_path: Path
) -> None:
    peft, kohya = loras.saved(loras.trained(tiny.tiny()), tmp_path / "lora")
    hub.add("them/one", {"owl.safetensors": kohya.read_bytes(), "README.md": b"words"})
    hub.add("them/two", {"a.safetensors": peft.read_bytes(), "b.safetensors": kohya.read_bytes()})
    code, out, _ = latentdiff(fresh, "lora", "inspect", "them/one")
    assert code == 0
    assert "layout of kohya" in out
    code, _, err = latentdiff(fresh, "lora", "inspect", "them/two")
    assert code == 2
    assert "holds several files, say which: them/two/FILE, of a.safetensors" in err
    code, out, _ = latentdiff(fresh, "lora", "inspect", "them/two/a.safetensors")
    assert code == 0
    assert "diffusers (PEFT)" in out


def test_a_data_set_is_opened_by_its_name_and_a_mistyped_folder_asks_nobody(
    hub: LoopbackHub, fresh: Run, tmp_path: Path
) -> None:
    pictures = []
    for shade in range(4):
        stream = io.BytesIO()
        Image.new("RGB", (32, 32), (60 * shade, 0, 0)).save(stream, "PNG")
        pictures.append({"bytes": stream.getvalue(), "path": None})
    table = pa.table({"image": pictures, "text": ["a cat", "a dog", "an owl", "a fox"]})
    pq.write_table(table, tmp_path / "a.parquet")
    content = {"data/train-00000-of-00001.parquet": (tmp_path / "a.parquet").read_bytes()}
    hub.add("them/data", content | {"load.py": b"raise SystemExit"}, kind="dataset")
    check = ("data", "check", "--model", "none")
    code, out, _ = latentdiff(fresh, *check, "them/data")
    assert code == 0, out
    assert "4" in out
    assert not [path for path in hub.asked if path.endswith("load.py")]
    hub.asked.clear()
    (tmp_path / "here/photos").mkdir()
    code, _, err = latentdiff(fresh, *check, "photos/mine")
    assert code == 2
    assert "photos/mine" in err
    assert not hub.asked
