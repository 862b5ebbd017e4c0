"""How every command meets its user: flags, help, one clear line for each mistake.

Each command has a flag namespace of its own, so that several fit into one process.
"""

import contextlib
import os
import re
import shutil
import signal
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import ml_collections
from absl import flags
from ml_collections import config_flags

import configs
from unet_tfrecords.command import signals
from unet_tfrecords.command.cli_flags import Flag
from unet_tfrecords.command.errors import UserError, of_disk

Run = Callable[[flags.FlagValues, list[str]], None]


class Command(NamedTuple):
    """One thing a user can type.

    Attributes:
      name: as typed after ./launch.sh.
      summary: what it does, the first lines of its --help.
      flags: it has.
      run: does it, given the parsed flags and the arguments left over.
      required: flags that must be given.
      takes_config: whether it has --config=FILE:variant and --config.KEY=VALUE.
      passes_on: whether arguments left over go to somebody else (Beam's options).
      takes_arguments: whether arguments without a flag's name mean something to it.
    """

    name: str
    summary: str
    flags: Sequence[Flag]
    run: Run
    required: tuple[str, ...] = ()
    takes_config: bool = False
    passes_on: bool = False
    takes_arguments: bool = False


def main(command: Command, argv: Sequence[str] | None = None) -> int:
    """Runs a command.

    Args:
      argv: arguments without the program's name; None takes the process's.

    Returns:
      The exit code: 0, 2 for a user's mistake, 128 and a signal's number.
    """
    is_process = argv is None
    argv = list(sys.argv[1:] if argv is None else argv)
    with contextlib.ExitStack() as stack:
        try:
            if is_process:
                stack.enter_context(signals.heard())
            values, rest = parse(command, argv)
            if values is None:
                print(rest[0])
                return 0
            command.run(values, rest)
        except UserError as error:
            _tell(command, error.problems)
            return error.exit_code
        except BrokenPipeError:
            # Or Python would say so once more at its end.
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            _tell(command, ["standard output was closed; run it again to go on"])
            return UserError.exit_code
        except OSError as error:  # a full disk, a file in a folder's place
            _tell(command, [of_disk(error) or _one_line(error)])
            return UserError.exit_code
        except KeyboardInterrupt as stop:
            if is_process:
                signal.signal(signal.SIGINT, signal.SIG_IGN)  # no traceback of a second
            code, how = signals.code_of(stop)
            with contextlib.suppress(OSError):  # of a terminal that is gone
                print(
                    f"\n{command.name}: {how}; run it again to go on", file=sys.stderr
                )
            return code
    return 0


def _tell(command: Command, problems: Sequence[str]) -> None:
    for line in problems:
        print(f"{command.name}: {printable(line)}", file=sys.stderr)


def printable(text: str) -> str:
    """A line that stays one: whatever a file's name can hold and no line can, escaped.

    >>> print(printable("a\\tb\\n\\udcff é"))
    a\\tb\\n\\xff é
    """
    return "".join(
        character if character.isprintable() else _escaped(character)
        for character in text
    )


def _escaped(character: str) -> str:
    if "\udc80" <= character <= "\udcff":  # a byte that is no UTF-8 (PEP 383)
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode()


def parse(
    command: Command, argv: list[str]
) -> tuple[flags.FlagValues | None, list[str]]:
    """Flags by value and what is left over, or (None, [help]) where help is asked for.

    Raises:
      UserError: a flag or config key that does not exist or does not fit.
    """
    values = flags.FlagValues()
    for flag in command.flags:
        flag(values)
    argv = [_find_config(argument) for argument in argv]
    if command.takes_config:
        config_flags.DEFINE_config_file(
            "config",
            help_string="FILE.py[:variant], such as configs/phc_u373.py:cpu; it is run "
            "as Python, so trust it; configs/base.py has every value with its unit and "
            "reason, and each can be given, as --config.train.steps=200",
            lock_config=True,
            flag_values=values,
            sys_argv=[command.name, *argv],
        )
    if {"-h", "--help", "-help"} & set(argv):
        return None, [_help(command, values)]
    try:
        rest = values([command.name, *argv], known_only=command.passes_on)[1:]
        missing = [name for name in _required(command) if values[name].value in _EMPTY]
        if command.takes_config and not missing:
            config_of(values)  # loads the file only now
    except Exception as error:
        # A config is Python: whatever it does wrong, the user hears of it in one line.
        raise UserError(f"{_one_line(error)}; see --help") from error
    _check_names({f"--{name}": values[name].value for name in values})
    if missing:
        given = ", ".join(f"--{name}" for name in missing)
        raise UserError(f"{given} must be given; see --help")
    if rest and not (command.passes_on or command.takes_arguments):
        raise UserError(f"does not take {' '.join(rest)!r}; see --help")
    if command.takes_arguments:
        _check_names({f"argument {i}": text for i, text in enumerate(rest, 1)})
    return values, rest


def _check_names(values: Mapping[str, Any]) -> None:
    """Refuses names that would be taken for others, or that not all libraries take.

    Raises:
      UserError: the first of them.
    """
    for name, value in values.items():
        if isinstance(value, str) and (found := MISTYPED.match(value)):
            raise UserError(f"{name}={value}: write {found[1]}://BUCKET/FOLDER")
        if name in WRITTEN and re.match("https?:", str(value)):
            raise UserError(
                f"{name}={value}: web servers are read only; give a disk or a bucket"
            )
        if isinstance(value, str) and UNPRINTABLE.search(value):
            raise UserError(
                f"{name}={value}: a line break, another control character or a byte "
                "that is no UTF-8 in it; take another name"
            )


_EMPTY = (None, "")
UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
NO_SETTING = re.compile('Did you mean "(.*)" instead of "(.*)"[?]')  # ml_collections
# Taken for folders of this machine otherwise.
WRITTEN = ("--output", "--workdir", "--publish")
MISTYPED = re.compile("(gs|s3|az|https?):(?!//[^/])")


def _find_config(argument: str) -> str:
    """--config=configs/... of the installed package where there's no such file here."""
    name, _, path = argument.partition("=")
    if name.lstrip("-") != "config" or os.path.exists(path.split(":")[0]):
        return argument
    packaged = os.path.join(os.path.dirname(os.path.dirname(configs.__file__)), path)
    return f"{name}={packaged}" if os.path.isfile(packaged.split(":")[0]) else argument


def _required(command: Command) -> tuple[str, ...]:
    return (*command.required, "config") if command.takes_config else command.required


def _one_line(error: Exception) -> str:
    """The telling line of an error: of a nested traceback, the last."""
    if meant := NO_SETTING.search(str(error)):
        return f"the config has no {meant[2]!r}; did you mean {meant[1]!r}?"
    if (name := str(error).strip("\"'")).isidentifier():  # a KeyError's text
        return f"the config has no {name!r}"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    return lines[-1] if "Traceback" in str(error) else " ".join(lines)


def _help(command: Command, values: flags.FlagValues) -> str:
    width = min(shutil.get_terminal_size((88, 24)).columns, 100)
    usage = f"usage: ./launch.sh {command.name} [--flag=value ...]"
    lines = [usage, "", command.summary.strip(), "", "flags:"]
    required = _required(command)
    shown = {*values} - {"help", "helpfull", "helpshort", "helpxml"}
    for name in sorted(shown, key=lambda name: (name not in required, name)):
        lines.append(_flag_line(values[name], name in required))
        indent = "      "
        lines += textwrap.wrap(
            values[name].help, width, initial_indent=indent, subsequent_indent=indent
        )
    return "\n".join(lines)


def _flag_line(flag: flags.Flag, required: bool) -> str:
    if required:
        return f"  --{flag.name} (required)"
    name = f"--[no]{flag.name}" if flag.boolean else f"--{flag.name}"
    empty = flag.default in (None, "", [])
    return f"  {name}" + ("" if empty else f" (default: {flag.default})")


def given_flags(values: flags.FlagValues) -> list[str]:
    """The flags that were given, as they can be given again."""
    given = []
    for name in sorted(values):
        flag = values[name]
        if flag.present:
            value = getattr(
                flag, "config_filename", flag.value
            )  # of --config, the file
            given.append(f"--{name}={value}")
    return given


def config_of(values: flags.FlagValues) -> ml_collections.ConfigDict:
    """The parsed config."""
    return values["config"].value
