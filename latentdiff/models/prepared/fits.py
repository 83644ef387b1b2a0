"""Which networks can be made ready: those of diffusers' own blocks, as diffusers made them.

Whatever someone put into a network (adapters, hooks, attention processors of their own, FreeU's
scales) is left to the network itself.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from latentdiff.models.light.layers import Light

DOWN = ("DownBlock2D", "CrossAttnDownBlock2D")
UP = ("UpBlock2D", "CrossAttnUpBlock2D")
MIDDLE = ("UNetMidBlock2DCrossAttn",)
LEAVES = ("Conv2d", "Linear", "GroupNorm", "LayerNorm", "Dropout", "SiLU", "Identity")
WHOLES = (
    *("ModuleList", "Timesteps", "TimestepEmbedding", "TextTimeEmbedding", "AttentionPooling"),
    *("ResnetBlock2D", "Transformer2DModel", "BasicTransformerBlock", "Attention", "FeedForward"),
    *("GEGLU", "Downsample2D", "Upsample2D", "UNet2DConditionModel"),
)
DECODER = ("Decoder", "UpDecoderBlock2D", "UNetMidBlock2D")
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def unet_fits(unet: Any) -> bool:
    """Whether `PreparedUnet` computes what this U-Net computes."""
    if isinstance(unet, Light):
        return True
    names = {*DOWN, *UP, *MIDDLE, *LEAVES, *WHOLES}
    config = getattr(unet, "config", None)
    return (
        type(unet).__name__ == "UNet2DConditionModel"
        and config is not None
        and config.addition_embed_type in (None, "text")
        and config.class_embed_type is None
        and unet.encoder_hid_proj is None
        and unet.time_embed_act is None
        and unet.class_embedding is None
        and not config.center_input_sample
        and all(_fits(name, module, names) for name, module in unet.named_modules())
        and all(type(block).__name__ in DOWN for block in unet.down_blocks)
        and all(type(block).__name__ in UP for block in unet.up_blocks)
        and (unet.mid_block is None or type(unet.mid_block).__name__ in MIDDLE)
    )


def decoder_fits(vae: Any) -> bool:
    """Whether `PreparedDecoder` computes what this autoencoder's decoder computes."""
    if isinstance(vae, Light):
        return True
    names, first = {*LEAVES, *WHOLES, *DECODER}, vae.post_quant_conv
    return (
        type(vae.decoder).__name__ == "Decoder"
        and all(_fits(name, module, names) for name, module in vae.decoder.named_modules())
        and (first is None or _fits("post_quant_conv", first, {"Conv2d"}))
    )


def _fits(name: str, module: nn.Module, names: set[str]) -> bool:
    kind = type(module).__name__
    if kind not in names or module.training:
        return False
    if type(module) is not getattr(nn, kind, type(module)):
        return False  # somebody else's layer of the same name, such as peft's
    if any(getattr(module, hooks) for hooks in HOOKS) and not _watched(name, module):
        return False
    return "forward" not in vars(module) and _CHECKS.get(kind, _always)(module)


def _watched(name: str, module: nn.Module) -> bool:
    """A look at cross-attention from before it (`models.attention`) is served all the same."""
    others = [hooks for hooks in HOOKS if hooks != "_forward_pre_hooks"]
    return name.endswith("attn2") and not any(getattr(module, hooks) for hooks in others)


def _always(module: Any) -> bool:
    return True


def _conv(module: Any) -> bool:
    return (
        module.groups == 1
        and module.padding_mode == "zeros"
        and module.dilation == (1, 1)
        and not isinstance(module.padding, str)
    )


def _resnet(module: Any) -> bool:
    return (
        module.upsample is None
        and module.downsample is None
        and isinstance(module.nonlinearity, nn.SiLU)
        and (
            module.time_emb_proj is None or module.time_embedding_norm in ("default", "scale_shift")
        )
        and not module.skip_time_act
    )


def _transformer(module: Any) -> bool:
    return bool(module.is_input_continuous)


def _layer(module: Any) -> bool:
    return (
        module.norm_type == "layer_norm"
        and module.pos_embed is None
        and module.attn2 is not None
        and not module.only_cross_attention
        and module._chunk_size is None
        and not hasattr(module, "fuser")
        and type(module.ff.net[0]).__name__ == "GEGLU"
    )


def _attention(module: Any) -> bool:
    """In transformer blocks; the autoencoder's own has a norm and a residual inside."""
    plain = not module.residual_connection and module.group_norm is None
    return (
        type(module.processor).__name__ in ("AttnProcessor2_0", "ShortAttention")
        and module.spatial_norm is None
        and not module.norm_cross
        and module.norm_q is None
        and module.norm_k is None
        and not module.fused_projections
        and (plain or module.group_norm is not None)
    )


def _block(module: Any) -> bool:
    scales = (getattr(module, name, None) for name in ("s1", "s2", "b1", "b2"))
    return all(scale is None for scale in scales)


def _sampler(module: Any) -> bool:
    return (
        module.norm is None
        and module.use_conv
        and not getattr(module, "use_conv_transpose", False)
        and getattr(module, "padding", 1) == 1
    )


def _embedding(module: Any) -> bool:
    return isinstance(module.act, nn.SiLU) and module.post_act is None and module.cond_proj is None


_CHECKS = {
    "Conv2d": _conv,
    "ResnetBlock2D": _resnet,
    "Transformer2DModel": _transformer,
    "BasicTransformerBlock": _layer,
    "Attention": _attention,
    "Downsample2D": _sampler,
    "Upsample2D": _sampler,
    "TimestepEmbedding": _embedding,
    **dict.fromkeys(UP, _block),
}
