"""A tokenizer in a model's folder: read strictly, saved so that old and new readers open it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from latentdiff.conditioning.text import cut_and_pad
from latentdiff.errors import UserError
from latentdiff.files import write_json, write_text
from latentdiff.files.json_file import read_json
from latentdiff.models.light import tokenizer as light
from latentdiff.models.light.part import Part
from latentdiff.models.networks import refuse_code

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

VOCABULARIES = ("tokenizer.json", "vocab.json")
"""Files of a tokenizer that are all words: megabytes, in which nobody looks for code."""


def load_tokenizer(folder: Path, positions: int) -> Part[CLIPTokenizer]:
    """The tokenizer of a model folder; positions: the text encoder's, its length limit if it names
    none."""
    whole = (folder / "tokenizer.json").is_file()
    pair = (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file()
    if not whole and not pair:
        raise UserError(f"{folder} holds no tokenizer; expected vocab.json and merges.txt")
    for file in folder.glob("*.json"):
        if file.name not in VOCABULARIES:
            refuse_code(read_json(file), file)
    found = light.read(folder, positions)
    if found is None:
        return Part(_own(folder, positions))
    return Part(found, lambda _: _own(folder, positions))


def _own(folder: Path, positions: int) -> CLIPTokenizer:
    from transformers import CLIPTokenizer

    try:
        tokenizer = CLIPTokenizer.from_pretrained(str(folder), local_files_only=True)
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"{folder} holds no CLIP tokenizer that can be read ({reason})") from error
    if tokenizer.model_max_length > 10**9:
        tokenizer.model_max_length = positions
    return tokenizer


def save_tokenizer(tokenizer: CLIPTokenizer, folder: Path) -> None:
    """Write a tokenizer in CLIP's old format (vocab.json, merges.txt) and in the new one."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(str(folder))
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    write_text(folder / "vocab.json", json.dumps(model["vocab"], ensure_ascii=False) + "\n")
    pairs = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
    write_text(folder / "merges.txt", "\n".join(["#version: 0.2", *pairs]) + "\n")
    special = {
        f"{name}_token": getattr(tokenizer, f"{name}_token")
        for name in ("bos", "eos", "unk", "pad")
    }
    write_json(folder / "special_tokens_map.json", special)


def written_tokenizer(tokenizer: CLIPTokenizer) -> str:
    """A tokenizer's words and rules as `tokenizers` writes them, cutting and padding at its limit,
    whatever it was last asked to do."""
    cut_and_pad(tokenizer, int(tokenizer.model_max_length))
    return tokenizer.backend_tokenizer.to_str()
