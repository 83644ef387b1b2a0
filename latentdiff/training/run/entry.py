"""From a command line to a run: what every training script and `latentdiff train` share."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from latentdiff import console
from latentdiff.config import parse
from latentdiff.errors import UserError
from latentdiff.progress import Heartbeat, stage
from latentdiff.training.run import peers
from latentdiff.training.task import Task
from latentdiff.training.train_config import TrainConfig

if TYPE_CHECKING:
    from latentdiff.training.context import RunContext


class TaskConfig(Protocol):
    """A task's settings, the loop's nested in them."""

    @property
    def train(self) -> TrainConfig:
        """The loop's settings."""
        ...


C = TypeVar("C", bound=TaskConfig)


def train_from(
    build_task: Callable[[C, RunContext], Task],
    config_cls: type[C],
    argv: Sequence[str],
    *,
    name: str,
    prog: str,
    description: str = "",
    default: C | None = None,
    presets: Mapping[str, C] | None = None,
) -> int:
    """Parse and run the task called `name`; 0, or 128 + the signal that stopped the run.

    build_task: makes the task once its run has processes, folder and lock.
    A mistake raises UserError (in process, `latentdiff train` prints it).
    """
    config = parse(
        config_cls, argv, prog=prog, description=description, default=default, presets=presets
    )
    from latentdiff.training.run.loop import run

    result = run(
        lambda context: build_task(config, context), config.train, name=name, settings=config
    )
    return 128 + result.signal if result.stopped == "interrupted" else 0


def main_for(
    build_task: Callable[[C, RunContext], Task],
    config_cls: type[C],
    argv: Sequence[str] | None = None,
    prog: str = "train",
    **keywords: Any,
) -> int:
    """`train_from` as a script's whole main: a mistake is one line and exit code 2."""
    arguments = sys.argv[1:] if argv is None else argv
    return guarded(
        lambda words: train_from(build_task, config_cls, words, prog=prog, **keywords),
        arguments,
        prog,
    )


def guarded(main: Callable[[Sequence[str]], int], argv: Sequence[str], prog: str) -> int:
    """A script's main: a mistake is one line and exit code 2, Ctrl-C is 130.

    Where another process of several has ended, this one ends with one line and exit code 1.
    """
    console.install()
    try:
        with Heartbeat(), stage(prog):
            return main(argv)
    except UserError as error:
        _say(f"{prog}: error: {error}")
        return 2
    except KeyboardInterrupt:
        _say(f"{prog}: stopped")
        return 130
    except RuntimeError as error:
        lost = peers.explain(error)
        if lost is None:
            raise
        _say(f"{prog}: error: {lost}")
        sys.stdout.flush()
        # Not a farewell to the group: it would wait for the process that is no more.
        os._exit(1)
    finally:
        _leave_group()


def _say(line: str) -> None:
    """To standard error in one piece, since other processes may say the same at the same time."""
    rank = os.environ.get("RANK", "0")
    sys.stderr.write(f"{line}\n" if rank == "0" else f"[process {rank}] {line}\n")
    sys.stderr.flush()


def _leave_group() -> None:
    """Say goodbye to the other processes, if torch was ever loaded and a group exists."""
    torch = sys.modules.get("torch")
    if (
        torch is not None
        and torch.distributed.is_available()
        and torch.distributed.is_initialized()
    ):
        torch.distributed.destroy_process_group()
