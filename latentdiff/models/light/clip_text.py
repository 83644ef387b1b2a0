"""CLIP's text tower from its settings, laid out as transformers' `CLIPTextModel`, and its forward:
a causal transformer of pre-norm blocks (Radford et al. 2021, section 2.4)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from latentdiff.models.light import layers, settings
from latentdiff.models.light.layers import Light
from latentdiff.models.light.settings import Settings, whole

FREE = (
    *settings.CLIP_TEXT,
    *("architectures", "torch_dtype", "dtype", "transformers_version", "dropout", "model_type"),
)
"""Settings that no other path reads, or that `fits` looks at."""
TYPES = ("clip_text_model",)


def _quick_gelu(x: Tensor) -> Tensor:
    return x * torch.sigmoid(1.702 * x)


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "quick_gelu": _quick_gelu,
    "gelu": functional.gelu,
}


def fits(config: Settings) -> bool:
    """Whether `TextEncoder` computes what transformers' text tower of these settings computes."""
    return (
        settings.plain(config, FREE, settings.CLIP_TOLD)
        and config.get("model_type") in TYPES
        and whole(config.vocab_size, config.hidden_size, config.intermediate_size)
        and whole(config.num_hidden_layers, config.num_attention_heads)
        and whole(config.max_position_embeddings)
        and config.hidden_size % config.num_attention_heads == 0
        and config.hidden_act in ACTIVATIONS
        and isinstance(config.layer_norm_eps, float)
        and all(
            config[key] is None or (isinstance(config[key], int | float))
            for key in ("projection_dim", "attention_dropout", "initializer_factor")
        )
        and isinstance(config.initializer_range, float)
        and all(isinstance(config[f"{name}_token_id"], int) for name in ("pad", "bos", "eos"))
    )


@dataclass(frozen=True)
class Hidden:
    """hidden_states: the embeddings (B, L, D), then what each block gives; last_hidden_state: the
    last of them after the final norm."""

    last_hidden_state: Tensor
    hidden_states: tuple[Tensor, ...]


class TextEncoder(Light):
    """A text tower whose settings `fits`; it draws no gradients. `encoder(ids) -> Hidden`."""

    def __init__(self, config: Settings) -> None:
        super().__init__(config)
        width = config.hidden_size
        self.embeddings = nn.Module()
        self.embeddings.token_embedding = _embedding(config.vocab_size, width)
        self.embeddings.position_embedding = _embedding(config.max_position_embeddings, width)
        self.encoder = nn.Module()
        self.encoder.layers = nn.ModuleList(Block(config) for _ in range(config.num_hidden_layers))
        self.final_layer_norm = layers.layer_norm(width, config.layer_norm_eps)

    @torch.no_grad()
    def forward(self, ids: Tensor, *, output_hidden_states: bool = True) -> Hidden:
        """ids: (B, L) int64, L at most the positions that the tower knows."""
        embeddings: Any = self.embeddings
        positions = torch.arange(ids.shape[1], device=ids.device)[None]
        hidden = embeddings.token_embedding(ids) + embeddings.position_embedding(positions)
        found = [hidden]
        for block in self.encoder.layers:  # type: ignore[union-attr]
            found.append(block(found[-1]))
        return Hidden(self.final_layer_norm(found[-1]), tuple(found))


class Block(nn.Module):
    """As transformers' `CLIPEncoderLayer`."""

    def __init__(self, config: Settings) -> None:
        super().__init__()
        width, eps = config.hidden_size, config.layer_norm_eps
        self.heads, self.activation = config.num_attention_heads, ACTIVATIONS[config.hidden_act]
        self.self_attn = nn.Module()
        for name in ("k_proj", "v_proj", "q_proj", "out_proj"):
            setattr(self.self_attn, name, layers.linear(width, width))
        self.layer_norm1 = layers.layer_norm(width, eps)
        self.mlp = nn.Module()
        self.mlp.fc1 = layers.linear(width, config.intermediate_size)
        self.mlp.fc2 = layers.linear(config.intermediate_size, width)
        self.layer_norm2 = layers.layer_norm(width, eps)

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, D) → (B, L, D)."""
        mlp: Any = self.mlp
        x = x + self._attention(self.layer_norm1(x))
        return x + mlp.fc2(self.activation(mlp.fc1(self.layer_norm2(x))))

    def _attention(self, x: Tensor) -> Tensor:
        own: Any = self.self_attn
        query, key, value = (
            project(x).unflatten(2, (self.heads, -1)).transpose(1, 2)
            for project in (own.q_proj, own.k_proj, own.v_proj)
        )
        found = functional.scaled_dot_product_attention(
            query, key, value, is_causal=x.shape[1] > 1, scale=query.shape[-1] ** -0.5
        )
        out: Tensor = own.out_proj(found.transpose(1, 2).flatten(2))
        return out


class _Embedding(nn.Embedding):
    def reset_parameters(self) -> None:
        """Nothing is drawn at random."""


def _embedding(count: int, width: int) -> nn.Embedding:
    return _Embedding(count, width, device=layers.EMPTY)


def lay_out(config: Mapping[str, Any]) -> TextEncoder | None:
    """The text tower of a config.json, without weights; None for one that only transformers
    knows."""
    found = settings.filled_in(config, settings.CLIP_TOLD | settings.CLIP_TEXT)
    return TextEncoder(found) if fits(found) else None
