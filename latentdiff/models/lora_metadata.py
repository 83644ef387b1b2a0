"""What a LoRA file says about its making, in the header of the safetensors file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from latentdiff.models.bundle import Bundle

HEADER = "latentdiff"
"""Header key that holds the whole record, as JSON."""
TRIGGER = "modelspec.trigger_phrase"
"""Header key under which other programs look for the words (Stability AI's ModelSpec)."""
PARTS = ("unet", "text_encoder")


@dataclass(frozen=True, kw_only=True)
class LoraMetadata:
    """Everything is optional: a file of another program says little of it.

    base: name of the model it was trained on. base_sha256: part → SHA-256 of that part's weight
    file, as `latentdiff info` prints it. data_fingerprint: of the training pictures and captions.
    trigger_words: words that call the new subject up. training_prompt: one that shows it.
    """

    base: str = ""
    base_sha256: Mapping[str, str] = field(default_factory=dict)
    data_fingerprint: str = ""
    trigger_words: tuple[str, ...] = ()
    training_prompt: str = ""

    def base_matches(self, hashes: Mapping[str, str]) -> bool | None:
        """Is a model with these hashes the one it was trained on? None: one of them is unknown."""
        both = [part for part in PARTS if part in hashes and part in self.base_sha256]
        if not both:
            return None
        return all(hashes[part] == self.base_sha256[part] for part in both)


def base_of(bundle: Bundle) -> dict[str, Any]:
    """`base` and `base_sha256` of the model that training starts from."""
    name = bundle.source.rstrip("/").rpartition("/")[2]
    return {"base": name, "base_sha256": {p: bundle.hashes[p] for p in PARTS if p in bundle.hashes}}


def header_of(metadata: LoraMetadata) -> dict[str, str]:
    """Strings for a file's header."""
    record = asdict(metadata) | {"base_sha256": dict(metadata.base_sha256)}
    header = {HEADER: json.dumps(record, ensure_ascii=False, sort_keys=True)}
    if metadata.trigger_words:
        header[TRIGGER] = ", ".join(metadata.trigger_words)
    return header


def metadata_of(header: Mapping[str, str]) -> LoraMetadata:
    """What a header says; a record that cannot be read is as good as none."""
    try:
        raw = json.loads(header.get(HEADER, "{}"))
        hashes, words = raw.get("base_sha256", {}), raw.get("trigger_words", [])
        texts = {key: str(raw.get(key, "")) for key in ("base", "data_fingerprint")}
        record = LoraMetadata(
            **texts,
            training_prompt=str(raw.get("training_prompt", "")),
            base_sha256={str(part): str(digest) for part, digest in hashes.items()},
            trigger_words=tuple(str(word) for word in words),
        )
    except (ValueError, TypeError, AttributeError):
        record = LoraMetadata()
    if record.trigger_words or TRIGGER not in header:
        return record
    words = tuple(word.strip() for word in header[TRIGGER].split(",") if word.strip())
    return LoraMetadata(**(asdict(record) | {"trigger_words": words}))
