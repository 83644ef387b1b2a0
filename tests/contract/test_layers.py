"""The floor plan of docs/architecture.md, held against the imports that the code makes."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# Rooms from the ground up. A room imports only from rooms on lines before its own, or, on its own
# line, from rooms listed before it.
FLOORS: list[list[str]] = [
    [
        "errors",
        "console",
        "deferred",
        "seeding",
        "files",
        "option_help",
        "config",
        "progress",
        "devices",
        "pixels",
        "sheet",
        "html",
    ],
    ["diffusion", "checkpoints", "scenes", "data", "evaluation"],
    ["schedulers", "conditioning"],
    ["models", "sampling"],
    ["training"],
    ["pipelines"],
    ["measure", "bench", "web"],
    ["cli", "train_scripts"],
]
# Inside a room, in the same order; a room that is not here has no folders.
INSIDE: dict[str, list[str]] = {
    "pipelines": [
        *("request_records", "request", "recipes", "walk", "from_pictures", "planning"),
        *("text_to_image", "sweep", "replay", "explain", "round_trip"),
        *("interpolation", "animation"),
    ],
    "measure": [
        *("measured_model", "drawing", "photo_classifier", "blind_test", "results"),
        *("measure_alignment", "measure_autoencoder", "measure_classes", "measure_inversion"),
        "measure_text",
        *("vision_features", "picture_sets", "conditioned_latents", "measure_images"),
        "measure_captions",
        *("sweeps", "measure_comparison", "measure_likelihood", "measure_reconstruction"),
        "trials",
    ],
    "bench": [
        *("spread", "runners", "worker", "race", "report", "drawing", "training"),
        "made_up_cache",
        "scale",
        "device",
    ],
    "data": [
        *("records", "captions", "buckets", "order", "transforms", "bad_samples"),
        *("decode", "sources", "check", "cache", "rendered"),
    ],
    "training": [
        *(
            "train_config",
            "paired_losses",
            "positions",
            "context",
            "task",
            "logging",
            "launch",
            "frozen",
            "sharding",
        ),
        *("optimizers", "record", "run", "feeds", "tasks", "recipes"),
    ],
}
ORDER = {
    room: (floor, place) for floor, rooms in enumerate(FLOORS) for place, room in enumerate(rooms)
}


def sources() -> dict[str, Path]:
    """Module name -> file, for all that is installed."""
    found = {}
    for top, package in (
        (ROOT / "latentdiff", "latentdiff"),
        (ROOT / "pipelines", "latentdiff.pipelines"),
        (ROOT / "train_scripts", "latentdiff.train_scripts"),
    ):
        for file in sorted(top.rglob("*.py")):
            parts = file.relative_to(top).with_suffix("").parts
            name = ".".join((package, *(p for p in parts if p != "__init__")))
            found[name] = file
    return found


def imports_of(name: str, file: Path) -> set[str]:
    """Every module that `file` imports, anywhere in it: inside functions and for types too."""
    package = name if file.name == "__init__.py" else name.rpartition(".")[0]
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                up = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join((*up, base)).rstrip(".")
            found.add(base)
            found.update(f"{base}.{alias.name}" for alias in node.names)
    return found


def room_of(module: str) -> str:
    return module.split(".")[1] if module.count(".") else ""


MODULES = sources()


@pytest.mark.parametrize("name", sorted(MODULES))
def test_a_room_imports_only_from_lower_floors_or_earlier_rooms(name: str) -> None:
    room = room_of(name)
    if not room or room == "__main__":
        return
    assert room in ORDER, f"{name} stands in a room that the plan does not know"
    for target in imports_of(name, MODULES[name]):
        if target.split(".")[0] != "latentdiff" or not room_of(target):
            continue
        other = room_of(target)
        if other in ("__version__", room):
            continue
        assert other in ORDER, f"{name} imports {target}, which the plan does not know"
        assert ORDER[other] < ORDER[room], f"{name} imports {target}: that is upstairs"


@pytest.mark.parametrize("name", sorted(MODULES))
def test_a_folder_imports_only_downward_inside_its_room(name: str) -> None:
    room, _, rest = name.removeprefix("latentdiff.").partition(".")
    if room not in INSIDE or not rest:
        return
    order = INSIDE[room]
    here = rest.partition(".")[0]
    assert here in order, f"{name} stands where the plan of {room} knows no place"
    for target in imports_of(name, MODULES[name]):
        if not target.startswith(f"latentdiff.{room}."):
            continue
        there = target.split(".")[2]
        if there in order and there != here:
            assert order.index(there) < order.index(here), f"{name} imports {target}"


def test_no_module_imports_itself_through_others() -> None:
    graph = {
        name: {t for t in imports_of(name, file) if t in MODULES and t != name}
        for name, file in MODULES.items()
    }
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, "a cycle: " + " -> ".join((*path[path.index(name) :], name))
        if name not in done:
            for target in graph[name]:
                visit(target, (*path, name))
            done.add(name)

    for name in graph:
        visit(name, ())


@pytest.mark.parametrize("name", sorted(MODULES))
def test_pipelines_and_train_scripts_are_imported_only_by_their_installed_names(name: str) -> None:
    bare = {t.split(".")[0] for t in imports_of(name, MODULES[name])}
    assert not bare & {"pipelines", "train_scripts"}


@pytest.mark.parametrize("name", sorted(MODULES))
def test_nothing_is_unpickled(name: str) -> None:
    for node in ast.walk(ast.parse(MODULES[name].read_text("utf-8"))):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            assert called not in ("torch.load", "pickle.load", "pickle.loads"), called
            keywords = {k.arg: ast.unparse(k.value) for k in node.keywords}
            assert keywords.get("allow_pickle") != "True", called
    assert "pickle" not in {t.split(".")[0] for t in imports_of(name, MODULES[name])}


def test_only_text_conditioning_and_the_tokenizer_builder_tokenise() -> None:
    # The peer of a benchmark does as the peer does.
    allowed = (
        *("latentdiff.conditioning.text", "latentdiff.models.tokenizer"),
        "latentdiff.bench.training.peer_training",
    )
    for name, file in MODULES.items():
        if name in allowed:
            continue
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                assert called not in ("tokenizer", "self.tokenizer"), f"{name} tokenises"
