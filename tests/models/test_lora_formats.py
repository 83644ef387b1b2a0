"""LoRA files: every layout means the same numbers, and bad files are refused in a line."""

from __future__ import annotations

import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import loras
import pytest
import tiny
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from latentdiff.errors import UserError
from latentdiff.models.lora import names
from latentdiff.models.lora.changes import Pair
from latentdiff.models.lora.formats import ADAPTER_METADATA, LoraFile, read_lora, write_lora
from latentdiff.models.lora.metadata import LoraMetadata

MODELS = {
    "tiny": tiny.tiny,
    "sd1": tiny.stable_diffusion_1,
    "sd2": tiny.stable_diffusion_2,
}
TO_Q = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
FC1 = "text_encoder.encoder.layers.1.mlp.fc1"


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def header_of(path: Path) -> dict[str, str]:
    with safe_open(path, framework="pt") as opened:
        return dict(opened.metadata() or {})


def same(one: LoraFile, other: LoraFile) -> bool:
    return one.changes.keys() == other.changes.keys() and all(
        torch.equal(pair.down, other.changes[layer].down)
        and torch.equal(pair.up, other.changes[layer].up)
        and pair.down.dtype == other.changes[layer].down.dtype
        and pair.alpha == other.changes[layer].alpha
        for layer, pair in one.changes.items()
    )


@pytest.mark.parametrize("model", MODELS)
def test_every_layer_is_found_again_under_its_name_in_both_layouts(model: str) -> None:
    bundle = MODELS[model]()
    layers = [
        f"{part}.{name.removeprefix(names.TEXT_PREFIX)}"
        for part in names.PARTS
        for name, module in getattr(bundle, part).named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d)
    ]
    assert len(layers) > 50
    for spelling in (names.peft_key, names.kohya_key):
        keys = {layer: spelling(layer, "down") for layer in layers}
        assert len(set(keys.values())) == len(layers)
        for layer, key in keys.items():
            parsed = names.parse(key)
            assert parsed is not None
            assert (parsed.layer, parsed.role) == (layer, "down")


@pytest.mark.parametrize(
    ("key", "layer"),
    [
        # as kohya-ss/sd-scripts names them
        ("lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q.lora_down.weight", TO_Q),
        ("lora_te_text_model_encoder_layers_1_mlp_fc1.lora_down.weight", FC1),
        ("lora_te1_text_model_encoder_layers_1_mlp_fc1.lora_down.weight", FC1),
        # as diffusers writes them with peft, and peft alone
        ("unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q.lora_A.weight", TO_Q),
        (f"base_model.model.{TO_Q.removeprefix('unet.')}.lora_A.default.weight", TO_Q),
        ("text_encoder.text_model.encoder.layers.1.mlp.fc1.lora_A.weight", FC1),
        (f"{FC1}.lora_A.weight", FC1),
        # as diffusers wrote them before
        ("unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q.lora.down.weight", TO_Q),
        (
            "unet.mid_block.attentions.0.transformer_blocks.0.attn1.processor.to_q_lora.down.weight",
            TO_Q,
        ),
        ("mid_block.attentions.0.transformer_blocks.0.attn1.processor.to_q_lora.down.weight", TO_Q),
        (
            "unet.up_blocks.1.attentions.0.transformer_blocks.0.attn2.processor.to_out_lora.down.weight",
            "unet.up_blocks.1.attentions.0.transformer_blocks.0.attn2.to_out.0",
        ),
        (
            "text_encoder.text_model.encoder.layers.0.self_attn.to_out_lora.down.weight",
            "text_encoder.encoder.layers.0.self_attn.out_proj",
        ),
        ("text_encoder.text_model.encoder.layers.1.mlp.fc1.lora_linear_layer.down.weight", FC1),
    ],
)
def test_the_names_that_others_write_are_read(key: str, layer: str) -> None:
    parsed = names.parse(key)
    assert parsed is not None
    assert (parsed.layer, parsed.role) == (layer, "down")


def test_block_names_of_the_original_code_are_those_that_diffusers_makes_of_them() -> None:
    from diffusers.loaders.lora_conversion_utils import _maybe_map_sgm_blocks_to_diffusers

    inner = ["0_in_layers_2", "0_out_layers_3", "0_emb_layers_1", "1_proj_in"]
    inner += ["1_transformer_blocks_0_attn2_to_out_0", "1_transformer_blocks_0_ff_net_0_proj"]
    keys = [f"lora_unet_input_blocks_{n}_{i}" for n in (1, 2, 4, 5, 7, 8) for i in inner]
    keys += [f"lora_unet_output_blocks_{n}_{i}" for n in range(3, 12) for i in inner]
    keys += [f"lora_unet_input_blocks_{n}_0_op" for n in (3, 6, 9)]
    keys += [f"lora_unet_output_blocks_{n}_2_conv" for n in (5, 8)]
    keys += ["lora_unet_middle_block_1_proj_out", "lora_unet_middle_block_2_in_layers_2"]
    keys += ["lora_unet_input_blocks_4_0_skip_connection"]
    # Their function counts the blocks; the words it leaves to the next one.
    settled = [
        ("input_blocks", "down_blocks"),
        ("output_blocks", "up_blocks"),
        ("middle_block", "mid_block"),
        ("in_layers_2", "conv1"),
        ("out_layers_3", "conv2"),
        ("emb_layers_1", "time_emb_proj"),
        ("skip_connection", "conv_shortcut"),
        ("_op", "_conv"),
    ]
    for key in keys:
        full = f"{key}.lora_down.weight"
        (theirs,) = _maybe_map_sgm_blocks_to_diffusers(
            {full: None}, tiny.stable_diffusion_1().unet.config
        )
        for old, new in settled:
            theirs = theirs.replace(old, new)
        ours, known = names.parse(full), names.parse(theirs)
        assert ours is not None
        assert ours == known, key
    # The first upsampler has no attention before it, which diffusers' function does not know.
    first = names.parse("lora_unet_output_blocks_2_1_conv.lora_down.weight")
    assert first is not None
    assert first.layer == "unet.up_blocks.0.upsamplers.0.conv"


@pytest.mark.parametrize("model", ["tiny", "sd2"])
def test_peft_to_kohya_and_back_is_equal_to_the_bit(model: str, tmp_path: Path) -> None:
    adapted = loras.trained(MODELS[model](), targets="all", alpha=0.3)
    peft, kohya = (read_lora(p) for p in loras.saved(adapted, tmp_path))
    assert (peft.layout, kohya.layout) == ("peft", "kohya")
    assert peft.unknown == kohya.unknown == ()
    back = write_lora(tmp_path / "b.safetensors", kohya.changes, "peft", kohya.metadata)
    again = write_lora(tmp_path / "a.safetensors", read_lora(back).changes, "kohya", kohya.metadata)
    assert same(read_lora(back), kohya)
    assert again.read_bytes() == kohya.path.read_bytes()
    assert load_file(back).keys() == load_file(peft.path).keys()
    for layer, pair in peft.changes.items():
        assert torch.equal(pair.down, kohya.changes[layer].down)
        assert kohya.changes[layer].alpha == pytest.approx(pair.alpha, rel=1e-7)


def test_the_same_lora_is_the_same_file(tmp_path: Path) -> None:
    adapted = loras.trained(tiny.tiny())
    told = {"trigger_words": ("sks", "zorb"), "base": "tiny"}
    one = loras.saved(adapted, tmp_path / "1", **told)
    other = loras.saved(adapted, tmp_path / "2", **told)
    assert [p.read_bytes() for p in one] == [p.read_bytes() for p in other]


def test_ranks_and_alphas_that_differ_by_layer_survive_both_layouts(tmp_path: Path) -> None:
    pairs = {
        TO_Q: Pair(draw(4, 32), draw(32, 4), 2.0),
        TO_Q.replace("to_q", "to_k"): Pair(draw(4, 32), draw(32, 4), 2.0),
        TO_Q.replace("to_q", "to_v"): Pair(draw(2, 32), draw(32, 2), 7.0),
        FC1: Pair(draw(3, 32), draw(128, 3), 1.5),
    }
    for layout in ("peft", "kohya"):
        path = write_lora(tmp_path / f"{layout}.safetensors", pairs, layout, LoraMetadata())  # type: ignore[arg-type]
        read = read_lora(path).changes
        assert {layer: (p.rank, p.alpha) for layer, p in read.items()} == {
            layer: (p.rank, p.alpha) for layer, p in pairs.items()
        }


def test_half_precision_is_kept_as_it_is_stored(tmp_path: Path) -> None:
    pairs = {TO_Q: Pair(draw(4, 32).half(), draw(32, 4).half(), 4.0)}
    file = read_lora(write_lora(tmp_path / "a.safetensors", pairs, "kohya", LoraMetadata()))
    assert file.changes[TO_Q].down.dtype == torch.float16
    back = write_lora(tmp_path / "b.safetensors", file.changes, "peft", file.metadata)
    assert same(read_lora(back), file)


def test_the_change_is_alpha_over_rank_times_b_a() -> None:
    down, up = draw(4, 6), draw(5, 4, seed=1)
    pair = Pair(down, up, 6.0)
    expected = 6.0 / 4.0 * (up.double() @ down.double())
    assert torch.allclose(pair.delta().double(), expected, atol=1e-5)


def test_the_change_of_a_convolution_acts_as_its_two_layers_do() -> None:
    down, up = draw(4, 6, 3, 3), draw(5, 4, 1, 1, seed=1)
    x = draw(2, 6, 7, 7, seed=2)
    two = nn.functional.conv2d(nn.functional.conv2d(x, down, padding=1), up) * 0.5
    one = nn.functional.conv2d(x, Pair(down, up, 2.0).delta(), padding=1)
    assert torch.allclose(one, two, atol=1e-4)


def test_the_tucker_form_acts_as_its_three_layers_do(tmp_path: Path) -> None:
    name = "lora_unet_mid_block_resnets_0_conv1"
    down, mid, up = draw(4, 6, 1, 1), draw(4, 4, 3, 3, seed=1), draw(5, 4, 1, 1, seed=2)
    save_file(
        {
            f"{name}.lora_down.weight": down,
            f"{name}.lora_mid.weight": mid,
            f"{name}.lora_up.weight": up,
            f"{name}.alpha": torch.tensor(4.0),
        },
        tmp_path / "a.safetensors",
    )
    (pair,) = read_lora(tmp_path / "a.safetensors").changes.values()
    x = draw(2, 6, 7, 7, seed=3)
    conv = nn.functional.conv2d
    three = conv(conv(conv(x, down), mid, padding=1), up)
    assert torch.allclose(conv(x, pair.delta(), padding=1), three, atol=1e-3)


def test_alpha_is_read_wherever_a_writer_may_put_it(tmp_path: Path) -> None:
    dotted = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    halves = {"lora_A.weight": draw(4, 32), "lora_B.weight": draw(32, 4)}

    def alpha(prefix: str, header: dict[str, Any] | None, **more: Tensor) -> float:
        tensors = {f"{prefix}{dotted}.{half}": tensor for half, tensor in halves.items()}
        metadata = None if header is None else {ADAPTER_METADATA: json.dumps(header)}
        save_file(tensors | more, tmp_path / "adapter_model.safetensors", metadata=metadata)
        return read_lora(tmp_path / "adapter_model.safetensors").changes[TO_Q].alpha

    assert alpha("unet.", None) == 4.0  # silence: alpha is the rank
    assert alpha("unet.", {"unet.r": 4, "unet.lora_alpha": 9}) == 9.0
    assert alpha("unet.", {"text_encoder.lora_alpha": 9}) == 4.0
    assert alpha("unet.", {"unet.lora_alpha": 9, "unet.alpha_pattern": {"to_q": 3}}) == 3.0
    assert alpha("unet.", {"unet.lora_alpha": 9, "unet.alpha_pattern": {"o_q": 3}}) == 9.0
    assert alpha("unet.", {"unet.lora_alpha": 9, "unet.use_rslora": True}) == 18.0
    assert alpha("unet.", None, **{f"unet.{dotted}.alpha": torch.tensor(2.5)}) == 2.5
    (tmp_path / "adapter_config.json").write_text('{"r": 4, "lora_alpha": 5}')
    assert alpha("base_model.model.", None) == 5.0


def test_metadata_comes_back_and_stays_through_a_conversion(tmp_path: Path) -> None:
    told: dict[str, Any] = {
        "base": "snowglobe",
        "base_sha256": {"unet": "a" * 64, "text_encoder": "b" * 64},
        "data_fingerprint": "c" * 64,
        "trigger_words": ("zorb", "brass lamp"),
        "training_prompt": "a zorb in the snow",
    }
    for path in loras.saved(loras.trained(tiny.tiny()), tmp_path, **told):
        assert read_lora(path).metadata == LoraMetadata(**told)
        assert header_of(path)["modelspec.trigger_phrase"] == "zorb, brass lamp"
    assert ADAPTER_METADATA not in header_of(tmp_path / "pytorch_lora_weights.kohya.safetensors")


def test_trigger_words_of_others_are_read_and_cannot_write_to_the_terminal(tmp_path: Path) -> None:
    (path, _) = loras.saved(loras.trained(tiny.tiny()), tmp_path)
    words = {"modelspec.trigger_phrase": "zorb, \x1b[2Jlamp\n"}
    save_file(load_file(path), path, metadata=words)
    assert read_lora(path).metadata.trigger_words == ("zorb", "[2Jlamp")
    save_file(load_file(path), path, metadata={"latentdiff": "[1, 2"})
    assert read_lora(path).metadata == LoraMetadata()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A whole file in kohya's layout, to damage."""
    return loras.saved(loras.trained(tiny.tiny()), tmp_path)[1]


def rewrite(path: Path, change: Callable[[dict[str, Tensor]], Any]) -> None:
    state = load_file(path)
    change(state)
    save_file(state, path)


def first(state: dict[str, Tensor], end: str) -> str:
    return next(name for name in sorted(state) if name.endswith(end))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


def long_header(path: Path) -> None:
    path.write_bytes((2**40).to_bytes(8, "little") + path.read_bytes()[8:])


def pickled(path: Path) -> None:
    path.write_bytes(pickle.dumps({"lora": 1}))


def zipped(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data.pkl", b"")


def set_first(end: str, make: Callable[[Tensor], Tensor | None]) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        def change(state: dict[str, Tensor]) -> None:
            name = first(state, end)
            made = make(state.pop(name))
            if made is not None:
                state[name] = made

        rewrite(path, change)

    return damage


def named(name: str, *shape: int) -> Callable[[Path], None]:
    return lambda path: rewrite(path, lambda state: state.update({name: torch.zeros(*shape)}))


def only(name: str) -> Callable[[Path], None]:
    return lambda path: save_file({name: torch.zeros(2, 2)}, path)


DAMAGE: dict[str, tuple[Callable[[Path], None], str]] = {
    "empty": (lambda path: path.write_bytes(b""), "not a whole safetensors file"),
    "cut": (cut, "not a whole safetensors file"),
    "header longer than the file": (long_header, "not a whole safetensors file"),
    "text": (lambda path: path.write_text("<html>not found</html>"), "not a whole safetensors"),
    "a pickle of that name": (pickled, "is a pickle, which can run code"),
    "a zip of a pickle": (zipped, "is a pickle, which can run code"),
    "a whole model": (only("model.conv_in.weight"), "holds no LoRA pairs"),
    "half a pair": (set_first("lora_up.weight", lambda t: None), "has no up half"),
    "halves that do not fit": (set_first("lora_up.weight", lambda t: t[:, :3].clone()), "a LoRA p"),
    "rank 0": (set_first("lora_down.weight", lambda t: t[:0].clone()), "do not make a LoRA pair"),
    "NaN": (set_first("lora_down.weight", lambda t: t * torch.nan), "NaN, infinity or integers"),
    "integers": (set_first("lora_down.weight", lambda t: t.int()), "NaN, infinity or integers"),
    "infinite alpha": (set_first("alpha", lambda t: t / 0), "NaN, infinity or integers"),
    "two alphas": (set_first("alpha", lambda t: torch.ones(2)), "alpha of"),
    "half a LoHa": (named("lora_unet_conv_in.hada_w1_a", 2, 2), "does not fit together"),
    "half a LoKr": (named("lora_unet_conv_in.lokr_w1", 2, 2), "does not fit together"),
    "magnitudes alone": (named("lora_unet_conv_in.dora_scale", 2), "has no down half"),
    "OFT": (named("lora_unet_conv_in.oft_blocks", 2, 2), "OFT adapter"),
    "GLoRA": (named("lora_unet_conv_in.a1.weight", 2, 2), "GLoRA adapter"),
    "one layer twice": (
        named("lora_te1_text_model_encoder_layers_0_self_attn_q_proj.lora_up.weight", 32, 4),
        "twice",
    ),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_bad_file_is_refused_in_one_line_that_names_it(name: str, file: Path) -> None:
    damage, words = DAMAGE[name]
    damage(file)
    with pytest.raises(UserError, match=words) as caught:
        read_lora(file)
    message = str(caught.value)
    assert str(file) in message
    assert "\n" not in message
    assert len(message) < 500


@pytest.mark.parametrize(
    "settings", ['{"unet.lora_alpha": "much"}', "[]", "{", '{"unet.alpha_pattern": [1]}']
)
def test_settings_that_cannot_be_read_are_refused(settings: str, file: Path) -> None:
    save_file(load_file(file), file, metadata={ADAPTER_METADATA: settings})
    with pytest.raises(UserError, match="its LoRA settings cannot be read"):
        read_lora(file)


def test_a_pickle_is_refused_by_its_name_alone(tmp_path: Path) -> None:
    (tmp_path / "lora.pt").write_bytes(b"whatever")
    with pytest.raises(UserError, match="is a pickle"):
        read_lora(tmp_path / "lora.pt")


def test_a_folder_of_files_and_the_run_that_made_them_stand_for_the_file(tmp_path: Path) -> None:
    file, _ = loras.saved(loras.trained(tiny.tiny()), tmp_path / "run" / "export")
    assert read_lora(tmp_path / "run").path == read_lora(tmp_path / "run" / "export").path == file


def test_a_missing_file_and_a_folder_without_one_are_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no LoRA at"):
        read_lora(tmp_path / "owl.safetensors")
    with pytest.raises(UserError, match="name the LoRA's"):
        read_lora(tmp_path)


def test_a_tensor_of_no_known_name_is_told_and_not_taken(file: Path) -> None:
    rewrite(file, lambda state: state.update({"lora_te2_x\n.lora_up.weight": torch.zeros(1)}))
    assert read_lora(file).unknown == ("lora_te2_x.lora_up.weight",)
