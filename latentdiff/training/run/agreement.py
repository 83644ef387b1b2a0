"""At the end of a run on several processes: did they do the same?"""

from __future__ import annotations

import hashlib
import resource
import sys
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from latentdiff.training.optimizers.guarded_step import trained_parameters
from latentdiff.training.positions import Positions
from latentdiff.training.run.processes import Processes


@dataclass(frozen=True, kw_only=True)
class Account:
    """What one process did.

    step: updates made. samples: how many it saw itself, by the sampler. first: the positions of
    its first micro-batch. weights: BLAKE2b of its weights, where others hold the same. peak_mib:
    the largest memory it used, of the GPU if it has one, else of the process.
    """

    rank: int
    step: int
    samples: int
    first: tuple[int, int]
    weights: str
    peak_mib: float


def account(processes: Processes, module: nn.Module, positions: Positions, step: int) -> Account:
    """This process's."""
    own = positions.micro_batch(positions.begin_step, 0)
    steps = step - positions.begin_step
    return Account(
        rank=processes.rank,
        step=step,
        samples=steps * positions.micro_batches * len(own),
        first=(own.start, own.stop),
        weights="" if processes.count == 1 or processes.sharded else digest(module),
        peak_mib=round(peak_mib(processes.device), 1),
    )


def digest(module: nn.Module) -> str:
    """BLAKE2b of a module's trained weights, 32 hexadecimal digits.

    Buffers are left out: after the last step each process has batch statistics of its own.
    """
    found = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(trained_parameters(module).items()):
        plain = tensor.detach().cpu().contiguous().flatten()
        found.update(name.encode())
        found.update(plain.view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def peak_mib(device: torch.device) -> float:
    """The largest memory used so far, MiB."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def gather(processes: Processes, mine: Account) -> list[dict[str, Any]]:
    """The accounts of all processes, on each of them; an assertion when they disagree."""
    found: list[Any] = [mine]
    if processes.count > 1:
        found = [None] * processes.count
        torch.distributed.all_gather_object(found, mine)
    steps = {one.step for one in found}
    assert len(steps) == 1, f"the processes made different numbers of updates: {sorted(steps)}"
    different = {one.weights for one in found}
    assert len(different) == 1, "the processes ended with different weights"
    return [asdict(one) for one in found]
