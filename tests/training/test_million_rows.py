"""A training on a million cached rows begins in seconds, in little memory; see million_rows.py."""

import million_rows
import pytest


@pytest.mark.slow
def test_a_million_cached_rows_open_in_ten_seconds_and_one_gigabyte():
    told = million_rows.measure(1_000_000)
    print(told)
    # Of this process alone, so that what else the machine does changes little.
    assert told["CPU seconds"] < 10
    assert told["MB"] < 1000


def test_a_made_up_cache_gives_each_row_its_own_values(tmp_path):
    million_rows.fill(tmp_path / "cache", 5000)
    told = million_rows.start(tmp_path / "cache", 5000)  # it compares two thousand rows
    assert told["seconds"] >= told["open"]
