"""peft's layers in our networks: what trains, from where it starts, and what is left as it was."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import loras
import pytest
import tiny
import torch
from torch import Tensor, nn

from latentdiff.errors import UserError
from latentdiff.models import bundle as bundles
from latentdiff.models.lora.formats import KOHYA_NAME, PEFT_NAME, read_lora
from latentdiff.models.lora.layers import (
    LoraConfig,
    LoraMetadata,
    add_lora,
    initialise_lora,
    lora_pairs,
    lora_state,
    merged_copy,
    save_lora,
)
from latentdiff.training.optimizers.ema import AveragedWeights
from latentdiff.training.optimizers.guarded_step import trained_parameters
from latentdiff.training.run.live_parts import to_channels_last


def predict(unet: Any, context: Tensor | None = None) -> Tensor:
    draw = torch.Generator().manual_seed(4)
    x = torch.randn(2, 4, 8, 8, generator=draw)
    if context is None:
        context = torch.randn(2, 24, 32, generator=draw)
    out: Tensor = unet(x, torch.tensor([10, 700]), encoder_hidden_states=context).sample
    return out


def paths(network: nn.Module) -> set[str]:
    return {name.rpartition(".lora_")[0] for name in lora_state(network)}


def test_a_fresh_lora_changes_nothing_to_the_last_bit() -> None:
    bundle = loras.copy_of(tiny.tiny())
    ids = torch.arange(24)[None]
    before, words = predict(bundle.unet), bundle.text_encoder(ids).last_hidden_state
    add_lora(bundle.unet, bundle.text_encoder, LoraConfig(targets="all"), seed=0)
    assert torch.equal(predict(bundle.unet), before)
    assert torch.equal(bundle.text_encoder(ids).last_hidden_state, words)


def test_only_the_pairs_train_in_float32_whatever_the_base_is() -> None:
    bundle = loras.copy_of(tiny.tiny())
    bundle.unet.to(torch.bfloat16)
    bundle.unet.requires_grad_(True)
    names = add_lora(bundle.unet, bundle.text_encoder, LoraConfig(), seed=0)
    trains = trained_parameters(bundle.unet)
    words = trained_parameters(bundle.text_encoder)
    assert names == [f"unet.{n}" for n in trains] + [f"text_encoder.{n}" for n in words]
    assert names
    for name, parameter in (trains | words).items():
        assert ".lora_A." in name or ".lora_B." in name
        assert parameter.dtype == torch.float32
    frozen = [p for p in bundle.unet.parameters() if not p.requires_grad]
    assert {p.dtype for p in frozen} == {torch.bfloat16}
    assert len(frozen) == len(list(tiny.tiny().unet.parameters()))


@pytest.mark.parametrize(
    ("targets", "layers", "examples"),
    [
        ("attention", 8 * 16, ["attn1.to_q", "attn2.to_out.0"]),
        ("attention+ff", 12 * 16, ["proj_in", "proj_out", "ff.net.0.proj", "ff.net.2"]),
        ("all", 12 * 16 + 22 * 3 + 14 + 6, ["conv1", "conv_shortcut", "time_emb_proj"]),
    ],
)
def test_the_targets_are_what_they_say(targets: Any, layers: int, examples: list[str]) -> None:
    # Stable Diffusion's U-Net: 16 transformers; 22 residual blocks, 14 with a shortcut (12 of them
    # in the decoder); 3 down- and 3 upsamplers.
    unet = copy.deepcopy(tiny.stable_diffusion_1().unet)
    add_lora(unet, None, LoraConfig(targets=targets, rank=1), seed=0)
    found = paths(unet)
    assert len(found) == layers
    assert all(any(path.endswith(f".{end}") for path in found) for end in examples)
    assert not [path for path in found if path.startswith(("conv_", "time_embedding"))]


def test_the_text_encoder_is_adapted_exactly_when_it_is_given() -> None:
    alone, both = loras.copy_of(tiny.tiny()), loras.copy_of(tiny.tiny())
    names = add_lora(alone.unet, None, LoraConfig(), seed=0)
    assert names and all(name.startswith("unet.") for name in names)
    assert len(add_lora(both.unet, both.text_encoder, LoraConfig(), seed=0)) > len(names)
    assert lora_state(both.text_encoder)


def test_the_start_is_addressed_by_seed_and_layer_and_draws_from_nothing_else() -> None:
    def start(seed: int, *, words: bool = False, **settings: Any) -> dict[str, Tensor]:
        bundle = loras.copy_of(tiny.tiny())
        torch.manual_seed(seed * 100)
        state = torch.get_rng_state()
        encoder = bundle.text_encoder if words else None
        add_lora(bundle.unet, encoder, LoraConfig(**settings), seed)
        assert torch.equal(torch.get_rng_state(), state)
        return lora_state(bundle.unet)

    one, same, other = start(1), start(1, words=True, targets="all"), start(2)
    drawn = [name for name in one if ".lora_A." in name]
    one = {name: value.detach() for name, value in one.items()}
    assert all(torch.equal(one[name], same[name]) for name in drawn)
    assert not any(torch.equal(one[name], other[name]) for name in drawn)
    square = [one[name] for name in drawn if one[name].shape == (16, 32)]
    assert len({float(value.sum()) for value in square}) == len(square)
    for name in drawn:
        bound = 1 / math.sqrt(one[name].shape[1])
        assert 0.9 * bound < float(one[name].abs().max()) <= bound
    assert not any(float(value.abs().max()) for name, value in one.items() if name not in drawn)


def test_gradient_checkpointing_gives_the_same_gradients() -> None:
    def gradients(checkpointing: bool) -> list[Tensor]:
        unet = loras.trained(tiny.tiny(), targets="all").unet.train()
        if checkpointing:
            unet.enable_gradient_checkpointing()
        predict(unet).square().mean().backward()
        return [p.grad for p in trained_parameters(unet).values() if p.grad is not None]

    plain, checked = gradients(False), gradients(True)
    assert len(plain) == len(checked) > 0
    assert all(torch.equal(a, b) for a, b in zip(plain, checked, strict=True))


def test_the_averaged_copy_shares_the_frozen_base_and_saves_its_own_pairs(tmp_path: Path) -> None:
    unet = loras.trained(tiny.tiny()).unet
    averaged = AveragedWeights(unet, decay=0.5)
    base = {n: p for n, p in unet.named_parameters() if not p.requires_grad}
    copied = dict(averaged.module.named_parameters())
    assert all(copied[name] is parameter for name, parameter in base.items())
    with torch.no_grad():
        for parameter in trained_parameters(unet).values():
            parameter.add_(1.0)
    averaged.update(step=10)
    mine, theirs = lora_state(averaged.module), lora_state(unet)
    assert mine.keys() == theirs.keys()
    assert all(torch.allclose(mine[n], theirs[n] - 0.5, atol=1e-5) for n in mine)
    file, _ = save_lora(tmp_path, averaged.module, None, LoraMetadata())
    pair = read_lora(file).changes["unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"]
    name = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q.lora_B.weight"
    assert torch.equal(pair.up, mine[name])


def test_channels_last_changes_neither_the_prediction_nor_the_file(tmp_path: Path) -> None:
    plain = loras.trained(tiny.tiny(), targets="all")
    nhwc = loras.trained(tiny.tiny(), targets="all")
    to_channels_last(nhwc.unet)
    # float32 sums in another order
    assert torch.allclose(predict(plain.unet), predict(nhwc.unet), atol=1e-5, rtol=1e-4)
    one, other = loras.saved(plain, tmp_path / "1"), loras.saved(nhwc, tmp_path / "2")
    assert [p.read_bytes() for p in one] == [p.read_bytes() for p in other]


def test_dropout_acts_in_training_only() -> None:
    unet = loras.trained(tiny.tiny(), dropout=0.5).unet
    still = loras.trained(tiny.tiny()).unet
    assert torch.equal(predict(unet.eval()), predict(still.eval()))
    assert not torch.equal(predict(unet.train()), predict(still.train()))


def test_a_few_steps_teach_the_pairs_and_leave_the_base() -> None:
    bundle = loras.copy_of(tiny.tiny())
    unet = bundle.unet
    add_lora(unet, None, LoraConfig(rank=4), seed=0)
    base = {n: p.clone() for n, p in unet.named_parameters() if not p.requires_grad}
    wanted = predict(tiny.tiny("v_prediction").unet) * 0.5
    optimizer = torch.optim.AdamW(trained_parameters(unet).values(), lr=1e-2)
    losses = []
    for _ in range(12):
        loss = (predict(unet) - wanted).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.8 * losses[0]
    now = dict(unet.named_parameters())
    assert all(torch.equal(now[name], value) for name, value in base.items())


@pytest.mark.parametrize("layout", [PEFT_NAME, KOHYA_NAME])
def test_training_goes_on_from_either_file_with_the_same_bits(layout: str, tmp_path: Path) -> None:
    adapted = loras.trained(tiny.tiny(), targets="all")
    loras.saved(adapted, tmp_path)
    fresh = loras.copy_of(tiny.tiny())
    config = LoraConfig(rank=4, alpha=6.0, targets="all")
    add_lora(fresh.unet, fresh.text_encoder, config, seed=9)
    initialise_lora(tmp_path / layout, fresh.unet, fresh.text_encoder)
    for network, other in ((adapted.unet, fresh.unet), (adapted.text_encoder, fresh.text_encoder)):
        mine, theirs = lora_state(network), lora_state(other)
        assert mine.keys() == theirs.keys()
        assert all(torch.equal(mine[name], theirs[name]) for name in mine)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"rank": 8}, "halves"),
        ({"alpha": 4.0}, "alpha 6.0, this run 4.0"),
        ({"targets": "attention+ff"}, "layers differ"),
        ({"text_encoder": False}, "layers differ"),
    ],
)
def test_training_does_not_go_on_from_a_lora_of_another_form(
    changed: dict[str, Any], words: str, tmp_path: Path
) -> None:
    loras.saved(loras.trained(tiny.tiny()), tmp_path)
    fresh = loras.copy_of(tiny.tiny())
    settings: dict[str, Any] = {"rank": 4, "alpha": 6.0} | changed
    encoder = fresh.text_encoder if settings.pop("text_encoder", True) else None
    add_lora(fresh.unet, encoder, LoraConfig(**settings), seed=0)
    with pytest.raises(UserError, match=words):
        initialise_lora(tmp_path, fresh.unet, fresh.text_encoder)


def test_a_merged_copy_is_a_plain_network_that_predicts_the_same(tmp_path: Path) -> None:
    adapted = loras.trained(tiny.tiny(), targets="all")
    before = predict(adapted.unet)
    plain = merged_copy(adapted.unet)
    assert list(plain.state_dict()) == list(tiny.tiny().unet.state_dict())
    assert torch.allclose(predict(plain), before, atol=2e-4)
    assert not torch.allclose(predict(tiny.tiny().unet), before, atol=1e-1)
    assert torch.equal(predict(adapted.unet), before)
    whole = loras.copy_of(tiny.tiny())
    bundle = bundles.Bundle(
        unet=plain,
        vae=whole.vae,
        text_encoder=merged_copy(adapted.text_encoder),
        tokenizer=whole.tokenizer,
        scheduler_config=whole.scheduler_config,
    )
    opened = bundles.load(bundles.save(bundle, tmp_path / "model"))
    assert torch.equal(predict(opened.unet), predict(plain))


def test_a_wrapped_network_is_never_saved_as_a_model(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="merge first"):
        bundles.save(loras.trained(tiny.tiny()), tmp_path / "model")


def test_nan_in_a_pair_is_not_saved(tmp_path: Path) -> None:
    adapted = loras.trained(tiny.tiny())
    with torch.no_grad():
        next(iter(lora_state(adapted.unet).values()))[0, 0] = math.nan
    with pytest.raises(UserError, match="NaN or infinity; not saved"):
        loras.saved(adapted, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "settings",
    [{"rank": 0}, {"alpha": 0.0}, {"alpha": math.inf}, {"dropout": 1.0}, {"targets": "most"}],
)
def test_settings_that_make_no_lora_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"a LoRA's|LoRA targets"):
        LoraConfig(**settings)


def test_alpha_is_the_rank_unless_given() -> None:
    unet = copy.deepcopy(tiny.tiny().unet)
    add_lora(unet, None, LoraConfig(rank=5), seed=0)
    assert {pair.alpha for pair in lora_pairs(unet).values()} == {5.0}
