"""A training on a million cached rows begins in seconds, in little memory; see made_up_cache."""

import pytest

from latentdiff.bench import made_up_cache, scale


@pytest.mark.slow
def test_a_million_cached_rows_open_in_ten_seconds_and_one_gigabyte():
    told = scale.measure(1_000_000, 1)[0]
    print(told)
    # Of this process alone, so that what else the machine does changes little.
    assert told["CPU seconds"] < 10
    assert told["MB"] < 1000


def test_a_made_up_cache_gives_each_row_its_own_values(tmp_path):
    made_up_cache.fill(tmp_path / "cache", 5000)
    told = made_up_cache.start(tmp_path / "cache", 5000)  # it compares what it reads
    assert told["seconds"] >= told["open"]
