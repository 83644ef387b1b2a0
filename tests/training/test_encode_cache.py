"""A cache gives training what encoding anew would, and encodes again only what has changed."""

import copy
import io
import pickle

import numpy as np
import pytest
import tiny
import torch
from PIL import Image

from latentdiff.conditioning import text
from latentdiff.data.buckets import assign, make_buckets
from latentdiff.data.cache import uses as cache_uses
from latentdiff.data.cache.latent_cache import CONTEXTS, MOMENTS, LatentCache
from latentdiff.data.captions import CaptionConfig, CaptionPolicy
from latentdiff.data.records import BadPicture
from latentdiff.errors import UserError
from latentdiff.models.autoencoder import Autoencoder
from latentdiff.pixels import to_pixels
from latentdiff.training.feeds.cache_identity import text_identity, vae_identity
from latentdiff.training.feeds.encode_cache import (
    Encoders,
    Wanted,
    Work,
    cut,
    ensure_cache,
    scan,
)

BUCKETS = make_buckets(32, multiple=8)


def png(seed, width, height):
    draw = np.random.default_rng(seed)
    small = Image.fromarray(draw.integers(0, 256, (4, 4, 3), np.uint8))
    out = io.BytesIO()
    small.resize((width, height), Image.Resampling.BICUBIC).save(out, "PNG")
    return out.getvalue()


class Pictures:
    """Seven captioned pictures: wide, tall, square, two alike, one broken, one far too small."""

    def __init__(self):
        sizes = [(80, 40), (40, 80), (50, 50), (48, 40), (50, 50), (50, 50), (5, 5)]
        self.data = [png(k, *size) for k, size in enumerate(sizes)]
        self.data[4] = self.data[2]
        self.data[5] = self.data[5][:-30]
        self.words = [("a cat", "a dog"), ("an owl",), (), ("a cat",), ("a fox",), ("",), ("bad",)]
        self.versions = [0] * len(sizes)
        self.reads = []
        self.name = self.summary = "made up"
        self.problems = ()

    def __len__(self):
        return len(self.data)

    def id(self, row):
        return f"picture-{row}"

    def captions(self, row):
        return self.words[row]

    def read(self, row):
        self.reads.append(row)
        return self.data[row]

    def stamp(self, row):
        return f"{row} {self.versions[row]}"

    def edit(self, row, data):
        self.data[row] = data
        self.versions[row] += 1


def encoders(**changes):
    bundle = tiny.tiny()
    given = {"vae": bundle.vae, "text_encoder": bundle.text_encoder, "tokenizer": bundle.tokenizer}
    return Encoders(**{**given, **changes})


class Counted:
    """Counts what the progress display is told was encoded."""

    def __init__(self):
        self.done = {}

    def __call__(self, verb):
        return lambda done, total: self.done.__setitem__(verb, done)

    @property
    def pictures(self):
        return self.done.get("encoded pictures:", 0)

    @property
    def captions(self):
        return self.done.get("encoded captions:", 0)


def opened(folder, source, parts=None, **options):
    """(view, plan, what was encoded)"""
    cache = LatentCache(folder, create=True)
    contents = scan(cache, source)
    plan = assign(contents.sizes, BUCKETS, multiple=8)
    counted = Counted()
    work = Work(
        batch_size=options.pop("batch_size", 3),
        show=counted,
        say=options.pop("say", lambda line: None),
    )
    options = {"texts": CaptionPolicy(CaptionConfig(), 0).texts, **options}
    wanted = Wanted(source=source, contents=contents, plan=plan, **options)
    view = ensure_cache(cache, wanted, parts or encoders(), work)
    return view, plan, counted


def fresh_moments(data, bucket, flip=False):
    pixels = to_pixels(torch.from_numpy(cut(data, bucket, flip=flip)[None]))
    with torch.no_grad():
        return Autoencoder(tiny.tiny().vae).encode_moments(pixels)[0].numpy()


def test_moments_are_those_of_the_picture_in_its_bucket(tmp_path):
    source = Pictures()
    view, plan, _ = opened(tmp_path / "cache", source, flip=True)
    shapes = set()
    for row in range(5):
        for flip in (False, True):
            found = view.moments(row, flip)
            expected = fresh_moments(source.data[row], plan.bucket(row), flip)
            np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
            assert found.dtype == np.float32
        shapes.add(found.shape)
        assert not np.allclose(view.moments(row), view.moments(row, True), atol=1e-3)
    assert len(shapes) == 3


def test_contexts_are_those_of_the_captions_and_of_none(tmp_path):
    view, _, counted = opened(tmp_path / "cache", Pictures())
    bundle = tiny.tiny()
    for caption in ("", "a cat", "a dog", "an owl", "a fox"):
        ids = text.tokenize(bundle.tokenizer, [caption]).input_ids
        expected = text.encode(bundle.text_encoder, ids)[0]
        np.testing.assert_allclose(view.context(caption), expected.numpy(), rtol=1e-5, atol=1e-5)
    assert counted.captions == 6  # "bad" too; the empty one and "a cat" once
    with pytest.raises(KeyError, match="a hat"):
        view.context("a hat")
    without, _, _ = opened(tmp_path / "cache", Pictures(), texts=None)
    assert (view.has_contexts, without.has_contexts) == (True, False)


def test_rows_without_a_usable_picture_say_why(tmp_path):
    view, _, _ = opened(tmp_path / "cache", Pictures())
    assert {row: problem.code for row, problem in view.bad.items()} == {
        5: "truncated",
        6: "too-small",
    }
    with pytest.raises(BadPicture, match="5x5 px, too small"):
        view.moments(6)
    assert len(view) == 7


def test_a_second_start_reads_and_encodes_nothing(tmp_path):
    source = Pictures()
    first, _, counted = opened(tmp_path / "cache", source)
    assert counted.pictures == 5  # two are the same, and the last of them turns out broken
    source.reads.clear()
    again, _, counted = opened(tmp_path / "cache", source)
    assert set(source.reads) <= {5}  # the broken one is tried again
    assert (counted.pictures, counted.captions) == (1, 0)
    assert np.array_equal(again.moments(0), first.moments(0))


def test_an_edited_picture_is_encoded_alone_and_its_old_moments_are_not_met(tmp_path):
    source = Pictures()
    source.data[5] = png(5, 50, 50)
    before, _, _ = opened(tmp_path / "cache", source)
    old = before.moments(3)
    source.edit(3, png(33, 48, 40))
    source.reads.clear()
    after, plan, counted = opened(tmp_path / "cache", source)
    assert counted.pictures == 1
    assert set(source.reads) == {3}
    expected = fresh_moments(source.data[3], plan.bucket(3))
    np.testing.assert_allclose(after.moments(3), expected, rtol=1e-5, atol=1e-5)
    assert not np.allclose(after.moments(3), old, atol=1e-2)


def changed(network, name):
    other = copy.deepcopy(network)
    with torch.no_grad():
        dict(other.named_parameters())[name].view(-1)[0] += 1e-3
    return other


def test_another_encoder_encodes_all_and_both_stay(tmp_path):
    source = Pictures()
    opened(tmp_path / "cache", source)
    other = encoders(vae=changed(tiny.tiny().vae, "encoder.conv_in.bias"))
    _, _, counted = opened(tmp_path / "cache", source, other)
    assert (counted.pictures, counted.captions) == (5, 0)
    _, _, counted = opened(tmp_path / "cache", source)
    assert counted.pictures == 1
    name = next(n for n, _ in tiny.tiny().text_encoder.named_parameters() if "fc1.bias" in n)
    third = encoders(text_encoder=changed(tiny.tiny().text_encoder, name))
    _, _, counted = opened(tmp_path / "cache", source, third)
    assert (counted.pictures, counted.captions) == (1, 6)
    assert len(cache_uses.listed(LatentCache(tmp_path / "cache"))) == 3


def test_identities_change_with_what_decides_values_and_with_nothing_else():
    bundle = tiny.tiny()
    vae, encoder, tokenizer = bundle.vae, bundle.text_encoder, bundle.tokenizer
    base = vae_identity(vae, "float32")
    assert vae_identity(changed(vae, "decoder.conv_in.bias"), "float32") == base
    assert vae_identity(changed(vae, "quant_conv.bias"), "float32") != base
    assert vae_identity(vae, "bfloat16") != base
    settings = copy.deepcopy(vae)
    settings.register_to_config(norm_num_groups=1)
    assert vae_identity(settings, "float32") != base
    words = text_identity(encoder, tokenizer, "error")
    text.tokenize(tokenizer, ["a cat"])  # leaves its cut and padding behind in the tokenizer
    fresh = copy.deepcopy(tokenizer)
    fresh.backend_tokenizer.no_truncation()
    fresh.backend_tokenizer.no_padding()
    assert text_identity(encoder, fresh, "error") == words
    assert text_identity(encoder, tokenizer, "truncate") == words
    assert text_identity(encoder, tokenizer, "chunk") != words
    shorter = copy.deepcopy(tokenizer)
    shorter.model_max_length = 12
    assert text_identity(encoder, shorter, "error") != words


def test_a_long_caption_takes_the_chunks_that_it_needs_or_is_refused(tmp_path):
    source = Pictures()
    long = "a cat in the snow and " * 8 + "a dog"
    source.words[0] = (long, "a cat")
    with pytest.raises(UserError, match=r"over the text encoder's 24 tokens: 'a cat in the snow"):
        opened(tmp_path / "cache", source)
    view, _, _ = opened(tmp_path / "cache", source, encoders(long_captions="chunk"))
    bundle = tiny.tiny()
    ids = text.tokenize(bundle.tokenizer, [long], long="chunk").input_ids
    expected = text.encode(bundle.text_encoder, ids)[0].numpy()
    assert expected.shape[0] > 24
    np.testing.assert_allclose(view.context(long), expected, rtol=1e-5, atol=1e-5)
    assert view.context("a cat").shape[0] == 24


def test_a_view_travels_to_data_loader_workers(tmp_path):
    view, _, _ = opened(tmp_path / "cache", Pictures())
    sent = pickle.loads(pickle.dumps(view))
    assert np.array_equal(sent.moments(2), view.moments(2))
    assert np.array_equal(sent.context("a cat"), view.context("a cat"))


def test_damaged_values_are_a_bad_picture_and_damaged_shards_are_made_again(tmp_path):
    source, folder, said = Pictures(), tmp_path / "cache", []
    opened(folder, source)
    (shard,) = (folder / MOMENTS).iterdir()
    good = shard.read_bytes()
    shard.write_bytes(good[:-9] + bytes([good[-9] ^ 1]) + good[-8:])
    view, _, counted = opened(folder, source)
    codes = []
    for row in range(5):
        try:
            view.moments(row)
        except BadPicture as error:
            codes.append(error.code)
    assert set(codes) == {"cache-damaged"}
    shard.write_bytes(good[:-9])
    view, _, counted = opened(folder, source, say=said.append)
    assert counted.pictures == 5
    assert len(said) == 1
    assert shard.name in said[0]
    assert "dropped" in said[0]
    assert view.moments(4).shape == (8, 8, 8)


def test_a_picture_that_changes_while_the_cache_is_built_is_reported(tmp_path):
    source = Pictures()
    cache = LatentCache(tmp_path / "cache", create=True)
    contents = scan(cache, source)
    source.data[0] = png(99, 80, 40)
    plan = assign(contents.sizes, BUCKETS, multiple=8)
    wanted = Wanted(source=source, contents=contents, plan=plan)
    view = ensure_cache(cache, wanted, encoders())
    assert view.bad[0].code == "changed"
    assert np.isfinite(view.moments(1)).all()


def test_the_use_is_recorded_with_all_its_keys(tmp_path):
    opened(tmp_path / "cache", Pictures(), flip=True)
    (use,) = cache_uses.listed(LatentCache(tmp_path / "cache"))
    assert use.about["data"] == "made up"
    assert use.entries[MOMENTS] == 2 * 6
    assert use.entries[CONTEXTS] == 7
