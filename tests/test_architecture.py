"""The rules of docs/architecture.md, read from the code itself."""

import ast
import pathlib
from collections.abc import Iterator

import ml_collections
import pytest

from configs import base

ROOT = pathlib.Path(__file__).parent.parent
ROOMS = ("configs", "preprocess", "trainer", "doctor")
TREES = {
    str(path.relative_to(ROOT)): ast.parse(path.read_text())
    for room in ROOMS
    for path in sorted((ROOT / room).rglob("*.py"))
}
# The only homes of flags: what a user can type begins there.
MAIN_FILES = {
    "preprocess/main.py",
    "preprocess/preview.py",
    "preprocess/synthetic.py",
    "preprocess/verify.py",
    "trainer/main.py",
}
HEAVY = {"tensorflow", "keras", "apache_beam"}


def imported(tree: ast.AST) -> Iterator[str]:
    """Full names of the modules that code imports, anywhere."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports are written in full"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def in_room(room: str) -> dict[str, ast.Module]:
    return {path: tree for path, tree in TREES.items() if path.startswith(room + "/")}


@pytest.mark.parametrize(
    "room, never",
    [
        # A Dataflow worker has no TensorFlow; it starts in seconds.
        ("preprocess", {"tensorflow", "keras", "trainer", "doctor"}),
        # Beam is the other half's; the trainer reads what that has written.
        ("trainer", {"apache_beam", "doctor"}),
        ("configs", {"tensorflow", "apache_beam", "preprocess", "trainer", "doctor"}),
    ],
)
def test_a_room_never_imports(room, never):
    for path, tree in in_room(room).items():
        assert not {name.split(".")[0] for name in imported(tree)} & never, path


def test_main_files_load_nothing_heavy_until_it_is_used():
    """Or `--help` would take as long as a start."""
    for path in MAIN_FILES:
        on_top = ast.Module(
            [
                n
                for n in TREES[path].body
                if isinstance(n, (ast.Import, ast.ImportFrom))
            ],
            [],
        )
        assert not {name.split(".")[0] for name in imported(on_top)} & HEAVY, path


def test_main_files_are_the_only_homes_of_flags():
    homes = {path for path, tree in TREES.items() if any(flags_of(tree))}
    assert homes == MAIN_FILES
    defining = {
        path
        for path, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr.startswith("DEFINE_")
    }
    assert defining == {"preprocess/cli.py", "preprocess/cli_flags.py"}  # --config


# --- Nothing that nobody reads --------------------------------------------------------


def keys(config: ml_collections.ConfigDict, prefix: str = "") -> Iterator[str]:
    for name, value in config.items():
        yield prefix + name
        if isinstance(value, ml_collections.ConfigDict):
            yield from keys(value, f"{prefix}{name}.")


def read_names() -> set[str]:
    """Names read as attributes (config.data.name) or by subscript (values["split"])."""
    found = set()
    for path, tree in TREES.items():
        if not path.startswith("configs/"):
            for node in ast.walk(tree):
                if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                    found.add(node.attr)
                elif isinstance(node, ast.Subscript):
                    if isinstance(node.slice, ast.Constant):
                        found.add(node.slice.value)
                elif isinstance(node, ast.Call) and len(node.args) == 2:
                    if (
                        getattr(node.func, "attr", "") == "get"
                    ):  # of older runs' configs
                        found.add(getattr(node.args[0], "value", ""))
    return found


def test_every_config_key_is_read():
    unread = {key for key in keys(base.get_config()) if key.split(".")[-1] not in READ}
    assert not unread


def flags_of(tree: ast.Module) -> Iterator[str]:
    """Names of the flags that a main file defines."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and node.args:
            function, first = node.func, node.args[0]
            home = getattr(getattr(function, "value", None), "id", "")
            if home == "cli_flags" and isinstance(first, ast.Constant):
                yield first.value


def test_every_flag_is_read():
    for path in MAIN_FILES:
        named = list(flags_of(TREES[path]))
        assert named, path
        assert not {name for name in named if name not in READ}, path


READ = read_names()
