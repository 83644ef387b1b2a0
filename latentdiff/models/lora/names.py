"""The names that LoRA files give a layer, turned into the one name used here: `PART.MODULE`.

PART is "unet" or "text_encoder". MODULE is the module's path in diffusers' U-Net, or in the CLIP
text model without the leading `text_model.`, which transformers 5 dropped and files still carry.

These spellings are read:

- diffusers / PEFT: `unet.mid_block.attentions.0.proj_in.lora_A.weight`,
  `text_encoder.text_model.encoder.layers.0.mlp.fc1.lora_B.weight`
- PEFT alone: the same below `base_model.model.`, or bare: the U-Net is meant
- diffusers before PEFT: `unet.….attn1.processor.to_q_lora.down.weight`,
  `text_encoder.….q_proj.lora_linear_layer.up.weight`
- kohya-ss: `lora_unet_mid_block_attentions_0_proj_in.lora_down.weight`, `lora_te_….alpha`; also
  with the block names of the original Stable Diffusion code (`lora_unet_input_blocks_1_1_…`)
- LyCORIS: the same with `hada_…`, `lokr_…`, `dora_scale`, `diff`, `w_norm`, and below `lycoris_`
- ai-toolkit: kohya's with `magnitude` for DoRA's
- ComfyUI: `diffusion_model.….lora_up.weight`, `text_encoders.clip_l.transformer.…`
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from latentdiff.models.model_folder import TEXT_PREFIX as TEXT_PREFIX

PARTS = ("unet", "text_encoder")
KOHYA_PREFIXES = {
    "lora_unet_": "unet",
    "lora_te_": "text_encoder",
    "lora_te1_": "text_encoder",
    "lycoris_unet_": "unet",
    "lycoris_te_": "text_encoder",
    "lycoris_": "unet",
}
"""`lora_te1_` is how writers for Stable Diffusion XL call the first of its two text encoders;
`lycoris_` how LyCORIS' own wrapper (SimpleTuner's) calls the network that it wraps."""
DOTTED_PREFIXES = {
    "base_model.model.": "",
    "diffusion_model.": "unet.",
    "text_encoders.clip_l.transformer.": "text_encoder.",
    "clip_l.transformer.": "text_encoder.",
}
"""PEFT's own, and ComfyUI's."""
_FACTORS = r"hada_w[12]_[ab]|hada_t[12]|lokr_w[12](?:_[ab])?|lokr_t2"
_KOHYA_ROLES = {
    "lora_down.weight": "down",
    "lora_up.weight": "up",
    "lora_mid.weight": "mid",
    "alpha": "alpha",
    "dora_scale": "magnitude",
    "lora_magnitude_vector": "magnitude",
    "magnitude": "magnitude",
    "diff": "diff",
    "diff_b": "bias",
    "w_norm": "diff",
    "b_norm": "bias",
}
_DOTTED = re.compile(
    r"(?P<module>.+?)(?:"
    r"(?P<down>(?:\.lora_A(?:\.default)?|[._]lora\.down|\.lora_linear_layer\.down|\.lora_down)\.weight)"
    r"|(?P<up>(?:\.lora_B(?:\.default)?|[._]lora\.up|\.lora_linear_layer\.up|\.lora_up)\.weight)"
    r"|(?P<mid>\.lora_mid\.weight)"
    r"|(?P<pair_bias>\.lora_B(?:\.default)?\.bias)"
    r"|(?P<magnitude>\.(?:dora_scale|magnitude|lora_magnitude_vector(?:\.default)?(?:\.weight)?))"
    r"|(?P<diff>\.(?:diff|w_norm))|(?P<bias>\.(?:diff_b|b_norm))"
    rf"|(?P<factor>\.(?:{_FACTORS})(?:\.default)?)"
    r"|(?P<alpha>(?:\.lora)?\.alpha))"
)
_PATH = re.compile(r"[\w.]+", re.ASCII)
# kohya joins a path with "_", which stands inside names too: these are the names that may occur.
_WORDS = (
    *("down_blocks", "mid_block", "up_blocks", "attentions", "resnets", "downsamplers"),
    *("upsamplers", "transformer_blocks", "attn1", "attn2", "to_q", "to_k", "to_v", "to_out"),
    *("ff", "net", "proj", "proj_in", "proj_out", "conv", "conv1", "conv2", "conv_in", "conv_out"),
    *("conv_shortcut", "time_emb_proj", "time_embedding", "linear_1", "linear_2", "text_model"),
    *("encoder", "layers", "self_attn", "q_proj", "k_proj", "v_proj", "out_proj", "mlp"),
    *("fc1", "fc2", "add_embedding", "pool", "norm", "norm1", "norm2", "norm3", "conv_norm_out"),
    *("layer_norm1", "layer_norm2", "final_layer_norm"),
)
_WORD = re.compile(rf"(?:{'|'.join(sorted(_WORDS, key=len, reverse=True))}|\d+)(?=_|$)")
_ORIGINAL = re.compile(r"(input_blocks|output_blocks)_(\d+)_(\d+)_(.+)|middle_block_(\d+)_(.+)")
_ORIGINAL_FIRST = ("input_blocks.", "middle_block.", "output_blocks.", "time_embed.", "out.")
_ORIGINAL_ENDS = {
    "time_embed_0": "time_embedding_linear_1",
    "time_embed_2": "time_embedding_linear_2",
    "input_blocks_0_0": "conv_in",
    "out_0": "conv_norm_out",
    "out_2": "conv_out",
}
_ORIGINAL_INNER = {
    "in_layers_0": "norm1",
    "out_layers_0": "norm2",
    "in_layers_2": "conv1",
    "out_layers_3": "conv2",
    "emb_layers_1": "time_emb_proj",
    "skip_connection": "conv_shortcut",
}


@dataclass(frozen=True)
class Key:
    """One tensor of a LoRA file: `layer` is PART.MODULE; role is down, up, mid, alpha, magnitude,
    bias, pair_bias, diff, or a factor's own name ("hada_w1_a", "lokr_w2" …)."""

    layer: str
    role: str
    layout: str


def parse(key: str) -> Key | None:
    """What a tensor's name says, or None for a name of no spelling known here."""
    for prefix, part in KOHYA_PREFIXES.items():
        if key.startswith(prefix):
            flat, _, tail = key.removeprefix(prefix).partition(".")
            module = unflatten(flat)
            role = tail if re.fullmatch(_FACTORS, tail) else _KOHYA_ROLES.get(tail)
            return (
                None if module is None or role is None else Key(_layer(part, module), role, "kohya")
            )
    for prefix, instead in DOTTED_PREFIXES.items():
        if key.startswith(prefix):
            key = instead + key.removeprefix(prefix)
    match = _DOTTED.fullmatch(key)
    if match is None or key.startswith("lora_") or not _PATH.fullmatch(match["module"]):
        return None
    part, module = "unet", match["module"]
    for known in PARTS:
        if module.startswith(f"{known}."):
            part, module = known, module.removeprefix(f"{known}.")
    if part == "unet" and module.startswith((TEXT_PREFIX, "encoder.layers.")):
        part = "text_encoder"
    if part == "unet" and module.startswith(_ORIGINAL_FIRST):
        original = unflatten(module.replace(".", "_"))
        if original is None:
            return None
        module = original
    role = next(role for role, found in match.groupdict().items() if found and role != "module")
    if role == "factor":
        role = match["factor"].removeprefix(".").removesuffix(".default")
    return Key(_layer(part, _modern(module)), role, _layout(key))


def _layout(key: str) -> str:
    if ".lora_A" in key or ".lora_B" in key or ".lora_magnitude_vector" in key:
        return "peft"
    if re.search(_FACTORS, key):
        return "LyCORIS"
    return "ComfyUI" if re.search(r"\.lora_(down|up|mid)\.", key) else "diffusers before PEFT"


def _layer(part: str, module: str) -> str:
    return f"{part}.{module.removeprefix(TEXT_PREFIX)}"


def _modern(module: str) -> str:
    """Attention as diffusers named it before PEFT, under its module's name."""
    module = module.replace(".processor.", ".")
    head, _, last = module.rpartition(".")
    if head.endswith(".self_attn") and last in ("to_q", "to_k", "to_v", "to_out"):
        return f"{head}.{last.removeprefix('to_')}_proj"
    return f"{module}.0" if last == "to_out" else module


def unflatten(flat: str) -> str | None:
    """The path that kohya's name came from; None when it cannot be one."""
    flat = _from_original(flat)
    words, place = [], 0
    while place < len(flat):
        word = _WORD.match(flat, place)
        if word is None:
            return None
        words.append(word[0])
        place = word.end() + 1
    return ".".join(words)


def _from_original(flat: str) -> str:
    """Block names of the original Stable Diffusion 1.x / 2.x code (two layers a block)."""
    match = _ORIGINAL.fullmatch(flat)
    if match is None:
        return _ORIGINAL_ENDS.get(flat, flat)
    side, index, inner, rest, middle, middle_rest = match.groups()
    if middle is not None:
        kind = {"0": "resnets_0", "1": "attentions_0", "2": "resnets_1"}.get(middle, middle)
        place, rest = f"mid_block_{kind}", middle_rest
    else:
        down = side == "input_blocks"
        block, layer = divmod(int(index) - down, 3)
        blocks = f"down_blocks_{block}" if down else f"up_blocks_{block}"
        if rest in ("op", "conv"):
            return f"{blocks}_{'downsamplers' if down else 'upsamplers'}_0_conv"
        place = f"{blocks}_{'attentions' if inner == '1' else 'resnets'}_{layer}"
    return f"{place}_{_ORIGINAL_INNER.get(rest, rest)}"


def peft_key(layer: str, role: str) -> str:
    """The tensor's name in diffusers' layout; a text encoder's with the prefix others expect."""
    part, _, module = layer.partition(".")
    inside = TEXT_PREFIX if part == "text_encoder" else ""
    return f"{part}.{inside}{module}.{'lora_A' if role == 'down' else 'lora_B'}.weight"


def kohya_key(layer: str, role: str) -> str:
    """The tensor's name in kohya's layout."""
    part, _, module = layer.partition(".")
    prefix = "lora_unet_" if part == "unet" else "lora_te_text_model_"
    tail = "alpha" if role == "alpha" else f"lora_{role}.weight"
    return f"{prefix}{module.replace('.', '_')}.{tail}"
