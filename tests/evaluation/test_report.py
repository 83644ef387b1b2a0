"""Sheets and tables."""

import numpy as np
from PIL import ImageFont

from latentdiff.evaluation.result_table import table
from latentdiff.sheet import RIGHT, WRONG, Cell, labelled_sheet, wrap


def test_a_sheet_frames_right_and_wrong_in_their_colours() -> None:
    grey = np.full((128, 128, 3), 128, np.uint8)
    cells = [Cell(picture=grey, label="a", right=right) for right in (True, False, None)]
    sheet = np.asarray(labelled_sheet(cells, columns=3))
    width = sheet.shape[1] // 3
    corners = [tuple(sheet[4, k * width + 4]) for k in range(3)]
    assert corners[0] == RIGHT and corners[1] == WRONG
    assert corners[2] not in (RIGHT, WRONG)
    assert all((sheet[70, k * width + 70] == 128).all() for k in range(3))


def test_an_empty_sheet_is_still_a_picture() -> None:
    assert labelled_sheet([]).width > 0


def test_labels_break_at_spaces_and_keep_every_word() -> None:
    font = ImageFont.load_default(10)
    text = "a teddy bear next to a christmas tree in the snow"
    lines = wrap(text, font, 128)
    assert " ".join(lines) == text and len(lines) > 1
    assert all(font.getlength(line) <= 128 for line in lines)


def test_a_table_aligns_its_columns() -> None:
    text = table(["group", "n"], [["trained pairs", "5"], ["x", "123"]])
    lines = text.splitlines()
    assert lines[0] == "group            n"
    assert lines[2] == "trained pairs    5" and lines[3] == "x              123"
