"""Features by the embedded CLIP or by any vision model of transformers, from its folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from latentdiff.errors import UserError
from latentdiff.measure import vision_features


def pictures(count: int = 3) -> list[np.ndarray]:
    return [
        np.random.default_rng(n).integers(0, 256, (40 + n, 50, 3)).astype(np.uint8)
        for n in range(count)
    ]


def save(model: object, folder: Path) -> Path:
    from transformers import CLIPImageProcessor

    torch.manual_seed(0)
    model.save_pretrained(folder)
    sides = {"size": {"shortest_edge": 28}, "crop_size": {"height": 28, "width": 28}}
    CLIPImageProcessor(**sides).save_pretrained(folder)
    return folder


def test_the_embedded_tower_sees_pictures_one_by_one() -> None:
    features = vision_features.load()
    together = features.embed(pictures())
    assert together.shape == (3, 192) and together.dtype == np.float32 and features.is_clip
    for n, picture in enumerate(pictures()):
        np.testing.assert_allclose(features.embed([picture])[0], together[n], atol=1e-4)


def test_a_dinov2_gives_its_pooled_output(tmp_path: Path) -> None:
    from transformers import AutoImageProcessor, Dinov2Config, Dinov2Model

    config = Dinov2Config(
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=28,
        patch_size=14,
    )
    model = Dinov2Model(config).eval()
    folder = save(model, tmp_path / "dino")
    features = vision_features.load(folder)
    found = features.embed(pictures())
    pixels = AutoImageProcessor.from_pretrained(folder)(pictures(), return_tensors="pt")
    with torch.inference_mode():
        expected = model(pixel_values=pixels["pixel_values"]).pooler_output.numpy()
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert not features.is_clip and len(features.digest) == 64


def test_a_clip_gives_its_image_embedding(tmp_path: Path) -> None:
    from transformers import CLIPConfig, CLIPModel

    tower = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = CLIPConfig(
        text_config={**tower, "vocab_size": 50, "intermediate_size": 32},
        vision_config={**tower, "image_size": 28, "patch_size": 14, "intermediate_size": 32},
        projection_dim=24,
    )
    model = CLIPModel(config).eval()
    features = vision_features.load(save(model, tmp_path / "clip"))
    assert features.embed(pictures()).shape == (3, 24) and features.is_clip


@pytest.mark.parametrize(
    ("name", "said"),
    [("nowhere", "no folder nowhere"), ("{empty}", "config.json is missing")],
)
def test_what_is_no_vision_model_is_named(tmp_path: Path, name: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        vision_features.load(name.format(empty=tmp_path))
