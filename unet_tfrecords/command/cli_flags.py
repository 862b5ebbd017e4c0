"""The kinds of flags that a command can have, for its table of them.

Each has a name, a help that gives its unit, and a default; None has none.
"""

from collections.abc import Callable, Sequence

from absl import flags

Flag = Callable[[flags.FlagValues], object]  # adds itself to a command's namespace


def string(name: str, text: str, default: str | None = None) -> Flag:
    """Text: a path most often."""
    return lambda values: flags.DEFINE_string(name, default, text, flag_values=values)


def integer(
    name: str,
    text: str,
    default: int | None = 0,
    *,
    least: int | None = None,
    most: int | None = None,
) -> Flag:
    """A whole number."""
    return lambda values: flags.DEFINE_integer(
        name, default, text, least, most, flag_values=values
    )


def number(name: str, text: str, default: float | None = None) -> Flag:
    """A number."""
    return lambda values: flags.DEFINE_float(name, default, text, flag_values=values)


def boolean(name: str, text: str, default: bool | None = False) -> Flag:
    """--NAME or --noNAME."""
    return lambda values: flags.DEFINE_boolean(name, default, text, flag_values=values)


def strings(name: str, text: str) -> Flag:
    """Several, with commas between."""
    return lambda values: flags.DEFINE_list(name, [], text, flag_values=values)


def choice(
    name: str, text: str, known: Sequence[str], default: str | None = None
) -> Flag:
    """One of a few words."""
    return lambda values: flags.DEFINE_enum(
        name, default, list(known), text, flag_values=values
    )
