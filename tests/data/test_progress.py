"""Progress lines: the end once, and nothing of what is over at once."""

from latentdiff.progress import Progress


def test_the_end_is_said_once_though_it_is_counted_twice(capsys):
    progress = Progress("read")
    for done in (1, 2, 2):
        progress(done, 2)
    said = capsys.readouterr().err
    assert said.startswith("read 2 of 2, ")
    assert said.count("\n") == 1
    assert not said.endswith(" \n")


def test_what_is_over_within_the_patience_is_not_spoken_of(capsys):
    progress = Progress("read", patience=60.0)
    progress(2, 2)
    assert capsys.readouterr().err == ""
