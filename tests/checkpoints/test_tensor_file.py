"""Our safetensors writer against safetensors' own, byte by byte."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save

from latentdiff.checkpoints import tensor_file
from latentdiff.checkpoints.tensor_file import file_size, tensor_bytes, write_tensors

TENSORS = {
    **{f"of {dtype}": torch.ones(3, dtype=dtype) for dtype in tensor_file._DTYPES},
    'é "quoted"\n': torch.randn(2, 3, generator=torch.Generator().manual_seed(0)),
    "empty": torch.zeros(0, 4),
    "scalar": torch.tensor(2.5),
    "of two bytes": torch.arange(5, dtype=torch.bfloat16),
    "z": torch.zeros(1),
    "Z": torch.ones(1),
}


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}], ids=str)
@pytest.mark.parametrize("tensors", [TENSORS, {}], ids=["many", "none"])
def test_a_file_is_that_of_safetensors_to_the_bit(tmp_path, tensors, metadata):
    path = tmp_path / "a.safetensors"
    write_tensors(path, tensors, metadata)
    assert path.read_bytes() == save(tensors, metadata)
    assert path.stat().st_size == file_size(tensors, metadata)


def test_any_layout_is_written_row_by_row(tmp_path):
    whole = torch.arange(120.0).reshape(2, 3, 4, 5)
    tensors = {
        "channels last": whole.to(memory_format=torch.channels_last),
        "transposed": whole.transpose(1, 3),
        "a view": whole[:, 1:, ::2],
        "the same": whole,
        "trained": whole.clone().requires_grad_(),
    }
    write_tensors(tmp_path / "a", tensors)
    back = load_file(tmp_path / "a")
    assert all(torch.equal(back[name], tensor) for name, tensor in tensors.items())


def test_the_bytes_of_a_file_follow_from_its_content_alone(tmp_path):
    tensors = {"b": torch.arange(3.0), "a": torch.ones(2, dtype=torch.int64)}
    strings = {"format": "pt", "author": "nobody", "word": "cat"}
    turned = dict(reversed(tensors.items())), dict(reversed(strings.items()))
    write_tensors(tmp_path / "file.safetensors", tensors, strings)
    written = (tmp_path / "file.safetensors").read_bytes()
    assert written == tensor_bytes(tensors, strings) == tensor_bytes(*turned)
