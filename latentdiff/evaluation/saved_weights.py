"""The weights of the small networks that measure, read strictly."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from torch import nn

from latentdiff.errors import UserError


def load_strictly(network: nn.Module, path: Path) -> None:
    """Load a safetensors file into a network, in its own dtypes.

    Raises UserError when the file is damaged, or a weight is missing, unknown or of another shape.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        state = load_file(str(path))
    except SafetensorError as error:
        raise UserError(f"{path} cannot be read ({error})") from error
    expected = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    found = {name: tuple(value.shape) for name, value in state.items()}
    if expected != found:
        wrong = sorted(set(expected.items()) ^ set(found.items()))[0]
        raise UserError(f"{path} does not fit its config.json: {wrong[0]} {wrong[1]}")
    network.load_state_dict(state, strict=True)


@contextlib.contextmanager
def quiet_loading() -> Iterator[None]:
    """While transformers loads inside: no bars, and of its messages the errors alone."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
