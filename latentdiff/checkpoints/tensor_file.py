"""safetensors files written tensor by tensor: no second copy in memory, every byte by our writer.

The format (https://github.com/huggingface/safetensors#format): eight bytes little-endian length of
the header; the header, JSON of name -> dtype, shape and offsets, padded with spaces to a multiple
of eight; the tensors' bytes, little-endian, row-major. The files are those of
`safetensors.torch.save_file`, to the bit, but that several strings of metadata are sorted here, and
in an order of chance there.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from latentdiff import files

# In safetensors' own order, by which it sorts: wide types first, so that all stay aligned.
_DTYPES: dict[torch.dtype, str] = {
    torch.uint64: "U64",
    torch.int64: "I64",
    torch.float64: "F64",
    torch.float32: "F32",
    torch.uint32: "U32",
    torch.int32: "I32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.uint16: "U16",
    torch.int16: "I16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_RANK = {dtype: rank for rank, dtype in enumerate(_DTYPES)}


def _ordered(tensors: Mapping[str, Tensor]) -> list[tuple[str, Tensor]]:
    return sorted(tensors.items(), key=lambda item: (_RANK[item[1].dtype], item[0].encode()))


def _header(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None) -> bytes:
    entries: dict[str, object] = {}
    if metadata is not None:
        entries["__metadata__"] = dict(sorted(metadata.items()))
    end = 0
    for name, tensor in _ordered(tensors):
        begin, end = end, end + tensor.numel() * tensor.element_size()
        entries[name] = {
            "dtype": _DTYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps(entries, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def file_size(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> int:
    """Bytes of the file that `write_tensors` would make."""
    data = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    return len(_header(tensors, metadata)) + data


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Write a new safetensors file and sync it; tensors may lie anywhere, in any layout.

    It is for folders that are being published (`files.publish_folder`). Raises OSError.
    """
    with files.new_file(path) as file:
        file.write(_header(tensors, metadata))
        for _, tensor in _ordered(tensors):
            file.write(_data(tensor))


def tensor_bytes(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> bytes:
    """The content of a small safetensors file. It follows from the arguments alone: safetensors'
    own writer puts the metadata in an order that changes from run to run, and with it the sum."""
    return _header(tensors, metadata) + b"".join(_data(tensor) for _, tensor in _ordered(tensors))


def _data(tensor: Tensor) -> memoryview:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data if flat.numel() else memoryview(b"")
