"""The rules of docs/architecture.md, read from the code itself."""

import ast
import collections
import pathlib
from collections.abc import Iterator

import ml_collections
import pytest

from configs import base
from trainer.export.artefact import ExportOptions
from trainer.inference.instances import InstanceRules

ROOT = pathlib.Path(__file__).parents[2]
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
    ("scores", "input", "run"),
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
        (SHARED, HEAVY, set()),
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


# --- Flags and config keys ------------------------------------------------------------


def with_commands() -> dict[str, ast.Module]:
    """The modules that define a command."""
    return {
        path: tree
        for path, tree in TREES.items()
        if any(
            isinstance(node, ast.Assign) and node.targets[0].id == "COMMAND"
            for node in tree.body
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
        )
    }


def flags_of(tree: ast.Module) -> set[str]:
    """Names of the flags that a module defines."""
    return {
        node.args[0].value
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and getattr(getattr(node.func, "value", None), "id", "") == "cli_flags"
        and node.args
        and isinstance(node.args[0], ast.Constant)
    }


def test_commands_load_nothing_heavy_until_they_run():
    """Or `--help` would take as long as a start."""
    for path, tree in with_commands().items():
        on_top = [n for n in tree.body if isinstance(n, (ast.Import, ast.ImportFrom))]
        assert not first_names(ast.Module(on_top, [])) & HEAVY, path


def test_flags_are_defined_only_where_a_command_is():
    homes = {path for path, tree in TREES.items() if flags_of(tree)}
    assert homes - {"trainer/commands/shared_flags.py"} <= set(with_commands())
    defining = {
        path
        for path, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr.startswith("DEFINE_")
    }
    home = "unet_tfrecords/command/"
    assert defining == {home + "cli.py", home + "cli_flags.py"}  # cli.py: --config


def test_every_flag_is_read_by_its_command():
    """As values.NAME or values["NAME"]; InstanceRules' fields are read by name."""
    for path, tree in with_commands().items():
        read = set()
        for node in ast.walk(tree):
            if getattr(getattr(node, "value", None), "id", "") == "values":
                read.add(getattr(node, "attr", ""))
            if isinstance(node, ast.For | ast.comprehension):
                read |= {n.value for n in ast.walk(node) if isinstance(n, ast.Constant)}
            if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
                read.add(node.slice.value)
        for command, options in (("predict", InstanceRules), ("export", ExportOptions)):
            if path.endswith(f"/{command}.py"):
                read |= set(options._fields)
        assert not flags_of(tree) - read, path


def keys(config: ml_collections.ConfigDict, parent: str) -> Iterator[tuple[str, str]]:
    """(parent, name) of each value."""
    for name, value in config.items():
        if isinstance(value, ml_collections.ConfigDict):
            yield from keys(value, name)
        else:
            yield parent, name


def last_name(node: ast.AST) -> str:
    """The d of a.b.c.d."""
    return getattr(node, "attr", getattr(node, "id", ""))


def test_every_config_key_is_read():
    """As PARENT.NAME, such as train.steps; a check of the settings is no use."""
    read = set()
    for path, tree in TREES.items():
        if path.startswith("configs/"):
            continue
        checks = {
            inner
            for node in tree.body
            if isinstance(node, ast.FunctionDef) and node.name.startswith("check_")
            for inner in ast.walk(node)
        }
        for node in set(ast.walk(tree)) - checks:
            if isinstance(node, ast.Attribute):
                read.add((last_name(node.value), node.attr))
            elif isinstance(node, ast.Call) and last_name(node.func) == "get":
                names = (getattr(argument, "value", "") for argument in node.args[:1])
                read |= {(last_name(node.func.value), name) for name in names}
    unread = set(keys(base.get_config(), "config")) - read
    assert not unread
