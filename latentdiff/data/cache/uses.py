"""What a cache is used for: the keys that each training or build asked for; all others can go.

A use is named by what was asked (data, model, transform), not by its keys: the same command on
edited data replaces its use, and the entries that only the old one wanted become garbage.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from latentdiff import files
from latentdiff.data.cache.keys import KEY_BYTES, Keys
from latentdiff.data.cache.latent_cache import KINDS, LatentCache
from latentdiff.errors import UserError

FOLDER = "uses"


@dataclass(frozen=True)
class Use:
    """One use: its id (12 hexadecimal digits), what it is, when it was last begun, its size."""

    id: str
    about: Mapping[str, str]
    when: float
    """Seconds since 1970."""
    entries: Mapping[str, int]
    """Keys of each kind, MOMENTS, CONTEXTS, CONTENTS."""
    path: Path

    @property
    def days(self) -> float:
        """Days since it was last begun."""
        return (time.time() - self.when) / 86400


def record(cache: LatentCache, about: Mapping[str, str], keys: Mapping[str, Keys]) -> Use:
    """Remember that `about` (such as data, model, transform) wants `keys`, by kind."""
    from safetensors.numpy import save_file

    assert set(keys) <= set(KINDS), sorted(keys)
    text = json.dumps(dict(about), sort_keys=True, ensure_ascii=False)
    name = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=6).hexdigest()
    path = cache.folder / FOLDER / f"{name}.safetensors"
    now = time.time()
    # Zero keys cannot be stored as an array of no bytes by every reader; they are left out.
    arrays = {kind: array for kind, array in keys.items() if len(array)}
    with files.atomic_path(path) as temporary:
        save_file(arrays, temporary, metadata={"about": text, "when": repr(now)})
    return Use(name, dict(about), now, {k: len(a) for k, a in keys.items()}, path)


def listed(cache: LatentCache) -> list[Use]:
    """All recorded uses, the last begun first. Raises UserError when one cannot be read."""
    found = []
    for path in sorted((cache.folder / FOLDER).glob("*.safetensors")):
        if path.name.startswith("."):
            continue
        metadata, keys = _read(path)
        with contextlib.suppress(ValueError, KeyError):
            about, when = json.loads(metadata["about"]), float(metadata["when"])
            entries = {kind: len(array) for kind, array in keys.items()}
            found.append(Use(path.stem, about, when, entries, path))
            continue
        raise _unreadable(path, "its description is missing")
    return sorted(found, key=lambda use: -use.when)


def keys_of(use: Use) -> dict[str, Keys]:
    """The keys of a use, by kind."""
    return _read(use.path)[1]


def _read(path: Path) -> tuple[dict[str, str], dict[str, Keys]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            keys = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            metadata = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise _unreadable(path, str(error)) from error
    if not all(k in KINDS and a.ndim == 2 and a.shape[1] == KEY_BYTES for k, a in keys.items()):
        raise _unreadable(path, "it holds other things")
    return metadata, keys


def _unreadable(path: Path, why: str) -> UserError:
    # A use that is skipped would have its entries cleaned away, so that is an error.
    return UserError(f"{path} cannot be read ({why}); remove it and run what it was for once more")
