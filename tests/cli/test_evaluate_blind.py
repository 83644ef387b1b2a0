"""The blind test's answers and score."""

from pathlib import Path

import pytest

from latentdiff import files
from latentdiff.cli.main import run
from latentdiff.errors import UserError
from latentdiff.evaluation import protocol
from latentdiff.measure import blind_test as blind


def test_names_are_matched_by_meaning_not_by_spelling() -> None:
    assert blind.same_subject("Red Car", "red-car")
    assert blind.same_subject("a kitty", "cat")
    assert not blind.same_subject("dog", "cat")
    assert not blind.same_subject("?", "cat") and not blind.same_subject("", "cat")
    assert blind.same_setting("in the snow", "snow") and blind.same_setting("Snow", "snow")
    assert blind.same_setting("red background", "red") and blind.same_setting("on red", "red")
    assert not blind.same_setting("blue", "red") and not blind.same_setting("", "red")


def test_answers_are_scored_against_the_key(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = protocol.blind_items(4, 0)
    files.write_json(tmp_path / blind.KEY, blind.key(chosen))
    first, second = chosen[0], chosen[1]
    answers = tmp_path / "answers.txt"
    answers.write_text(
        f"1: {first.subjects[0]}, {first.setting}\n2. {second.subjects[0]}\n\n3) ?, nowhere\n"
    )
    assert run(["evaluate", "blind", "-o", str(tmp_path), "--answers", str(answers)]) == 0
    said = capsys.readouterr().out
    assert "subject 2 of 4" in said and "setting 1 of 4" in said
    assert (tmp_path / blind.SCORE).read_text() in said


def test_a_line_that_is_no_answer_is_named(tmp_path: Path) -> None:
    answers = tmp_path / "answers.txt"
    answers.write_text("1: cat, snow\nI saw a dog\n")
    with pytest.raises(UserError, match="line 2: found 'I saw a dog'"):
        blind.read_answers(answers)


def test_scoring_before_drawing_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no key\.json in .*draw the pictures first"):
        blind.read_key(tmp_path)
