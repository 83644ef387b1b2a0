"""`latentdiff bench generate | train | startup | scale`: how fast, against whom, on what."""

from __future__ import annotations

from collections.abc import Sequence

from latentdiff.cli import groups

BENCHES: dict[str, tuple[str, str]] = {
    "device": ("latentdiff.cli.bench.bench_device", "what works on an accelerator, on one page"),
    "generate": ("latentdiff.cli.bench.bench_generate", "pictures, against the peers"),
    "startup": ("latentdiff.cli.bench.bench_startup", "from the shell to a picture; opening"),
    "weights": ("latentdiff.cli.bench.bench_weights", "write a large random model to be timed"),
    "scale": ("latentdiff.cli.bench.bench_scale", "start-up and reading of a growing cache"),
    "train": ("latentdiff.cli.bench.bench_train", "fine-tuning, against the peer's example"),
}


def main(argv: Sequence[str]) -> int:
    """Run one benchmark; returns the exit code."""
    return groups.run(argv, "latentdiff bench", "benchmark", BENCHES)
