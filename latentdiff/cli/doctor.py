"""`latentdiff doctor`: what this machine is, what will be slow on it, and why."""

from __future__ import annotations

import importlib.metadata
import os
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field

from latentdiff import config

PROG = "latentdiff doctor"
DESCRIPTION = """\
Say what this machine has (processor, number types, threads, memory, GPU, hub, versions) and what
will be slow on it, and why. Some things are measured: it takes a few seconds."""

HUB_SECONDS = 5.0
_PACKAGES = (
    "torch",
    "diffusers",
    "transformers",
    "tokenizers",
    "accelerate",
    "safetensors",
    "numpy",
)
_EXTRAS = {
    "peft": ("lora", "training LoRAs"),
    "datasets": ("train", "parquet files and hub data sets"),
    "pyarrow": ("train", "parquet files"),
    "tensorboard": ("train", "TensorBoard files of a training"),
    "av": ("video", "MP4"),
}
_ENOUGH = 6e9
"""Bytes of memory that Stable Diffusion 1.x takes in float32 at 512 px, with its libraries."""
_EMULATED = 1.5
"""bfloat16 that takes this many times as long as float32 is worth a warning."""


@dataclass(frozen=True, kw_only=True)
class DoctorConfig:
    """What is looked at."""

    hub: bool = True
    """Ask the hub whether it can be reached; no other part needs a network."""


@dataclass
class Findings:
    """What was found: (name, words) rows, and what is slow or absent, a sentence each."""

    rows: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def main(argv: list[str]) -> int:
    """Run `latentdiff doctor`; 0, whatever it finds."""
    options = config.parse(DoctorConfig, argv, prog=PROG, description=DESCRIPTION)
    found = Findings()
    for look in (_versions, _processor, _precision, _memory, _gpu, _extras):
        look(found)
    if options.hub:
        _hub(found)
    for line in lines(found):
        print(line)
    return 0


def lines(found: Findings) -> Iterator[str]:
    """The findings as lines."""
    width = max(len(name) for name, _ in found.rows)
    yield from (f"{name:<{width}}  {words}" for name, words in found.rows)
    yield ""
    if not found.notes:
        yield "Nothing here is slower than it need be."
        return
    yield "What will be slow or is absent, and why:"
    yield from (f"- {note}" for note in found.notes)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _versions(found: Findings) -> None:
    from latentdiff.training.record import environment

    known = environment.describe()
    found.rows.append(
        ("latentdiff", f"{known['latentdiff']}, Python {known['Python']}, {known['system']}")
    )
    found.rows.append(("libraries", ", ".join(f"{p} {_version(p) or 'absent'}" for p in _PACKAGES)))


def _processor(found: Findings) -> None:
    import torch

    from latentdiff.devices import cores
    from latentdiff.training.record import environment

    vectors = torch.backends.cpu.get_cpu_capability()
    mine = cores()
    plural = "" if mine == 1 else "s"
    name = environment.describe()["processor"]
    found.rows.append(("processor", f"{name}; {mine} core{plural} for this process; {vectors}"))
    threads = torch.get_num_threads()
    forced = os.environ.get("OMP_NUM_THREADS")
    why = f" (OMP_NUM_THREADS={forced})" if forced else ""
    found.rows.append(("threads", f"torch computes with {threads}{why}"))
    if forced and threads < mine:
        found.notes.append(
            f"OMP_NUM_THREADS={forced} keeps torch to {threads} of {mine} cores: unset it for one "
            "process"
        )
    if vectors in ("DEFAULT", "NO AVX"):
        found.notes.append("torch finds neither AVX2 nor AVX-512: everything on the CPU is slow")
    busy = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    if busy > 1.2 * mine:
        found.notes.append(
            f"{busy:.1f} programs want the {mine} core{plural} just now: all is slower by as much"
        )


def _precision(found: Findings) -> None:
    import torch

    from latentdiff import devices

    rate = _float32_rate()
    factor = devices.bfloat16_factor()
    auto = "bfloat16" if devices.multiplies_bfloat16("cpu") else "float32"
    found.rows.append(
        (
            "precision",
            f"CPU, measured: float32 {rate:,.0f} GFLOP/s a core, bfloat16 takes {factor:,.2g} "
            f"times as long; --dtype auto draws in {auto}",
        )
    )
    if factor > _EMULATED and not torch.cuda.is_available():
        found.notes.append(
            f"this processor emulates bfloat16, measured {factor:,.0f} times as slow as float32: "
            "leave --dtype and --mixed-precision at auto"
        )


def _float32_rate(side: int = 1024) -> float:
    """10⁹ floating-point operations of a float32 matrix product in a second of one core's time."""
    import torch

    factor = torch.ones(side, side)
    times = []
    for _ in range(3):
        began = time.process_time()
        factor @ factor
        times.append(time.process_time() - began)
    return 2 * side**3 / max(1e-9, min(times)) / 1e9


def _memory(found: Findings) -> None:
    import psutil

    memory = psutil.virtual_memory()
    total, free = memory.total, memory.available
    limit = _container_limit()
    words = ""
    if limit is not None and limit < total:
        free = min(free, limit)
        words = f"; this container may use {limit / 1e9:.1f} GB"
    found.rows.append(("memory", f"{free / 1e9:.1f} of {total / 1e9:.1f} GB free{words}"))
    if free < _ENOUGH:
        found.notes.append(
            f"{free / 1e9:.1f} GB of memory are free: snowglobe fits, Stable Diffusion in float32 "
            f"needs about {_ENOUGH / 1e9:.0f} GB"
        )


def _container_limit() -> int | None:
    """Bytes that a container (cgroup v2 or v1) may use; None without a limit."""
    for place in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            with open(place, encoding="ascii") as file:  # noqa: PTH123
                text = file.read().strip()
        except OSError:
            continue
        return int(text) if text.isdigit() and int(text) < 1 << 60 else None
    return None


def _gpu(found: Findings) -> None:
    import torch

    names = []
    if torch.cuda.is_available():
        for k in range(torch.cuda.device_count()):
            facts = torch.cuda.get_device_properties(k)
            names.append(f"{facts.name}, {facts.total_memory / 1e9:.0f} GB")
        if not torch.cuda.is_bf16_supported():
            found.notes.append("the GPU has no bfloat16: --dtype float16 is its fast number type")
    elif torch.backends.mps.is_available():
        names.append("Apple (mps)")
    found.rows.append(("GPU", "; ".join(names) or "none that torch can use"))
    if not names:
        found.notes.append(
            "without a GPU snowglobe draws in seconds, Stable Diffusion at 512 px in minutes"
        )
        if torch.version.cuda is None and sys.platform == "linux" and _has_nvidia():
            found.notes.append(
                "there is an NVIDIA GPU, but this torch is built for CPUs: install the build for "
                "CUDA from pytorch.org"
            )


def _has_nvidia() -> bool:
    return os.path.exists("/proc/driver/nvidia/version")  # noqa: PTH110


def _extras(found: Findings) -> None:
    absent: dict[str, list[str]] = {}
    present = []
    for package, (extra, purpose) in _EXTRAS.items():
        version = _version(package)
        if version is None:
            absent.setdefault(extra, []).append(f"{package} ({purpose})")
        else:
            present.append(f"{package} {version}")
    found.rows.append(("extras", ", ".join(present) or "none"))
    for extra, packages in absent.items():
        found.notes.append(f"absent: {', '.join(packages)}; pip install 'latentdiff[{extra}]'")


def _hub(found: Findings) -> None:
    address = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        found.rows.append(("hub", f"{address} is not asked (HF_HUB_OFFLINE); the cache opens"))
        return
    answer = reach(address)
    if answer is None:
        found.rows.append(("hub", f"{address} answers"))
        return
    found.rows.append(("hub", f"{address} cannot be reached ({answer})"))
    found.notes.append(
        "without the hub, models and data sets open from folders and from the cache only"
    )


def reach(address: str, seconds: float = HUB_SECONDS) -> str | None:
    """Why an address does not answer within so many seconds; None when it does, whatever it says.

    A name that is looked up has no time limit of its own, so a thread asks.
    """
    answers: list[str | None] = []

    def ask() -> None:
        try:
            request = urllib.request.Request(address, method="HEAD")
            with urllib.request.urlopen(request, timeout=seconds):
                answers.append(None)
        except urllib.error.HTTPError:
            answers.append(None)
        except (OSError, ValueError) as error:
            reason = getattr(error, "reason", error)
            answers.append(" ".join(str(reason).split())[:120] or type(error).__name__)

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(seconds)
    return answers[0] if answers else f"no answer within {seconds:g} s"
