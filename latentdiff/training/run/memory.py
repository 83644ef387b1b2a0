"""A lack of memory, told in one line: what did not fit, and what makes it smaller."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from latentdiff.errors import UserError

# Of torch's messages: an accelerator's, and what its allocator for the CPU says in a RuntimeError.
_SIGNS = ("out of memory", "can't allocate memory")


@contextlib.contextmanager
def fits(what: str, advice: str) -> Iterator[None]:
    """UserError when the work inside finds too little memory; other errors are left as they are."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        said = str(error)
        lack = isinstance(error, torch.OutOfMemoryError | MemoryError)
        if not lack and not any(sign in said for sign in _SIGNS):
            raise
        asked = said.partition("ried to allocate ")[2].partition(". ")[0]
        asked = f" (asked for {asked})" if asked else ""
        raise UserError(f"{what} does not fit into memory{asked}: {advice}") from error
