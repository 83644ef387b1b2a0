"""Single-file checkpoints: the same weights as the folder, to the bit, both ways."""

from __future__ import annotations

import dataclasses
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from latentdiff.cli.main import run
from latentdiff.errors import UserError
from latentdiff.models import bundle as bundles
from latentdiff.models.bundle import Bundle
from latentdiff.models.single_file_writer import write_single_file
from latentdiff.models.single_files import original_names as original
from latentdiff.models.single_files.single_file import clip_tokenizer
from latentdiff.models.single_files.vae_file import load_vae

PARTS = ("unet", "vae", "text_encoder")


def v_prediction_1() -> Bundle:
    return tiny.stable_diffusion_1("v_prediction")


MODELS = {"1": tiny.stable_diffusion_1, "1 v": v_prediction_1, "2": tiny.stable_diffusion_2}


def cast(bundle: Bundle, dtype: torch.dtype) -> Bundle:
    import copy

    parts = {part: copy.deepcopy(getattr(bundle, part)) for part in PARTS}
    for part in parts.values():
        torch.nn.Module.to(part, dtype)
    return dataclasses.replace(bundle, **parts)


def weights(bundle: Bundle) -> dict[str, Tensor]:
    return {
        f"{part}.{name}": value
        for part in PARTS
        for name, value in getattr(bundle, part).state_dict().items()
    }


def assert_same(one: Bundle, other: Bundle) -> None:
    ours, theirs = weights(one), weights(other)
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert value.dtype == theirs[name].dtype, name
        assert torch.equal(bits(value), bits(theirs[name])), name
    left, right = one.scheduler_config, other.scheduler_config
    assert left.prediction_type == right.prediction_type
    assert left.noise_schedule().alpha_bar.equal(right.noise_schedule().alpha_bar)
    text = ["a cat in the snow", "An OWL — 3 dogs?", ""]
    for options in ({}, {"padding": "max_length"}):
        assert (
            one.tokenizer(text, **options).input_ids == other.tokenizer(text, **options).input_ids
        )


def bits(tensor: Tensor) -> Tensor:
    return tensor.contiguous().view(torch.uint8)


@pytest.mark.parametrize(
    ("model", "dtype"),
    [
        ("1", torch.float32),
        ("1 v", torch.float16),
        ("1", torch.float8_e4m3fn),
        ("2", torch.float32),
        ("2", torch.float16),
        ("2", torch.float8_e4m3fn),
    ],
)
def test_a_model_goes_into_one_file_and_back_to_the_bit(
    model: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    bundle = cast(MODELS[model](), dtype)
    file = write_single_file(bundle, tmp_path / "a.safetensors")
    read = bundles.load(file, dtype=None)
    assert read.notes == ()
    assert_same(read, bundle)
    folder = bundles.save(read, tmp_path / "folder")
    assert_same(bundles.load(folder, dtype=None), bundle)
    again = write_single_file(bundles.load(folder, dtype=None), tmp_path / "b.safetensors")
    assert again.read_bytes() == file.read_bytes()


@pytest.mark.parametrize("model", ["1", "2"])
def test_the_names_are_those_that_diffusers_converters_read(model: str, tmp_path: Path) -> None:
    from diffusers.loaders import single_file_utils as theirs

    bundle = MODELS[model]()
    state = load_file(write_single_file(bundle, tmp_path / "a.safetensors"))
    made = {
        "unet": theirs.convert_ldm_unet_checkpoint(dict(state), bundle.unet.config),
        "vae": theirs.convert_ldm_vae_checkpoint(dict(state), bundle.vae.config),
    }
    if model == "1":
        made["text_encoder"] = theirs.convert_ldm_clip_checkpoint(dict(state))
    else:
        found = theirs.convert_open_clip_checkpoint(bundle.text_encoder, dict(state))
        made["text_encoder"] = {n: t for n, t in found.items() if n != "text_projection.weight"}
    for part, converted in made.items():
        own = getattr(bundle, part).state_dict()
        bare = {n.removeprefix("text_model."): t for n, t in converted.items()}
        assert bare.keys() == {n.removeprefix("text_model.") for n in own}
        for name, tensor in own.items():
            assert torch.equal(tensor, bare[name.removeprefix("text_model.")]), name


def foreign(kind: str, **scheduler: Any) -> Bundle:
    """A model of standard proportions (64 a head in 2.x, groups of 32), with CLIP's tokenizer."""
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(3)
    two = kind == "2"
    tokenizer = clip_tokenizer(kind).own
    return tiny.finished(
        unet=UNet2DConditionModel(
            sample_size=64,
            down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
            block_out_channels=(32, 64, 128),
            layers_per_block=2,
            attention_head_dim=[1, 1, 2] if two else 8,
            cross_attention_dim=64,
            use_linear_projection=two,
        ),
        vae=AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 3,
            up_block_types=("UpDecoderBlock2D",) * 3,
            block_out_channels=(32, 32, 64),
            layers_per_block=2,
            latent_channels=4,
        ),
        text_encoder=CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(tokenizer),
                hidden_size=64,
                intermediate_size=128,
                num_hidden_layers=2,
                num_attention_heads=1,
                hidden_act="gelu" if two else "quick_gelu",
            )
        ),
        tokenizer=tokenizer,
        scheduler=(tiny.SD2_SCHEDULER if two else tiny.SD1_SCHEDULER) | scheduler,
    )


def stripped(path: Path, more: dict[str, Tensor] | None = None, **header: str) -> Path:
    """The file as another program would have written it: without our header."""
    save_file(load_file(path) | (more or {}), path, metadata={"format": "pt", **header})
    return path


def test_a_file_of_another_program_gives_the_same_pictures(tmp_path: Path) -> None:
    bundle = foreign("1")
    path = stripped(write_single_file(bundle, tmp_path / "a.safetensors"))
    read = bundles.load(path)
    assert_same(read, bundle)
    x, context = torch.randn(1, 4, 8, 8), torch.randn(1, 77, 64)
    ours = read.unet(x, torch.tensor(5), context).sample
    assert torch.equal(ours, bundle.unet(x, torch.tensor(5), context).sample)
    ids = torch.tensor(bundle.tokenizer(["a cat"], padding="max_length").input_ids)
    assert torch.equal(
        read.text_encoder(ids).last_hidden_state, bundle.text_encoder(ids).last_hidden_state
    )
    assert torch.equal(read.vae.decode(x).sample, bundle.vae.decode(x).sample)


def test_a_whole_open_clip_tower_gives_its_last_layer_but_one(tmp_path: Path) -> None:
    bundle = foreign("2", prediction_type="v_prediction")
    path = write_single_file(bundle, tmp_path / "a.safetensors")
    last = {
        n.replace("resblocks.1.", "resblocks.2."): torch.zeros_like(t)
        for n, t in load_file(path).items()
        if "resblocks.1." in n
    }
    last["cond_stage_model.model.text_projection"] = torch.zeros(64, 64)
    last["cond_stage_model.model.logit_scale"] = torch.zeros(())
    stripped(path, last, **{"modelspec.prediction_type": "v"})
    read = bundles.load(path)
    assert read.notes == ()
    assert_same(read, bundle)
    x, context = torch.randn(1, 4, 8, 8), torch.randn(1, 77, 64)
    ours = read.unet(x, torch.tensor(5), context).sample
    assert torch.equal(ours, bundle.unet(x, torch.tensor(5), context).sample)


@pytest.mark.parametrize(("spread", "predicts"), [(0.2, "v_prediction"), (0.01, "epsilon")])
def test_what_a_silent_2_x_file_predicts_is_judged_and_said(
    spread: float, predicts: str, tmp_path: Path
) -> None:
    path = write_single_file(foreign("2"), tmp_path / "a.safetensors")
    name = "model.diffusion_model.output_blocks.8.1.transformer_blocks.0.norm1.bias"
    size = load_file(path)[name].shape
    stripped(path, {name: spread * torch.randn(size)})
    read = bundles.load(path)
    assert read.scheduler_config.prediction_type == predicts
    (note,) = read.notes
    assert f"does not say what it predicts; {predicts}" in note
    for said in ("v_prediction", "epsilon"):
        told = bundles.load(path, prediction_type=said)
        assert told.scheduler_config.prediction_type == said and told.notes == ()


def test_averaged_weights_are_taken_when_asked_for(tmp_path: Path) -> None:
    bundle = foreign("1")
    path = write_single_file(bundle, tmp_path / "a.safetensors")
    averaged = {
        original.ema_name(n): 2 * t for n, t in load_file(path).items() if n.startswith("model.")
    }
    stripped(path, averaged)
    plain = bundles.load(path)
    assert "also holds averaged weights" in plain.notes[0]
    assert torch.equal(plain.unet.conv_in.weight, bundle.unet.conv_in.weight)
    ema = bundles.load(path, variant="ema")
    assert ema.notes == ()
    assert torch.equal(ema.unet.conv_in.weight, 2 * bundle.unet.conv_in.weight)
    with pytest.raises(UserError, match="holds no averaged weights"):
        bundles.load(write_single_file(bundle, tmp_path / "b.safetensors"), variant="ema")


@pytest.mark.parametrize("layout", ["folder", "original", "diffusers", "checkpoint", "model"])
def test_another_autoencoder_stands_in_and_one_must_when_there_is_none(
    layout: str, tmp_path: Path
) -> None:
    bundle = foreign("1")
    path = write_single_file(bundle, tmp_path / "a.safetensors")
    other = foreign("1")
    with torch.no_grad():
        other.vae.decoder.conv_out.bias.add_(1)
    folder = bundles.save(other, tmp_path / "other")
    state = load_file(path)
    inside = {n: t for n, t in state.items() if n.startswith(original.VAE)}
    stripped_path = tmp_path / "bare.safetensors"
    save_file({n: t for n, t in state.items() if n not in inside}, stripped_path)
    with pytest.raises(UserError, match="holds no autoencoder; give one by --vae"):
        bundles.load(stripped_path)
    whole = write_single_file(other, tmp_path / "whole.safetensors")
    alone = {n.removeprefix(original.VAE): t for n, t in load_file(whole).items() if n in inside}
    save_file(alone, tmp_path / "vae.safetensors")
    places = {
        "folder": folder / "vae",
        "model": folder,
        "diffusers": folder / "vae/diffusion_pytorch_model.safetensors",
        "original": tmp_path / "vae.safetensors",
        "checkpoint": whole,
    }
    for model in (path, stripped_path, tmp_path / "other"):
        read = bundles.load(model, vae=places[layout])
        assert torch.equal(read.vae.decoder.conv_out.bias, other.vae.decoder.conv_out.bias)
        assert read.vae.config.scaling_factor == 0.18215


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["conditioner.embedders.0.x", "model.diffusion_model.input_blocks.0.0.weight"], "XL"),
        (["model.diffusion_model.double_blocks.0.img_attn.proj.weight"], "a Flux checkpoint"),
        (["model.diffusion_model.joint_blocks.0.x"], "Stable Diffusion 3"),
        (["lora_unet_conv_in.lora_up.weight"], "is a LoRA; give it by --lora"),
        (["encoder.conv_in.weight", "decoder.conv_in.weight"], "an autoencoder alone; give it by"),
        (["down_blocks.0.resnets.0.conv1.weight"], "a part of a folder in diffusers format"),
        (["emb_params"], "a learned word; give it by --embedding"),
        (["control_model.x"], "a ControlNet"),
        (["model.diffusion_model.input_blocks.0.0.weight"], "holds no text encoder"),
        (["something"], "is no Stable Diffusion 1.x or 2.x checkpoint"),
    ],
)
def test_a_file_of_another_kind_is_named_in_a_line(
    names: list[str], words: str, tmp_path: Path
) -> None:
    save_file({name: torch.zeros(4, 4) for name in names}, tmp_path / "a.safetensors")
    with pytest.raises(UserError, match=words) as caught:
        bundles.load(tmp_path / "a.safetensors")
    assert "\n" not in str(caught.value)


def test_a_pickle_is_refused_unopened_by_its_name_or_its_content(tmp_path: Path) -> None:
    for name in ("a.ckpt", "a.safetensors"):
        (tmp_path / name).write_bytes(pickle.dumps({"state_dict": 1}))
        with pytest.raises(UserError, match="is a pickle, which can run code"):
            bundles.load(tmp_path / name)
    with pytest.raises(UserError, match="is a pickle"):
        load_vae(tmp_path / "a.ckpt")


def test_a_missing_weight_a_wrong_shape_and_an_absurd_header_are_named(tmp_path: Path) -> None:
    path = write_single_file(tiny.stable_diffusion_1(), tmp_path / "a.safetensors")
    with safe_open(path, framework="pt") as opened:
        header = dict(opened.metadata())
    whole = load_file(path)
    name = "model.diffusion_model.middle_block.0.in_layers.2.weight"
    save_file({n: t for n, t in whole.items() if n != name}, path, metadata=header)
    with pytest.raises(UserError, match=f"lacks the weight '{name}' of its unet"):
        bundles.load(path)
    save_file(whole | {name: torch.zeros(2, 2)}, path, metadata=header)
    with pytest.raises(UserError, match="has shape"):
        bundles.load(path)
    told = json.loads(header["latentdiff.single_file"])
    told["unet"]["layers_per_block"] = 10**7
    for text in (json.dumps(told), "[" * 100_000, "{}"):
        save_file(whole, path, metadata={"latentdiff.single_file": text})
        with pytest.raises(UserError):
            bundles.load(path)


def test_a_card_travels_in_the_file_s_header(tmp_path: Path) -> None:
    bundle = tiny.with_card(tiny.stable_diffusion_1(), guidance_scale=4.0, vocabulary=["cat"])
    read = bundles.load(write_single_file(bundle, tmp_path / "a.safetensors"))
    assert read.card == {"guidance_scale": 4.0, "vocabulary": ["cat"]}


def test_convert_goes_both_ways_and_settles_what_is_predicted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = bundles.save(tiny.stable_diffusion_2(), tmp_path / "folder")
    assert run(["convert", str(folder), str(tmp_path / "one.safetensors")]) == 0
    back = tmp_path / "back"
    line = ["convert", str(tmp_path / "one.safetensors"), str(back)]
    assert run([*line, "--prediction-type", "epsilon", "--dtype", "float16"]) == 0
    read = bundles.load(back, dtype=None)
    assert read.scheduler_config.prediction_type == "epsilon"
    assert torch.equal(
        read.unet.conv_in.weight, tiny.stable_diffusion_2().unet.conv_in.weight.half()
    )
    assert run(line) == 2
    assert run(["convert", str(folder), str(tmp_path / "a.ckpt")]) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_clip_s_own_vocabulary_is_whole() -> None:
    tokenizer = clip_tokenizer("2").own
    assert len(tokenizer) == 49408
    ids = tokenizer("a photo of an astronaut riding a horse").input_ids
    assert ids == [49406, 320, 1125, 539, 550, 18376, 6765, 320, 4558, 49407]
    assert tokenizer.pad_token_id == 0
