"""The U-Net with its loss, and how clean latents become its inputs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from latentdiff.conditioning import text
from latentdiff.diffusion import objective
from latentdiff.diffusion.forward_process import q_sample
from latentdiff.diffusion.noise_schedule import NoiseSchedule
from latentdiff.models.autoencoder import Autoencoder
from latentdiff.models.denoiser import predict
from latentdiff.pixels import to_pixels
from latentdiff.training.frozen import Frozen

if TYPE_CHECKING:
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

Batch = dict[str, Tensor]


class Noising:
    """q(x_t | x_0) and what is regressed: x_0, ε and t in; x_t, target and weight out.

    Raises UserError for a weighting that is infinite somewhere, or an unknown name.
    """

    def __init__(
        self,
        schedule: NoiseSchedule,
        *,
        prediction_type: str,
        weighting: str = "simple",
        gamma: float = 5.0,
    ) -> None:
        self.schedule = schedule
        self.prediction_type = prediction_type
        self.weights = objective.loss_weights(
            schedule, prediction_type=prediction_type, weighting=weighting, gamma=gamma
        )

    def __call__(self, x_0: Tensor, eps: Tensor, t: Tensor) -> Batch:
        """x_t, target (B, C, h, w), t and weight (B,) of clean latents and noise (B, C, h, w)."""
        x_t = q_sample(x_0, t, eps, self.schedule)
        goal = objective.target(
            x_0, x_t, eps, t, self.schedule, prediction_type=self.prediction_type
        )
        weight = self.schedule.gather(self.weights, t, t).reshape(-1).float()
        return {"x_t": x_t, "t": t, "target": goal, "weight": weight}


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
        self.unet = unet
        self.text_encoder = text_encoder
        self.noising = noising
        self.frozen = frozen

    def forward(self, batch: Batch) -> Batch:
        """Weighted loss and plain MSE of a batch; see `TextToImageTask.batch`."""
        weight, per_sample = self.per_sample(batch)
        return {
            "loss": (weight * per_sample).mean(),
            "mse": per_sample.detach().mean(),
        }

    def per_sample(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Weight (B,) and mean squared error (B,) float32 of each sample."""
        batch = self.inputs(batch)
        prediction = predict(
            self.unet, batch["x_t"], batch["t"], batch["context"], batch.get("context_mask")
        ).float()
        return batch["weight"], (prediction - batch["target"]).square().mean(dim=(1, 2, 3))

    @torch.compiler.disable
    def inputs(self, batch: Batch) -> Batch:
        """x_t, t, target, weight as they come, or made from pictures; context from tokens."""
        if "context" not in batch:
            batch = {**batch, "context": self._context(batch["input_ids"])}
        if "pictures" not in batch:
            return batch
        with torch.no_grad():
            autoencoder = Autoencoder(self.frozen.vae)
            moments = autoencoder.encode_moments(to_pixels(batch["pictures"])).float()
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
