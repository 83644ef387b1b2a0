"""The checks of `bench device`: each gives a short text of what it found, and raises what fails."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable

import numpy as np

from latentdiff.bench.device.apart import NeedsCudaError
from latentdiff.bench.device.inside import PROMPT
from latentdiff.bench.device.place import UPDATES, Place, events, losses, near
from latentdiff.bench.device.small_model import SIZE
from latentdiff.checkpoints import store as checkpoints

Check = Callable[[Place], str]
COMPILING = 600.0
"""Seconds that a training may take that compiles first: on a CPU that is minutes of a C++ compiler.
"""


def same_picture(place: Place) -> str:
    """A seed gives the picture of the CPU, up to rounding."""
    from PIL import Image

    pictures = []
    for device in ("cpu", place.device):
        output = place.folder / f"{device.replace(':', '-')}.png"
        options = ("--seed", "0", "--device", device, "--dtype", "float32", "-o", str(output))
        place.apart.run(("latentdiff", "generate", PROMPT, "--model", place.model, *options))
        with Image.open(output) as image:
            pictures.append(np.asarray(image.convert("RGB"), np.float64))
    error = pictures[0] - pictures[1]
    mean, most = float((error**2).mean()), float(np.abs(error).max())
    if mean == 0:
        return "the same picture, to the bit"
    psnr = 10 * np.log10(255**2 / mean)
    text = f"PSNR {psnr:.1f} dB, largest difference {most:.0f} of 255 levels"
    if psnr < 40:
        raise RuntimeError(f"{text}; 40 dB were expected")
    return text


def bf16(place: Place) -> str:
    """Training under bfloat16 autocast."""
    return near(place, place.train("bf16", "--mixed-precision", "bf16"), 0.05)


def fp16(place: Place) -> str:
    """Training under float16 with its loss scale."""
    place.need_cuda("float16 autocast")
    run = place.train("fp16", "--mixed-precision", "fp16")
    last = events(run, "train")[-1]
    scale, skipped = last["loss_scale"], last["skipped_updates"]
    return f"{near(place, run, 0.05)}; loss scale {scale:,.0f}, {skipped:.0f} updates left out"


def overflow(place: Place) -> str:
    """Gradients that overflow are left out and halve the scale, as torch's GradScaler does it."""
    found = place.inside("overflow", device=place.device)
    skipped, updates = found["skipped"], found["updates"]
    text = (
        f"{skipped} of {updates} updates left out, scale {found['scale']:,.0f} at the end, weights "
        f"off by {found['off']:.1g}"
    )
    if not 0 < skipped < updates:
        raise RuntimeError(f"{text}: it was to overflow for a while")
    if not found["same scales"] or found["off"] > 1e-5 or not found["learned"]:
        raise RuntimeError(f"{text}; not what GradScaler does")
    return text


def adamw8bit(place: Place) -> str:
    """AdamW with its moments in 8 bits."""
    on_gpu = place.device.startswith("cuda")
    if importlib.util.find_spec("bitsandbytes") is None:
        message = "the package bitsandbytes is not installed: pip install bitsandbytes"
        raise RuntimeError(message) if on_gpu else NeedsCudaError("8-bit moments, by bitsandbytes")
    try:
        return near(place, place.train("adamw8bit", "--optimizer", "adamw8bit"), 0.1)
    except RuntimeError as error:
        raise error if on_gpu else NeedsCudaError(f"bitsandbytes refuses: {error}") from error


def muon(place: Place) -> str:
    """Muon, whose iterations are in bfloat16 on an accelerator."""
    run = place.train("muon", "--optimizer", "muon", "--muon-learning-rate", "1e-3")
    found = losses(run)
    return f"losses {found[0]:.4f} … {found[-1]:.4f}"


def gradient_checkpointing(place: Place) -> str:
    """Activations that are computed twice give the same losses."""
    options = ("--mixed-precision", "no", "--gradient-checkpointing")
    return near(place, place.train("checkpointing", *options), 1e-4)


def fsdp2(place: Place) -> str:
    """The model dealt out over processes, here one; parts of 2,000 parameters are gathered."""
    place.need_cuda("FSDP2")
    changes = {"fsdp_min_num_params: 2000000": "fsdp_min_num_params: 2000"}
    return near(place, place.launch("fsdp2", "fsdp2", changes), 1e-3)


def exact_resume(place: Place) -> str:
    """Stopped half-way and gone on with, a run ends with the bits of one that was not stopped."""
    exact = ("--mixed-precision", "no")
    place.train("halves", *exact, "--stop-at", str(UPDATES // 2))
    place.train("halves", *exact, "--resume")
    whole = weights_off(place, "plain", "halves")
    if whole == 0.0:
        return "bit-equal"
    place.train("again", *exact)
    twice = weights_off(place, "plain", "again")
    text = f"weights off by {whole:.1g}; those of a run that is just repeated, by {twice:.1g}"
    if whole > 4 * twice:
        raise RuntimeError(text)
    return f"as exact as this device repeats itself: {text}"


def weights_off(place: Place, one: str, other: str) -> float:
    """The largest difference between the weights that two runs ended with."""
    place.plain()
    ended = [place.folder / r / "checkpoints" / f"step-{UPDATES:08d}" for r in (one, other)]
    a, b = (checkpoints.load(folder).weights for folder in ended)
    return max(float((a[name] - b[name]).abs().max()) for name in a)


def compiled(place: Place) -> str:
    """`torch.compile` of the module."""
    how = ("--mixed-precision", "no", "--compile", "default")
    run = place.train("compiled", *how, patience=COMPILING)
    return near(place, run, 1e-3)


def training_graphs(place: Place) -> str:
    """Training compiled to CUDA graphs."""
    place.need_cuda("CUDA graphs")
    how = ("--mixed-precision", "no", "--compile", "reduce-overhead")
    run = place.train("graphs", *how, patience=COMPILING)
    return near(place, run, 1e-3)


def drawing_graphs(place: Place) -> str:
    """The steps of a picture are replayed from CUDA graphs, and it stays the same."""
    place.need_cuda("CUDA graphs")
    found = place.inside("replayed", model=place.model, device=place.device)
    text = f"{found['replays']} replays in a picture of {found['steps']} steps"
    if not found["replays"]:
        raise RuntimeError(f"{text}: drawing starts every kernel from the host")
    if found["off"]:
        raise RuntimeError(f"{text}; drawn again it is off by {found['off']} levels")
    return f"{text}; drawn again it is the same"


def drawing_waits(place: Place) -> str:
    """The host does not wait for the GPU between the steps of a picture."""
    place.need_cuda("torch's sync debug mode")
    return no_waits(place.inside("waits_of_drawing", model=place.model, device=place.device))


def training_waits(place: Place) -> str:
    """The host does not wait for the GPU between the updates of a training."""
    place.need_cuda("torch's sync debug mode")
    return no_waits(place.inside("waits_of_training", **_training(place, "waits")))


def no_waits(a_step: float) -> str:
    """RuntimeError when a step waits."""
    text = f"{a_step:g} waits a step"
    if a_step >= 0.5:
        raise RuntimeError(text)
    return text


def memory_at_validation(place: Place) -> str:
    """A validation that finds no memory ends the run before its first update, in one line."""
    found = place.inside("starved", **_training(place, "starved"))
    if found["updates"]:
        raise RuntimeError(f"{found['updates']} updates were made first")
    if "memory" not in found["said"]:
        raise RuntimeError(f"what it said: {found['said'] or 'nothing'}")
    return f"no update was made; it says: {found['said']}"


def _training(place: Place, name: str) -> dict[str, object]:
    return {
        "model": str(place.small),
        "data": str(place.data),
        "folder": str(place.folder / name),
        "device": place.device,
        "size": SIZE,
    }


CHECKS: dict[str, Check] = {
    "the picture of the CPU": same_picture,
    "bfloat16 training": bf16,
    "float16 training, loss scale": fp16,
    "overflow, as GradScaler": overflow,
    "8-bit AdamW": adamw8bit,
    "Muon": muon,
    "gradient checkpointing": gradient_checkpointing,
    "FSDP2 in one process": fsdp2,
    "exact resume": exact_resume,
    "torch.compile": compiled,
    "CUDA graphs, training": training_graphs,
    "CUDA graphs, drawing": drawing_graphs,
    "no waiting, drawing": drawing_waits,
    "no waiting, training": training_waits,
    "memory lacks at validation": memory_at_validation,
}
