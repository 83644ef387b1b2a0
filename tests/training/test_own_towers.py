"""An autoencoder and a CLIP of one's own: trained on one's own images, and what is refused."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from own_data import WORDS, make_images
from run_task import opened, run_task

from latentdiff.config import from_dict
from latentdiff.data.captions import CaptionConfig
from latentdiff.errors import UserError
from latentdiff.models.autoencoder import Autoencoder
from latentdiff.pixels import to_pixels
from latentdiff.training.feeds.data_config import DataConfig
from latentdiff.training.frozen import load_text_encoder, load_vae
from latentdiff.training.tasks import clip_task as clip
from latentdiff.training.tasks import vae_task as vae
from latentdiff.training.train_config import TrainConfig

TRAIN = TrainConfig(
    batch_size=4,
    steps=4,
    warmup_steps=1,
    log_every=1,
    validate_every=2,
    sheet_every=0,
    tensorboard=False,
    device="cpu",
)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return make_images(tmp_path_factory.mktemp("data") / "images")


def of_vae(images, run_dir, *, crop=16, train=TRAIN, **sizes):
    own = from_dict(DataConfig, {"data": str(images), "validation_share": 0.3, "sizes": sizes})
    train = dataclasses.replace(train, run_dir=run_dir)
    return dataclasses.replace(vae.PRESETS["tiny"], pictures=own, crop=crop, train=train)


def of_clip(images, run_dir, *, train=TRAIN, sizes=None, **changes):
    own = {"data": str(images), "validation_share": 0.3, "sizes": {"upscale": True}}
    own = from_dict(DataConfig, own if sizes is None else {**own, "sizes": sizes})
    train = dataclasses.replace(train, run_dir=run_dir)
    return dataclasses.replace(clip.PRESETS["tiny"], pictures=own, train=train, **changes)


def events(run_dir, kind):
    lines = map(json.loads, (run_dir / "log.jsonl").read_text().splitlines())
    return [line for line in lines if line["event"] == kind]


def test_an_autoencoder_learns_ones_own_images_and_exports_unit_variance(images, tmp_path):
    config = of_vae(images, tmp_path / "run")
    task = opened(vae.VaeTask, config)
    result = run_task(task, config.train, settings=config)
    assert result.step == 4 and {"psnr", "psnr_pca"} == set(result.validation)
    exported = Autoencoder(load_vae(result.export))
    latents = []
    for image in task.data.trained(99):
        with torch.no_grad():
            moments = exported.encode_moments(to_pixels(torch.from_numpy(image[None])))
        latents.append(moments.chunk(2, dim=1)[0].flatten(2)[0])
    std, mean = torch.std_mean(torch.cat(latents, dim=1), dim=1)
    assert mean.abs().max() < 0.02 and (std - 1).abs().max() < 0.02
    data = json.loads((tmp_path / "run" / "data.json").read_text())
    assert data["fingerprint"] == task.fingerprint and data["held out"] == 4


def test_crops_are_pieces_of_the_images_and_a_function_of_the_positions(images, tmp_path):
    task = opened(vae.VaeTask, of_vae(images, tmp_path / "run"))
    for first in range(0, 24, 4):
        positions = range(first, first + 4)
        batch = task.batch(positions)
        whole = task.data.feed.samples(positions).images
        assert batch["images"].shape[1:3] == (16, 16) and not batch["boxes"].any()
        assert batch["noise"].shape[2:] == (4, 4)
        for k, position in enumerate(positions):
            cut = batch["images"][k].numpy()
            windows = np.lib.stride_tricks.sliding_window_view(whole[k], (16, 16, 3))
            assert (windows == cut).all(axis=(-3, -2, -1)).any()
            alone = task.batch([position])
            assert all(torch.equal(batch[name][k], alone[name][0]) for name in batch)


def test_an_image_smaller_than_the_crop_is_taken_whole(images, tmp_path):
    task = opened(vae.VaeTask, of_vae(images, tmp_path / "run", crop=32))
    shapes = {tuple(task.batch(range(k, k + 4))["images"].shape[1:3]) for k in range(0, 40, 4)}
    assert (32, 32) in shapes and len(shapes) == 2
    assert all(height <= 32 and width <= 32 for height, width in shapes)


def test_an_autoencoder_needs_no_captions(tmp_path):
    folder = make_images(tmp_path / "images")
    (folder / "metadata.jsonl").unlink()
    task = opened(vae.VaeTask, of_vae(folder, tmp_path / "run"))
    assert len(task.data.feed.order) == 10


def test_a_clip_learns_the_words_of_ones_own_captions(images, tmp_path):
    config = of_clip(images, tmp_path / "run")
    task = opened(clip.ClipTask, config)
    words = sorted({word for caption in WORDS for word in caption.split()})
    ids = task.tokens(words)
    assert ((ids != task.tokenizer.eos_token_id).sum(dim=1) == 2).all()
    batch = task.batch(range(8))
    assert batch["images"].shape[1:] == (32, 32, 3)
    same = batch["group"][:, None] == batch["group"][None, :]
    alike = (batch["input_ids"][:, None] == batch["input_ids"][None, :]).all(dim=2)
    assert torch.equal(same, alike)
    result = run_task(task, config.train, settings=config)
    assert {"picture_to_text", "text_to_picture"} < set(result.validation)
    _, tokenizer = load_text_encoder(result.export)
    assert tokenizer.get_vocab() == task.tokenizer.get_vocab()


def test_a_run_goes_on_from_another_with_its_words(images, tmp_path):
    config = of_clip(images, tmp_path / "first")
    first = run_task(opened(clip.ClipTask, config), config.train, settings=config)
    other = make_images(tmp_path / "others", captions=("a green frog", "a cat"))
    train = dataclasses.replace(TRAIN, init_from=first.run_dir)
    config = of_clip(other, tmp_path / "second", train=train)
    task = opened(clip.ClipTask, config)
    assert run_task(task, config.train, settings=config).step == 4
    _, before = load_text_encoder(first.export)
    assert task.tokenizer.get_vocab() == before.get_vocab()


@pytest.mark.parametrize("kind", ["vae", "clip"])
def test_a_resumed_run_goes_on_as_if_it_had_not_stopped(kind, images, tmp_path):
    of, task_class = (of_vae, vae.VaeTask) if kind == "vae" else (of_clip, clip.ClipTask)
    for name, sittings in (("whole", [{}]), ("parts", [{"stop_at": 2}, {"resume": True}])):
        for changes in sittings:
            train = dataclasses.replace(TRAIN, validate_every=0, **changes)
            config = of(images, tmp_path / name, train=train)
            run_task(opened(task_class, config), config.train, settings=config)
    whole, parts = (
        [line["loss"] for line in events(tmp_path / name, "train")] for name in ("whole", "parts")
    )
    assert whole == parts and len(whole) == 4


@pytest.mark.parametrize("kind", ["vae", "clip"])
def test_a_broken_image_is_left_out_and_named(kind, tmp_path):
    folder = make_images(tmp_path / "images", sizes=((32, 32),) * 12)
    (folder / "03.png").write_bytes(b"no picture")
    of, task_class = (of_vae, vae.VaeTask) if kind == "vae" else (of_clip, clip.ClipTask)
    task = opened(task_class, of(folder, tmp_path / "run"))
    (line,) = (tmp_path / "run" / "bad_samples.jsonl").read_text().splitlines()
    assert json.loads(line)["id"] == "03.png"
    assert "03.png" not in task.sample_names(range(48))


def test_images_that_a_clip_cannot_take_are_named_with_the_way_out(tmp_path):
    folder = make_images(tmp_path / "images", sizes=((32, 32),) * 8 + ((24, 24),) * 8)
    with pytest.raises(UserError, match=r"24x24 px.*--upscale enlarges it"):
        opened(clip.ClipTask, of_clip(folder, tmp_path / "run", sizes={}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"captions": CaptionConfig(caption_dropout=0.1)}, "leave caption_dropout at 0"),
        (
            {"captions": CaptionConfig(caption_dropout=0.0, long_captions="chunk")},
            "use --long-captions truncate",
        ),
        ({"vocabulary": 100}, "expected 514"),
        ({"sizes": {"resolution": 64}}, "squares of 32 px"),
    ],
)
def test_what_a_clip_cannot_learn_from_is_refused(changes, message, images, tmp_path):
    with pytest.raises(UserError, match=message):
        of_clip(images, tmp_path, **changes)
