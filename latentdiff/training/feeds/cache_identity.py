"""What, of a network, decides the values that a cache keeps: hashed, for its keys."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal

from latentdiff.training.frozen import encoder_hash

if TYPE_CHECKING:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from transformers import CLIPTextModel, CLIPTokenizer

Precision = Literal["float32", "bfloat16"]

# What changes an encoder's result without changing a name, shape or value of its weights.
_VAE_SETTINGS = (
    "act_fn",
    "block_out_channels",
    "down_block_types",
    "latent_channels",
    "layers_per_block",
    "mid_block_add_attention",
    "norm_num_groups",
    "use_quant_conv",
)
_TEXT_SETTINGS = (
    "eos_token_id",
    "hidden_act",
    "layer_norm_eps",
    "num_attention_heads",
    "num_hidden_layers",
)


def _hash(parts: Iterable[object]) -> str:
    text = json.dumps(list(parts), sort_keys=True, default=str)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def _settings(config: Any, names: Iterable[str]) -> Mapping[str, object]:
    return {name: getattr(config, name, None) for name in names}


def vae_identity(vae: AutoencoderKL, precision: Precision) -> str:
    """SHA-256 of all that decides moments: weights and settings of the encoder, not the decoder."""
    settings = _settings(vae.config, _VAE_SETTINGS)
    return _hash([encoder_hash(vae), settings, precision])


def text_identity(text_encoder: CLIPTextModel, tokenizer: CLIPTokenizer, long: str) -> str:
    """SHA-256 of all that decides contexts: weights, settings, tokenizer, treatment of the long.

    long: "error", "truncate" or "chunk"; the first two differ in no context.
    """
    weights = hashlib.sha256()
    for name, tensor in text_encoder.state_dict().items():
        weights.update(f"{name}{tuple(tensor.shape)}".encode())
        weights.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    # These two are only what the last call asked for.
    rest = {key: value for key, value in backend.items() if key not in ("truncation", "padding")}
    marks = [tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id]
    return _hash(
        [
            weights.hexdigest(),
            _settings(text_encoder.config, _TEXT_SETTINGS),
            rest,
            marks,
            int(tokenizer.model_max_length),
            "chunk" if long == "chunk" else "truncate",
        ]
    )
