"""Ways to change the bytes of a file, drawn from a seed.

Half of all places are drawn near the ends of the file, where headers and indices lie:
elsewhere most changes only hit pixels.
"""

import json
import re
import struct
from collections.abc import Callable

import numpy as np

NEAR = 1024  # bytes from either end
BIG = (0, 1, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0xFFFFFFF0)
Mutate = Callable[[np.random.Generator, bytearray], bytes]


def _place(rng: np.random.Generator, size: int) -> int:
    """A byte's number in a file of N bytes."""
    where = rng.integers(4)
    if where == 0:
        return int(rng.integers(min(NEAR, size)))
    if where == 1:
        return size - 1 - int(rng.integers(min(NEAR, size)))
    return int(rng.integers(size))


def _range(rng: np.random.Generator, size: int) -> slice:
    """Some bytes in a row, mostly few."""
    first = _place(rng, size)
    return slice(first, min(size, first + 1 + int(2 ** rng.uniform(0, 10))))


def flip_a_bit(rng, content):
    content[_place(rng, len(content))] ^= 1 << int(rng.integers(8))
    return bytes(content)


def set_a_byte(rng, content):
    content[_place(rng, len(content))] = int(rng.integers(256))
    return bytes(content)


def cut(rng, content):
    return bytes(content[: _place(rng, len(content))])


def take_out(rng, content):
    del content[_range(rng, len(content))]
    return bytes(content)


def repeat(rng, content):
    part = content[_range(rng, len(content))]
    place = _place(rng, len(content))
    return bytes(content[:place] + part + content[place:])


def swap(rng, content):
    """Two ranges of one length."""
    one, other = _range(rng, len(content)), _place(rng, len(content))
    length = min(one.stop - one.start, len(content) - other)
    first, second = slice(one.start, one.start + length), slice(other, other + length)
    content[first], content[second] = content[second], content[first]
    return bytes(content)


def overwrite(rng, content):
    """Zeros, as of a disk's lost block, or ones."""
    part = _range(rng, len(content))
    value = b"\0" if rng.integers(2) else b"\xff"
    content[part] = value * (part.stop - part.start)
    return bytes(content)


def noise(rng, content):
    part = _range(rng, len(content))
    content[part] = rng.bytes(part.stop - part.start)
    return bytes(content)


def set_a_number(rng, content):
    """A 16, 32 or 64 bit field to an extreme one, in either order of bytes."""
    code = "HIQ"[rng.integers(3)]
    size = struct.calcsize(code)
    place = _place(rng, len(content)) // 2 * 2
    value = int(rng.choice(BIG)) & (2 ** (8 * size) - 1)
    content[place : place + size] = struct.pack("<>"[rng.integers(2)] + code, value)
    return bytes(content)


def add_to_a_number(rng, content):
    """A byte by a little, as of a size that is off by one."""
    place = _place(rng, len(content))
    content[place] = (content[place] + int(rng.integers(1, 9))) % 256
    return bytes(content)


BINARY: tuple[Mutate, ...] = (
    flip_a_bit,
    set_a_byte,
    cut,
    take_out,
    repeat,
    swap,
    overwrite,
    noise,
    set_a_number,
    add_to_a_number,
)

_NUMBER = re.compile(rb"-?\d+(\.\d+)?([eE][-+]?\d+)?")
_WORD = re.compile(rb'"(?:[^"\\]|\\.)*"')
VALUES = (
    b"0",
    b"-1",
    b"1e400",
    b"NaN",
    b"-Infinity",
    b"1.5",
    b"9" * 5000,
    b"340282366920938463463374607431768211456",
    b"null",
    b"true",
    b'""',
    b"[]",
    b"{}",
    b'"\\ud800"',
)


def _replace(rng, content, pattern, value: bytes) -> bytes:
    found = list(pattern.finditer(content))
    if not found:
        return flip_a_bit(rng, content)
    chosen = found[rng.integers(len(found))]
    return bytes(content[: chosen.start()] + value + content[chosen.end() :])


def other_number(rng, content):
    """A number to what no number of its kind is."""
    return _replace(rng, content, _NUMBER, VALUES[rng.integers(len(VALUES))])


def other_word(rng, content):
    """A word, key or value, to something else."""
    return _replace(rng, content, _WORD, VALUES[rng.integers(len(VALUES))])


def another_digit(rng, content):
    """The smallest change that is still a number."""
    digits = [i for i, byte in enumerate(content) if chr(byte).isdigit()]
    if not digits:
        return flip_a_bit(rng, content)
    place = digits[rng.integers(len(digits))]
    content[place] = ord("0") + (content[place] - ord("0") + 1) % 10
    return bytes(content)


def without_a_key(rng, content):
    """Well-formed JSON that lacks something, or has it twice."""
    try:
        tree = json.loads(content)
    except ValueError:
        return take_out(rng, content)
    if not isinstance(tree, dict | list) or not tree:
        return take_out(rng, content)
    while True:
        keys = list(tree) if isinstance(tree, dict) else range(len(tree))
        key = keys[rng.integers(len(keys))]
        deeper = isinstance(tree[key], dict | list) and tree[key]
        if not deeper or rng.integers(3) == 0:
            break
        tree = tree[key]
    text = json.dumps(key if isinstance(tree, dict) else tree[key]).encode()
    return bytes(content).replace(text, b'"x"' if rng.integers(2) else text * 2, 1)


TEXT: tuple[Mutate, ...] = (
    *BINARY,
    other_number,
    other_word,
    another_digit,
    another_digit,
    without_a_key,
)


def mutate(
    rng: np.random.Generator, content: bytes, *, text: bool
) -> tuple[str, bytes]:
    """Other bytes than those given, and the name of what made them so."""
    while True:
        table = TEXT if text else BINARY
        how = table[rng.integers(len(table))]
        changed = how(rng, bytearray(content))
        if changed != content:
            return how.__name__, changed


def flip(path, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)
