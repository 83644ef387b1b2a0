"""Packages whose faces import more than drawing needs, run only when something is asked of them.

`from diffusers.models.unets.unet_2d_condition import …` first runs `diffusers/models/unets/
__init__.py`, which imports every U-Net of diffusers, and the blocks of these every transformer. A
deferred package stands in `sys.modules` with its path, so its submodules are imported as ever; what
is not there yet is found by running its own `__init__`, then and there, and from then on it is the
package.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import threading
from types import ModuleType
from typing import Any

FACES = (
    "diffusers.models.unets",
    "diffusers.models.transformers",
    "diffusers.models.autoencoders",
    "diffusers.hooks",
)
"""Faces of packages of which drawing needs a module or two."""
_LOCK = threading.RLock()


class Deferred(ModuleType):
    """A package whose `__init__` has not been run yet."""

    def __getattr__(self, name: str) -> Any:
        """Called for what is missing: run the package, and look again."""
        if name.startswith("__") and name.endswith("__"):
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        run(self)
        return getattr(self, name)


def run(package: ModuleType) -> None:
    """Run a deferred package's `__init__`; nothing for one that has been run."""
    with _LOCK:
        if not isinstance(package, Deferred):
            return
        package.__class__ = ModuleType  # type: ignore[assignment]
        assert package.__spec__ is not None and package.__spec__.loader is not None
        package.__spec__.loader.exec_module(package)


def defer() -> None:
    """Put the packages off; those that are loaded already stay as they are.

    Call it before the first import from diffusers.
    """
    with _LOCK:
        if "diffusers" not in sys.modules or "diffusers.models" not in sys.modules:
            importlib.import_module("diffusers.models")
        for name in FACES:
            _defer(name)


def _defer(name: str) -> None:
    if name in sys.modules:
        return
    spec = importlib.util.find_spec(name)
    if spec is None or spec.loader is None or spec.submodule_search_locations is None:
        return
    package = Deferred(name)
    package.__spec__, package.__loader__ = spec, spec.loader
    package.__file__, package.__package__ = spec.origin, name
    package.__path__ = list(spec.submodule_search_locations)
    sys.modules[name] = package
    parent, _, last = name.rpartition(".")
    setattr(sys.modules[parent], last, package)
