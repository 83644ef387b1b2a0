"""Learned words (textual inversion, Gal et al. 2022, arXiv:2208.01618): read, and made known.

A file holds one or several vectors of the text encoder's width, which stand in a prompt where its
word stands. A1111 keeps them as "emb_params", diffusers under the word itself.
"""

from __future__ import annotations

import copy
import dataclasses
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from latentdiff.errors import UserError
from latentdiff.files import sha256_file
from latentdiff.models import weights
from latentdiff.models.single_files.single_file import refuse_pickle

if TYPE_CHECKING:
    from latentdiff.models.bundle import Bundle

A1111_NAME = "emb_params"
MOST_VECTORS = 75
_PRIVATE = 0xF0000
"""First of Unicode's private characters that stand for the vectors inside the tokenizer."""


@dataclasses.dataclass(frozen=True, eq=False)
class Embedding:
    """A learned word. vectors: (n, D), one for each token that it takes in a prompt."""

    token: str
    vectors: Tensor
    path: Path
    sha256: str


def parse_embedding(text: str) -> tuple[Path, str | None]:
    """FILE or FILE:TOKEN of a command line; a name that exists as it stands is a name."""
    path = Path(text).expanduser()
    if path.exists():
        return path, None
    colons = [k for k, letter in enumerate(text) if letter == ":" and k]
    if not colons:
        return path, None
    there = [k for k in colons if Path(text[:k]).expanduser().is_file()]  # words may hold colons
    place = there[0] if there else colons[-1]
    return Path(text[:place]).expanduser(), text[place + 1 :]


def read_embedding(path: Path, token: str | None = None) -> Embedding:
    """Read a word's vectors; safetensors only.

    token: how to write it in prompts; by default the file's own word, or the file's name.
    UserError, one line, for what is damaged, or holds no single word.
    """
    from safetensors.torch import load_file

    if not path.is_file():
        raise UserError(f"no embedding at {path}; expected a .safetensors file")
    refuse_pickle(path)
    with weights.reading(path):
        tensors = load_file(path)
    if {"clip_l", "clip_g"} & set(tensors):
        raise UserError(f"{path} is an embedding for Stable Diffusion XL, which is not drawn here")
    if len(tensors) != 1:
        raise UserError(f"{path} holds {len(tensors)} tensors; an embedding holds one")
    ((name, vectors),) = tensors.items()
    vectors = vectors[None] if vectors.ndim == 1 else vectors
    if vectors.ndim != 2 or not vectors.is_floating_point() or not weights.finite(vectors):
        raise UserError(
            f"{path}: its tensor {name[:80]!r} {tuple(vectors.shape)} is no embedding (n, width)"
        )
    if not 1 <= len(vectors) <= MOST_VECTORS:
        raise UserError(f"{path} holds {len(vectors)} vectors; a prompt has room for 1 … 75")
    word = token or (path.stem if name == A1111_NAME else name)
    if not word or any(c.isspace() or not c.isprintable() for c in word):
        raise UserError(f"{path}: {word!r} cannot be written in a prompt; name a word, FILE:WORD")
    return Embedding(word, vectors, path, sha256_file(path))


def learned_words(bundle: Bundle) -> list[str]:
    """The words that were added to a model."""
    return [word["token"] for word in bundle.embeddings]


@torch.no_grad()
def add_embedding(bundle: Bundle, embedding: Embedding) -> Bundle:
    """The model with a word more. Its text encoder grows in place; the tokenizer is a new one.

    The word is found as a whole word, in the case it was written in, and takes one token of the
    prompt for each vector. UserError where the widths differ, and where another file has the word.
    """
    from tokenizers import AddedToken, Regex, normalizers

    known = {word["token"]: word["sha256"] for word in bundle.embeddings}
    there = known.get(embedding.token)
    if there == embedding.sha256:
        return bundle
    if there is not None:
        raise UserError(
            f"two files teach the word {embedding.token!r}, the second is {embedding.path}; give "
            "one of them another: FILE:WORD"
        )
    table: Any = bundle.text_encoder.get_input_embeddings()
    count, width = embedding.vectors.shape
    if width != table.weight.shape[1]:
        kinds = {768: "1.x", 1024: "2.x"}
        made = f"Stable Diffusion {kinds[width]}" if width in kinds else "another model"
        raise UserError(
            f"{embedding.path} has vectors {width} wide, this model's text encoder takes "
            f"{table.weight.shape[1]}; it was made for {made}"
        )
    tokenizer = copy.deepcopy(bundle.tokenizer)
    backend = tokenizer.backend_tokenizer
    first = len(tokenizer)
    letters = [chr(_PRIVATE + first + k) for k in range(count)]
    pattern = Regex(rf"(?<![\w]){re.escape(embedding.token)}(?![\w])")
    backend.normalizer = normalizers.Sequence(
        [normalizers.Replace(pattern, "".join(letters)), backend.normalizer]
    )
    tokenizer.add_tokens([AddedToken(letter, normalized=True) for letter in letters])
    ids = tokenizer.convert_tokens_to_ids(letters)
    grown = max(len(tokenizer), int(bundle.text_encoder.config.vocab_size))
    bundle.text_encoder.resize_token_embeddings(grown, mean_resizing=False)
    table = bundle.text_encoder.get_input_embeddings()
    table.weight[torch.tensor(ids)] = embedding.vectors.to(table.weight)
    table.requires_grad_(False)
    told = {
        "file": str(embedding.path),
        "sha256": embedding.sha256,
        "token": embedding.token,
    }
    return bundle.changed(tokenizer=tokenizer, embeddings=(*bundle.embeddings, told))
