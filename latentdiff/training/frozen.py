"""Networks that take part in training but do not learn."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch

from latentdiff.errors import UserError
from latentdiff.models import bundle as bundles
from latentdiff.models.tokenizer_files import load_tokenizer

if TYPE_CHECKING:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from torch import nn
    from transformers import CLIPModel, CLIPTextModel, CLIPTokenizer

    from latentdiff.diffusion.noise_schedule import NoiseSchedule


class Frozen:
    """Frozen parts that a module uses without owning them.

    Not an `nn.Module`, so checkpoints and optimizers do not see the parts; a deep copy of the
    module shares them.
    """

    def __init__(
        self, text_encoder: CLIPTextModel, vae: AutoencoderKL, schedule: NoiseSchedule
    ) -> None:
        self.text_encoder, self.vae, self.schedule = text_encoder, vae, schedule

    def __deepcopy__(self, memo: dict[int, Any]) -> Frozen:
        return self

    def to(self, device: torch.device) -> None:
        """Move the networks, in place."""
        self.text_encoder.to(device)
        self.vae.to(device)


def still(module: nn.Module) -> None:
    """Eval mode, no gradients."""
    module.eval().requires_grad_(False)


def load_vae(folder: Path) -> AutoencoderKL:
    """The autoencoder of a VAE run, its export, or a whole model; frozen, float32."""
    place = _part(folder, "vae", "config.json")
    return cast("AutoencoderKL", bundles.load_network(place, "vae", torch.float32).module)


def load_text_encoder(folder: Path) -> tuple[CLIPTextModel, CLIPTokenizer]:
    """Text encoder (frozen, float32) and tokenizer of a CLIP run, its export, or a whole model."""
    place = _part(folder, "text_encoder", "config.json")
    network = bundles.load_network(place, "text_encoder", torch.float32).module
    encoder = cast("CLIPTextModel", network)
    tokenizer = load_tokenizer(
        _part(folder, "tokenizer", "tokenizer_config.json"),
        int(encoder.config.max_position_embeddings),
    )
    return encoder, tokenizer.own


def save_text_encoder(clip: CLIPModel, folder: Path) -> None:
    """Write the text tower of a CLIP model as a Stable Diffusion folder keeps it."""
    from transformers import CLIPTextModel

    tower = CLIPTextModel(clip.config.text_config)
    prefix = "text_model." if any(n.startswith("text_model.") for n in tower.state_dict()) else ""
    state = clip.text_model.state_dict()
    tower.load_state_dict({prefix + name: tensor for name, tensor in state.items()})
    folder.mkdir(parents=True)
    bundles.save_network(tower, "text_encoder", folder)


def copy_weights(source: nn.Module, target: nn.Module, where: str) -> None:
    """Copy all weights; UserError when the two are not of one shape."""
    try:
        target.load_state_dict(source.state_dict())
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise UserError(f"the weights in {where} do not fit this preset: {reason}") from error


def _part(folder: Path, name: str, file: str) -> Path:
    root = Path(folder)
    for place in (root / name, root / "export" / name, root, root / "export"):
        if (place / file).is_file():
            return place
    raise UserError(f"{folder} holds no {name}: no {name}/{file} in it")


def encoder_hash(vae: AutoencoderKL) -> str:
    """SHA-256 of what makes moments: the encoder and `quant_conv`, names, shapes and values.

    The decoder is left out, so improving it alone keeps latent caches valid.
    """
    digest = hashlib.sha256()
    for part in (vae.encoder, vae.quant_conv):
        for name, tensor in part.state_dict().items():
            digest.update(f"{name}{tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
