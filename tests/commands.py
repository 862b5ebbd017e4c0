"""The project's commands as users type them: in this process or in their own."""

import importlib
import os
import pathlib
import subprocess
import sys
from collections.abc import Callable

import pytest

from unet_tfrecords.command import cli
from unet_tfrecords.command.errors import UserError

ROOT = pathlib.Path(__file__).parent.parent
PYTHON = sys.executable
SMALL = (
    "--config.data.tile_size=60",  # px in, 20 out at depth 2
    "--config.model.depth=2",
    "--config.data.augmentations=2",
)
SMOKE = f"--config={ROOT}/configs/synthetic.py:smoke"
TINY = (SMOKE, *SMALL)  # what conftest's `config` says
# Those that are no part of trainer.main.
MODULES = {
    "doctor": "doctor.main",
    "draw": "preprocess.draw",
    "preprocess": "preprocess.main",
    "preview": "unet_tfrecords.dataset.preview",
    "verify": "unet_tfrecords.dataset.verify",
}


def typed(*arguments, **flags) -> list[str]:
    """Arguments as they are, then --name=value of each flag."""
    given = [f"--{name}={value}" for name, value in flags.items()]
    return [*map(str, arguments), *given]


def command(name: str) -> cli.Command:
    """A command by its name after ./launch.sh."""
    if name in MODULES:
        return importlib.import_module(MODULES[name]).COMMAND
    return importlib.import_module("trainer.main").COMMANDS[name]


def run(name: str, /, *arguments, **flags) -> int:
    """Runs a command in this process; its exit code."""
    return cli.main(command(name), typed(*arguments, **flags))


def lines_of(caught, name: str) -> list[str]:
    """What a command has said of mistakes on stderr, without bars and notes."""
    said = caught.readouterr().err.splitlines()
    return [line for line in said if line.startswith(f"{name}: ")]


def refused(caught, name: str, /, *arguments, **flags) -> str:
    """The line with which a command ends; nothing else is on stderr."""
    assert run(name, *arguments, **flags) == 2
    [line] = caught.readouterr().err.splitlines()
    assert line.startswith(f"{name}: ")
    return line


def mistakes(call: Callable, *arguments, **named) -> list[str]:
    """The lines of the UserError that a function raises."""
    with pytest.raises(UserError) as caught:
        call(*arguments, **named)
    return caught.value.problems


# --- Processes ------------------------------------------------------------------------


def module(name: str, /, *arguments, **flags) -> list[str]:
    """A command as a process is given it."""
    place = [MODULES[name]] if name in MODULES else ["trainer.main", name]
    return [PYTHON, "-m", *place, *typed(*arguments, **flags)]


def process(*command, env=(), **more) -> subprocess.CompletedProcess:
    """Runs a program to its end in the project's folder, with `env` besides ours."""
    try:
        return subprocess.run(**_settings(command, env, {"timeout": 280, **more}))
    except subprocess.CalledProcessError as error:
        error.add_note(str(error.stderr))
        raise


def started(*command, env=(), **more) -> subprocess.Popen:
    """Starts a program in the same way."""
    return subprocess.Popen(**_settings(command, env, more))


def _settings(command, env, more) -> dict:
    settings = {
        "args": [str(word) for word in command],
        "cwd": ROOT,
        "env": {**os.environ, **dict(env)},
        "stdout": subprocess.PIPE,
        "stderr": subprocess.PIPE,
        "text": True,
    }
    return settings | more
