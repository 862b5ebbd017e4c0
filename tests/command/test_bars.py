"""Bars are drawn for people on terminals, and seldom where a log is read later."""

import contextlib
import fcntl
import os
import pty
import struct
import termios

import pytest

from tests.commands import PYTHON, process

CODE = """
import time
from unet_tfrecords.command import bars
for _ in bars.bar(range(1500), unit="frame"):
    time.sleep(0.002)
"""


def drawn(stderr) -> None:
    process(PYTHON, "-c", CODE, stderr=stderr, check=True, timeout=60)


@pytest.mark.slow
def test_a_log_holds_the_bars_beginning_and_end(tmp_path):
    with open(tmp_path / "log", "wb") as log:
        drawn(log)
    text = (tmp_path / "log").read_bytes()
    assert text.count(b"\r") == 2 and b"1500/1500" in text
    assert b"\x1b[" not in text


@pytest.mark.slow
def test_a_terminal_sees_it_move():
    """Without colours, whatever the terminal can do."""
    master, terminal = pty.openpty()
    size = struct.pack("4H", 24, 80, 0, 0)
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, size)
    drawn(terminal)
    os.close(terminal)
    text = b""
    with open(master, "rb", buffering=0) as file, contextlib.suppress(OSError):
        while some := file.read(4096):  # an error tells its end
            text += some
    assert text.count(b"\r") >= 3 and b"1500/1500" in text
    assert b"\x1b[3" not in text and b"\x1b[0" not in text
