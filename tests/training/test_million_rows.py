"""A training on a million cached rows begins in little memory; see made_up_cache. How long it takes
is measured by `latentdiff bench scale`."""

import pytest

from latentdiff.bench import made_up_cache, scale


@pytest.mark.slow
def test_a_million_cached_rows_open_in_one_gigabyte():
    assert scale.measure(1_000_000, 1)[0]["MB"] < 1000


def test_a_made_up_cache_gives_each_row_its_own_values(tmp_path):
    made_up_cache.fill(tmp_path / "cache", 5000)
    told = made_up_cache.start(tmp_path / "cache", 5000)  # it compares what it reads
    assert told["seconds"] >= told["open"]
