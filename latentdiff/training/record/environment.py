"""What a run was started with: the command, the machine and the versions, for log and report."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shlex
import sys
from pathlib import Path

import latentdiff
from latentdiff.devices import cores

_PACKAGES = ("torch", "diffusers", "transformers", "accelerate", "peft", "datasets", "numpy")
# Environment variables that change what a run computes or how fast.
_VARIABLES = ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "WORLD_SIZE", "PYTORCH_CUDA_ALLOC_CONF")


def command() -> str:
    """The command line of this process, ready to be pasted into a shell."""
    program = Path(sys.argv[0])
    # The installed script's path says where this machine keeps it, which nobody can paste.
    name = "latentdiff" if program.stem in ("latentdiff", "__main__") else str(program)
    if program.suffix == ".py" and program.stem != "__main__":
        ours = program.parent.name == "train_scripts"
        script = (
            f"-m latentdiff.train_scripts.{program.stem}" if ours else shlex.quote(str(program))
        )
        name = f"python {script}"
    return " ".join([name, *(shlex.quote(argument) for argument in sys.argv[1:])])


def describe() -> dict[str, str]:
    """Names and values: versions of Python and packages, system, processor, cores, GPU."""
    found = {"latentdiff": latentdiff.__version__, "Python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    found["system"] = f"{platform.system()} {platform.release()}"
    found["processor"] = _processor()
    # Cores that this process may use, which a container can make fewer than the machine has.
    found["cores"] = str(cores())
    gpu = _gpu()
    if gpu:
        found["GPU"] = gpu
    for name in _VARIABLES:
        if name in os.environ:
            found[name] = os.environ[name] or '""'
    return found


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _gpu() -> str:
    # torch is asked only where it is loaded already: this module stays light.
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return ""
    names = [torch.cuda.get_device_name(k) for k in range(torch.cuda.device_count())]
    return ", ".join(f"{names.count(name)} × {name}" for name in dict.fromkeys(names))
