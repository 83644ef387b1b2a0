"""Which pixel sizes a model draws: read from the configs of its autoencoder and its U-Net."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from latentdiff.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """What sizes a model takes.

    factor: pixels a latent cell covers along one side (f). levels: resolutions of the U-Net, each
    half the one above. channels: of a latent. own_size: (height, width) the model was made for,
    None where its config does not say.
    """

    factor: int
    levels: int
    channels: int
    own_size: tuple[int, int] | None

    @property
    def coarsest(self) -> int:
        """Pixels that a cell of the U-Net's lowest resolution covers: the least side of a picture.

        Sides that are multiples of it halve without a remainder at every level.
        """
        return self.factor * 2 ** (self.levels - 1)

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """(C, h, w) of a picture's latents."""
        return self.channels, height // self.factor, width // self.factor

    def check_size(self, height: int, width: int) -> None:
        """UserError, with the nearest size that fits, for a side that the model cannot draw."""
        for name, value in (("height", height), ("width", width)):
            if value % self.factor or value < self.coarsest:
                near = max(self.coarsest, round(value / self.factor) * self.factor)
                raise UserError(
                    f"{name} {value} does not fit; expected a multiple of {self.factor} pixels of "
                    f"at least {self.coarsest}, such as {near}"
                )


def latent_factor(vae: Mapping[str, Any]) -> int:
    """f of an autoencoder's config: it halves once between two levels."""
    return int(2 ** (len(vae["block_out_channels"]) - 1))


def of_configs(vae: Mapping[str, Any], unet: Mapping[str, Any]) -> Geometry:
    """The geometry of two configs in diffusers' format."""
    factor = latent_factor(vae)
    own = unet.get("sample_size")
    cells = (own, own) if isinstance(own, int) else own
    return Geometry(
        factor=factor,
        levels=len(unet["block_out_channels"]),
        channels=int(vae["latent_channels"]),
        own_size=None if cells is None else (int(cells[0]) * factor, int(cells[1]) * factor),
    )
