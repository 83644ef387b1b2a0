"""What made a picture: the request, and where everything that answered it came from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from importlib.metadata import version
from typing import Any

from latentdiff.errors import UserError, unknown_name
from latentdiff.pipelines.request import Request

OLD_KEYS = ("loras", "model", "weights_sha256", "dtype", "versions")
"""Keys of provenance in recipes written before requests had a table of their own."""
COUNTS = ("threads", "batch_size")
TEXTS = (
    *("model", "variant", "vae", "prediction_type", "dtype", "device", "backend", "processor"),
    *("instruction_set", "pixels_sha256"),
)
TABLES = ("weights_sha256", "settings_sha256", "versions", "sheet")
LISTS = ("loras", "embeddings")


@cache
def versions_of(backend: str) -> dict[str, str]:
    """The installed packages that take part in drawing."""
    packages = ["latentdiff", "torch", "diffusers", "transformers", "pillow"]
    packages += ["openvino"] if backend == "openvino" else []
    return {package: version(package) for package in packages}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A picture's resolved request and its provenance.

    model: name, folder or hub id. variant, vae, prediction_type: which set of its weights, whose
    autoencoder in place of its own, and what its U-Net predicts, where that was said.
    weights_sha256, settings_sha256: part → hash of its weights, of its settings. loras: file,
    sha256, scale and scales of parts ("blocks") of each that was in the weights. embeddings: file,
    sha256 and token of each learned word. dtype, device, backend: what the U-Net computed in,
    where, and who computed it, "" in older recipes for torch.
    processor, instruction_set, threads, batch_size: of the machine and of what was drawn together,
    on which the last bits depend. versions: package → version. sheet: how the pictures of a grid
    lie: "columns" (a number, or their names) and "rows" (their names). pixels_sha256: of the
    picture as it was saved (`picture_file.pixels_sha256`).
    """

    request: Request
    model: str = ""
    variant: str = ""
    vae: str = ""
    prediction_type: str = ""
    weights_sha256: Mapping[str, str] = field(default_factory=dict)
    settings_sha256: Mapping[str, str] = field(default_factory=dict)
    loras: tuple[Mapping[str, Any], ...] = ()
    embeddings: tuple[Mapping[str, Any], ...] = ()
    dtype: str = ""
    device: str = ""
    backend: str = ""
    processor: str = ""
    instruction_set: str = ""
    threads: int = 0
    batch_size: int = 1
    versions: Mapping[str, str] = field(default_factory=dict)
    sheet: Mapping[str, Any] = field(default_factory=dict, compare=False)
    pixels_sha256: str = field(default="", compare=False)

    def to_json(self) -> dict[str, Any]:
        """Plain values; the request in a table of its own."""
        return {
            "request": self.request.to_json(),
            **{name: getattr(self, name) for name in (*TEXTS, *COUNTS)},
            **{name: dict(getattr(self, name)) for name in TABLES},
            **{name: [dict(entry) for entry in getattr(self, name)] for name in LISTS},
        }

    @classmethod
    def from_json(cls, mapping: Mapping[str, Any]) -> Recipe:
        """The recipe that `to_json` wrote, or one of the flat tables of version 0.1.

        Raises UserError for an unknown key, naming the nearest, and for a value of another kind.
        """
        table = dict(mapping) if "request" in mapping else _from_flat(mapping)
        known = [f.name for f in fields(cls)]
        for key in table:
            if key not in known:
                raise unknown_name("key in a recipe", str(key), known)
        request = Request.from_json(table.pop("request"))
        for key in TABLES:
            if not isinstance(table.get(key, {}), Mapping):
                raise UserError(f"{key} of a recipe is {table[key]!r}; a table was expected")
        for key, kind in (*((k, int) for k in COUNTS), *((k, str) for k in TEXTS)):
            if not isinstance(table.get(key, kind()), kind):
                raise UserError(
                    f"{key} of a recipe is {table[key]!r}; {kind.__name__} was expected"
                )
        for key in LISTS:
            found = table.get(key, ())
            if not isinstance(found, list | tuple) or not all(
                isinstance(entry, Mapping) for entry in found
            ):
                raise UserError(f"{key} of a recipe is {found!r}; a list of tables was expected")
            table[key] = tuple(found)
        return cls(request=request, **table)


def _from_flat(mapping: Mapping[str, Any]) -> dict[str, Any]:
    """A flat table's keys, the request's own in a table."""
    table = {key: mapping[key] for key in OLD_KEYS if key in mapping}
    request = {k: v for k, v in mapping.items() if k not in OLD_KEYS and k != "grid"}
    if request.pop("given_latents", False):
        request["given"] = ["latents"]
    return {"request": {"schema": 1, **request}, **table}
