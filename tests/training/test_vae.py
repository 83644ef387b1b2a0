"""The autoencoder task: crops by address, honest posteriors, exports of unit variance."""

import dataclasses

import numpy as np
import pytest
import torch
from run_task import opened

from latentdiff.errors import UserError
from latentdiff.models.autoencoder import Autoencoder
from latentdiff.pixels import to_pictures, to_pixels
from latentdiff.scenes.records import Placement, SceneRecord
from latentdiff.training.frozen import encoder_hash, load_vae
from latentdiff.training.tasks import vae_task as vae


@pytest.fixture(scope="module")
def task():
    return opened(vae.VaeTask, vae.PRESETS["tiny"])


def test_a_batch_is_a_function_of_the_positions_alone(task):
    together = task.batch([3, 9])
    for k, position in enumerate((3, 9)):
        alone = task.batch([position])
        for name in together:
            assert torch.equal(together[name][k], alone[name][0])


def test_crops_are_cut_from_the_scene_and_boxes_move_along(task):
    batch = task.batch(range(8))
    for k in range(8):
        record = task.data.scenes.record(k)
        whole = task.data.scenes.picture(k)
        dx, dy = np.subtract(record.placements[0].box[:2], batch["boxes"][k, 0, :2].numpy())
        cut = whole[dy : dy + 16, dx : dx + 16]
        assert np.array_equal(batch["images"][k].numpy(), cut)


def test_three_of_four_crops_meet_a_subject(task):
    record = SceneRecord(0, 0, "snow", (Placement("cat", (20, 20, 28, 28), False),))
    corners = [task.data.corner(record, position) for position in range(400)]
    near = np.mean([abs(x - 16) <= 3 and abs(y - 16) <= 3 for x, y in corners])
    assert 0.7 < near < 0.9  # those that are not centred hit the corner too, now and then


def test_boxes_become_a_mask_with_exclusive_ends():
    boxes = torch.tensor([[[1, 0, 3, 2], [0, 0, 0, 0]], [[-4, -4, 2, 1], [3, 3, 9, 9]]])
    mask = vae.inside_boxes(boxes, (4, 4))
    assert mask.shape == (2, 1, 4, 4)
    assert mask[0, 0].nonzero().tolist() == [[0, 1], [0, 2], [1, 1], [1, 2]]
    assert mask[1, 0].nonzero().tolist() == [[0, 0], [0, 1], [3, 3]]


def test_every_parameter_gets_a_gradient_and_the_loss_falls(task):
    module = vae.VaeModule(task.config)
    optimizer = torch.optim.AdamW(module.parameters(), lr=3e-3)
    batch = task.batch(range(4))
    losses = []
    for _ in range(25):
        out = module(batch)
        out["loss"].backward()
        assert all(p.grad is not None for p in module.parameters())
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(out["loss"].detach()))
    assert losses[-1] < 0.7 * losses[0]


def test_an_export_has_unit_variance_says_its_noise_and_draws_the_same(task, tmp_path):
    task.export(task.module, tmp_path)
    exported = Autoencoder(load_vae(tmp_path))
    assert exported.scaling_factor == 1.0
    pictures = np.stack([task.data.scenes.picture(k) for k in range(256)])
    with torch.no_grad():
        moments = exported.encode_moments(to_pixels(torch.from_numpy(pictures)))
        latents = exported.sample(moments, torch.randn(256, 4, 8, 8))
        drawn = to_pictures(exported.decode(exported.mode(moments)))
    assert latents.mean(dim=(0, 2, 3)).abs().max() < 0.01
    assert (latents.std(dim=(0, 2, 3)) - 1).abs().max() < 0.01
    spread = torch.exp(0.5 * moments.chunk(2, dim=1)[1])
    assert (spread - 0.05).abs().max() < 1e-3
    before = np.stack(task.reconstruct(task.module.eval(), pictures))
    assert np.abs(before.astype(int) - drawn).max() <= 1


def test_an_export_is_a_start_and_the_encoder_hash_ignores_the_decoder(task, tmp_path):
    task.export(task.module, tmp_path)
    other = opened(vae.VaeTask, dataclasses.replace(task.config, world_seed=1))
    other.initialise(tmp_path)
    one, two = load_vae(tmp_path), load_vae(tmp_path)
    assert torch.equal(other.module.vae.quant_conv.weight, one.quant_conv.weight)
    with torch.no_grad():
        two.decoder.conv_in.weight += 1
        assert encoder_hash(one) == encoder_hash(two)
        two.encoder.conv_in.weight += 1
    assert encoder_hash(one) != encoder_hash(two)


def test_a_kept_encoder_makes_the_same_latents_and_its_decoder_learns(task, tmp_path):
    task.export(task.module, tmp_path / "old")
    config = dataclasses.replace(task.config, keep_encoder=tmp_path / "old")
    other = opened(vae.VaeTask, config)
    optimizer = torch.optim.AdamW((p for p in other.module.parameters() if p.requires_grad), 3e-3)
    losses = []
    for _ in range(10):
        losses.append(other.module(other.batch(range(4)))["loss"])
        losses[-1].backward()
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < 0.9 * losses[0]
    other.export(other.module, tmp_path / "new")
    old, new = load_vae(tmp_path / "old"), load_vae(tmp_path / "new")
    assert encoder_hash(old) == encoder_hash(new)
    assert not torch.equal(old.decoder.conv_in.weight, new.decoder.conv_in.weight)
    assert old.config.scaling_factor == new.config.scaling_factor
    begun = dataclasses.replace(config.train, init_from=tmp_path / "new")
    with pytest.raises(UserError, match="leave --init-from out"):
        dataclasses.replace(config, train=begun)


def test_validation_prints_the_floor_beside_the_psnr(task):
    numbers = task.validate(task.module.eval(), 0)
    assert set(numbers) == {
        "psnr",
        "psnr_boxes",
        "held_out_psnr",
        "held_out_psnr_boxes",
        "psnr_pca",
    }
    assert 10 < numbers["psnr_pca"] < 60
    # Four unseen scenes and two with held-out subjects, above their reconstructions.
    assert task.sheet(task.module, 0).size == (6 * 34 + 2, 2 * 34 + 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"crop": 18}, "multiple of 4"), ({"crop": 64}, "up to 32"), ({"centred": 2.0}, "centred")],
)
def test_settings_that_cannot_work_are_refused(change, message):
    with pytest.raises(UserError, match=message):
        dataclasses.replace(vae.PRESETS["tiny"], **change)
