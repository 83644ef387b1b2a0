"""A network with its prepared form, which is made anew whenever the network has changed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

P = TypeVar("P")


class Ready(Generic[P]):
    """`form()` computes what the network computes, or is None where only the network itself can.

    The form belongs to the weights as they were: a LoRA, an optimizer's step, another device or
    number type make it stale, which is noticed before each use, from the weights' versions.
    """

    def __init__(
        self, network: Any, fits: Callable[[Any], bool], prepare: Callable[[Any], P]
    ) -> None:
        """fits: whether `prepare` can be trusted with the network."""
        self.network = network
        self._fits, self._prepare = fits, prepare
        self._form: P | None = None
        self._seen: list[tuple[dict[str, Any], str, Tensor, int, int]] = []
        self._fit = False

    def look(self) -> None:
        """See whether hooks, adapters or processors were put into the network, or taken out."""
        self._fit = self._fits(self.network)

    def form(self) -> P | None:
        """The prepared form for the weights as they are; None with gradients on."""
        if not self._fit or torch.is_grad_enabled():
            return None
        if self._form is None or self._stale():
            self._form = None
            self.look()
            if self._fit and self._note():
                self._form = self._prepare(self.network)
        return self._form

    def _note(self) -> bool:
        """Remember the weights; false for tensors that keep no version."""
        modules = [module._parameters for module in self.network.modules()]
        modules += [module._buffers for module in self.network.modules()]
        found = [(held, name, value) for held in modules for name, value in held.items()]
        tensors = [(held, name, value) for held, name, value in found if value is not None]
        if any(value.is_inference() for _, _, value in tensors):
            return False
        self._seen = [(h, n, value, value._version, value.data_ptr()) for h, n, value in tensors]
        return True

    def _stale(self) -> bool:
        return any(
            held.get(name) is not value or value._version != version or value.data_ptr() != place
            for held, name, value, version, place in self._seen
        )
