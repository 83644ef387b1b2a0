"""The least time that the machine needs for a work: its products over the rates it multiplies at.

Counted are the multiplications and additions of convolutions and matrix products, as torch's own
counter sees them in diffusers' forward; measured are the best rates of a few of them on this
machine, in the number type and with the threads of the race. Memory is taken to be free.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from latentdiff.bench.drawing.drawers import Work

REPEATS = 7


@dataclass(frozen=True, kw_only=True)
class Floor:
    """conv_flops, other_flops: of the whole work. conv_rate, other_rate: per CPU-second."""

    conv_flops: float
    other_flops: float
    conv_rate: float
    other_rate: float

    @property
    def seconds(self) -> float:
        """CPU-seconds that no program can go below."""
        return self.conv_flops / self.conv_rate + self.other_flops / self.other_rate

    def line(self) -> str:
        """For the notes of a race."""
        total = (self.conv_flops + self.other_flops) / 1e9
        return (
            f"floor: {total:,.1f} GFLOP, {100 * self.conv_flops / (total * 1e9):.0f} % of it in "
            f"convolutions, at {self.conv_rate / 1e9:.0f} and {self.other_rate / 1e9:.0f} GFLOP/s "
            f"measured here: {self.seconds:.3g} CPU-seconds"
        )


def measure(*, work: Mapping[str, Any], dtype: str = "float32") -> Callable[[int], dict[str, Any]]:
    """A maker for a race: its one turn gives the floor's numbers as facts."""
    asked = Work(**work)

    def turn(number: int) -> dict[str, Any]:
        conv, other = _counted(asked)
        kind = getattr(torch, dtype)
        return {
            "conv_flops": conv,
            "other_flops": other,
            "conv_rate": _conv_rate(kind),
            "other_rate": _product_rate(kind),
        }

    return turn


@torch.no_grad()
def _counted(work: Work) -> tuple[float, float]:
    """FLOPs of all steps, the text and the decoding: (convolutions, other products)."""
    from torch.utils.flop_counter import FlopCounterMode

    from latentdiff.models import bundle as bundles

    bundle = bundles.load(work.model)
    config, vae = bundle.unet.config, bundle.vae
    factor = 2 ** (len(vae.config.block_out_channels) - 1)
    shape = (int(config.in_channels), work.height // factor, work.width // factor)
    length = int(bundle.tokenizer.model_max_length)
    context = torch.zeros(2, length, int(config.cross_attention_dim))
    conv = other = 0.0
    passes: list[tuple[float, Callable[[], Any]]] = [
        (
            work.steps * work.batch,
            lambda: bundle.unet(torch.zeros(2, *shape), 1, encoder_hidden_states=context),
        ),
        (work.batch, lambda: vae.decode(torch.zeros(1, vae.config.latent_channels, *shape[1:]))),
        (1, lambda: bundle.text_encoder(torch.zeros(2, length, dtype=torch.int64))),
    ]
    for times, call in passes:
        with FlopCounterMode(display=False) as counter:
            call()
        for operation, flops in counter.get_flop_counts()["Global"].items():
            if "convolution" in str(operation):
                conv += times * flops
            else:
                other += times * flops
    return conv, other


def _best(call: Callable[[], Any], flops: float) -> float:
    call()
    times = []
    for _ in range(REPEATS):
        began = time.process_time()
        call()
        times.append(time.process_time() - began)
    return flops / max(1e-9, min(times))


@torch.no_grad()
def _conv_rate(dtype: torch.dtype) -> float:
    """The best of three 3x3 convolutions, channels last."""
    rates = []
    for channels, side in ((64, 64), (128, 32), (320, 32)):
        x = torch.ones(1, channels, side, side, dtype=dtype).to(memory_format=torch.channels_last)
        weight = torch.ones(channels, channels, 3, 3, dtype=dtype)
        weight = weight.to(memory_format=torch.channels_last)
        flops = 2 * 9 * channels**2 * side**2

        def call(x: torch.Tensor = x, weight: torch.Tensor = weight) -> torch.Tensor:
            return functional.conv2d(x, weight, padding=1)

        rates.append(_best(call, flops))
    return max(rates)


@torch.no_grad()
def _product_rate(dtype: torch.dtype, side: int = 1024) -> float:
    factor = torch.ones(side, side, dtype=dtype)
    return _best(lambda: factor @ factor, 2 * side**3)
