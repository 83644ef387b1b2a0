"""What a user installs: the wheel holds the mapped packages and the embedded files."""

import itertools
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # Built from a copy: a build folder in the checkout would keep modules that are gone.
    tree, out = tmp_path_factory.mktemp("tree"), tmp_path_factory.mktemp("wheel")
    for folder in ("latentdiff", "pipelines", "train_scripts"):
        shutil.copytree(ROOT / folder, tree / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, tree / file)
    subprocess.run(
        [
            sys.executable,
            "-m",
            "build",
            "--wheel",
            "--no-isolation",
            "--outdir",
            str(out),
            str(tree),
        ],
        check=True,
        capture_output=True,
    )
    return next(out.glob("*.whl"))


@pytest.fixture(scope="module")
def names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_the_wheel_holds_every_module_of_the_checkout(names: set[str]) -> None:
    for top, place in (
        ("latentdiff", "latentdiff"),
        ("pipelines", "latentdiff/pipelines"),
        ("train_scripts", "latentdiff/train_scripts"),
    ):
        for file in (ROOT / top).rglob("*.py"):
            assert f"{place}/{file.relative_to(ROOT / top).as_posix()}" in names


def test_the_wheel_has_no_second_copy_under_bare_names(names: set[str]) -> None:
    assert not [n for n in names if n.startswith(("pipelines/", "train_scripts/", "tests/"))]


def test_the_wheel_holds_the_pictures_and_the_model(names: set[str]) -> None:
    for folder in ("latentdiff/scenes/assets", "latentdiff/assets"):
        for file in (ROOT / folder).rglob("*"):
            if file.is_file():
                assert file.relative_to(ROOT).as_posix() in names


@pytest.mark.slow
def test_the_source_archive_holds_all_that_its_tests_need(tmp_path: Path) -> None:
    tracked = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.split("\0")[:-1]
    tree = tmp_path / "tree"
    for name in tracked:
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tree / name)
    command = [sys.executable, "-m", "build", "--sdist", "--no-isolation", "--outdir"]
    subprocess.run([*command, str(tmp_path / "out"), str(tree)], check=True, capture_output=True)
    with tarfile.open(next((tmp_path / "out").glob("*.tar.gz"))) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    assert set(tracked) - held <= {".gitignore"}


def test_every_package_of_the_checkout_is_declared() -> None:
    declared = set(
        tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    )
    found = {
        ".".join(p.parent.relative_to(ROOT).parts)
        for p in (ROOT / "latentdiff").rglob("__init__.py")
    }
    for top in ("pipelines", "train_scripts"):  # installed inside latentdiff
        places = (p.parent.relative_to(ROOT) for p in (ROOT / top).rglob("__init__.py"))
        found |= {".".join(("latentdiff", *place.parts)) for place in places}
    assert declared == found


def test_the_constraints_pin_every_declared_dependency() -> None:
    from packaging.requirements import Requirement

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [
        *project["dependencies"],
        *itertools.chain(*project["optional-dependencies"].values()),
    ]
    pins = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            pin = Requirement(line)
            pins[pin.name.lower().replace("_", "-")] = next(iter(pin.specifier)).version
    for text in wanted:
        need = Requirement(text)
        name = need.name.lower().replace("_", "-")
        if name != "latentdiff":
            assert name in pins, f"{name} is not pinned"
            assert need.specifier.contains(pins[name]), f"{name}: {pins[name]} is outside {need}"
