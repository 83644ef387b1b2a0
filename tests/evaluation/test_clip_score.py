"""CLIP scores from a split pair of towers equal those of the whole model."""

from pathlib import Path

import numpy as np
import pytest
import torch

from latentdiff.errors import UserError
from latentdiff.evaluation import clip_score
from latentdiff.models.presets import build_clip
from latentdiff.pixels import to_pixels


def tokenize(prompts: list[str]) -> torch.Tensor:
    rows = [[98, *(ord(c) % 90 for c in prompt)][:23] for prompt in prompts]
    return torch.tensor([row + [99] * (24 - len(row)) for row in rows])


@pytest.fixture(scope="module")
def clip() -> torch.nn.Module:
    torch.manual_seed(0)
    return build_clip("tiny", 100, bos_token_id=98, eos_token_id=99).eval()


@pytest.fixture
def pictures() -> np.ndarray:
    draw = np.random.default_rng(0)
    return draw.integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)


PROMPTS = ["a cat in the snow", "a dog", "an owl at night", "a red car", "two foxes"]


def test_scores_equal_the_whole_models(
    clip: torch.nn.Module, pictures: np.ndarray, tmp_path: Path
) -> None:
    clip_score.save_vision(clip, tmp_path)
    scorer = clip_score.load(tmp_path, clip.text_model, tokenize)
    found = scorer.scores(iter(pictures), PROMPTS, batch_size=2)
    with torch.no_grad():
        out = clip(input_ids=tokenize(PROMPTS), pixel_values=to_pixels(pictures))
    expected = 100 * (out.image_embeds * out.text_embeds).sum(-1).clamp(min=0)
    assert np.allclose(found, expected.numpy(), atol=1e-3)
    assert (found > 0).any()


def test_saving_leaves_the_model_as_it_was(clip: torch.nn.Module, tmp_path: Path) -> None:
    before = {name: value.clone() for name, value in clip.state_dict().items()}
    clip_score.save_vision(clip, tmp_path, dtype=torch.float16)
    assert all((before[name] == value).all() for name, value in clip.state_dict().items())
    assert all(value.dtype == torch.float32 for value in clip.state_dict().values())


def test_a_missing_tower_is_named(clip: torch.nn.Module, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no CLIP vision tower in .*--no-clip"):
        clip_score.load(tmp_path, clip.text_model, tokenize)


def test_a_projection_for_another_text_encoder_is_refused(
    clip: torch.nn.Module, tmp_path: Path
) -> None:
    clip_score.save_vision(clip, tmp_path)
    other = build_clip("snowglobe", 100, bos_token_id=98, eos_token_id=99)
    with pytest.raises(UserError, match="the text encoder beside it needs"):
        clip_score.load(tmp_path, other.text_model, tokenize)
