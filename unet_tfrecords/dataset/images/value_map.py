"""What a mask's values or colours mean, as `config.data.mask_values` says."""

import re
from typing import NamedTuple

import numpy as np

from unet_tfrecords.command.errors import UserError
from unet_tfrecords.dataset.pixel_statistics import count_values
from unet_tfrecords.dataset.records import UNLABELLED

UNLABELLED_NAME = "unlabelled"
FORM = (
    "VALUE=NUMBER or #RRGGBB=NUMBER, separated by commas; the number can be "
    f"{UNLABELLED_NAME!r}"
)
MOST_NAMED = 4  # colours in a line
_ENTRY = re.compile(rf"(#[0-9a-fA-F]{{6}}|\d{{1,8}})=(\d{{1,8}}|{UNLABELLED_NAME})")


class Mask(NamedTuple):
    """Pixels of a mask as they were read.

    Attributes:
      values: integer [H, W]; of colours the number 0xRRGGBB.
      has_colours: whether they are colours.
      palette: "" without one, or whether its colours are grey: "greys", "colours", or
        "mixed" where some are colours, and none of those occurs.
      colours: 0xRRGGBB by number, of a palette of colours.
    """

    values: np.ndarray
    has_colours: bool = False
    palette: str = ""
    colours: dict[int, int] = {}


class ValueMap(NamedTuple):
    """The numbers that a mask's values stand for; values that it lacks stay.

    Attributes:
      numbers: by value, or by colour as 0xRRGGBB; None is unlabelled.
      of_colours: whether they are colours. Then each one that occurs must be named.
    """

    numbers: dict[int, int | None] = {}
    of_colours: bool = False

    def applied(self, mask: Mask, name: str) -> tuple[np.ndarray, np.ndarray | None]:
        """Replaces values.

        Args:
          mask: as it was read.
          name: the file, for the error.

        Returns:
          Integer [H, W], 0 where unlabelled; and bool [H, W], where that is, or None
          where nothing can be.

        Raises:
          UserError: colours that have no number.
        """
        values = mask.values
        if not self.numbers:
            return values, None
        occurring = np.flatnonzero(count_values(values)).tolist()
        if self.of_colours:
            unknown = [value for value in occurring if value not in self.numbers]
            if unknown:
                raise UserError(f"{name}: {_unnamed(unknown)}")
        numbers = np.arange(max(occurring) + 1, dtype=np.int32)
        is_missing = np.zeros(len(numbers), bool)
        for value in self.numbers.keys() & set(occurring):
            number = self.numbers[value]
            numbers[value] = number or 0
            is_missing[value] = number is None
        return numbers[values], is_missing[values] if is_missing.any() else None


def _unnamed(colours: list[int]) -> str:
    shown = ", ".join(f"#{colour:06x}" for colour in colours[:MOST_NAMED])
    more = f" and {len(colours) - MOST_NAMED} more" if colours[MOST_NAMED:] else ""
    return (
        f"config.data.mask_values has no number for {shown}{more}; name each colour, "
        "the background too"
    )


def parse(text: str) -> ValueMap:
    """Reads `config.data.mask_values`.

    Raises:
      UserError: what is wrong with it.

    >>> parse("1=0, 255=unlabelled").numbers
    {1: 0, 255: None}
    >>> parse("#000000=0, #ff0000=1")
    ValueMap(numbers={0: 0, 16711680: 1}, of_colours=True)
    """
    numbers: dict[int, int | None] = {}
    colours = set()
    problems = []
    for entry in filter(None, re.split(r"[,\s]+", text)):
        match = _ENTRY.fullmatch(entry)
        if not match:
            problems.append(f"config.data.mask_values: {entry!r} is not {FORM}")
            continue
        value, number = match.groups()
        colours.add(value.startswith("#"))
        key = int(value[1:], 16) if value.startswith("#") else int(value)
        if key in numbers:
            problems.append(f"config.data.mask_values: names {value} twice")
        numbers[key] = None if number == UNLABELLED_NAME else int(number)
        if number == str(UNLABELLED):
            problems.append(
                f"config.data.mask_values: {entry}: {UNLABELLED} means unlabelled; "
                f"write {value}={UNLABELLED_NAME}, or another number"
            )
    if len(colours) > 1:
        problems.append(
            "config.data.mask_values: names both values and colours; write a grey as a "
            "colour, such as #808080"
        )
    if problems:
        raise UserError(problems)
    return ValueMap(numbers, colours == {True})
