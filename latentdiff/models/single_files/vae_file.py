"""An autoencoder on its own: of a folder, of a whole model, or of a file in either layout."""

from __future__ import annotations

from pathlib import Path

import torch

from latentdiff.errors import UserError
from latentdiff.models import model_folder as folders
from latentdiff.models import weights
from latentdiff.models.networks import LoadedNetwork, check_sizes, lay_out, load_network
from latentdiff.models.single_files import original_names as original
from latentdiff.models.single_files.single_file import refuse_pickle
from latentdiff.models.single_files.single_file_config import Shapes, vae_settings
from latentdiff.models.weight_hashes import FileHash


def load_vae(name: str | Path, dtype: torch.dtype | None = None) -> LoadedNetwork:
    """An autoencoder, frozen and in eval mode.

    name: a folder with its config.json and weights, a model's folder, name or hub id, or a
    .safetensors file, of an autoencoder alone or of a whole checkpoint.
    """
    located = folders.resolve(name)
    if located.path.is_dir():
        for folder in (located.path / "vae", located.path):
            if (folder / "config.json").is_file():
                return load_network(folder, "vae", dtype)
        raise UserError(f"{located.path} holds no autoencoder (no vae/config.json in it)")
    return _load_file(located.path, dtype)


def _load_file(path: Path, dtype: torch.dtype | None) -> LoadedNetwork:
    from safetensors import safe_open

    refuse_pickle(path)
    file = FileHash(path)
    shapes = weights.file_shapes(path)
    prefix = original.VAE if any(n.startswith(original.VAE) for n in shapes) else ""
    if f"{prefix}decoder.conv_in.weight" not in shapes:
        raise UserError(f"{path} holds no autoencoder; expected decoder.conv_in.weight in it")
    own = any(".up_blocks." in name for name in shapes)  # diffusers' names
    config = vae_settings(_original_shapes(shapes, prefix, own), path)
    check_sizes(config, shapes, f"{path}: its settings")
    network = lay_out("vae", config, f"{path}: its settings")
    state = {}
    with weights.reading(path), safe_open(path, framework="pt") as opened:
        for name in network.light.state_dict():
            there = original.vae_name(name, config) or name
            there = name if own else prefix + there.removeprefix(original.VAE)
            if there not in shapes:
                raise UserError(f"{path} lacks the weight {there} of its autoencoder")
            state[name] = original.flat(opened.get_tensor(there), there)
    weights.assign(network.light, state, str(path), dtype)
    network.light.eval().requires_grad_(False)
    return LoadedNetwork(network, (file,), ())


def _original_shapes(shapes: Shapes, prefix: str, own: bool) -> Shapes:
    """The shapes under the original names, from which the settings are read."""
    if not own:
        return {original.VAE + n.removeprefix(prefix): s for n, s in shapes.items()}
    blocks = original.count(shapes, r"encoder\.down_blocks\.(\d+)\.")
    config = {"block_out_channels": [0] * blocks}
    return {original.vae_name(name, config) or name: shape for name, shape in shapes.items()}
