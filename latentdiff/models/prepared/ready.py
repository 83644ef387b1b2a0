"""A network with its prepared form, which is made anew whenever the network has changed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from latentdiff.errors import UserError
from latentdiff.models.light.part import Part

P = TypeVar("P")
ONLY_PLAIN = (
    "is for U-Nets of Stable Diffusion's blocks, without hooks, adapters or attention processors; "
    "this one is another"
)


class Ready(Generic[P]):
    """`form()` computes what the network computes, or is None where only the network itself can.

    The form belongs to the weights as they were. What changes them in place (a LoRA, an optimizer)
    is noticed before each use, by their versions; other tensors in their place (another device,
    number type or set of weights) at the next `look`, which a walk begins with.
    """

    def __init__(
        self,
        part: Part[Any],
        fits: Callable[[Any], bool],
        prepare: Callable[[Any], P],
        *,
        wanted_for: str = "",
    ) -> None:
        """fits: whether `prepare` can be trusted with the network, in the form that it is in.
        wanted_for: what was asked for and only the prepared form can do; without it, the network
        answers where it does not fit."""
        self.part, self.wanted_for = part, wanted_for
        self._fits, self._prepare = fits, prepare
        self._form: P | None = None
        self._made_of: Any = None
        self._fit = False
        self._tensors: list[Tensor] = []
        self._versions: list[int] = []
        self._places: list[int] = []

    def look(self) -> None:
        """See whether hooks, adapters, processors or other tensors were put into the network."""
        self._fit = self._fits(self.part.light)
        if self.wanted_for and not self._fit:
            raise UserError(f"{self.wanted_for} {ONLY_PLAIN}")
        if self._form is not None and self._replaced():
            self._form = None

    def form(self) -> P | None:
        """The prepared form for the weights as they are; None with gradients on."""
        if not self._fit or torch.is_grad_enabled():
            return None
        if self._form is not None and [one._version for one in self._tensors] != self._versions:
            self._form = None
        if self._form is None and self._note():
            self._made_of = self.part.light
            self._form = self._prepare(self._made_of)
        return self._form

    def _note(self) -> bool:
        """Remember the weights; false for tensors that keep no version."""
        self._tensors = list(self._held())
        if any(value.is_inference() for value in self._tensors):
            return False
        self._versions = [value._version for value in self._tensors]
        self._places = [value.data_ptr() for value in self._tensors]
        return True

    def _replaced(self) -> bool:
        if self._made_of is not self.part.light:  # whose modules are others, to be hooked into
            return True
        now = list(self._held())
        return len(now) != len(self._tensors) or any(
            new is not old or new.data_ptr() != place
            for new, old, place in zip(now, self._tensors, self._places, strict=True)
        )

    def _held(self) -> Iterator[Tensor]:
        """Every weight and buffer of the network."""
        for module in self.part.light.modules():
            for held in (module._parameters, module._buffers):
                yield from (value for value in held.values() if value is not None)
