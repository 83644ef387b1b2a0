"""What could not be read: written down, and too much of it ends the run."""

import json

import pytest

from latentdiff.data.bad_samples import BadSamples
from latentdiff.data.records import BadPicture
from latentdiff.errors import UserError


def test_what_is_found_together_is_all_written_down_before_the_run_ends(tmp_path):
    listed = BadSamples(tmp_path / "bad.jsonl", total=100, limit=0.02)
    listed.add("0.png", BadPicture("empty", "the file is empty"))
    found = [(f"{k}.png", BadPicture("empty", "the file is empty")) for k in range(5)]
    with pytest.raises(UserError, match=r"^5 of 100 pictures .* allows \(2\); the last is 4.png"):
        listed.add_all(found)
    lines = (tmp_path / "bad.jsonl").read_text("ascii").splitlines()
    assert [json.loads(line)["id"] for line in lines] == [f"{k}.png" for k in range(5)]


def test_a_resumed_run_lists_them_again_without_adding_any(tmp_path):
    for _ in range(2):
        listed = BadSamples(tmp_path / "bad.jsonl", total=100, limit=0.02)
        listed.add_all([(f"{k}.png", BadPicture("empty", "the file is empty")) for k in range(2)])
    assert len((tmp_path / "bad.jsonl").read_text("ascii").splitlines()) == 2
