"""What a LoRA file says about its making, in the header of the safetensors file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from latentdiff.models.lora.names import PARTS as PARTS

if TYPE_CHECKING:
    from latentdiff.models.bundle import Bundle

HEADER = "latentdiff"
"""Header key that holds the whole record, as JSON."""
TRIGGER = "modelspec.trigger_phrase"
"""Header key under which other programs look for the words (Stability AI's ModelSpec)."""
LONGEST = 1000


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
    """What a header says; a record that cannot be read is as good as none.

    Texts of other people's files end on a terminal: unprintable characters are taken out.
    """
    header = {key: header[key] for key in (HEADER, TRIGGER) if key in header}
    try:
        raw = json.loads(header.get(HEADER, "{}"))
        hashes, words = raw.get("base_sha256", {}), raw.get("trigger_words", [])
        record = LoraMetadata(
            base=printable(raw.get("base", "")),
            base_sha256={p: printable(hashes[p]) for p in PARTS if p in hashes},
            data_fingerprint=printable(raw.get("data_fingerprint", "")),
            trigger_words=tuple(map(printable, words)),
            training_prompt=printable(raw.get("training_prompt", "")),
        )
    except (ValueError, TypeError, AttributeError, RecursionError):
        record = LoraMetadata()
    if record.trigger_words or TRIGGER not in header:
        return record
    words = tuple(w for word in header[TRIGGER].split(",") if (w := printable(word).strip()))
    return replace(record, trigger_words=words)


def printable(text: Any) -> str:
    """A text of a foreign file for one line of a terminal."""
    return "".join(c for c in str(text) if c.isprintable())[:LONGEST]
