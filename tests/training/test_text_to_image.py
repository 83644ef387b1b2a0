"""The text-to-image task: cache or pixels, the same samples; exports open in the pipeline's way."""

import dataclasses
import shlex

import numpy as np
import pytest
import torch
from PIL import Image
from run_task import opened
from tiny_runs import build_parts

from latentdiff.cli import main as cli
from latentdiff.data.captions import CaptionConfig
from latentdiff.data.rendered.pixel_pool import PixelPool
from latentdiff.data.rendered.scene_pictures import row_of
from latentdiff.diffusion import objective
from latentdiff.diffusion.objective import loss_weights
from latentdiff.errors import UserError
from latentdiff.models import bundle
from latentdiff.models.autoencoder import Autoencoder
from latentdiff.models.denoiser import predict
from latentdiff.pixels import to_pixels
from latentdiff.scenes.captions import vocabulary
from latentdiff.scenes.catalog import SUBJECTS
from latentdiff.train_scripts.text_to_image import draw
from latentdiff.training.recipes.snowglobe_parts import assemble, encode_pool
from latentdiff.training.tasks import text_to_image
from latentdiff.training.tasks import vae_task as vae


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """A pool, an autoencoder, a CLIP and a cache of tiny size."""
    root = build_parts(tmp_path_factory.mktemp("parts"))
    encode_pool(root / "vae", root / "pool", root / "cache")
    return root


def config(parts, **changes):
    base = dataclasses.replace(
        text_to_image.PRESETS["tiny"],
        vae=parts / "vae",
        clip=parts / "clip",
        pool=parts / "pool",
        cache=parts / "cache",
    )
    return dataclasses.replace(base, **changes)


@pytest.fixture(scope="module")
def task(parts):
    return opened(text_to_image.TextToImageTask, config(parts))


def test_a_batch_is_a_function_of_the_positions_alone(task):
    together = task.batch([5, 30])
    for k, position in enumerate((5, 30)):
        alone = task.batch([position])
        for name in together:
            assert torch.equal(together[name][k], alone[name][0]), name


def test_cached_moments_and_pictures_make_the_same_samples(parts, task):
    direct = opened(text_to_image.TextToImageTask, config(parts, cache=None))
    cached, pictured = task.batch(range(6)), direct.batch(range(6))
    assert torch.equal(cached["input_ids"], pictured["input_ids"])
    made = direct.module.inputs(pictured)
    assert torch.equal(made["t"], cached["t"])
    assert torch.equal(made["weight"], cached["weight"])
    torch.testing.assert_close(made["target"], cached["target"])
    torch.testing.assert_close(made["x_t"], cached["x_t"], atol=5e-3, rtol=0)


def test_a_row_gets_new_noise_time_and_words_at_each_visit(task):
    order = [row_of(p, 12, 0) for p in range(24)]
    second = 12 + order[12:].index(order[0])
    batch = task.batch([0, second])
    for name in ("t", "target", "x_t"):
        assert not torch.equal(batch[name][0], batch[name][1]), name


def test_weights_are_those_of_min_snr(task):
    batch = task.batch(range(32))
    table = loss_weights(task.schedule, weighting="min_snr", gamma=5.0)
    torch.testing.assert_close(batch["weight"], table[batch["t"]].float())


def test_caption_dropout_empties_its_share(parts):
    task = opened(
        text_to_image.TextToImageTask, config(parts, captions=CaptionConfig(caption_dropout=0.5))
    )
    empty = task.tokens([""])[0]
    ids = task.batch(range(400))["input_ids"]
    share = (ids == empty).all(dim=1).float().mean()
    assert 0.4 < share < 0.6


def test_only_the_unet_learns_and_all_of_it(task):
    loss = task.module(task.batch(range(2)))["loss"]
    loss.backward()
    named = dict(task.module.named_parameters())
    assert all(name.startswith("unet.") for name in named)
    assert [name for name, p in named.items() if p.grad is None] == []
    assert all(p.grad is None for p in task.networks.text_encoder.parameters())
    task.module.zero_grad()


def test_an_untrained_unet_says_zero_and_its_mse_is_that_of_noise(task):
    out = task.module(task.batch(range(64)))
    assert 0.5 < float(out["mse"]) < 2.0


def test_the_export_opens_as_a_whole_model_and_starts_another_run(task, parts, tmp_path):
    task.export(task.module, tmp_path)
    whole = bundle.load(tmp_path)
    assert whole.scheduler_config.timestep_spacing == "trailing"
    assert whole.scheduler_config.beta_end == 0.020
    other = opened(
        text_to_image.TextToImageTask,
        config(parts, train=dataclasses.replace(task.config.train, seed=9)),
    )
    other.initialise(tmp_path)
    assert torch.equal(
        other.module.unet.state_dict()["conv_in.weight"],
        task.module.unet.state_dict()["conv_in.weight"],
    )


def test_the_sheet_is_what_generate_draws(parts, tmp_path):
    train = dataclasses.replace(text_to_image.PRESETS["tiny"].train, run_dir=tmp_path)
    task = opened(
        text_to_image.TextToImageTask, config(parts, train=train, sheet_guidance=3.0), draw=draw
    )
    (tmp_path / "export").mkdir()
    task.export(task.module, tmp_path / "export")
    sheet = task.sheet(task.module.eval(), 0)
    assert sheet.image.size == (4 * 34 + 2, 2 * 34 + 2)
    for k in (0, 5):
        command = shlex.split(sheet.commands[k])
        assert command[:3] == ["latentdiff", "generate", sheet.prompts[k]]
        assert cli.run([*command[1:], "-o", str(tmp_path / "again.png")]) == 0
        x, y = 2 + 34 * (k % 4), 2 + 34 * (k // 4)
        drawn = np.asarray(sheet.image)[y : y + 32, x : x + 32].astype(int)
        again = np.asarray(Image.open(tmp_path / "again.png")).astype(int)
        assert np.abs(drawn - again).max() <= 1


def test_validation_measures_the_same_pairs_of_both_groups_each_time(task):
    first, second = (task.validate(task.module, step) for step in (0, 1))
    assert first.same_pairs(second)
    assert np.array_equal(first.losses, second.losses)
    assert np.isfinite(first.losses).all()
    assert sorted(set(first.group)) == ["held-out", "train"]
    assert len(set(first.ids)) == 8


def test_a_cache_of_another_encoder_is_refused(parts, tmp_path):
    other = opened(
        vae.VaeTask,
        dataclasses.replace(
            vae.PRESETS["tiny"], train=dataclasses.replace(vae.PRESETS["tiny"].train, seed=3)
        ),
    )
    other.export(other.module, tmp_path)
    with pytest.raises(UserError, match="stale"):
        opened(text_to_image.TextToImageTask, config(parts, vae=tmp_path))


def test_missing_parts_are_named(parts):
    with pytest.raises(UserError, match="--vae and --clip"):
        opened(text_to_image.TextToImageTask, text_to_image.PRESETS["tiny"])
    with pytest.raises(UserError, match="give --pool too"):
        config(parts, pool=None)


def test_the_assembled_folder_is_a_model_with_its_card(task, parts, tmp_path):
    (tmp_path / "export").mkdir()
    task.export(task.module, tmp_path / "export")
    folder = assemble(
        tmp_path / "model",
        unet=tmp_path / "export",
        clip=parts / "clip",
        pool=parts / "pool",
        judge=None,
    )
    whole = bundle.load(folder)
    world = PixelPool(parts / "pool").spec.world()
    assert whole.card["subjects"] == [SUBJECTS[key].name for key in world.subjects]
    assert whole.card["vocabulary"] == list(vocabulary(world.subjects))
    assert whole.preview is not None
    assert (folder / "clip_vision" / "config.json").is_file()


def test_what_training_minimises_is_the_loss_that_is_tested(parts):
    task = opened(
        text_to_image.TextToImageTask,
        config(parts, cache=None, prediction_type="v_prediction", weighting="min_snr"),
    )
    batch, module, autoencoder = task.batch(range(4)), task.module, Autoencoder(task.networks.vae)
    with torch.no_grad():
        moments = autoencoder.encode_moments(to_pixels(batch["images"])).float()
        x_0 = autoencoder.sample(moments, batch["posterior"])
        made = module.inputs(batch)
        prediction = predict(module.unet, made["x_t"], made["t"], made["context"])
        expected = objective.loss(
            prediction,
            x_0,
            made["x_t"],
            batch["eps"],
            batch["t"],
            task.schedule,
            prediction_type="v_prediction",
            weighting="min_snr",
        )
        assert torch.equal(module(batch)["loss"], expected.loss)
