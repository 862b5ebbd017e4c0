"""The rules of docs/architecture.md, read from the code itself."""

import ast
import collections
import pathlib
from collections.abc import Iterator

import pytest

ROOT = pathlib.Path(__file__).parent.parent
PACKAGES = ("configs", "unet_tfrecords", "preprocess", "trainer", "doctor")
TREES = {
    str(path.relative_to(ROOT)): ast.parse(path.read_text())
    for package in PACKAGES
    for path in sorted((ROOT / package).rglob("*.py"))
}
HEAVY = {"tensorflow", "keras", "apache_beam"}
SHARED = "unet_tfrecords"
# What each package may import of the others. Those of one line are independent.
MAY_IMPORT = {
    "configs": set(),
    SHARED: {"configs"},
    "preprocess": {"configs", SHARED},
    "trainer": {"configs", SHARED},
    "doctor": {"configs", SHARED, "trainer"},
}
# Floors from the ground up: a room imports from floors below its own, never beside it.
SHARED_FLOORS = (("command",), ("storage",), ("dataset",))
TRAINER_FLOORS = (
    ("devices",),
    ("network", "inference"),
    ("input", "run"),
    ("training",),
    ("evaluation",),
    ("export",),
    ("predict",),
    ("commands",),
)


def imported(tree: ast.AST) -> Iterator[str]:
    """Full names of the modules that code imports, anywhere."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports are written in full"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def within(folder: str) -> dict[str, ast.Module]:
    return {path: tree for path, tree in TREES.items() if path.startswith(folder + "/")}


def first_names(tree: ast.AST) -> set[str]:
    return {name.split(".")[0] for name in imported(tree)}


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_import_only_those_below(package):
    for path, tree in within(package).items():
        others = first_names(tree) & set(PACKAGES) - {package}
        assert others <= MAY_IMPORT[package], path


@pytest.mark.parametrize(
    "folder, never, but",
    [
        # A Dataflow worker has no TensorFlow; it starts in seconds.
        ("preprocess", {"tensorflow", "keras"}, set()),
        ("trainer", {"apache_beam"}, set()),
        ("configs", HEAVY, set()),
        # Beam's file systems reach the object stores.
        (SHARED, HEAVY, {"unet_tfrecords/storage/object_store.py"}),
        ("doctor", {"apache_beam"}, set()),
    ],
)
def test_heavy_libraries_stay_where_they_are_needed(folder, never, but):
    homes = {p for p, tree in within(folder).items() if first_names(tree) & never}
    assert homes == but


@pytest.mark.parametrize(
    "package, floors", [(SHARED, SHARED_FLOORS), ("trainer", TRAINER_FLOORS)]
)
def test_rooms_import_only_from_floors_below(package, floors):
    level = {room: number for number, rooms in enumerate(floors) for room in rooms}
    folders = {p.parent.name for p in (ROOT / package).glob("*/__init__.py")}
    assert folders == set(level)
    for room, own in level.items():
        for path, tree in within(f"{package}/{room}").items():
            for name in imported(tree):
                parts = name.split(".")
                if parts[0] == package and parts[1] != room:
                    assert level[parts[1]] < own, f"{path} imports {name}"


def test_no_two_modules_have_the_same_name():
    names = collections.Counter(pathlib.Path(path).stem for path in TREES)
    twice = {name for name, number in names.items() if number > 1}
    # A config is named as its data set is; users type its path.
    assert twice <= {"main", "__init__"}


def test_no_two_public_classes_have_the_same_name():
    names = collections.Counter(
        node.name
        for tree in TREES.values()
        for node in tree.body
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    )
    assert not {name for name, number in names.items() if number > 1}
