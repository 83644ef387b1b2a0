"""A LoRA of ours changes the picture in diffusers as it does here, in both layouts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import loras
import numpy as np
import pytest
import tiny
import torch

from latentdiff.models import bundle as bundles
from latentdiff.models.bundle import Bundle
from latentdiff.models.lora.formats import KOHYA_NAME, PEFT_NAME
from latentdiff.pipelines import Recipe, Request, TextToImagePipeline

MODELS = {
    "tiny": tiny.tiny,
    "sd1": tiny.stable_diffusion_1,
    "sd2": tiny.stable_diffusion_2,
    "snowglobe": lambda: bundles.load("snowglobe"),
}
STEPS = 2
PROMPT = "a cat in the snow"


def pixels(image: Any) -> np.ndarray:
    return np.asarray(image).astype(int)


def ours(bundle: Bundle, *files: tuple[Path, float]) -> np.ndarray:
    pipe = TextToImagePipeline(bundle)
    for file, scale in files:
        pipe.load_lora(file, scale)
    return pixels(
        pipe(
            PROMPT, seed=3, num_inference_steps=STEPS, guidance_scale=4.0, scheduler="ddim"
        ).images[0]
    )


def theirs(bundle: Bundle, *files: tuple[Path, float]) -> np.ndarray:
    from diffusers import DDIMScheduler, StableDiffusionPipeline

    copied = loras.copy_of(bundle)
    raw = {key: value for key, value in bundle.scheduler_config.raw.items() if key[0] != "_"}
    pipe = StableDiffusionPipeline(
        vae=copied.vae,
        text_encoder=copied.text_encoder,
        tokenizer=copied.tokenizer,
        unet=copied.unet,
        scheduler=DDIMScheduler.from_config(raw),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    for k, (file, _) in enumerate(files):
        pipe.load_lora_weights(str(file.parent), weight_name=file.name, adapter_name=f"a{k}")
    if files:
        adapters = [f"a{k}" for k in range(len(files))]
        pipe.set_adapters(adapters, [scale for _, scale in files])
    options = {"num_inference_steps": STEPS, "guidance_scale": 4.0}
    return pixels(pipe(PROMPT, generator=torch.Generator().manual_seed(3), **options).images[0])


def agree(one: np.ndarray, other: np.ndarray) -> None:
    """Within one grey level of 255."""
    assert one.shape == other.shape
    assert int(abs(one - other).max()) <= 1


@pytest.mark.parametrize(
    ("model", "targets"),
    [("tiny", "attention"), ("sd1", "all"), ("sd2", "attention+ff"), ("snowglobe", "attention")],
)
def test_a_lora_draws_here_what_it_draws_in_diffusers(
    model: str, targets: str, tmp_path: Path
) -> None:
    bundle = MODELS[model]()
    adapted = loras.trained(bundle, targets=targets)
    loras.saved(adapted, tmp_path)
    plain, in_training = ours(bundle), ours(adapted)
    assert abs(in_training - plain).mean() > 1  # more than `agree` lets pass anywhere
    for layout in (PEFT_NAME, KOHYA_NAME):
        fused = ours(loras.copy_of(bundle), (tmp_path / layout, 1.0))
        agree(fused, in_training)
        agree(fused, theirs(bundle, (tmp_path / layout, 1.0)))


def test_two_loras_with_scales_add_up_as_in_diffusers(tmp_path: Path) -> None:
    bundle = tiny.tiny()
    one = loras.saved(loras.trained(bundle, targets="attention+ff"), tmp_path / "1")[0]
    two = loras.saved(loras.trained(bundle, rank=2, alpha=1.0, seed=5), tmp_path / "2")[1]
    files = ((one, 0.6), (two, -0.5))
    drawn = ours(loras.copy_of(bundle), *files)
    agree(drawn, theirs(bundle, *files))
    assert abs(drawn - ours(loras.copy_of(bundle), files[0])).mean() > 1


def test_what_diffusers_saves_is_read_here_with_its_alpha(tmp_path: Path) -> None:
    from diffusers import StableDiffusionPipeline
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict

    bundle = tiny.tiny()
    copied = loras.copy_of(bundle)
    config = LoraConfig(r=4, lora_alpha=10, target_modules=["to_q", "to_v"])
    text = LoraConfig(r=2, lora_alpha=6, target_modules=["q_proj", "fc1"])
    copied.unet.add_adapter(config)
    copied.text_encoder.add_adapter(text)
    draw = torch.Generator().manual_seed(0)
    for network in (copied.unet, copied.text_encoder):
        for name, parameter in network.named_parameters():
            if ".lora_B." in name:
                parameter.data.normal_(0, 0.1, generator=draw)
    StableDiffusionPipeline.save_lora_weights(
        tmp_path,
        unet_lora_layers=get_peft_model_state_dict(copied.unet),
        text_encoder_lora_layers=get_peft_model_state_dict(copied.text_encoder),
        unet_lora_adapter_metadata=copied.unet.peft_config["default"].to_dict(),
        text_encoder_lora_adapter_metadata=copied.text_encoder.peft_config["default"].to_dict(),
    )
    agree(ours(loras.copy_of(bundle), (tmp_path / PEFT_NAME, 1.0)), ours(copied))


def recipe(pipe: TextToImagePipeline) -> Recipe:
    return pipe.recipe(Request(prompt=PROMPT, seed=0))


def test_the_recipe_names_each_file_with_its_hash_and_scale(tmp_path: Path) -> None:
    from latentdiff.files import sha256_file

    bundle = loras.copy_of(tiny.tiny())
    file = loras.saved(loras.trained(bundle), tmp_path)[0]
    pipe = TextToImagePipeline(bundle)
    assert recipe(pipe).loras == ()
    pipe.load_lora(file, 0.5)
    told = {"file": str(file), "sha256": sha256_file(file), "scale": 0.5}
    assert recipe(pipe).loras == (told,)
    pipe.loras.clear()
    assert recipe(pipe).loras == ()


def test_a_pipeline_warns_of_another_base(tmp_path: Path) -> None:
    home = bundles.load(tiny.save(tiny.tiny(), tmp_path / "home"))
    told = {"base": "elsewhere", "base_sha256": {"unet": "0" * 64}}
    file = loras.saved(loras.trained(home), tmp_path, **told)[0]
    with pytest.warns(UserWarning, match=r"trained on another model \(elsewhere\)"):
        TextToImagePipeline(home).load_lora(file)
