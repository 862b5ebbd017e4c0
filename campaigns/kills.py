"""Kills commands at random moments, and runs them again.

    python -m campaigns.kills --count=100 --seed=1 [--only=train]

Each command first runs in quiet. A trial starts it in a process, ends that by SIGKILL,
SIGTERM or SIGINT, at a random time or at a random change of files, looks at what lies
there, and gives the same command again; now and then that is killed, too. Lost is a
trial where something under a final name was not whole, where the last run failed, where
something finished was made again, where the outputs are not the quiet run's, where
temporaries stay, or where a signal was answered by a traceback.
"""

import argparse
import collections
import os
import pathlib
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import NamedTuple

from campaigns import store
from campaigns.commands import (
    ALL,
    CONFIG,
    OUT,
    ROOT,
    Command,
    Inputs,
    unfinished,
)
from preprocess import draw

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
# How a command may end that a signal has met: dead, stopped, or done before.
ENDS = {
    signal.SIGKILL: (-signal.SIGKILL, 0),
    signal.SIGTERM: (143, 0),
    signal.SIGINT: (130, 0),
}
# Before a command has begun, or after its end, while Python starts and stops.
OUTSIDE = {signal.SIGTERM: -signal.SIGTERM, signal.SIGINT: -signal.SIGINT}
AT_A_CHANGE = 0.65  # share of kills that are aimed at a change of files
AGAIN = 0.3  # share of reruns that are killed, too
MOST_KILLS = 3
LIMIT_S = 400.0  # of any one run
LINGER_S = 30.0  # for children of a killed one to end


class Shot(NamedTuple):
    """A kill.

    Attributes:
      number: the signal.
      at: the change of files it comes at; 0: at a time.
      delay_s: after that change, or after the start.
    """

    number: signal.Signals
    at: int
    delay_s: float

    def __str__(self):
        where = f"change {self.at} + " if self.at else ""
        return f"{self.number.name} at {where}{self.delay_s:.2f} s"


class Quiet(NamedTuple):
    """An undisturbed run: its outputs, s, and how many changes of files it made."""

    outputs: dict[str, str]
    seconds: float
    changes: int


class Ended(NamedTuple):
    """A run that is over."""

    code: int
    said: str
    children: list[str]  # that were there after it
    lingered_s: float  # until the last of those was gone


def make_inputs(folder: pathlib.Path) -> Inputs:
    """Draws cells and makes of them what the commands start from, if it isn't there."""
    cells, data, run, model = (folder / n for n in ("cells", "data", "run", "model"))
    if (model / "1").exists():
        return Inputs(str(cells), str(data), str(run), str(model))
    draw.write_cells(str(cells), size=128, num_frames=8, seed=3)
    for module, *arguments in (
        ("preprocess.main", *CONFIG, f"--input={cells}", f"--output={data}"),
        ("trainer.main", "train", *CONFIG, f"--data={data}", f"--workdir={run}"),
        ("trainer.main", "export", f"--workdir={run}", f"--output={model}"),
    ):
        command = [sys.executable, "-m", module, *arguments]
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return Inputs(str(cells), str(data), str(run), str(model))


class Trials:
    """One command's, in a folder of their own."""

    def __init__(self, command: Command, given: Inputs, folder: pathlib.Path):
        self.command = command
        self.given = given
        self.folder = folder
        place = self.place("quiet")
        self.say(f"{command.name}: quiet run")
        started = time.monotonic()
        done = self.run(place)
        if done.code:
            raise RuntimeError(f"{command.name} fails undisturbed: {done.said}")
        seconds = time.monotonic() - started
        changes = int((place / "changes").read_text())
        self.quiet = Quiet(command.outputs(place), seconds, changes)
        self.say(
            f"{command.name}: {seconds:.1f} s, {changes} changes, "
            f"{len(self.quiet.outputs)} outputs"
        )

    def say(self, line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    def place(self, name: str) -> pathlib.Path:
        """A folder for a run and its reruns."""
        place = self.folder / name
        (place / "tmp").mkdir(parents=True)
        return place

    def run(self, place: pathlib.Path, shot: Shot | None = None) -> Ended:
        """Runs the command to its end, which a shot may bring about."""
        number, at, delay = shot or (0, 0, 0.0)
        command = [
            *(sys.executable, "-m", "campaigns.aim", f"{place}/"),
            *(str(place / "changes"), str(at), str(int(number)), str(delay)),
            *(self.command.module, *self.command.arguments(self.given, place)),
        ]
        paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
        environment = {
            **os.environ,
            **self.command.environment(place),
            "TMPDIR": str(place / "tmp"),
            "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        }
        with open(place / "said", "wb") as said:
            process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=environment,
                stdout=said,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                if shot and not at:
                    _shoot_later(process, shot)
                code = process.wait(LIMIT_S)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                code = -1000
            children = session(process.pid)
            lingered = wait_for_session(process.pid) if children else 0.0
        text = (place / "said").read_text(errors="replace")
        return Ended(code, text, children, lingered)

    def trial(self, name: str, shots: Sequence[Shot]) -> list[str]:
        """Kills once or more, then runs to the end; what was lost."""
        place, lost = self.place(name), []
        finished: dict[str, int] = {}
        for shot in shots:
            before = set(os.listdir(place / "tmp"))
            done = self.run(place, shot)
            lost += self._problems_of(done, shot, place)
            left = set(os.listdir(place / "tmp")) - before
            if done.code > 128 and left:
                lost.append(f"{shot}: left in TMPDIR: {', '.join(left)}")
            lost += self._looked(place, finished)
            finished |= self.command.finished(place)
        done = self.run(place)
        if done.code:
            lost.append(f"run again: ended with {done.code}: {done.said[-600:]}")
        else:
            lost += self._looked(place, finished) + self._compared(place)
        if not lost:
            shutil.rmtree(place)
        return lost

    def _problems_of(self, done: Ended, shot: Shot, place: pathlib.Path) -> list[str]:
        """What was wrong with the way a run has ended."""
        lost = []
        if done.code not in ENDS[shot.number]:
            outside = done.code == OUTSIDE.get(shot.number)
            if not outside or (done.said.strip() and self._compared(place)):
                lost.append(f"{shot}: ended with {done.code}: {done.said[-300:]}")
        if "Traceback" in done.said or "Exception ignored" in done.said:
            lost.append(f"{shot}: a traceback: {done.said[-1500:]}")
        elif done.code > 128 and len(_lines(done.said, self.command.name)) != 1:
            lost.append(f"{shot}: not one line: {done.said[-600:]}")
        if done.lingered_s >= LINGER_S:
            lost.append(f"{shot}: children left: {done.children}")
        elif done.children:
            line = f"  {shot}: children for {done.lingered_s:.1f} s: {done.children}"
            self.say(line)
        return lost

    def _looked(self, place: pathlib.Path, finished: dict[str, int]) -> list[str]:
        """What is not whole, or was made again although it was."""
        try:
            lost = self.command.broken(place, self.quiet.outputs)
        except Exception as error:  # of whatever reads what should be whole
            return [f"in between: {type(error).__name__}: {error}"]
        now = self.command.finished(place) if finished else {}
        return lost + [
            f"finished and {'made again' if path in now else 'gone'}: {path}"
            for path, time_ns in finished.items()
            if now.get(path) != time_ns
        ]

    def _compared(self, place: pathlib.Path) -> list[str]:
        """How the outputs differ from the quiet run's; what else is left."""
        found = self.command.outputs(place)
        lost = []
        for name in sorted(found.keys() | self.quiet.outputs.keys()):
            one, other = found.get(name), self.quiet.outputs.get(name)
            more = other is None and re.match(self.command.may_be_more, name)
            if one != other and not more:
                lost.append(f"at the end: {name}: {one}, in quiet {other}")
        if left := unfinished(place / OUT):
            lost.append(f"at the end: left over: {', '.join(left)}")
        return lost

    def draw(self, rng: random.Random, number: signal.Signals) -> list[Shot]:
        """A kill by this signal, and now and then some more by any."""
        shots = [self._draw_one(rng, number)]
        while len(shots) < MOST_KILLS and rng.random() < AGAIN:
            shots.append(self._draw_one(rng, rng.choice(SIGNALS)))
        return shots

    def _draw_one(self, rng: random.Random, number: signal.Signals) -> Shot:
        if rng.random() < AT_A_CHANGE:
            # Half of them some moments later: TensorFlow's own writing is not seen.
            delay = rng.choice((0.0, rng.uniform(0, 0.3)))
            return Shot(number, rng.randint(1, self.quiet.changes), delay)
        return Shot(number, 0, rng.uniform(0, self.quiet.seconds))


def _shoot_later(process: subprocess.Popen, shot: Shot) -> None:
    try:
        process.wait(shot.delay_s)
    except subprocess.TimeoutExpired:
        if shot.number == signal.SIGINT:  # as a terminal does
            os.killpg(process.pid, shot.number)
        else:
            process.send_signal(shot.number)


def _lines(said: str, name: str) -> list[str]:
    """What a stopped command says of it."""
    lines = said.replace("\r", "\n").splitlines()
    begun = f"{name.split(',')[0].replace('publish', 'export')}: "
    return [line for line in lines if line.startswith(begun)]


def session(leader: int) -> list[str]:
    """The living processes of a session by their command lines."""
    found = []
    for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
        try:
            text = stat.read_text()
            line = (stat.parent / "cmdline").read_bytes().replace(b"\0", b" ")
        except OSError:
            continue
        fields = text.rpartition(")")[2].split()
        if int(fields[3]) == leader and fields[0] != "Z" and line:
            found.append(line.decode(errors="replace")[:90])
    return found


def wait_for_session(leader: int) -> float:
    """Until no process of a session is left; s that it took. Then they are killed."""
    started = time.monotonic()
    while session(leader):
        if time.monotonic() - started > LINGER_S:
            os.killpg(leader, signal.SIGKILL)
            break
        time.sleep(0.05)
    return time.monotonic() - started


def campaign(
    count: int,
    seed: int,
    only: Sequence[str],
    folder: pathlib.Path,
    inputs: pathlib.Path,
) -> list[tuple[str, Sequence[Shot], list[str]]]:
    """Trials of some commands.

    Args:
      count: of trials, spread evenly over the commands and signals.
      seed: of what is drawn.
      only: names of commands.
      folder: where everything is written; what was lost stays there.
      inputs: where what the commands start from lies, or is made.

    Returns:
      Of each trial: the command, its kills, and what was lost.
    """
    # Or what runs in the background ignores it, and all its children.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    given = make_inputs(inputs)
    trials = []
    try:
        for place, name in enumerate(only):
            own = Trials(ALL[name](), given, folder / name.replace(", ", "-"))
            rng = random.Random(f"{seed} {name}")
            for index in range(count // len(only) + (place < count % len(only))):
                drawn = own.draw(rng, SIGNALS[index % len(SIGNALS)])
                trials.append((name, drawn, _tried(own, f"{index:03d}", drawn)))
    finally:
        store.close()
    return trials


def _tried(own: Trials, name: str, shots: Sequence[Shot]) -> list[str]:
    lost = own.trial(name, shots)
    own.say(f"{own.command.name} {name}: {', '.join(map(str, shots))}")
    for line in lost:
        own.say(f"  LOST {line}")
    return lost


def table(trials) -> str:
    """Figures by command and the signal that came first."""
    numbers: dict[tuple[str, str], list[int]] = collections.defaultdict(lambda: [0] * 4)
    for name, shots, lost in trials:
        for key in ((name, shots[0].number.name), ("all", "all")):
            row = numbers[key]
            row[0] += 1
            row[1] += len(shots)
            row[2] += not lost
            row[3] += bool(lost)
    lines = ["| command | signal | trials | kills | survived | lost |"]
    lines.append("|---|---|---|---|---|---|")
    for (name, number), row in numbers.items():
        if name != "all":
            lines.append(f"| {name} | {number} | {' | '.join(map(str, row))} |")
    lines.append(f"| all | | {' | '.join(map(str, numbers['all', 'all']))} |")
    return "\n".join(lines)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=100, help="trials in all")
    parser.add_argument("--seed", type=int, default=1, help="of what is drawn")
    parser.add_argument("--only", default=";".join(ALL), help="commands, by ;")
    parser.add_argument(
        "--folder", help="where trials lie; a temporary one if not given"
    )
    parser.add_argument("--inputs", help="of an earlier campaign: FOLDER/inputs")
    given = parser.parse_args()
    folder = pathlib.Path(given.folder or tempfile.mkdtemp(prefix="unet-kills-"))
    names = given.only.split(";")
    inputs = pathlib.Path(given.inputs or folder / "inputs")
    trials = campaign(given.count, given.seed, names, folder, inputs)
    print(table(trials))
    sys.exit(any(lost for _, _, lost in trials))


if __name__ == "__main__":
    main()
