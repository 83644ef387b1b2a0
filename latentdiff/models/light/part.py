"""A part of a model in its light form until somebody asks for its library's own."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Generic, TypeVar, cast

import torch
from torch import Tensor

from latentdiff.models.light.layers import Light

M = TypeVar("M")
_LOCK = threading.RLock()


class Part(Generic[M]):
    """A network or a tokenizer.

    light: what drawing asks: the light form (`models.light`), or the library's own where there is
    no light one or the own has been made. own: the library's module, made when it is first asked
    for; it takes the light form's place and its weights, so whatever is done to it is what is drawn
    with.
    """

    def __init__(self, light: Any, make: Callable[[Any], M] | None = None) -> None:
        """make: the own from the light form; None where `light` is the own."""
        self._form, self._make = light, make

    @property
    def light(self) -> Any:
        """See the class."""
        return self._form

    @property
    def device(self) -> torch.device:
        """Where a network's weights are."""
        return self._weight().device

    @property
    def dtype(self) -> torch.dtype:
        """What a network computes in."""
        form = self._form
        return form.dtype if isinstance(form, Light) else self._weight().dtype

    def _weight(self) -> Tensor:
        # A parameter's own: diffusers' `unet.device` walks all modules, for each of 10,000 recipes.
        found: Tensor = next(self._form.parameters())
        return found

    @property
    def own(self) -> M:
        """See the class."""
        with _LOCK:
            if self._make is not None:
                self._form, self._make = self._make(self._form), None
            return cast("M", self._form)

    def set_config(self, **settings: Any) -> None:
        """Change settings, as if the config had held them."""
        make = self._make
        if make is None:
            self._form.register_to_config(**settings)
            return
        self._form.config.update(settings)

        def changed(light: Any) -> M:
            own: Any = make(light)
            own.register_to_config(**settings)
            return cast("M", own)

        self._make = changed


def as_part(value: M | Part[M]) -> Part[M]:
    """A part as it is; a library's own module as one."""
    return value if isinstance(value, Part) else Part(value)


class Late(Generic[M]):
    """A field that is given a part or its own module, and is the own module when it is read."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, holder: Any, owner: type | None = None) -> M:
        if holder is None:
            raise AttributeError(self.name)  # so that the field has no default
        part: Part[M] = vars(holder)[f"_{self.name}"]
        return part.own

    def __set__(self, holder: Any, value: M | Part[M]) -> None:
        vars(holder)[f"_{self.name}"] = as_part(value)
