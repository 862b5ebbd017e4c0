"""Processes that take turns, so that whatever else the machine does meets all alike."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from typing import Any

from benchmarks.record import Record


class Absent(Exception):
    """A side that can't be measured here."""


class Player:
    """A process that does one piece of work at a time when asked."""

    def __init__(self, command: list[str], environment: Mapping[str, str]):
        """Starts a process whose program calls `answer`, and waits until it does.

        Raises:
          Absent: it ended before; why, in its last words.
        """
        said = tempfile.TemporaryFile("w+")  # a pipe would have to be emptied
        self.process = subprocess.Popen(
            command,
            env={**os.environ, **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=said,
            text=True,
        )
        for line in self.process.stdout:
            if line.strip() == "ready":
                return
        said.seek(0)
        raise Absent(*said.read().strip().splitlines()[-1:])

    def turn(self, what: Any = None) -> dict[str, float]:
        """One piece of work: `seconds`, and what else the process tells of it."""
        self.process.stdin.write(json.dumps(what) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def end(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def start(
    starters: Mapping[str, Callable[[], Player]], record: Record
) -> dict[str, Player]:
    """Those that can be started; the record says which can't."""
    players = {}
    for name, starter in starters.items():
        try:
            players[name] = starter()
        except Absent as error:
            record.lacks(name, str(error))
            print(f"{name}: absent: {error}", flush=True)
    return players


def play(players: Mapping[str, Player], *, rounds: int) -> dict[str, list[float]]:
    """Seconds of each player's turns; all end."""
    seconds: dict[str, list[float]] = {name: [] for name in players}
    for _ in range(rounds):
        for name, player in players.items():
            seconds[name].append(player.turn()["seconds"])
    for player in players.values():
        player.end()
    return seconds


def answer(work: Callable[[Any], dict[str, float] | Any]) -> None:
    """Works in this process whenever asked, until nobody asks any more."""
    print("ready", flush=True)
    for line in sys.stdin:
        what = json.loads(line)
        started = time.perf_counter()
        told = work(what)
        seconds = time.perf_counter() - started
        more = told if isinstance(told, dict) else {}
        print(json.dumps({"seconds": seconds, **more}), flush=True)
