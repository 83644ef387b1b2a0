"""Every page of the course runs, draws what it shows, and imports the library's mathematics."""

import re
import sys
from pathlib import Path

import pytest

COURSE = Path(__file__).parents[2] / "docs" / "course"
sys.path.insert(0, str(COURSE))

import run_course  # noqa: E402

PAGES = run_course.pages()
LONG = {"03-bound", "06-noise-in-sampling", "07-ddim", "08-latents", "09-guidance"}  # many seconds
RUN = [
    pytest.param(page, id=page.stem, marks=[pytest.mark.slow] if page.stem in LONG else [])
    for page in PAGES
]


def test_the_list_names_the_pages_in_order():
    listed = re.findall(r"\((\d\d-[^)]+\.md)\)", (COURSE / "README.md").read_text("utf-8"))
    assert listed == [page.name for page in PAGES]


@pytest.mark.parametrize("page", RUN)
def test_a_page_runs_and_draws_the_pictures_that_it_shows(page, tmp_path):
    run_course.run_page(page, tmp_path)
    shown = run_course.pictures_of(page)
    assert shown
    for name in shown:
        assert (tmp_path / name).stat().st_size > 2000
        assert (COURSE / name).is_file(), "run `make course`"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_takes_its_mathematics_from_the_library(page):
    code = "\n".join(run_course.BLOCK.findall(page.read_text("utf-8")))
    assert "from latentdiff." in code
    assert code.count("assert ") >= 2
