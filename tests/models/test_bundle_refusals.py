"""What must not load, and the one line that says why."""

from __future__ import annotations

import json
import pickle
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from latentdiff.errors import UserError
from latentdiff.models import bundle as bundles
from latentdiff.models import model_folder as folders
from latentdiff.models import networks

UNET = "unet/diffusion_pytorch_model.safetensors"
VAE = "vae/diffusion_pytorch_model.safetensors"
TEXT = "text_encoder/model.safetensors"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save(tiny.tiny(), tmp_path_factory.mktemp("whole") / "model")


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return shutil.copytree(whole, tmp_path / "model")


def refusal(folder: Path | str, **options: Any) -> str:
    """The message of the UserError that loading gives; a single line that names the place."""
    with pytest.raises(UserError) as caught:
        bundles.load(folder, **options)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 500
    return message


def rewrite(path: Path, change: Callable[[dict[str, Tensor]], Any]) -> None:
    state = load_file(path)
    change(state)
    save_file(state, path)


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def header(path: Path) -> tuple[dict[str, Any], bytes]:
    data = path.read_bytes()
    (size,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + size]), data[8 + size :]


def with_header(path: Path, head: dict[str, Any], body: bytes) -> None:
    text = json.dumps(head).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)


def test_the_undamaged_copy_loads(folder: Path) -> None:
    assert bundles.load(folder).source == str(folder)


# Weights


@pytest.mark.parametrize("file", [UNET, VAE, TEXT])
def test_a_missing_tensor_is_named(folder: Path, file: str) -> None:
    name = sorted(load_file(folder / file))[0]
    rewrite(folder / file, lambda state: state.pop(name))
    message = refusal(folder)
    assert "1 weights are missing" in message
    assert name.removeprefix("text_model.") in message
    assert str(folder / file) in message


@pytest.mark.parametrize("file", [UNET, VAE, TEXT])
def test_an_unexpected_tensor_is_named(folder: Path, file: str) -> None:
    rewrite(folder / file, lambda state: state.update(stray=torch.zeros(2)))
    assert "1 are unexpected, first stray" in refusal(folder)


def test_a_renamed_tensor_is_recognised(folder: Path) -> None:
    rewrite(folder / UNET, lambda s: s.update({"conv_input.weight": s.pop("conv_in.weight")}))
    message = refusal(folder)
    assert "is conv_input.weight a renamed conv_in.weight?" in message


def test_a_wrong_shape_is_named_with_both_shapes(folder: Path) -> None:
    rewrite(folder / UNET, lambda s: s.update({"conv_in.bias": torch.zeros(7)}))
    assert "conv_in.bias has shape (7,), its config asks for (16,)" in refusal(folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_weight_that_is_not_finite_is_named(folder: Path, value: float) -> None:
    rewrite(folder / VAE, lambda s: s["decoder.conv_in.bias"].__setitem__(0, value))
    message = refusal(folder)
    assert "decoder.conv_in.bias holds NaN or infinity, as stored in float32" in message


def test_a_weight_that_overflows_when_cast_is_named(folder: Path) -> None:
    rewrite(folder / VAE, lambda s: s["decoder.conv_in.bias"].__setitem__(0, 1e6))
    message = refusal(folder, dtype=torch.float16)
    assert "decoder.conv_in.bias overflows in float16" in message


def test_an_integer_weight_is_refused(folder: Path) -> None:
    rewrite(folder / UNET, lambda s: s.update({"conv_in.bias": torch.zeros(16, dtype=torch.int8)}))
    assert "conv_in.bias is int8; floating was expected" in refusal(folder)


@pytest.mark.parametrize("kept", [0, 4, 8, 100, -1])
def test_a_truncated_file_is_called_so(folder: Path, kept: int) -> None:
    path = folder / UNET
    path.write_bytes(path.read_bytes()[:kept])
    assert f"{path} is not a whole safetensors file" in refusal(folder)


def test_a_header_longer_than_its_file_is_refused(folder: Path) -> None:
    path = folder / UNET
    path.write_bytes(struct.pack("<Q", 1 << 40) + path.read_bytes()[8:])
    assert "is not a whole safetensors file" in refusal(folder)


@pytest.mark.parametrize("offsets", [[32, 96], [-64, 0], [10**9, 10**9 + 64]])
def test_overlapping_or_wild_offsets_are_refused(folder: Path, offsets: list[int]) -> None:
    head, body = header(folder / UNET)
    head["conv_in.bias"]["data_offsets"] = offsets
    with_header(folder / UNET, head, body)
    assert "is not a whole safetensors file" in refusal(folder)


def test_an_unknown_dtype_is_refused(folder: Path) -> None:
    head, body = header(folder / UNET)
    head["conv_in.bias"]["dtype"] = "F7"
    with_header(folder / UNET, head, body)
    assert "is not a whole safetensors file" in refusal(folder)


class Bomb:
    """Unpickling it would leave a trace."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> Any:
        return Path.touch, (self.trace,)


def test_a_folder_of_pickles_is_refused_unopened(folder: Path, tmp_path: Path) -> None:
    (folder / UNET).unlink()
    pickled = folder / "unet/diffusion_pytorch_model.bin"
    pickled.write_bytes(pickle.dumps(Bomb(tmp_path / "exploded")))
    message = refusal(folder)
    assert "only as a pickle (diffusion_pytorch_model.bin)" in message
    assert "safetensors" in message
    assert not (tmp_path / "exploded").exists()


def test_a_pickle_named_safetensors_is_refused_unopened(folder: Path, tmp_path: Path) -> None:
    (folder / UNET).write_bytes(pickle.dumps(Bomb(tmp_path / "exploded")))
    assert "is not a whole safetensors file" in refusal(folder)
    assert not (tmp_path / "exploded").exists()


def test_no_weights_at_all_are_said_so(folder: Path) -> None:
    (folder / TEXT).unlink()
    assert "holds no weights; expected model.safetensors" in refusal(folder)


# Shards


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    return tiny.save(tiny.tiny(), tmp_path / "sharded", max_shard_size=60_000)


def test_an_index_that_names_a_missing_shard_is_refused(sharded: Path) -> None:
    lost = sorted((sharded / "unet").glob("*-of-*"))[1]
    lost.unlink()
    assert f"names {lost.name}, which is missing" in refusal(sharded)


def test_an_index_that_leaves_its_folder_is_refused(sharded: Path) -> None:
    index = sharded / "unet/diffusion_pytorch_model.safetensors.index.json"
    weight_map = json.loads(index.read_text())["weight_map"]
    edit(index, weight_map=weight_map | {"conv_in.bias": "../vae/stolen.safetensors"})
    assert "names a shard outside its folder" in refusal(sharded)


def test_an_index_that_disagrees_with_its_shards_is_refused(sharded: Path) -> None:
    index = sharded / "unet/diffusion_pytorch_model.safetensors.index.json"
    weight_map = json.loads(index.read_text())["weight_map"]
    weight_map.pop("conv_in.bias")
    edit(index, weight_map=weight_map)
    assert "disagree on 1 weights, first conv_in.bias" in refusal(sharded)


def test_an_index_without_a_map_is_refused(sharded: Path) -> None:
    edit(sharded / "unet/diffusion_pytorch_model.safetensors.index.json", weight_map=[1])
    assert "has no weight_map" in refusal(sharded)


# Folders and configs


def test_a_path_that_is_not_there_says_what_a_model_may_be(tmp_path: Path) -> None:
    message = refusal(tmp_path / "nothing")
    assert "no model at" in message
    assert "snowglobe" in message


def test_a_misspelled_name_is_answered_with_the_nearest() -> None:
    assert "did you mean 'snowglobe'?" in refusal("snowglob")


def test_a_file_is_no_model(folder: Path) -> None:
    assert "is not a whole safetensors file" in refusal(folder / "model_index.json")


def test_a_folder_without_an_index_is_no_model(folder: Path) -> None:
    (folder / "model_index.json").unlink()
    assert "has no model_index.json" in refusal(folder)


@pytest.mark.parametrize("text", ["{", "[]", "\x00", ""])
def test_an_index_that_is_no_json_object_is_refused(folder: Path, text: str) -> None:
    (folder / "model_index.json").write_text(text)
    assert str(folder / "model_index.json") in refusal(folder)


@pytest.mark.parametrize("kind", ["StableDiffusionXLPipeline", "FluxPipeline", None])
def test_a_pipeline_of_another_kind_is_named(folder: Path, kind: str | None) -> None:
    edit(folder / "model_index.json", _class_name=kind)
    assert f"holds a {kind}; expected a StableDiffusionPipeline" in refusal(folder)


@pytest.mark.parametrize(
    ("part", "entry"),
    [
        ("unet", ["diffusers", "UNet3DConditionModel"]),
        ("vae", ["diffusers", "AutoencoderTiny"]),
        ("text_encoder", ["transformers", "T5EncoderModel"]),
        ("tokenizer", ["transformers", "T5Tokenizer"]),
        ("unet", ["my_code", "UNet2DConditionModel"]),
    ],
)
def test_a_part_of_an_unknown_class_is_named(folder: Path, part: str, entry: list[str]) -> None:
    edit(folder / "model_index.json", **{part: entry})
    assert f"its {part} is {'.'.join(entry)}" in refusal(folder)


def test_a_part_that_is_not_known_here_is_named(folder: Path) -> None:
    edit(folder / "model_index.json", text_encoder_2=["transformers", "CLIPTextModel"])
    assert "'text_encoder_2'" in refusal(folder)


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder", "tokenizer", "scheduler"])
def test_a_part_whose_folder_is_missing_is_named(folder: Path, part: str) -> None:
    shutil.rmtree(folder / part)
    assert part in refusal(folder)


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_a_config_of_another_class_is_named(folder: Path, part: str) -> None:
    key = "architectures" if part == "text_encoder" else "_class_name"
    edit(folder / part / "config.json", **{key: ["Other"] if part == "text_encoder" else "Other"})
    assert "is for a Other; expected a" in refusal(folder)


@pytest.mark.parametrize(
    "file",
    [
        "unet/config.json",
        "vae/config.json",
        "text_encoder/config.json",
        "tokenizer/tokenizer_config.json",
        "scheduler/scheduler_config.json",
    ],
)
def test_a_config_that_asks_to_import_code_is_refused(folder: Path, file: str) -> None:
    edit(folder / file, auto_map={"AutoModel": "evil.Model"})
    assert "asks to import code of its own" in refusal(folder)


def test_a_setting_that_the_network_lacks_is_named(folder: Path) -> None:
    edit(folder / "unet/config.json", layers_per_blok=3)
    assert "'layers_per_blok'" in refusal(folder)


@pytest.mark.parametrize(
    "change",
    [
        {"block_out_channels": [16]},
        {"block_out_channels": [15, 32]},
        {"down_block_types": ["Unknown", "CrossAttnDownBlock2D"]},
        {"layers_per_block": "many"},
        {"norm_num_groups": 0},
        {"attention_head_dim": 5},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_config_that_describes_no_network_is_refused(
    folder: Path, change: dict[str, Any]
) -> None:
    edit(folder / "unet/config.json", **change)
    assert str(folder / "unet") in refusal(folder)


@pytest.mark.parametrize("change", [{"hidden_size": 30}, {"num_hidden_layers": "two"}])
def test_a_text_config_that_describes_no_network_is_refused(
    folder: Path, change: dict[str, Any]
) -> None:
    edit(folder / "text_encoder/config.json", **change)
    assert str(folder / "text_encoder") in refusal(folder)


def test_a_changed_architecture_is_told_by_its_weights(folder: Path) -> None:
    edit(folder / "unet/config.json", layers_per_block=2)
    assert "weights are missing, first" in refusal(folder)
    edit(folder / "unet/config.json", layers_per_block=1, block_out_channels=[16, 64])
    assert "has shape" in refusal(folder)


def test_a_shifted_autoencoder_is_refused(folder: Path) -> None:
    edit(folder / "vae/config.json", shift_factor=0.1)
    assert "shift_factor" in refusal(folder)


@pytest.mark.parametrize("key", networks.UNSUPPORTED_UNET)
def test_a_u_net_of_another_kind_is_refused(folder: Path, key: str) -> None:
    edit(folder / "unet/config.json", **{key: "text_image"})
    assert key in refusal(folder)


def test_an_inpainting_u_net_is_told_apart(folder: Path) -> None:
    for channels in (9, 7):
        edit(folder / "unet/config.json", in_channels=channels)
        weight = torch.zeros(16, channels, 3, 3)
        rewrite(folder / UNET, lambda s, w=weight: s.update({"conv_in.weight": w}))
        if channels == 9:
            assert bundles.load(folder).repaints
    assert "nor an inpainting model, which takes 9" in refusal(folder)


def test_a_u_net_for_another_text_width_is_refused(folder: Path) -> None:
    edit(folder / "unet/config.json", cross_attention_dim=48)
    assert str(folder / UNET) in refusal(folder)


# Tokenizer and scheduler


def test_a_missing_tokenizer_is_named(folder: Path) -> None:
    for file in ("tokenizer.json", "vocab.json"):
        (folder / "tokenizer" / file).unlink()
    assert "holds no tokenizer; expected vocab.json and merges.txt" in refusal(folder)


def test_a_tokenizer_that_cannot_be_read_is_refused(folder: Path) -> None:
    (folder / "tokenizer/tokenizer.json").write_text("{}")
    assert str(folder / "tokenizer") in refusal(folder)


def test_a_tokenizer_with_more_tokens_than_the_text_encoder_is_refused(folder: Path) -> None:
    edit(folder / "text_encoder/config.json", vocab_size=100)
    rewrite(
        folder / TEXT,
        lambda s: s.update(
            {k: v[:100].clone() for k, v in s.items() if k.endswith("token_embedding.weight")}
        ),
    )
    assert "the text encoder knows 100" in refusal(folder)


def test_a_tokenizer_with_longer_prompts_than_the_text_encoder_is_refused(folder: Path) -> None:
    edit(folder / "tokenizer/tokenizer_config.json", model_max_length=77)
    assert "allows 77 tokens, the text encoder 24" in refusal(folder)


def test_a_flow_matching_scheduler_is_refused(folder: Path) -> None:
    name = "FlowMatchEulerDiscreteScheduler"
    edit(folder / "model_index.json", scheduler=["diffusers", name])
    edit(folder / "scheduler/scheduler_config.json", _class_name=name)
    assert "flow matching" in refusal(folder)


def test_a_preview_of_another_shape_is_refused(folder: Path) -> None:
    (folder / folders.CARD).write_text('{"preview": {"matrix": [[1, 2, 3]], "bias": [0, 0, 0]}}')
    assert "1 rows for 4 latent channels" in refusal(folder)


def test_a_hub_id_without_the_hub_is_one_line() -> None:
    assert "the model nobody/nothing is not in the cache" in refusal("nobody/nothing")


def test_of_a_hub_repository_only_what_is_read_is_wanted() -> None:
    names = ["model_index.json", "README.md", "v1-5.ckpt", "unet/config.json", "vae/config.json"]
    names += ["text_encoder/config.json", "scheduler/scheduler_config.json"]
    names += ["tokenizer/vocab.json", "tokenizer/merges.txt", "safety_checker/model.safetensors"]
    stems = {part: stem for part, (_, _, stem) in folders.NETWORKS.items()}
    for part, stem in stems.items():
        names += [f"{part}/{stem}.{end}" for end in ("safetensors", "fp16.safetensors", "bin")]
    names += ["unet/diffusion_pytorch_model.non_ema.safetensors"]
    wanted = set(folders.wanted_files(names, "them/model", None))
    assert wanted == {
        "model_index.json",
        "scheduler/scheduler_config.json",
        "tokenizer/vocab.json",
        "tokenizer/merges.txt",
        *(f"{part}/config.json" for part in stems),
        *(f"{part}/{stem}.safetensors" for part, stem in stems.items()),
    }


@pytest.mark.parametrize("variant", [None, "fp16"])
def test_of_two_sets_of_shards_in_a_hub_repository_one_is_wanted(variant: str | None) -> None:
    names = []
    for part, (_, _, stem) in folders.NETWORKS.items():
        for end in ("", ".fp16"):
            names += [f"{part}/{stem}{end}-0000{k}-of-00002.safetensors" for k in (1, 2)]
            names.append(f"{part}/{stem}.safetensors.index{end}.json")
    wanted = [n for n in folders.wanted_files(names, "them/model", variant) if "-of-" in n]
    assert len(wanted) == 6
    assert all((".fp16" in name) == (variant == "fp16") for name in wanted)
