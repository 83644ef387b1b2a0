"""A tiny model that brings a judge and a vision tower, for the measuring commands."""

from pathlib import Path

import pytest
import torch

from latentdiff.evaluation import clip_score
from latentdiff.evaluation import judge_network as judging
from latentdiff.models import bundle as bundles
from latentdiff.models.presets import build_clip, build_unet, build_vae, get
from latentdiff.models.tokenizer import build_tokenizer
from latentdiff.scenes.captions import vocabulary
from latentdiff.scenes.catalog import SETTINGS, SUBJECTS
from latentdiff.schedulers.scheduler_config import read_config

SCHEDULER = {
    "_class_name": "DDIMScheduler",
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.02,
    "beta_schedule": "scaled_linear",
    "timestep_spacing": "trailing",
    "clip_sample": False,
    "steps_offset": 1,
    "set_alpha_to_one": True,
    "prediction_type": "epsilon",
}


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model folder with a judge and a vision tower, all with random weights."""
    torch.manual_seed(0)
    tokenizer = build_tokenizer(vocabulary(), get("tiny").max_length)
    clip = build_clip(
        "tiny",
        len(tokenizer),
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    ).eval()
    bundle = bundles.Bundle(
        unet=build_unet("tiny").eval(),
        vae=build_vae("tiny").eval(),
        text_encoder=clip.text_model,
        tokenizer=tokenizer,
        scheduler_config=read_config(SCHEDULER),
    )
    folder = tmp_path_factory.mktemp("models") / "tiny"
    bundles.save(bundle, folder)
    clip_score.save_vision(clip, folder / clip_score.FOLDER)
    (folder / "judge").mkdir()
    judging.save(
        judging.Judge(tuple(SUBJECTS), tuple(SETTINGS), widths=(8, 8, 8)), folder / "judge"
    )
    return folder
