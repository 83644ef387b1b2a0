"""`latentdiff bench generate | train | startup | scale`: how fast, against whom, on what."""

from __future__ import annotations

from collections.abc import Sequence

from latentdiff.cli import groups

BENCHES: dict[str, tuple[str, str]] = {
    "generate": ("latentdiff.cli.bench.bench_generate", "pictures, against the peers"),
}


def main(argv: Sequence[str]) -> int:
    """Run one benchmark; returns the exit code."""
    return groups.run(argv, "latentdiff bench", "benchmark", BENCHES)
