"""Fine-tuning on one's own pictures: what is fed, what is skipped, what learns, what is left."""

import dataclasses
import io
import json
import shutil
import tarfile

import numpy as np
import pytest
import tiny
import torch
from own_data import make_images as make_pictures
from PIL import Image
from run_task import opened, run_task

from latentdiff.config import from_dict
from latentdiff.data.cache import uses as cache_uses
from latentdiff.data.cache.build import Team
from latentdiff.data.cache.latent_cache import LatentCache
from latentdiff.data.captions import CaptionConfig
from latentdiff.errors import UserError
from latentdiff.models.lora.layers import LoraConfig, lora_state
from latentdiff.training.context import RunContext
from latentdiff.training.positions import Positions
from latentdiff.training.tasks.text_to_image import DataConfig, TextToImageConfig, TextToImageTask
from latentdiff.training.train_config import TrainConfig

TRAIN = TrainConfig(
    batch_size=4,
    steps=3,
    warmup_steps=1,
    learning_rate=1e-3,
    log_every=1,
    validate_every=0,
    sheet_every=0,
    checkpoint_minutes=0.0,
    tensorboard=False,
    device="cpu",
)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tiny.save(tiny.tiny(), tmp_path_factory.mktemp("base") / "model")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return make_pictures(tmp_path_factory.mktemp("data") / "pictures")


def nested(**options):
    """Options of DataConfig as they are nested in it."""
    found = {"validation_share": 0.2, "source": {}, "sizes": {}}
    for name, value in options.items():
        of_sizes = name in ("resolution", "buckets", "max_aspect", "upscale")
        of_source = name in ("split", "captions_from", "caption_template")
        place = found["sizes"] if of_sizes else found["source"] if of_source else found
        place[name] = value
    return found


def config(base, data, run_dir, **changes):
    """A tiny full fine-tuning of `base` on `data`."""
    train = dataclasses.replace(TRAIN, run_dir=run_dir, **changes.pop("train", {}))
    own = from_dict(DataConfig, nested(data=str(data), **changes.pop("pictures", {})))
    settings = {"validation_pictures": 4, "validation_pairs": 8, "weighting": "simple"}
    return TextToImageConfig(base=str(base), pictures=own, train=train, **{**settings, **changes})


def losses(run_dir):
    lines = map(json.loads, (run_dir / "log.jsonl").read_text().splitlines())
    return [line["loss"] for line in lines if line["event"] == "train"]


def test_a_batch_is_of_one_bucket_and_a_function_of_the_positions_alone(base, pictures, tmp_path):
    task = opened(TextToImageTask, config(base, pictures, tmp_path))
    shapes = set()
    for first in range(0, 24, 4):
        whole = task.batch(range(first, first + 4))
        shapes.add(tuple(whole["images"].shape[1:3]))
        alone = task.batch([first + 2])
        for name in whole:
            assert torch.equal(whole[name][2], alone[name][0]), name
    assert shapes == {(32, 32), (24, 40)}


def test_held_out_pictures_are_never_trained_on(base, pictures, tmp_path):
    task = opened(TextToImageTask, config(base, pictures, tmp_path))
    seen = {int(row) for row in task.feed.order.rows(range(200))}
    assert seen and not seen & set(task.feed.held)
    assert seen | set(task.feed.held) == set(range(14))
    held = {entry.id for entry in task.feed.held_out(99)}
    assert not held & {entry.id for entry in task.feed.trained(99)}


def test_copies_of_a_picture_are_held_out_together(base, tmp_path):
    data = make_pictures(tmp_path / "pictures")
    for k in range(10):
        shutil.copy(data / "00.png", data / f"{k + 4:02d}.png")
    task = opened(TextToImageTask, config(base, data, tmp_path / "run"))
    copies = {0, *range(4, 14)}
    assert not set(task.feed.held) & copies or copies <= set(task.feed.held)


def test_the_loss_with_a_cache_is_that_without_one(base, pictures, tmp_path):
    for name, cache in (("plain", None), ("cached", tmp_path / "cache")):
        settings = config(base, pictures, tmp_path / name, cache=cache, train={"steps": 20})
        run_task(opened(TextToImageTask, settings), settings.train, settings=settings)
    plain, cached = losses(tmp_path / "plain"), losses(tmp_path / "cached")
    assert len(plain) == 20
    np.testing.assert_allclose(plain, cached, rtol=1e-5, atol=1e-5)


def test_one_data_set_cached_at_two_sizes_is_two_uses_of_the_cache(base, pictures, tmp_path):
    for side in (32, 24, 32):
        settings = config(
            base,
            pictures,
            tmp_path / "run",
            cache=tmp_path / "cache",
            pictures={"resolution": side},
        )
        opened(TextToImageTask, settings)
    uses = cache_uses.listed(LatentCache(tmp_path / "cache"))
    assert sorted(use.about["size"][:5] for use in uses) == ["24 px", "32 px"]


def test_cached_flips_and_contexts_are_those_of_the_uncached_run(base, pictures, tmp_path):
    flipped = {"pictures": {"flip": True}}
    plain = opened(TextToImageTask, config(base, pictures, tmp_path / "a", **flipped))
    cached = opened(
        TextToImageTask, config(base, pictures, tmp_path / "b", cache=tmp_path / "cache", **flipped)
    )
    for first in range(0, 16, 4):
        one, other = (task.batch(range(first, first + 4)) for task in (plain, cached))
        assert "images" in one and "context" in other
        made = plain.module.inputs(one)
        for name in ("x_t", "target", "context"):
            torch.testing.assert_close(made[name], other[name], atol=1e-4, rtol=1e-4)


def test_contexts_are_left_out_of_the_cache_when_asked(base, pictures, tmp_path):
    task = opened(
        TextToImageTask,
        config(base, pictures, tmp_path, cache=tmp_path / "cache", cache_contexts=False),
    )
    batch = task.batch(range(4))
    assert "input_ids" in batch and "context" not in batch and "x_t" in batch
    assert not list((tmp_path / "cache" / "contexts").glob("*.safetensors"))


def test_a_run_does_not_go_on_with_other_data(base, tmp_path):
    data = make_pictures(tmp_path / "pictures")
    settings = config(base, data, tmp_path / "run", train={"stop_at": 1})
    run_task(opened(TextToImageTask, settings), settings.train, settings=settings)
    (data / "03.png").unlink()
    text = (data / "metadata.jsonl").read_text().splitlines()
    (data / "metadata.jsonl").write_text("\n".join(t for t in text if "03.png" not in t) + "\n")
    train = dataclasses.replace(settings.train, resume=True, stop_at=None)
    with pytest.raises(UserError, match=r"not those that the run .* was begun with"):
        run_task(opened(TextToImageTask, settings), train, settings=settings)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_picture_that_breaks_later_is_replaced_and_named(base, tmp_path, workers):
    data = make_pictures(tmp_path / "pictures")
    settings = config(
        base,
        data,
        tmp_path / "run",
        pictures={"bad_sample_limit": 0.2},
        train={"num_workers": workers, "steps": 8},
    )
    task = opened(TextToImageTask, settings)
    broken = next(r for r in range(8) if r not in task.feed.held)
    whole = (data / f"{broken:02d}.png").read_bytes()
    (data / f"{broken:02d}.png").write_bytes(whole[: len(whole) // 2])
    result = run_task(task, settings.train, settings=settings)
    assert result.step == 8
    lines = (tmp_path / "run" / "bad_samples.jsonl").read_text().splitlines()
    assert [json.loads(line)["id"] for line in lines] == [f"{broken:02d}.png"]


def test_a_broken_picture_alone_in_its_bucket_is_replaced_from_another(base, tmp_path):
    data = make_pictures(tmp_path / "pictures", sizes=((32, 32),) * 9 + ((48, 24),))
    task = opened(
        TextToImageTask, config(base, data, tmp_path / "run", pictures={"validation_share": 0})
    )
    (data / "09.png").write_bytes(b"no picture")
    shapes = {tuple(task.batch(range(k, k + 4))["images"].shape[1:3]) for k in range(0, 80, 4)}
    assert shapes == {(32, 32), (24, 40)}


@pytest.mark.parametrize("workers", [0, 1])
def test_too_many_bad_pictures_stop_the_run_in_one_line(base, tmp_path, workers):
    data = make_pictures(tmp_path / "pictures")
    settings = config(base, data, tmp_path / "run", train={"num_workers": workers, "steps": 20})
    task = opened(TextToImageTask, settings)
    for row in range(6):
        (data / f"{row:02d}.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"2 of 14 pictures cannot be used") as caught:
        run_task(task, settings.train, settings=settings)
    assert "\n" not in str(caught.value)


def test_pictures_smaller_than_the_model_can_take_are_named_with_the_way_out(base, tmp_path):
    data = make_pictures(tmp_path / "pictures", sizes=((4, 4),) * 3 + ((32, 32),) * 5)
    with pytest.raises(UserError, match=r"4x4 px.*--upscale enlarges it"):
        opened(TextToImageTask, config(base, data, tmp_path / "run"))
    large = opened(TextToImageTask, config(base, data, tmp_path / "b", pictures={"upscale": True}))
    assert set(large.feed.order.rows(range(64))) | set(large.feed.held) == set(range(8))


def test_a_lora_trains_nothing_but_its_pairs_and_starts_as_the_base(base, pictures, tmp_path):
    settings = config(
        base,
        pictures,
        tmp_path,
        method="lora",
        lora=LoraConfig(rank=2),
        train_text_encoder=True,
    )
    task = opened(TextToImageTask, settings)
    plain = opened(TextToImageTask, config(base, pictures, tmp_path))
    batch = task.batch(range(4))
    torch.testing.assert_close(task.module(batch)["loss"], plain.module(batch)["loss"])
    names = [name for name, p in task.module.named_parameters() if p.requires_grad]
    assert names and all("lora_" in name for name in names)
    assert {name.split(".")[0] for name in names} == {"unet", "text_encoder"}
    task.module(batch)["loss"].backward()
    reached = {n for n, p in task.module.named_parameters() if p.grad is not None and p.grad.any()}
    assert {n for n in names if "lora_B" in n} <= reached


def test_a_lora_run_leaves_what_another_run_starts_from(base, pictures, tmp_path):
    lora = {"method": "lora", "lora": LoraConfig(rank=2), "train": {"ema_decay": 0.0}}
    settings = config(base, pictures, tmp_path / "run", **lora)
    first = opened(TextToImageTask, settings)
    result = run_task(first, settings.train, settings=settings)
    other = opened(TextToImageTask, config(base, pictures, tmp_path / "other", **lora))
    assert not lora_state(other.networks.text_encoder)
    other.initialise(result.export)
    batch = first.batch(range(4))
    torch.testing.assert_close(first.module(batch)["loss"], other.module(batch)["loss"])


def test_a_trained_text_encoder_learns_and_is_exported(base, pictures, tmp_path):
    settings = config(base, pictures, tmp_path / "run", train_text_encoder=True)
    task = opened(TextToImageTask, settings)
    before = {n: p.clone() for n, p in task.module.text_encoder.named_parameters()}
    result = run_task(task, settings.train, settings=settings)
    moved = [n for n, p in task.module.text_encoder.named_parameters() if (p != before[n]).any()]
    assert len(moved) > len(before) / 2
    from latentdiff.models import bundle

    assert (result.export / "text_encoder").is_dir()
    assert bundle.load(result.export).scheduler_config.prediction_type == "epsilon"


def test_offset_noise_shifts_whole_channels(base, pictures, tmp_path):
    plain = opened(TextToImageTask, config(base, pictures, tmp_path)).batch(range(4))["eps"]
    shifted = opened(TextToImageTask, config(base, pictures, tmp_path, offset_noise=0.5))
    shift = shifted.batch(range(4))["eps"] - plain
    torch.testing.assert_close(
        shift, shift.mean(dim=(2, 3), keepdim=True).expand_as(shift), atol=1e-6, rtol=0
    )
    assert 0.1 < float(shift[:, :, 0, 0].std()) < 1.5


def test_gradient_checkpointing_changes_no_gradient(base, pictures, tmp_path):
    found = []
    for on in (False, True):
        task = opened(TextToImageTask, config(base, pictures, tmp_path, gradient_checkpointing=on))
        task.module.train()
        task.module(task.batch(range(4)))["loss"].backward()
        found.append([p.grad for p in task.module.parameters()])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


def test_zero_terminal_snr_is_refused_with_epsilon_and_kept_with_v(base, pictures, tmp_path):
    with pytest.raises(UserError, match="does not go with epsilon"):
        opened(TextToImageTask, config(base, pictures, tmp_path, zero_terminal_snr=True))
    task = opened(
        TextToImageTask,
        config(base, pictures, tmp_path, zero_terminal_snr=True, prediction_type="v_prediction"),
    )
    assert float(task.schedule.alpha_bar[-1]) == 0.0
    task.export(task.module, tmp_path)
    saved = json.loads((tmp_path / "scheduler" / "scheduler_config.json").read_text())
    assert saved["rescale_betas_zero_snr"] is True
    assert saved["timestep_spacing"] == "trailing"


def test_long_captions_are_refused_by_name_and_chunked_without_loss(base, tmp_path):
    long = " and ".join(["a cat in the snow"] * 9)
    data = make_pictures(tmp_path / "pictures", sizes=((32, 32),) * 8, captions=(long, "a fox"))
    with pytest.raises(UserError, match=r"over the text encoder's 24 tokens.*00.png"):
        opened(TextToImageTask, config(base, data, tmp_path))
    task = opened(
        TextToImageTask,
        config(
            base, data, tmp_path, captions=CaptionConfig(long_captions="chunk", caption_dropout=0)
        ),
    )
    batch = task.batch(range(4))
    assert batch["input_ids"].ndim == 3 and batch["input_ids"].shape[1] > 1
    assert "context_mask" in batch
    together = task.module.error(batch).mse
    for k in range(4):
        alone = task.module.error(task.batch([k])).mse
        torch.testing.assert_close(together[k], alone[0], atol=1e-5, rtol=1e-5)


def test_a_prior_takes_its_share_of_the_batches_and_none_of_the_validation(base, tmp_path):
    own = make_pictures(tmp_path / "own")
    prior = make_pictures(tmp_path / "prior", sizes=((32, 32),) * 6, captions=("two dogs",))
    shares = {"prior_data": str(prior), "prior_share": 0.25}
    task = opened(TextToImageTask, config(base, own, tmp_path / "run", pictures=shares))
    names = [task.sample_names(range(k, k + 4)) for k in range(0, 160, 4)]
    alone = opened(TextToImageTask, config(base, own, tmp_path / "alone"))
    of_own = [n for k, n in enumerate(names) if k % 4 != 3]
    assert of_own == [alone.sample_names(range(k, k + 4)) for k in range(0, 120, 4)]
    of_prior = [name for k in range(3, 40, 4) for name in names[k]]
    assert {of_prior.count(name) for name in set(of_prior)} <= {6, 7}
    empty = task.tokens([""])
    two_dogs = task.tokens(["two dogs"])
    for ids in task.batch(range(12, 16))["input_ids"]:
        assert torch.equal(ids, two_dogs[0]) or torch.equal(ids, empty[0])
    assert [e.id for e in task.feed.held_out(9)] == [e.id for e in alone.feed.held_out(9)]
    assert task.fingerprint != alone.fingerprint


def make_shards(folder, count=3, each=8):
    """Tar shards of plain pictures with .txt captions; a picture's grey tells its number."""
    folder.mkdir(parents=True)
    for shard in range(count):
        with tarfile.open(folder / f"{shard:03d}.tar", "w") as tar:
            for k in range(each):
                number = shard * each + k
                pixels = np.full((32, 32, 3), number * 5, np.uint8)
                data = io.BytesIO()
                Image.fromarray(pixels).save(data, "PNG")
                for name, content in (("png", data.getvalue()), ("txt", b"a cat in the snow")):
                    member = tarfile.TarInfo(f"{number:04d}.{name}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
    return folder


def test_a_stream_is_a_function_of_the_positions_on_any_process(base, tmp_path):
    shards = make_shards(tmp_path / "shards")
    settings = config(base, shards, tmp_path / "run", pictures={"stream": True})
    alone = Positions(begin_step=0, begin_position=0, batch_size=4)
    context = RunContext(folder=tmp_path / "run", positions=alone)
    task = opened(TextToImageTask, settings, context=context)

    def seen(task, positions):
        return [int(p[0, 0, 0]) // 5 for p in task.batch(positions)["images"]]

    epoch = [number for k in range(0, 24, 4) for number in seen(task, range(k, k + 4))]
    assert sorted(epoch) == list(range(24))
    later = dataclasses.replace(alone, begin_step=5, begin_position=20)
    context_later = dataclasses.replace(context, positions=later)
    resumed = opened(TextToImageTask, settings, context=context_later)
    assert seen(resumed, range(20, 24)) == epoch[20:]
    again = opened(TextToImageTask, settings, context=context)
    assert seen(again, range(8, 12)) == epoch[8:12] and seen(again, range(4, 8)) == epoch[4:8]
    of_two: list[int] = []
    for rank in range(2):
        positions = Positions(begin_step=0, begin_position=0, batch_size=4, processes=2, rank=rank)
        context = RunContext(
            folder=tmp_path / "run", team=Team(rank, 2, "token"), positions=positions
        )
        half = opened(TextToImageTask, settings, context=context)
        for step in range(6):
            of_two += seen(half, range(4 * step + 2 * rank, 4 * step + 2 * rank + 2))
    assert sorted(of_two) == list(range(24))


def test_a_stream_trains_and_resumes(base, tmp_path):
    shards = make_shards(tmp_path / "shards")
    for name, stops in (("whole", (None,)), ("parts", (2, None))):
        for k, stop in enumerate(stops):
            settings = config(
                base,
                shards,
                tmp_path / name,
                pictures={"stream": True},
                train={"steps": 5, "stop_at": stop, "resume": k > 0},
            )
            run_task(opened(TextToImageTask, settings), settings.train, settings=settings)
    assert losses(tmp_path / "whole") == losses(tmp_path / "parts")


def test_a_missing_folder_and_contradicting_settings_are_one_line(base, pictures, tmp_path):
    with pytest.raises(UserError, match="nowhere"):  # before the base model, which is not there
        opened(TextToImageTask, config(tmp_path / "no base", tmp_path / "nowhere", tmp_path))
    with pytest.raises(UserError, match="nowhere"):
        opened(TextToImageTask, config(base, tmp_path / "nowhere", tmp_path))
    with pytest.raises(UserError, match="--crop center"):
        config(base, pictures, tmp_path, cache=tmp_path, crop="random")
    with pytest.raises(UserError, match="give --base"):
        TextToImageConfig(method="lora")
    with pytest.raises(UserError, match="both --data and --pool"):
        config(base, pictures, tmp_path, pool=tmp_path)
