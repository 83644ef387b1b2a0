"""Work in a process of its own: one that crashes, hangs or eats the memory takes nothing with it.

Processes are forked from this one, so what was imported here need not be imported again. This one
must then not touch the device; where even that does not help, they are started afresh.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import multiprocessing
import os
import runpy
import signal
import sys
import tempfile
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from latentdiff.bench.runners import last_line

HERE = "latentdiff.bench.device.apart"
_AHEAD = (
    *("torch", "torch._dynamo", "accelerate", "datasets", "transformers.models.clip.modeling_clip"),
    *("diffusers.models.autoencoders.autoencoder_kl", "latentdiff.pipelines.text_to_image"),
    *("diffusers.models.unets.unet_2d_condition", "latentdiff.training.run.loop"),
    *("latentdiff.training.tasks.text_to_image", "latentdiff.cli.draw.generate"),
)
"""Of what the checks import, what takes long."""


class NeedsCudaError(Exception):
    """What this device cannot have; the text says what it is."""


@dataclass(frozen=True, kw_only=True)
class Apart:
    """How processes are started: forked or afresh, and how many seconds each may take."""

    forked: bool = True
    patience: float = 240.0

    def call(self, work: str, settings: Mapping[str, Any]) -> Any:
        """What the function "package.module:name" gives, a JSON value.

        RuntimeError, one line, when it fails, dies or does not end; NeedsCudaError comes through as
        it was raised.
        """
        context: Any = multiprocessing.get_context("fork" if self.forked else "spawn")
        with tempfile.TemporaryDirectory() as folder:
            child = context.Process(target=_child, args=(work, dict(settings), folder))
            sys.stdout.flush()
            sys.stderr.flush()
            child.start()
            try:
                child.join(self.patience)
                late = child.is_alive()
            finally:  # of Ctrl-C, which does not reach its session
                if child.is_alive():
                    _end(child.pid)
                    child.join()
            if late:
                raise RuntimeError(f"no end after {self.patience:.0f} s")
            answer = Path(folder) / "answer.json"
            if answer.exists():
                return _understood(json.loads(answer.read_text("utf-8")))
            if child.exitcode < 0:
                name = signal.Signals(-child.exitcode).name
                raise RuntimeError(f"the process was ended by {name}")
            said = Path(folder) / "said.txt"
            raise RuntimeError(last_line(said.read_text("utf-8", "replace")))

    def run(self, words: Sequence[str]) -> None:
        """`python -m WORDS`; RuntimeError with its last line when it fails."""
        self.call(f"{HERE}:command", {"words": list(words)})


def import_ahead() -> None:
    """Import what most checks need, for all processes that are forked from here."""
    # torch asks the driver for devices otherwise, after which no fork may use them.
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    for name in _AHEAD:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()


def command(words: Sequence[str]) -> None:
    """`python -m WORDS` in this process."""
    sys.argv = list(words)
    runpy.run_module(words[0], run_name="__main__", alter_sys=True)


def _understood(answer: dict[str, Any]) -> Any:
    if "error" in answer:
        raise RuntimeError(answer["error"])
    if "needs" in answer:
        raise NeedsCudaError(answer["needs"])
    return answer["found"]


def _end(number: int) -> None:
    """SIGKILL to a process and all below it, whatever sessions they have opened."""
    with contextlib.suppress(psutil.NoSuchProcess):
        child = psutil.Process(number)
        for one in (child, *child.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()


def _child(work: str, settings: dict[str, Any], folder: str) -> None:
    os.setsid()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    said = (Path(folder) / "said.txt").open("w", encoding="utf-8", buffering=1)
    os.dup2(said.fileno(), 1)
    os.dup2(said.fileno(), 2)
    sys.stdout = sys.stderr = said
    answer: dict[str, Any]
    try:
        module, _, name = work.partition(":")
        answer = {"found": getattr(importlib.import_module(module), name)(**settings)}
    except SystemExit as end:  # of a command, which has said why
        if end.code:
            raise
        answer = {"found": None}
    except NeedsCudaError as error:
        answer = {"needs": str(error)}
    except Exception as error:
        traceback.print_exc()
        first = " ".join(str(error).split())[:300]
        answer = {"error": f"{type(error).__name__}: {first}" if first else type(error).__name__}
    (Path(folder) / "answer.json").write_text(json.dumps(answer), "utf-8")
    said.flush()
