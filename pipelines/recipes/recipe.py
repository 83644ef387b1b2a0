"""What made a picture: the request, and where everything that answered it came from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from latentdiff.errors import UserError, unknown_name
from latentdiff.pipelines.request import Request

OLD_KEYS = ("loras", "model", "weights_sha256", "dtype", "versions")
"""Keys of provenance in recipes written before requests had a table of their own."""
COUNTS = ("threads", "batch_size")
TEXTS = ("model", "dtype", "device", "processor", "pixels_sha256")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A picture's resolved request and its provenance.

    model: name, folder or hub id. weights_sha256: part → hash of its weights. loras: file, sha256
    and scale of each that was in the weights. dtype, device: what the U-Net computed in, and where.
    processor, threads, batch_size: of the machine and of what was drawn together, on which the last
    bits depend. versions: package → version.
    pixels_sha256: of the picture as it was saved (`picture_file.pixels_sha256`).
    """

    request: Request
    model: str = ""
    weights_sha256: Mapping[str, str] = field(default_factory=dict)
    loras: tuple[Mapping[str, Any], ...] = ()
    dtype: str = ""
    device: str = ""
    processor: str = ""
    threads: int = 0
    batch_size: int = 1
    versions: Mapping[str, str] = field(default_factory=dict)
    pixels_sha256: str = field(default="", compare=False)

    def to_json(self) -> dict[str, Any]:
        """Plain values; the request in a table of its own."""
        return {
            "request": self.request.to_json(),
            "model": self.model,
            "weights_sha256": dict(self.weights_sha256),
            "loras": [dict(lora) for lora in self.loras],
            "dtype": self.dtype,
            "device": self.device,
            "processor": self.processor,
            "threads": self.threads,
            "batch_size": self.batch_size,
            "versions": dict(self.versions),
            "pixels_sha256": self.pixels_sha256,
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
        for key in ("weights_sha256", "versions"):
            if not isinstance(table.get(key, {}), Mapping):
                raise UserError(f"{key} of a recipe is {table[key]!r}; a table was expected")
        for key, kind in (*((k, int) for k in COUNTS), *((k, str) for k in TEXTS)):
            if not isinstance(table.get(key, kind()), kind):
                raise UserError(
                    f"{key} of a recipe is {table[key]!r}; {kind.__name__} was expected"
                )
        loras = table.pop("loras", ())
        if not isinstance(loras, list | tuple) or not all(isinstance(x, Mapping) for x in loras):
            raise UserError(f"loras of a recipe is {loras!r}; a list of tables was expected")
        return cls(request=request, loras=tuple(loras), **table)


def _from_flat(mapping: Mapping[str, Any]) -> dict[str, Any]:
    """A flat table's keys, the request's own in a table."""
    table = {key: mapping[key] for key in OLD_KEYS if key in mapping}
    request = {k: v for k, v in mapping.items() if k not in OLD_KEYS and k != "grid"}
    if request.pop("given_latents", False):
        request["given"] = ["latents"]
    return {"request": {"schema": 1, **request}, **table}
