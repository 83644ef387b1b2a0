"""The U-Net with its loss, and how images become its inputs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from latentdiff.conditioning import text
from latentdiff.diffusion.objective import LossRecord, Noising, weighted_error
from latentdiff.models.autoencoder import Autoencoder
from latentdiff.models.denoiser import predict
from latentdiff.models.short_attention import attend_shortly
from latentdiff.pixels import to_pixels
from latentdiff.training.frozen import Frozen

if TYPE_CHECKING:
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

Batch = dict[str, Tensor]


class UNetModule(nn.Module):
    """The U-Net with its loss; frozen parts are held, not owned.

    text_encoder: given where it is trained too (all of it, or its LoRA); otherwise the frozen one
    makes the context.
    """

    def __init__(
        self,
        unet: UNet2DConditionModel,
        noising: Noising,
        frozen: Frozen,
        text_encoder: nn.Module | None = None,
    ) -> None:
        super().__init__()
        attend_shortly(unet)
        self.unet = unet
        self.text_encoder = text_encoder
        self.noising = noising
        self.frozen = frozen

    def forward(self, batch: Batch) -> Batch:
        """Weighted loss and plain MSE of a batch; see `TextToImageTask.batch`."""
        found = self.error(batch)
        return {"loss": found.loss, "mse": found.mse.mean()}

    def error(self, batch: Batch) -> LossRecord:
        """The weighted error of the U-Net's prediction, by sample and in all."""
        batch = self.inputs(batch)
        prediction = predict(
            self.unet, batch["x_t"], batch["t"], batch["context"], batch.get("context_mask")
        )
        return weighted_error(prediction, batch["target"], batch["weight"])

    @torch.compiler.disable
    def inputs(self, batch: Batch) -> Batch:
        """x_t, t, target, weight as they come, or made from images; context from tokens."""
        if "context" not in batch:
            batch = {**batch, "context": self._context(batch["input_ids"])}
        if "images" not in batch:
            return batch
        with torch.no_grad():
            autoencoder = Autoencoder(self.frozen.vae)
            moments = autoencoder.encode_moments(to_pixels(batch["images"])).float()
            x_0 = autoencoder.sample(moments, batch["posterior"])
            made = self.noising(x_0, batch["eps"], batch["t"])
        kept: Batch = {n: batch[n] for n in ("context", "context_mask") if n in batch}
        return {**made, **kept}

    def _context(self, input_ids: Tensor) -> Tensor:
        """Context (B, L, D); with gradients only where the text encoder learns."""
        if self.text_encoder is None:
            return text.encode(self.frozen.text_encoder, input_ids)
        encoder: Any = self.text_encoder
        return text.encode(encoder, input_ids, gradients=torch.is_grad_enabled())
