"""What checks do on the device itself; each function runs in a process of its own."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from latentdiff.bench.training.training_work import TrainingWork

PROMPT = "a cat in the snow"
FEW, MANY = 4, 12
"""Steps of two walks: what the longer one does more often, it does at every step."""


def reach(*, device: str) -> None:
    """Compute something there."""
    torch.ones(2, device=device).sum().item()


def overflow(*, device: str) -> dict[str, Any]:
    """Updates from a loss scale that overflows: this project's beside torch's GradScaler.

    On every device the gradients pass through float16, and overflow there at 65,504.
    """
    from latentdiff.training.optimizers.guarded_step import GuardedStep, build_optimizer
    from latentdiff.training.optimizers.loss_scale import LossScale

    initial, updates, rate, kind = 2.0**28, 24, 1e-2, torch.device(device).type

    def built() -> tuple[nn.Module, Any]:
        torch.manual_seed(0)
        module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.SiLU(), nn.Conv2d(8, 3, 3)).to(device)
        optimizer = build_optimizer(module, learning_rate=rate, weight_decay=0.0, betas=(0.9, 0.99))
        return module, optimizer

    def loss_of(module: nn.Module) -> torch.Tensor:
        found: torch.Tensor = module(x).half().float().square().mean()
        return found

    x = torch.randn(4, 3, 12, 12, generator=torch.Generator().manual_seed(1)).to(device)
    mine, optimizer = built()
    scale = LossScale(torch.device(device), initial=initial, in_a_row=updates)
    guard = GuardedStep(optimizer, mine, grad_clip=0.0, loss_scale=scale)
    peer, theirs = built()
    scaler = torch.amp.GradScaler(kind, init_scale=initial)
    begun, ended, same = float(loss_of(mine)), 0.0, True
    for step in range(updates):
        loss = loss_of(mine)
        (loss * scale.scale).backward()
        guard(loss.detach(), step, rate)
        scaler.scale(loss_of(peer)).backward()
        scaler.step(theirs)
        scaler.update()
        theirs.zero_grad()
        same, ended = same and float(scale.scale) == scaler.get_scale(), float(loss)
    pairs = zip(mine.parameters(), peer.parameters(), strict=True)
    return {
        "skipped": int(scale.skipped),
        "updates": updates,
        "scale": float(scale.scale),
        "same scales": same,
        "off": max(float((a - b).abs().max()) for a, b in pairs),
        "learned": ended < begun,
    }


@contextlib.contextmanager
def counted_waits() -> Iterator[list[str]]:
    """Every time that the host waits for the GPU, as torch's sync debug mode warns of it."""
    waits: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield waits
        finally:
            torch.cuda.set_sync_debug_mode("default")
    waits += [str(one.message) for one in caught if "synchroniz" in str(one.message)]


def a_step(waits: Callable[[int], int]) -> float:
    """How often a step waits: of two walks' waits, the difference over that of their steps."""
    waits(FEW)  # what is made once (graphs, tables, algorithms) is made here
    waits(MANY)
    few, many = waits(FEW), waits(MANY)
    return (many - few) / (MANY - FEW)


def waits_of_drawing(*, model: str, device: str) -> float:
    """How often the host waits for the GPU in a step of drawing."""
    from latentdiff.pipelines import TextToImagePipeline

    pipeline = TextToImagePipeline.from_pretrained(model, device=device)

    def waits(steps: int) -> int:
        with counted_waits() as found:
            pipeline(PROMPT, seed=0, num_inference_steps=steps)
        return len(found)

    return a_step(waits)


def waits_of_training(*, model: str, data: str, folder: str, device: str, size: int) -> float:
    """How often the host waits for the GPU in an update, between two lines of the log."""
    made = 0

    def waits(steps: int) -> int:
        nonlocal made
        made += 1
        with counted_waits() as found:
            _train(model, data, f"{folder}/waits-{made}", device, size, steps=steps)
        return len(found)

    return a_step(waits)


def replayed(*, model: str, device: str) -> dict[str, Any]:
    """CUDA graphs replayed while the same picture is drawn three times, and whether it is the
    same."""
    import numpy as np

    from latentdiff.pipelines import TextToImagePipeline

    pipeline = TextToImagePipeline.from_pretrained(model, device=device)
    count = 0
    replay = torch.cuda.CUDAGraph.replay

    def counted(self: torch.cuda.CUDAGraph) -> None:
        nonlocal count
        count += 1
        replay(self)

    torch.cuda.CUDAGraph.replay = counted  # type: ignore[method-assign]
    pictures, counts = [], []
    for prompt in (PROMPT, PROMPT, "a fox on the beach", PROMPT):
        before = count
        drawn = pipeline(prompt, seed=0, num_inference_steps=MANY)
        pictures.append(np.asarray(drawn.images[0], np.int16))
        counts.append(count - before)
    off = max(int(np.abs(pictures[0] - pictures[k]).max()) for k in (1, 3))
    return {"replays": counts[-1], "steps": MANY, "off": off}


def starved(*, model: str, data: str, folder: str, device: str, size: int) -> dict[str, Any]:
    """A training whose first validation finds no memory left: what it says, and what it did."""
    from latentdiff.bench.device.place import events
    from latentdiff.errors import UserError

    said = ""
    try:
        _train(model, data, folder, device, size, steps=FEW, starving=True)
    except UserError as error:
        said = str(error)
    return {"said": said, "updates": len(events(Path(folder), "train"))}


def _train(
    model: str,
    data: str,
    folder: str,
    device: str,
    size: int,
    *,
    steps: int,
    starving: bool = False,
) -> None:
    """A run of so many updates that reads nothing back before its end."""
    from latentdiff.bench.training.trainers import our_config
    from latentdiff.training.run.loop import run
    from latentdiff.training.tasks.text_to_image import TextToImageTask

    class Starving(TextToImageTask):
        def validate(self, module: Any, step: int) -> Any:
            if starving:
                use_up_memory(device)
            return super().validate(module, step)

    work = TrainingWork(
        model=model, data=data, folder=folder, size=size, batch_size=4, device=device
    )
    fields: dict[str, Any] = {"steps": steps, "log_every": 10 * MANY, "run_dir": Path(folder)}
    fields["validate_at_start"] = starving
    config = our_config(work, "run", cached=False, fields=fields)
    run(lambda context: Starving(config, context), config.train, name="text-to-image")


def use_up_memory(device: str) -> None:
    """Leave no memory of the device for whoever asks next in this process.

    On a GPU that is the truth: this process gets no more than it has, and keeps all of that. On a
    CPU more is asked for than any machine has.
    """
    if not device.startswith("cuda"):
        torch.empty(2**60, dtype=torch.uint8)
        return
    where = torch.device(device)
    total = torch.cuda.get_device_properties(where).total_memory
    torch.cuda.set_per_process_memory_fraction(torch.cuda.memory_reserved(where) / total, where)
    size = 2**30
    while size >= 512:
        try:
            _KEPT.append(torch.empty(size, dtype=torch.uint8, device=where))
        except torch.OutOfMemoryError:
            size //= 2


_KEPT: list[torch.Tensor] = []
