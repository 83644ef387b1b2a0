"""Which device a command computes on, and in which number type: decided here for all of them.

Processors differ. Some multiply bfloat16 (avx512_bf16 or AMX); most do not, and there a bfloat16
matrix product was measured at 1/460 of float32's rate. So "auto" asks the processor.
"""

from __future__ import annotations

import contextlib
import functools
import os
import platform
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from latentdiff.errors import UserError, unknown_name

if TYPE_CHECKING:
    import torch

DeviceName = Literal["auto", "cpu", "cuda", "mps"]
DtypeName = Literal["auto", "float32", "bfloat16", "float16"]
Precision = Literal["auto", "no", "bf16", "fp16"]
Backend = Literal["torch", "openvino"]
"""Who computes the U-Net's steps."""


def find_device(
    asked: str = "auto", *, index: int | None = None, among: Sequence[str] = ("cuda", "cpu")
) -> torch.device:
    """The device named `asked`; "auto" is the first of `among` that this machine has.

    index: which of several GPUs; None leaves it to torch. Raises UserError for a device that is not
    there.
    """
    import torch

    if asked == "auto":
        asked = next(name for name in among if has_device(name))
    kind = torch.device(asked).type
    if not has_device(kind):
        raise UserError(
            f"device is {asked}, but torch finds no {kind.upper()} device; "
            "use --device cpu, or auto"
        )
    if index is not None and asked == "cuda":
        return torch.device("cuda", index)
    return torch.device(asked)


def has_device(kind: str) -> bool:
    """Whether torch can compute on a "cpu", "cuda" or "mps" device here."""
    import torch

    if kind == "mps":
        return torch.backends.mps.is_available()
    return kind == "cpu" or (kind == "cuda" and torch.cuda.is_available())


def multiplies_bfloat16(device: torch.device | str) -> bool:
    """Whether the hardware multiplies bfloat16; where it does not, bfloat16 is very slow."""
    import torch

    kind = torch.device(device).type
    if kind == "cuda":
        return torch.cuda.is_bf16_supported()
    if kind == "cpu":
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return False


def find_dtype(asked: str, device: torch.device | str) -> torch.dtype:
    """Number type of the networks that only infer; "auto" is bfloat16 where the hardware has it.

    Raises UserError for float16 on a CPU and for an unknown name.
    """
    import torch

    known = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if asked == "auto":
        asked = "bfloat16" if multiplies_bfloat16(device) else "float32"
    if asked not in known:
        raise unknown_name("number type", asked, ["auto", *known])
    if asked == "float16" and torch.device(device).type == "cpu":
        raise UserError("float16 is for GPUs; on a CPU use --dtype bfloat16 or float32")
    return known[asked]


def slow_dtype_note(dtype: torch.dtype, device: torch.device | str) -> str | None:
    """A sentence for whoever asked for a number type that this processor only emulates."""
    import torch

    if dtype != torch.bfloat16 or torch.device(device).type != "cpu":
        return None
    if multiplies_bfloat16(device) or platform.machine() not in ("x86_64", "AMD64"):
        return None
    return (
        "this processor does not multiply bfloat16 and emulates it: measured just now, a matrix "
        f"product takes {bfloat16_factor():,.0f} times as long as in float32; leave the choice to "
        "auto"
    )


def bfloat16_factor(side: int = 256) -> float:
    """How many times as long as in float32 a (side, side) matrix product takes in bfloat16, on the
    CPU; the best of three each, some tenths of a second in all. Other programs do not disturb it:
    the processor's time is counted, not the wall's."""
    import time

    import torch

    def best(dtype: torch.dtype) -> float:
        factor = torch.ones(side, side, dtype=dtype)
        times = []
        for _ in range(3):
            began = time.process_time()
            factor @ factor
            times.append(time.process_time() - began)
        return min(times)

    best(torch.float32)  # the first use of the library is no measure
    return best(torch.bfloat16) / max(1e-9, best(torch.float32))


def autocast_dtype(asked: str, device: torch.device | str) -> torch.dtype | None:
    """Autocast type of a training's forward pass, None for float32 throughout.

    "auto" is what the launcher asks for (ACCELERATE_MIXED_PRECISION), else bf16 on a GPU that has
    it. Raises UserError for fp16 without CUDA, and for what the launcher may not ask.
    """
    import torch

    kind = torch.device(device).type
    if asked == "auto":
        asked = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
        if asked not in ("no", "bf16", "fp16"):
            raise UserError(f"the launcher asks for {asked}; no, bf16 and fp16 are supported")
        if asked == "no" and kind == "cuda" and multiplies_bfloat16(device):
            asked = "bf16"
    if asked == "fp16" and kind != "cuda":
        raise UserError(
            f"mixed precision fp16 needs a CUDA device, this is {device}; use --mixed-precision "
            "bf16 or no"
        )
    return {"no": None, "bf16": torch.bfloat16, "fp16": torch.float16}[asked]


@contextlib.contextmanager
def threads(count: int) -> Iterator[None]:
    """Compute with so many threads in the block; 0 leaves them as they are."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def memory_available() -> int:
    """Bytes that this process may still take: of the machine, or of its container where it has a
    smaller limit."""
    import psutil

    found: int = psutil.virtual_memory().available
    group = Path("/sys/fs/cgroup")  # of a container; elsewhere it has no limit of its own
    with contextlib.suppress(OSError, ValueError):
        limit = int((group / "memory.max").read_text("ascii"))  # "max" is none
        used = int((group / "memory.current").read_text("ascii"))
        lines = (group / "memory.stat").read_text("ascii").splitlines()
        idle = next(int(line.split()[1]) for line in lines if line.startswith("inactive_file "))
        found = min(found, limit - used + idle)
    return found


def cores() -> int:
    """CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


LIMITS_OF_INSTRUCTIONS = (
    "ONEDNN_MAX_CPU_ISA",
    "DNNL_MAX_CPU_ISA",
    "MKL_ENABLE_INSTRUCTIONS",
    "MKL_CBWR",
)
"""Variables by which a user keeps torch's libraries from instructions that the processor has."""


def instruction_set(device: torch.device | str) -> str:
    """Which instructions torch's kernels are made of here, on which a picture's last bits depend:
    "AVX512", "AVX2, ONEDNN_MAX_CPU_ISA=AVX2"; a GPU's compute capability; "" where none is known.
    """
    import torch

    kind = torch.device(device).type
    if kind == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        return f"sm_{major}{minor}"
    if kind != "cpu":
        return ""
    limits = [f"{k}={os.environ[k]}" for k in LIMITS_OF_INSTRUCTIONS if os.environ.get(k)]
    return ", ".join([torch.backends.cpu.get_cpu_capability(), *limits])


@functools.cache
def processor_name(device: torch.device | str) -> str:
    """What the maker calls the GPU or the CPU that computes, as a picture's recipe keeps it."""
    import torch

    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
