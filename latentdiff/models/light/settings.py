"""Settings of networks as diffusers and transformers fill them in, without either."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

UNET: dict[str, Any] = {
    "sample_size": None,
    "in_channels": 4,
    "out_channels": 4,
    "center_input_sample": False,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "down_block_types": [*["CrossAttnDownBlock2D"] * 3, "DownBlock2D"],
    "mid_block_type": "UNetMidBlock2DCrossAttn",
    "up_block_types": ["UpBlock2D", *["CrossAttnUpBlock2D"] * 3],
    "only_cross_attention": False,
    "block_out_channels": [320, 640, 1280, 1280],
    "layers_per_block": 2,
    "downsample_padding": 1,
    "mid_block_scale_factor": 1,
    "dropout": 0.0,
    "act_fn": "silu",
    "norm_num_groups": 32,
    "norm_eps": 1e-5,
    "cross_attention_dim": 1280,
    "transformer_layers_per_block": 1,
    "reverse_transformer_layers_per_block": None,
    "encoder_hid_dim": None,
    "encoder_hid_dim_type": None,
    "attention_head_dim": 8,
    "num_attention_heads": None,
    "dual_cross_attention": False,
    "use_linear_projection": False,
    "class_embed_type": None,
    "addition_embed_type": None,
    "addition_time_embed_dim": None,
    "num_class_embeds": None,
    "upcast_attention": False,
    "resnet_time_scale_shift": "default",
    "resnet_skip_time_act": False,
    "resnet_out_scale_factor": 1.0,
    "time_embedding_type": "positional",
    "time_embedding_dim": None,
    "time_embedding_act_fn": None,
    "timestep_post_act": None,
    "time_cond_proj_dim": None,
    "conv_in_kernel": 3,
    "conv_out_kernel": 3,
    "projection_class_embeddings_input_dim": None,
    "attention_type": "default",
    "class_embeddings_concat": False,
    "mid_block_only_cross_attention": None,
    "cross_attention_norm": None,
    "addition_embed_type_num_heads": 64,
}
"""What diffusers' `UNet2DConditionModel` takes for what a config.json leaves out."""
VAE: dict[str, Any] = {
    "in_channels": 3,
    "out_channels": 3,
    "down_block_types": ["DownEncoderBlock2D"],
    "up_block_types": ["UpDecoderBlock2D"],
    "block_out_channels": [64],
    "layers_per_block": 1,
    "act_fn": "silu",
    "latent_channels": 4,
    "norm_num_groups": 32,
    "sample_size": 32,
    "scaling_factor": 0.18215,
    "shift_factor": None,
    "latents_mean": None,
    "latents_std": None,
    "force_upcast": True,
    "use_quant_conv": True,
    "use_post_quant_conv": True,
    "mid_block_add_attention": True,
}
"""The same of diffusers' `AutoencoderKL`."""
CLIP_TEXT: dict[str, Any] = {
    "vocab_size": 49408,
    "hidden_size": 512,
    "intermediate_size": 2048,
    "projection_dim": 512,
    "num_hidden_layers": 12,
    "num_attention_heads": 8,
    "max_position_embeddings": 77,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
    "attention_dropout": 0.0,
    "initializer_range": 0.02,
    "initializer_factor": 1.0,
    "pad_token_id": 1,
    "bos_token_id": 49406,
    "eos_token_id": 49407,
}
"""The same of transformers' `CLIPTextConfig`."""
CLIP_TOLD: dict[str, Any] = {
    "model_type": "clip_text_model",
    "output_hidden_states": False,
    "output_attentions": False,
    "return_dict": True,
    "chunk_size_feed_forward": 0,
    "is_encoder_decoder": False,
    "id2label": {"0": "LABEL_0", "1": "LABEL_1"},
    "label2id": {"LABEL_0": 0, "LABEL_1": 1},
    "problem_type": None,
}
"""What else that config says of itself; no network depends on it, hashes of settings do."""


class Settings(dict[str, Any]):
    """A network's settings, by key and, as with the libraries' own, by attribute."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"there is no setting {name!r}") from None


def filled_in(config: Mapping[str, Any], defaults: Mapping[str, Any]) -> Settings:
    """A config.json's settings with what it leaves out; what it says of its writer left away."""
    return Settings({**defaults, **{k: v for k, v in config.items() if not k.startswith("_")}})


def plain(settings: Mapping[str, Any], free: tuple[str, ...], defaults: Mapping[str, Any]) -> bool:
    """Whether all settings are known, and all but the `free` ones as they are by default."""
    return all(
        key in free or (key in defaults and _same(value, defaults[key]))
        for key, value in settings.items()
    )


def _same(value: Any, default: Any) -> bool:
    """True is not 1 here."""
    return bool(value == default) and isinstance(value, bool) == isinstance(default, bool)


def whole(*values: Any) -> bool:
    """Whether all are whole numbers of at least 1."""
    return all(isinstance(v, int) and not isinstance(v, bool) and v >= 1 for v in values)


def each(value: Any, count: int) -> list[Any]:
    """A setting for each of `count` blocks, given once or for each; empty for any other list."""
    if isinstance(value, list | tuple):
        return list(value) if len(value) == count else []
    return [value] * count
