"""A small model of the embedded one's kind, its weights random, and scenes of its size."""

from __future__ import annotations

from pathlib import Path

SCENES, SIZE = 12, 32
PRESET = "tiny"


def write(*, model: str, data: str) -> None:
    """Write a folder in diffusers format, and an imagefolder with captions."""
    import torch
    from transformers import CLIPTextModel

    from latentdiff.models import bundle as bundles
    from latentdiff.models import presets
    from latentdiff.models.tokenizer import build_tokenizer
    from latentdiff.scenes.captions import vocabulary
    from latentdiff.scenes.export import export
    from latentdiff.scenes.world import World
    from latentdiff.schedulers.scheduler_config import SchedulerConfig

    torch.manual_seed(0)
    tokenizer = build_tokenizer(vocabulary(), presets.get(PRESET).max_length)
    ids = {
        f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")
    }
    clip = presets.build_clip(PRESET, len(tokenizer), **ids)
    bundles.save(
        bundles.Bundle(
            unet=presets.build_unet(PRESET, zero_init=False),
            vae=presets.build_vae(PRESET, zero_init=False),
            text_encoder=CLIPTextModel(clip.config.text_config),
            tokenizer=tokenizer,
            scheduler_config=SchedulerConfig(
                class_name="DDIMScheduler",
                num_train_timesteps=1000,
                beta_schedule="scaled_linear",
                beta_start=0.00085,
                beta_end=0.020,
                timestep_spacing="trailing",
                steps_offset=1,
                clip_sample=False,
            ),
        ),
        Path(model),
    )
    export(Path(data), World(0, size=SIZE), SCENES)
