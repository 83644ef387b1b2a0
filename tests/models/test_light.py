"""A light network is its library's own, weight by weight and bit by bit, until one asks for it."""

from __future__ import annotations

import copy
import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from transformers import CLIPTextConfig, CLIPTokenizer

from latentdiff.conditioning import text
from latentdiff.models import bundle as bundles
from latentdiff.models import networks
from latentdiff.models.autoencoder import Autoencoder
from latentdiff.models.bundle import Bundle
from latentdiff.models.denoiser import Denoiser
from latentdiff.models.light import settings
from latentdiff.models.light import tokenizer as tokenizers
from latentdiff.models.light.layers import Light
from latentdiff.models.prepared.unet import PreparedUnet
from latentdiff.models.single_files.single_file import clip_vocabulary
from latentdiff.models.tokenizer_files import load_tokenizer
from latentdiff.pipelines import TextToImagePipeline

KINDS: dict[str, Callable[[], Bundle]] = {
    "pooled text, scale and shift": tiny.tiny,
    "Stable Diffusion 1": tiny.stable_diffusion_1,
    "Stable Diffusion 2": tiny.stable_diffusion_2,
    "inpainting": tiny.inpainting,
}
NETWORKS = ("unet", "vae", "text_encoder")


@pytest.fixture(scope="module", params=KINDS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save(KINDS[request.param](), tmp_path_factory.mktemp("light") / "model")


def shapes(network: Any) -> list[tuple[str, tuple[int, ...]]]:
    return [(name, tuple(value.shape)) for name, value in network.state_dict().items()]


def test_all_parts_of_a_folder_are_light_until_each_is_asked_for(folder: Path) -> None:
    bundle = bundles.load(folder)
    assert all(isinstance(getattr(bundle.light, part), Light) for part in NETWORKS)
    assert isinstance(bundle.light.tokenizer, tokenizers.ClipTokenizer)
    changed = bundle.changed(card={"guidance_scale": 3.0})
    own = bundle.unet
    assert type(own).__name__ == "UNet2DConditionModel"
    assert bundle.light.unet is own
    assert changed.light.unet is own
    assert isinstance(bundle.light.vae, Light)
    assert isinstance(bundle.tokenizer, CLIPTokenizer)


def test_the_own_module_holds_the_light_one_s_tensors_frozen_and_under_the_same_names(
    folder: Path,
) -> None:
    bundle = bundles.load(folder)
    for part in NETWORKS:
        light = getattr(bundle.light, part)
        kept, laid_out = dict(light.named_parameters()), shapes(light)
        own = getattr(bundle, part)
        assert laid_out == shapes(own)
        assert not own.training
        for name, value in own.named_parameters():
            assert value is kept[name]
            assert not value.requires_grad


def test_the_prepared_forms_of_the_light_and_of_the_own_are_bit_equal(folder: Path) -> None:
    bundle = bundles.load(folder)
    config, length = bundle.light.unet.config, bundle.light.tokenizer.model_max_length
    x = torch.randn(1, config.in_channels, 8, 8)
    z = torch.randn(1, bundle.light.vae.config.latent_channels, 8, 8)
    ids = text.tokenize(bundle.light.tokenizer, ["a cat in the snow", ""]).input_ids
    assert ids.shape == (2, length)

    def computed() -> list[torch.Tensor]:
        contexts = [text.encode(bundle.light.text_encoder, ids, clip_skip=skip) for skip in (0, 1)]
        with torch.no_grad():
            predictions = [PreparedUnet(bundle.light.unet)(x, t, contexts[0]) for t in (0.0, 500.0)]
            pixels = Autoencoder(bundle.part("vae")).decode(z)
        return [*contexts, *predictions, pixels]

    light = computed()
    assert all(isinstance(getattr(bundle.light, part), Light) for part in NETWORKS)
    for part in NETWORKS:
        getattr(bundle, part)
    for one, other in zip(light, computed(), strict=True):
        assert torch.equal(one, other)


def test_settings_have_the_same_hashes_whichever_form_they_are_read_from(folder: Path) -> None:
    light, own = bundles.load(folder), bundles.load(folder)
    for part in (*NETWORKS, "tokenizer"):
        getattr(own, part)
    text.tokenize(own.tokenizer, ["a cat"], long="chunk")
    assert light.settings_sha256 == own.settings_sha256


def test_a_picture_is_the_same_before_and_after_the_own_modules_are_made(tmp_path: Path) -> None:
    pipe = TextToImagePipeline(bundles.load(tiny.save(tiny.tiny(), tmp_path / "model")))

    def drawn() -> Any:
        return pipe("a cat in the snow", seed=3, num_inference_steps=3).latents

    before = drawn()
    assert isinstance(pipe.bundle.light.unet, Light)
    pipe.bundle.unet, pipe.bundle.vae, pipe.bundle.text_encoder, pipe.bundle.tokenizer  # noqa: B018
    assert torch.equal(drawn(), before)
    with torch.no_grad():
        pipe.bundle.unet.conv_out.weight.mul_(2.0)
    assert not torch.equal(drawn(), before)


def test_a_hook_put_into_the_own_module_is_asked_in_a_pipeline_that_has_drawn_before(
    tmp_path: Path,
) -> None:
    """As the heat maps of a page do it, that has drawn the picture first."""
    pipe = TextToImagePipeline(bundles.load(tiny.save(tiny.tiny(), tmp_path / "model")))
    few: dict[str, Any] = {"seed": 3, "num_inference_steps": 2}
    pipe("a cat in the snow", **few)
    asked: list[str] = []
    (layer, *_) = (m for n, m in pipe.bundle.unet.named_modules() if n.endswith("attn2"))
    layer.register_forward_pre_hook(
        lambda module, args, named: asked.append("cross"), with_kwargs=True
    )
    pipe("a cat in the snow", **few)
    assert asked


def test_gradients_and_a_timestep_each_are_the_own_module_s(tmp_path: Path) -> None:
    bundle = bundles.load(tiny.save(tiny.tiny(), tmp_path / "model"))
    denoiser = Denoiser(bundle.part("unet"), "epsilon")
    x, context = torch.randn(2, 4, 8, 8), torch.randn(2, 24, 32)
    with torch.no_grad():
        denoiser(x, 5, context)
        assert isinstance(bundle.light.unet, Light)
        found = denoiser(x, torch.tensor([1, 900]), context)
        expected = bundle.unet(x, torch.tensor([1, 900]), encoder_hidden_states=context).sample
    assert torch.equal(found, expected)


def test_half_precision_weights_stay_as_they_are_stored_and_draw_the_same(tmp_path: Path) -> None:
    folder = tiny.save(tiny.stable_diffusion_1(), tmp_path / "half", dtype=torch.float16)
    bundle = bundles.load(folder)
    unet = bundle.light.unet
    assert unet.conv_in.weight.dtype == torch.float16
    assert unet.conv_in.bias.dtype == unet.dtype == bundle.part("unet").dtype == torch.float32
    own = bundles.load(folder)
    for part in NETWORKS:
        assert {p.dtype for p in getattr(own, part).parameters()} == {torch.float32}
    one, other = (
        TextToImagePipeline(b)("a cat", seed=0, num_inference_steps=2) for b in (bundle, own)
    )
    assert torch.equal(one.latents, other.latents)
    assert one.pictures[0].image.tobytes() == other.pictures[0].image.tobytes()
    assert one.pictures[0].recipe.dtype == "float32"


def test_a_copy_of_a_light_bundle_has_weights_of_its_own(tmp_path: Path) -> None:
    bundle = bundles.load(tiny.save(tiny.tiny(), tmp_path / "model"))
    copied = copy.deepcopy(bundle)
    with torch.no_grad():
        copied.unet.conv_in.weight.zero_()
    assert bundle.light.unet.conv_in.weight.any()
    assert copied.light.tokenizer.bos_token == bundle.light.tokenizer.bos_token


# Layouts


UNET = {
    "block_out_channels": [16, 32],
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
    "norm_num_groups": 8,
    "cross_attention_dim": 32,
    "attention_head_dim": 4,
}
KNOWN: list[dict[str, Any]] = [
    {},
    {"layers_per_block": [1, 3]},
    {"transformer_layers_per_block": [1, 2]},
    {"attention_head_dim": [2, 8]},
    {"use_linear_projection": True, "upcast_attention": True},
    {"resnet_time_scale_shift": "scale_shift", "out_channels": 8, "in_channels": 9},
    {"addition_embed_type": "text", "addition_embed_type_num_heads": 4},
    {"time_embedding_dim": 40, "addition_embed_type": "text", "addition_embed_type_num_heads": 4},
    {"down_block_types": ["CrossAttnDownBlock2D"] * 2, "up_block_types": ["UpBlock2D"] * 2},
    {"dropout": 0.1, "freq_shift": 1, "flip_sin_to_cos": False, "norm_eps": 1e-6},
]
OTHERS: list[dict[str, Any]] = [
    {"act_fn": "gelu"},
    {"only_cross_attention": True},
    {"downsample_padding": 0},
    {"mid_block_type": None},
    {"down_block_types": ["ResnetDownsampleBlock2D", "CrossAttnDownBlock2D"]},
    {"attention_head_dim": 5},
    {"resnet_out_scale_factor": 2.0},
    {"conv_in_kernel": 5},
    {"cross_attention_dim": [32, 32]},
]


@pytest.mark.parametrize("change", KNOWN, ids=str)
def test_a_light_u_net_is_laid_out_as_diffusers_lays_it_out(change: dict[str, Any]) -> None:
    config = UNET | change
    part = networks.lay_out("unet", config, "here")
    assert isinstance(part.light, Light)
    own = networks.build_network("unet", config, "here")
    assert shapes(part.light) == shapes(own)
    mine, theirs = (
        {n: (m.eps, m.num_groups) for n, m in one.named_modules() if hasattr(m, "num_groups")}
        for one in (part.light, own)
    )
    assert mine == theirs
    strides = [
        {n: (m.stride, m.padding) for n, m in one.named_modules() if hasattr(m, "stride")}
        for one in (part.light, own)
    ]
    assert strides[0] == strides[1]
    heads = [
        {n: m.heads for n, m in one.named_modules() if n.endswith(("attn1", "attn2"))}
        for one in (part.light, own)
    ]
    assert heads[0] == heads[1]


@pytest.mark.parametrize("change", OTHERS, ids=str)
def test_a_u_net_that_has_no_light_form_is_diffusers_own_at_once(change: dict[str, Any]) -> None:
    part = networks.lay_out("unet", UNET | change, "here")
    assert type(part.light).__name__ == "UNet2DConditionModel"


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"mid_block_add_attention": False, "use_quant_conv": False},
        {"layers_per_block": 2, "latent_channels": 8, "use_post_quant_conv": False},
    ],
    ids=str,
)
def test_a_light_autoencoder_is_laid_out_as_diffusers_lays_it_out(change: dict[str, Any]) -> None:
    config = {
        "block_out_channels": [8, 16],
        "down_block_types": ["DownEncoderBlock2D"] * 2,
        "up_block_types": ["UpDecoderBlock2D"] * 2,
        "norm_num_groups": 4,
    } | change
    part = networks.lay_out("vae", config, "here")
    assert isinstance(part.light, Light)
    assert shapes(part.light) == shapes(networks.build_network("vae", config, "here"))


def test_what_settings_leave_out_is_what_the_libraries_take() -> None:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    for class_, ours in ((UNet2DConditionModel, settings.UNET), (AutoencoderKL, settings.VAE)):
        theirs = {
            name: parameter.default
            for name, parameter in inspect.signature(class_.__init__).parameters.items()
            if name != "self"
        }
        assert json.dumps(theirs) == json.dumps(ours)
    told = json.loads(json.dumps(CLIPTextConfig().to_dict()))
    ours = settings.CLIP_TEXT | settings.CLIP_TOLD
    unsaid = {"_name_or_path", "transformers_version", "architectures", "dtype"}
    assert {name: value for name, value in told.items() if name not in unsaid} == ours


# Tokenizers


TEXTS = (
    "a cat in the snow",
    "An OWL — 3 dogs?  it's\n99",
    "<|endoftext|> x <|startoftext|>! !",
    "naïve café 猫 🎉",
    "",
)


def marked(content: str, *, typed: bool) -> dict[str, Any]:
    """As Stable Diffusion's files write a mark."""
    flags = {"lstrip": False, "normalized": True, "rstrip": False, "single_word": False}
    return ({"__type": "AddedToken"} if typed else {}) | {"content": content, **flags}


@pytest.fixture(scope="module", params=["1.5", "2.1"])
def old(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer's folder as Stable Diffusion came: a vocabulary, its merges, and flags."""
    place = tmp_path_factory.mktemp("tokenizer")
    vocabulary, merges = clip_vocabulary()
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    begin, end = tokenizers.START, tokenizers.END
    config = {
        "add_prefix_space": False,
        "bos_token": marked(begin, typed=True),
        "do_lower_case": True,
        "eos_token": marked(end, typed=True),
        "errors": "replace",
        "model_max_length": 77,
        "pad_token": end,
        "special_tokens_map_file": "./special_tokens_map.json",
        "tokenizer_class": "CLIPTokenizer",
        "unk_token": marked(end, typed=True),
    }
    marks = {
        "bos_token": marked(begin, typed=False),
        "eos_token": marked(end, typed=False),
        "pad_token": end if request.param == "1.5" else "!",
        "unk_token": marked(end, typed=False),
    }
    (place / "vocab.json").write_text(json.dumps(vocabulary))
    (place / "merges.txt").write_text("\n".join(lines) + "\n")
    (place / "tokenizer_config.json").write_text(json.dumps(config))
    (place / "special_tokens_map.json").write_text(json.dumps(marks))
    return place


def same_tokenizer(folder: Path) -> None:
    part = load_tokenizer(folder, 77)
    light = part.light
    assert isinstance(light, tokenizers.ClipTokenizer)
    own = CLIPTokenizer.from_pretrained(str(folder), local_files_only=True)
    limit = light.model_max_length
    assert text.tokenize(light, TEXTS).input_ids.tolist() == [
        own(one, padding="max_length", max_length=limit, truncation=True).input_ids for one in TEXTS
    ]
    assert [one.ids for one in text.uncut(light, TEXTS)] == [
        own(one, add_special_tokens=False).input_ids for one in TEXTS
    ]
    for name in ("model_max_length", *tokenizers.MARKS, "bos_token_id", "pad_token_id"):
        assert getattr(light, name) == getattr(own, name)
    assert len(light) == len(own)
    backends = [json.loads(one.backend_tokenizer.to_str()) for one in (light, own)]
    for one in backends:
        del one["truncation"], one["padding"]
    assert backends[0] == backends[1]


def test_an_old_folder_s_tokenizer_gives_what_transformers_gives(old: Path) -> None:
    same_tokenizer(old)


def test_a_saved_folder_s_tokenizer_gives_what_transformers_gives(folder: Path) -> None:
    same_tokenizer(folder / "tokenizer")


@pytest.mark.parametrize(
    "change",
    [
        {"normalizer": None},
        {"pre_tokenizer": {"type": "Whitespace"}},
        {"added_tokens": []},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_tokenizer_that_has_no_light_form_is_transformers_own(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    folder = tiny.save(tiny.tiny(), tmp_path / "model") / "tokenizer"
    written = folder / "tokenizer.json"
    written.write_text(json.dumps(json.loads(written.read_text()) | change))
    assert isinstance(load_tokenizer(folder, 24).light, CLIPTokenizer)
