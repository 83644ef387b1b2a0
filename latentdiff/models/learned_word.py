"""Teaching a word (textual inversion, Gal et al. 2022, arXiv:2208.01618): vectors that learn.

The text encoder's table gains rows for the word, and these alone are parameters that train: the
table itself takes no gradient, so nothing that the model knew moves by a bit.
"""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from latentdiff import files
from latentdiff.checkpoints.tensor_file import tensor_bytes
from latentdiff.conditioning.text import uncut
from latentdiff.errors import UserError
from latentdiff.models.bundle import Bundle
from latentdiff.models.embedding import MOST_VECTORS, Embedding, add_embedding, read_embedding
from latentdiff.models.lora.metadata import LoraMetadata, header_of


@dataclass(frozen=True, kw_only=True)
class EmbeddingConfig:
    """A word that is taught by --method embedding.

    diffusers calls these placeholder_token, initializer_token and num_vectors; A1111 the name, the
    initialization text and the number of vectors per token.
    """

    token: str = ""
    """The word to teach, as captions and prompts write it: one that means nothing yet, such as
    "<my-cat>". It is put before captions that lack it."""
    init_word: str = ""
    """Known word, or words, that it starts from: what the pictures show, such as cat."""
    num_vectors: int = 1
    """Vectors of the word, each of which takes a token's room in prompts: more can learn more."""

    def __post_init__(self) -> None:
        if any(c.isspace() or not c.isprintable() for c in self.token):
            raise UserError(f"the token {self.token!r} is no word; expected one without spaces")
        if not 1 <= self.num_vectors <= MOST_VECTORS:
            raise UserError(f"num_vectors is {self.num_vectors}; expected 1 … {MOST_VECTORS}")

    @property
    def file_name(self) -> str:
        """Under which the word is kept: other programs take a file's name for the word."""
        letters = re.sub(r"[^\w.-]+", "-", self.token).strip("-.")
        return f"{letters or 'word'}.safetensors"


class LearnedRows(nn.Embedding):
    """A frozen table whose last rows are taken from `vectors` (n, D), which learn."""

    def __init__(self, table: nn.Embedding, first: int, count: int) -> None:
        rows, width = table.weight.shape
        super().__init__(rows, width, _weight=table.weight.detach())
        self.weight.requires_grad_(False)
        self.first = first
        self.vectors = nn.Parameter(table.weight[first : first + count].detach().float().clone())

    def forward(self, input: Tensor) -> Tensor:
        """Vectors (…, D) of ids (…); in the graph of `vectors` even where no id is theirs."""
        known = super().forward(input)
        places = input - self.first
        mine = (places >= 0) & (places < len(self.vectors))
        learned = self.vectors[places.clamp(0, len(self.vectors) - 1)]
        return torch.where(mine[..., None], learned.to(known.dtype), known)


def teach(bundle: Bundle, config: EmbeddingConfig) -> Bundle:
    """The model with the word in its tokenizer and its vectors in its text encoder; all else is
    frozen. UserError for a word to start from that has no tokens."""
    vectors = initial_vectors(bundle, config)
    word = Embedding(config.token, vectors, Path(config.file_name), sha256="")
    taught = add_embedding(bundle, word)
    table: Any = taught.text_encoder.get_input_embeddings()
    first = len(taught.tokenizer) - config.num_vectors
    taught.unet.requires_grad_(False)
    taught.text_encoder.requires_grad_(False)
    taught.text_encoder.set_input_embeddings(LearnedRows(table, first, config.num_vectors))
    return dataclasses.replace(taught, hashes=bundle.hashes)


def initial_vectors(bundle: Bundle, config: EmbeddingConfig) -> Tensor:
    """(n, D): those of the tokens of `init_word`, spread over the word's as A1111 spreads them
    (modules/textual_inversion/textual_inversion.py, create_embedding)."""
    (words,) = uncut(bundle.tokenizer, [config.init_word])
    ids = words.ids
    if not ids:
        raise UserError(f"init_word {config.init_word!r} has no tokens; expected a known word: cat")
    table: Any = bundle.text_encoder.get_input_embeddings()
    chosen = [ids[k * len(ids) // config.num_vectors] for k in range(config.num_vectors)]
    found: Tensor = table.weight[torch.tensor(chosen)].detach().float().cpu().clone()
    return found


def rows_of(text_encoder: nn.Module) -> LearnedRows:
    """Where a taught text encoder keeps its vectors."""
    encoder: Any = text_encoder
    table = encoder.get_input_embeddings()
    assert isinstance(table, LearnedRows), type(table)
    return table


def save_word(
    folder: Path, text_encoder: nn.Module, config: EmbeddingConfig, metadata: LoraMetadata
) -> Path:
    """Write the vectors, float32, in the layout that diffusers writes and A1111 opens too: one
    tensor (n, D) under the word. UserError for NaN and infinity."""
    vectors = rows_of(text_encoder).vectors.detach().to("cpu", torch.float32).contiguous()
    if not bool(torch.isfinite(vectors).all()):
        raise UserError(f"the vectors of {config.token} hold NaN or infinity; not saved")
    place = folder / config.file_name
    files.write_bytes(place, tensor_bytes({config.token: vectors}, header_of(metadata)))
    return place


@torch.no_grad()
def initialise_word(folder: Path, text_encoder: nn.Module, config: EmbeddingConfig) -> None:
    """Start from vectors that `save_word` or another program wrote: a file, or a folder's only."""
    places = sorted(folder.glob("*.safetensors")) if folder.is_dir() else [folder]
    if len(places) != 1:
        raise UserError(f"{folder} holds {len(places)} .safetensors files; one word was expected")
    vectors, own = read_embedding(places[0]).vectors, rows_of(text_encoder).vectors
    if vectors.shape != own.shape:
        raise UserError(
            f"{places[0]} holds vectors {tuple(vectors.shape)}; this run's are {tuple(own.shape)}"
        )
    own.copy_(vectors)
