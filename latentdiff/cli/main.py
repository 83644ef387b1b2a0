"""`latentdiff COMMAND …`: finds the subcommand, turns errors into one line and an exit code.

Exit codes: 0 done, 1 a check that found something, or a broken invariant (with its traceback),
2 the user's mistake, 130 stopped by Ctrl-C.

A reader of the output that goes away (`| head`) does not stop the work.
"""

from __future__ import annotations

import gc
import importlib
import re
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from latentdiff import __version__, console
from latentdiff.errors import UserError, unknown_name
from latentdiff.progress import Heartbeat, stage

# Name -> (module with `main(argv) -> int`, one line of help). Loaded on use only.
COMMANDS: dict[str, tuple[str, str]] = {
    "generate": ("latentdiff.cli.draw.generate", "draw pictures from prompts"),
    "interpolate": ("latentdiff.cli.draw.interpolate", "draw the way between prompts and seeds"),
    "web": ("latentdiff.cli.web", "serve the local page and the JSON API"),
    "replay": (
        "latentdiff.cli.draw.replay",
        "draw a picture again from its recipe",
    ),
    "verify": (
        "latentdiff.cli.draw.verify",
        "say whether a picture comes again, or what differs",
    ),
    "tokens": (
        "latentdiff.cli.draw.tokens",
        "show how a prompt is read: tokens, weights, losses",
    ),
    "info": ("latentdiff.cli.model.info", "describe a model, or what a picture's recipe holds"),
    "train": ("latentdiff.cli.train", "train a VAE, a CLIP or a text-to-image U-Net"),
    "report": ("latentdiff.cli.report", "write a training run's report.html anew"),
    "debug": ("latentdiff.cli.debug", "replay the batch at which a training stopped, in float32"),
    "evaluate": ("latentdiff.cli.evaluate", "measure a model: alignment, autoencoder, blind test"),
    "bench": ("latentdiff.cli.bench", "time drawing, training and starting against the peers"),
    "data": ("latentdiff.cli.data", "check pictures before training; build and clean caches"),
    "convert": ("latentdiff.cli.model.convert", "a model folder to a single file, or back"),
    "lora": ("latentdiff.cli.model.lora", "inspect, convert and merge LoRA files"),
    "doctor": ("latentdiff.cli.doctor", "say what this machine has, what is slow on it, and why"),
    "scenes": ("latentdiff.cli.scenes", "look at, export and render the procedural scenes"),
}


_SURROGATE = re.compile(r"[\udc80-\udcff]")


def usage() -> str:
    """The text of `latentdiff --help`."""
    width = max(map(len, COMMANDS))
    rows = "\n".join(f"  {name:<{width}}  {text}" for name, (_, text) in COMMANDS.items())
    return (
        f"latentdiff {__version__}: latent text-to-image diffusion\n\n"
        "usage: latentdiff COMMAND [OPTIONS]\n\n"
        f"commands:\n{rows}\n\n"
        "`latentdiff COMMAND --help` lists a command's options.\n"
        'Try: latentdiff generate "a cat in the snow"'
    )


def run(argv: Sequence[str]) -> int:
    """Run one command line and return its exit code; UserError and Ctrl-C are caught here."""
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(usage())
        return 0 if argv else 2
    if argv[0] in ("-V", "--version"):
        print(f"latentdiff {__version__}")
        return 0
    try:
        if argv[0] not in COMMANDS:
            raise unknown_name("command", argv[0], COMMANDS)
        module = importlib.import_module(COMMANDS[argv[0]][0])
        return int(module.main([_with_home(word) for word in argv[1:]]))
    except UserError as error:
        print(f"latentdiff: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return _stopped()
    except UnicodeEncodeError as error:
        undecodable = next((word for word in argv if _SURROGATE.search(word)), None)
        if undecodable is None:
            raise
        print(
            f"latentdiff: error: {undecodable!r} holds bytes that are no text "
            f"({error.object[error.start]!r}); expected {sys.getfilesystemencoding().upper()}",
            file=sys.stderr,
        )
        return 2


def _with_home(word: str) -> str:
    """`--run-dir=~/runs` with the home folder: shells expand ~ only at the beginning of a word."""
    name, equals, value = word.partition("=")
    if name.startswith("--") and equals and (value == "~" or value.startswith("~/")):
        return f"{name}={Path(value).expanduser()}"
    return word


def _stopped() -> int:
    print("latentdiff: stopped", file=sys.stderr)
    return 130


def entry_point() -> None:
    """What the console script calls."""
    pressed = False

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal pressed
        pressed = True
        raise KeyboardInterrupt

    console.install()
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, interrupt)
    try:
        with Heartbeat(), stage(" ".join(["latentdiff", *sys.argv[1:2]]) + ": working"):
            code = run(sys.argv[1:])
    except SystemExit as stop:  # a parser that has shown its help
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except Exception:
        # A library that is interrupted while it is imported may make another error of it.
        if not pressed:
            raise
        code = _stopped()
    gc.freeze()  # whatever is left goes with the process: no search for what could go before it
    sys.exit(console.finish(code))
