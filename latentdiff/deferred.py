"""Packages whose faces import more than drawing needs, run only when something is asked of them.

`from diffusers.models.unets.unet_2d_condition import …` first runs `diffusers/models/unets/
__init__.py`, which imports every U-Net of diffusers, the blocks of these every transformer, those
peft, and a decorator the whole compiler: half of the time from the shell to a picture. A deferred
package stands in `sys.modules` with its path, so its submodules are imported as ever; what is not
there yet is found by running its own `__init__`, then and there, and from then on it is the
package.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import inspect
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
COMPILER = "torch._dynamo"
MARKS = ("allow_in_graph", "assume_constant_result")
_LOCK = threading.RLock()


class Deferred(ModuleType):
    """A package whose `__init__` has not been run yet."""

    def __getattr__(self, name: str) -> Any:
        """Called for what is missing: run the package, and look again."""
        if name.startswith("__") and name.endswith("__"):
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        run(self)
        return getattr(self, name)


class DeferredCompiler(Deferred):
    """torch's compiler, but for its marks on functions and classes: they are told to it once it
    runs, and until then nothing is compiled that they could be for."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.told: list[tuple[str, Any]] = []
        self.disable = _disabled_later
        for mark in MARKS:
            setattr(self, mark, functools.partial(self._tell, mark))

    def _tell(self, mark: str, one: Any) -> Any:
        self.told.append((mark, one))
        return one


def _disabled_later(fn: Any = None, recursive: bool = True, **keywords: Any) -> Any:
    """What torch's `disable` gives, once there is a compiler that could compile `fn`."""
    if fn is None:
        return lambda fn: _disabled_later(fn, recursive, **keywords)
    if not inspect.isfunction(fn):
        compiler = sys.modules[COMPILER]
        run(compiler)
        return compiler.disable(fn, recursive, **keywords)

    @functools.wraps(fn)
    def called(*args: Any, **named: Any) -> Any:
        compiler = sys.modules[COMPILER]
        if isinstance(compiler, Deferred):
            return fn(*args, **named)
        return compiler.disable(fn, recursive, **keywords)(*args, **named)

    return called


def run(package: ModuleType) -> None:
    """Run a deferred package's `__init__`; nothing for one that has been run."""
    with _LOCK:
        if not isinstance(package, Deferred):
            return
        told = vars(package).pop("told", [])
        for name in ("disable", *MARKS):
            vars(package).pop(name, None)
        package.__class__ = ModuleType
        assert package.__spec__ is not None and package.__spec__.loader is not None
        package.__spec__.loader.exec_module(package)
        for mark, one in told:
            getattr(package, mark)(one)


def defer() -> None:
    """Put the packages off; those that are loaded already stay as they are.

    Call it before the first import from diffusers.
    """
    with _LOCK:
        _defer(COMPILER, DeferredCompiler)
        if "diffusers" not in sys.modules or "diffusers.models" not in sys.modules:
            importlib.import_module("diffusers.models")
        for name in FACES:
            _defer(name, Deferred)


def _defer(name: str, kind: type[Deferred]) -> None:
    if name in sys.modules:
        return
    spec = importlib.util.find_spec(name)
    if spec is None or spec.loader is None or spec.submodule_search_locations is None:
        return
    package = kind(name)
    package.__spec__, package.__loader__ = spec, spec.loader
    package.__file__, package.__package__ = spec.origin, name
    package.__path__ = list(spec.submodule_search_locations)
    sys.modules[name] = package
    parent, _, last = name.rpartition(".")
    if parent:
        setattr(sys.modules[parent], last, package)
