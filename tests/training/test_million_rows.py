"""A training on a million cached rows begins in little memory; see made_up_cache. How long it takes
is measured by `latentdiff bench scale`."""

import subprocess
import sys

import pytest

from latentdiff.bench import made_up_cache


@pytest.mark.slow
def test_a_million_cached_rows_open_in_one_gigabyte():
    # In a process of its own: a peak is that of all that the process has done before.
    code = "from latentdiff.bench import scale; print(scale.measure(1_000_000, 1)[0]['MB'])"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(told.stdout.split()[-1]) < 1000


def test_a_made_up_cache_gives_each_row_its_own_values(tmp_path):
    made_up_cache.fill(tmp_path / "cache", 5000)
    told = made_up_cache.start(tmp_path / "cache", 5000)  # it compares what it reads
    assert told["seconds"] >= told["open"]
