"""What drawing has no use for, imported only when something is asked of it.

`from diffusers.models.unets.unet_2d_condition import …` first runs `diffusers/models/unets/
__init__.py`, which imports every U-Net of diffusers, and the blocks of these every transformer. A
deferred package stands in `sys.modules` with its path, so its submodules are imported as ever; what
is not there yet is found by running its own `__init__`, then and there, and from then on it is the
package.

`import torch` ends with a module of kernels for tensors without memory, a sixth of its time; they
serve compilers and whoever computes on the meta device, so they come with the first of these.
"""

from __future__ import annotations

import gc
import importlib
import importlib.util
import sys
import threading
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

FACES = (
    "diffusers.models.unets",
    "diffusers.models.transformers",
    "diffusers.models.autoencoders",
    "diffusers.hooks",
)
"""Faces of packages of which drawing needs a module or two."""
META_KERNELS = "torch._meta_registrations"
USERS_OF_META = (
    *("torch._dynamo", "torch._inductor", "torch._decomp", "torch._refs", "functorch"),
    *("accelerate", "diffusers", "transformers", "peft"),
)
"""Packages with which those kernels are loaded."""
TRIED_WITH = ("2.13",)
"""Versions of torch that were seen to draw without them."""
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
    sys.modules[name] = _package(spec)
    parent, _, last = name.rpartition(".")
    setattr(sys.modules[parent], last, sys.modules[name])


def _package(spec: ModuleSpec) -> Deferred:
    """A package, or a plain module, that has not been run."""
    package = Deferred(spec.name)
    package.__spec__, package.__loader__ = spec, spec.loader
    package.__file__, package.__package__ = spec.origin, spec.parent
    if spec.submodule_search_locations is not None:
        package.__path__ = list(spec.submodule_search_locations)
    return package


def import_torch() -> None:
    """Import torch for a process that draws: without its meta kernels until they are needed, and
    without searching for garbage among modules, which all stay."""
    if "torch" in sys.modules:
        return
    searching = gc.isenabled()
    gc.disable()
    try:
        _put_off_meta_kernels()
        torch = importlib.import_module("torch")
        if torch.__version__.startswith(TRIED_WITH):
            importlib.import_module("torch._prims.rng_prims")  # which random numbers need of them
        elif META_KERNELS in sys.modules:
            run(sys.modules[META_KERNELS])
    finally:
        gc.freeze()
        if searching:
            gc.enable()


def _put_off_meta_kernels() -> None:
    torch = importlib.util.find_spec("torch")
    if torch is None or torch.submodule_search_locations is None:
        return
    spec = PathFinder.find_spec(META_KERNELS, list(torch.submodule_search_locations))
    if spec is None:
        return
    sys.modules[META_KERNELS] = _package(spec)
    sys.meta_path.insert(0, _Waker())


class _Waker(MetaPathFinder):
    """Runs the meta kernels before the first import of a package that uses them."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Finds nothing; see the class."""
        with _LOCK:
            torch: Any = sys.modules.get("torch")
            if fullname in USERS_OF_META and torch is not None and hasattr(torch, "compiler"):
                if self in sys.meta_path:
                    sys.meta_path.remove(self)
                run(sys.modules[META_KERNELS])
        return None
