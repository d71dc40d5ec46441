"""The rooms of the house: which may import which, and no circle of files anywhere."""

from __future__ import annotations

import ast
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parents[1]
FLOORS: tuple[tuple[str, ...], ...] = (
    ("common/errors", "common/schedules", "common/ranks"),
    (
        "common/files",
        "common/device",
        "common/options",
        "common/launch",
        "common/stopping",
        "common/threads",
    ),
    ("common/losses",),
    ("common/config",),
    ("common/backends", "common/rooms", "common/triton_probe"),
    ("common/scene", "common/fields", "common/picture", "common/light"),
    ("common/rasterize",),
    ("common/runs", "common/toybox", "common/priors"),
    ("common/embedded",),
    ("common/guidance", "common/shelf"),
    ("common/watch",),
    ("common/begin", "coarse", "fine"),
    ("common/many", "common/view"),
    ("common/ui",),
    ("common/commands",),
    ("pipeline",),
)
"""From the ground up: a room imports what lies below it, and nothing beside it."""
LIGHT = (
    *("common/begin", "common/options", "common/config/reading", "common/losses/__init__"),
    *("common/guidance/choose", "common/runs/folder", "common/embedded/door", "pipeline"),
    *("common/shelf/tables", "common/shelf/cleaning", "common/many/jobs"),
)
"""Files that a mistake of the command line is found by: nothing heavy comes with them."""
HEAVY = {"torch", "numpy", "numba", "scipy", "trimesh", "nerfacc", "diffusers", "transformers"}


@cache
def files() -> dict[str, Path]:
    """The package's files by their place without the suffix; a package's own file as its folder."""
    found = {}
    for top in ("coarse", "common", "fine", "pipeline.py"):
        place = ROOT / top
        for path in [place] if place.is_file() else sorted(place.rglob("*.py")):
            found[path.relative_to(ROOT).with_suffix("").as_posix()] = path
    return found


def imported(name: str, lazy: bool) -> set[str]:
    """The files, and outside libraries, that a file imports; `lazy`: inside of functions too."""
    tree = ast.parse(files()[name].read_text("utf-8"))
    nodes = ast.walk(tree) if lazy else _at_import(tree)
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= _targets(name, node)
    return found


def _at_import(tree: ast.Module) -> list[ast.stmt]:
    """The statements that run when a file is imported, for people's tools not among them."""
    found: list[ast.stmt] = []
    for node in tree.body:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        found += (
            [n for n in ast.walk(node) if isinstance(n, ast.stmt)]
            if isinstance(node, ast.With | ast.Try)
            else [node]
        )
    return found


def _targets(name: str, node: ast.ImportFrom) -> set[str]:
    if node.level == 0:
        module = (node.module or "").removeprefix("maquette.").replace(".", "/")
        return {_file(module, alias.name) for alias in node.names}
    base = name.split("/")[: -node.level]
    place = "/".join([*base, *filter(None, (node.module or "").split("."))])
    return {_file(place, alias.name) for alias in node.names}


def _file(place: str, attribute: str) -> str:
    """The file that `from place import attribute` reads."""
    for candidate in (f"{place}/{attribute}", place, f"{place}/__init__"):
        if candidate in files():
            return candidate
    return place.replace("/", ".")


def floor_of(name: str) -> tuple[int, str]:
    """The floor and the room of a file."""
    for number, rooms in enumerate(FLOORS):
        for room in rooms:
            if name == room or name.startswith(f"{room}/"):
                return number, room
    raise AssertionError(f"{name} is in no room")


def test_rooms_import_what_lies_below_them() -> None:
    wrong = []
    for name in files():
        if name in ("common/__init__",):
            continue
        floor, room = floor_of(name)
        for target in imported(name, lazy=True) & files().keys():
            other_floor, other = floor_of(target)
            if other != room and other_floor >= floor and not _known(name, target):
                wrong.append(f"{name} -> {target}")
    assert wrong == []


def _known(name: str, target: str) -> bool:
    """Losses name, for people's tools alone, the oracle that they are handed."""
    return name.startswith("common/losses/") and target == "common/guidance/ask"


def test_no_circle_of_files() -> None:
    graph = {
        name: (imported(name, lazy=True) & files().keys())
        - {name}
        - ({"common/guidance/ask"} if name.startswith("common/losses/") else set())
        for name in files()
    }
    TopologicalSorter(graph).prepare()  # raises CycleError


def test_the_stages_do_not_know_each_other() -> None:
    for name in files():
        others = {"coarse": "fine/", "fine": "coarse/"}.get(name.split("/")[0])
        assert not any(others and t.startswith(others) for t in imported(name, lazy=True)), name


def test_the_door_for_real_models_does_not_know_the_toybox() -> None:
    for name in files():
        if name.startswith("common/priors/"):
            assert not any("toybox" in t or "embedded" in t for t in imported(name, lazy=True))


def test_mistakes_are_found_without_anything_heavy() -> None:
    for start in LIGHT:
        seen, todo = set(), [start]
        while todo:
            name = todo.pop()
            for target in imported(name, lazy=False):
                assert target.split(".")[0] not in HEAVY, f"{start}: {name} imports {target}"
                if target in files() and target not in seen:
                    seen.add(target)
                    todo.append(target)
