"""The libraries behind parquet files and hub data sets, imported on use: both are extras."""

from __future__ import annotations

from typing import Any

from latentdiff.errors import needs_extra


def parquet_library() -> tuple[Any, Any]:
    """(pyarrow, pyarrow.parquet). Raises UserError where they are not installed."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise needs_extra("reading parquet files", error, extra="train") from error
    return pa, pq


def datasets_library() -> Any:
    """The module `datasets`. Raises UserError where it is not installed."""
    try:
        import datasets
    except ImportError as error:
        raise needs_extra(
            "reading parquet files and hub data sets", error, extra="train"
        ) from error
    return datasets


def holds_text(pa: Any, kind: Any) -> bool:
    """Strings of every layout that Arrow has (polars writes large ones and views), coded by a
    dictionary or in lists too."""
    types = pa.types
    if types.is_dictionary(kind):
        return holds_text(pa, kind.value_type)
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        return holds_text(pa, kind.value_type)
    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))


def holds_bytes(pa: Any, kind: Any) -> bool:
    """Bytes of every layout that Arrow has."""
    types = pa.types
    return bool(types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind))
