"""Whose fault a NaN is: weights of large files are looked at only when one has come of them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from latentdiff.errors import UserError
from latentdiff.models.bundle import Bundle
from latentdiff.models.model_folder import NETWORKS
from latentdiff.models.weights import first_bad
from latentdiff.sampling import NonFiniteError


@contextlib.contextmanager
def naming_bad_weights(bundle: Bundle) -> Iterator[None]:
    """A network's NaN, with the name of the weight it comes from, if it does."""
    try:
        yield
    except NonFiniteError as error:
        for part in NETWORKS:
            bad = first_bad(bundle.part(part).light)
            if bad is not None:
                raise UserError(
                    f"{error}; {bad} of its {part} holds NaN or infinity itself: fetch "
                    f"{bundle.source or 'the model'} again"
                ) from error
        raise
