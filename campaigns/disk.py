"""Every command on disks that are full, read-only or closed: how does it end, and then?

Each case runs a command against a small tmpfs in a mount namespace of its own, looks at
what it said, repairs it and runs the same command again, which has to come to what
a quiet run comes to.

    python -m campaigns.disk --count=20 --seed=1
"""

import argparse
import collections
import contextlib
import ctypes
import hashlib
import json
import os
import pathlib
import random
import re
import shutil
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

ROOT = pathlib.Path(__file__).parents[1]
CONFIG = (
    f"--config={ROOT}/configs/synthetic.py:smoke",
    "--config.data.tile_size=60",
    "--config.model.depth=2",
    "--config.data.augmentations=2",
)
STEPS = ("--config.train.steps=4", "--config.train.validate_every_steps=2")
ROOMY = 256 * 2**20  # bytes
NOBODY = 65534
CLONE_NEWNS = 0x00020000
# Not the same twice: times, and what TensorFlow numbers by chance.
VARYING = re.compile(
    r"events\.out|predict\.json|\.pb$|SHA256SUMS|report\.html$|about\.json$|index\.html$"
    r"|state\.(data|index)"
)
FAULTS = ("full", "inodes", "read-only", "closed")
WRITERS = (
    "draw",
    "preprocess",
    "train",
    "evaluate",
    "tune",
    "export",
    "publish",
    "predict",
    "preview",
)


class Case(NamedTuple):
    """A command and a fault.

    Attributes:
      command: one of WRITERS, or verify.
      fault: full, inodes, read-only or closed.
      free: bytes, or files, that there is room for.
    """

    command: str
    fault: str
    free: int = 0


class Outcome(NamedTuple):
    """What has come of a case.

    Attributes:
      case: which.
      code: the exit code under the fault; -1 for a traceback.
      said: the command's own lines.
      left: temporary files once the command has ended.
      again: the exit code of the same command on the repaired disk.
      wrong: what is not as after a quiet run, and what else is to be blamed.
    """

    case: Case
    code: int
    said: list[str]
    left: list[str]
    again: int
    wrong: list[str]


def why_not() -> str:
    """Why there can be no mount namespace here; empty where there can."""
    if os.geteuid() or not shutil.which("unshare"):
        return "needs root and unshare"
    trial = "mount -t tmpfs tmpfs /mnt"
    done = subprocess.run(["unshare", "-m", "sh", "-c", trial], capture_output=True)
    return done.stderr.decode() if done.returncode else ""


class Disk:
    """A tmpfs of any size at one place."""

    def __init__(self, path: pathlib.Path):
        self.path = path
        path.mkdir(exist_ok=True)
        self._mount("-t", "tmpfs", "-o", f"size={ROOMY},mode=0755", "tmpfs")

    def _mount(self, *arguments: str) -> None:
        subprocess.run(["mount", *arguments, str(self.path)], check=True)

    def set(self, *, size: int = ROOMY, inodes: int = 0, mode: str = "rw") -> None:
        options = f"remount,size={size},nr_inodes={inodes or 100_000},{mode}"
        self._mount("-o", options)

    def used(self) -> tuple[int, int]:
        """Bytes and files."""
        found = os.statvfs(self.path)
        used = (found.f_blocks - found.f_bfree) * found.f_frsize
        return used, found.f_files - found.f_ffree

    def clear(self) -> None:
        self.set()
        for entry in os.scandir(self.path):
            shutil.rmtree(entry.path) if entry.is_dir() else os.remove(entry.path)


@contextlib.contextmanager
def caught() -> Iterator[Callable[[], str]]:
    """What is written to this process's outputs, by whatever library."""
    sys.stdout.flush()
    sys.stderr.flush()
    before = [os.dup(1), os.dup(2)]
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        try:
            yield lambda: (
                sys.stdout.flush(),
                sys.stderr.flush(),
                file.seek(0),
                file.read().decode(errors="replace"),
            )[-1]
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for number, kept in zip((1, 2), before, strict=True):
                os.dup2(kept, number)
                os.close(kept)


class Bench:
    """What commands are run on: drawn data, a data set, a run and a model of it."""

    def __init__(self, folder: pathlib.Path, given: pathlib.Path | None = None):
        self.folder = folder
        self.given = given
        self.disk = Disk(folder / "disk")
        self.out = self.disk.path / "out"
        self.quiet: dict[str, tuple[dict[str, str], int, int]] = {}

    def made(self, name: str) -> pathlib.Path:
        """One of the folders that other commands read, made when first asked for."""
        path = self.folder / name
        if self.given and (self.given / name).exists():
            return self.given / name
        if not path.exists():
            before = {"cells": "draw", "data": "preprocess", "run": "train"}
            command = before.get(name, "export")
            code, said = self.run(command, path)
            assert code == 0, said
        return path

    def arguments(self, command: str, out: pathlib.Path) -> list[str]:
        if command == "draw":
            return [f"--output={out}", "--frames=8", "--size=96", "--seed=3"]
        if command == "preprocess":
            return [*CONFIG, f"--input={self.made('cells')}", f"--output={out}"]
        if command == "train":
            return [*CONFIG, *STEPS, f"--data={self.made('data')}", f"--workdir={out}"]
        if command in ("evaluate", "tune"):
            tune = ["--tune"] if command == "tune" else []
            return [f"--workdir={out}", f"--input={self.made('cells')}", *tune]
        if command in ("export", "publish"):
            to = "output" if command == "export" else "publish"
            return [f"--workdir={self.made('run')}", f"--{to}={out}"]
        if command == "predict":
            given = f"--model={self.made('model')}", f"--input={self.made('cells')}/01"
            return [*given, f"--output={out}", "--instances"]
        if command == "preview":
            return [f"--data={self.made('data')}", f"--output={out}", "--tiles=1"]
        return [f"--data={out}"]

    def run(self, command: str, out: pathlib.Path) -> tuple[int, str]:
        """A command in this process: its exit code, or -1, and all it said."""
        from preprocess import draw, main
        from trainer.main import COMMANDS
        from unet_tfrecords.command import cli
        from unet_tfrecords.dataset import preview, verify

        commands = {
            "draw": draw.COMMAND,
            "preprocess": main.COMMAND,
            "preview": preview.COMMAND,
            "verify": verify.COMMAND,
            "tune": COMMANDS["evaluate"],
            "publish": COMMANDS["export"],
            **COMMANDS,
        }
        arguments = self.arguments(command, out)
        with caught() as words:
            try:
                code = cli.main(commands[command], arguments)
            except BaseException:
                code = -1
                traceback.print_exc()
            return code, words()

    def set_up(self, command: str) -> None:
        """What a command finds in its folder before it begins."""
        self.disk.clear()
        if command in ("evaluate", "tune"):
            shutil.copytree(self.made("run"), self.out)
        if command == "verify":
            shutil.copytree(self.made("data"), self.out)

    def quietly(self, command: str) -> tuple[dict[str, str], int, int]:
        """What a command comes to on a good disk; bytes and files that it needs."""
        if command not in self.quiet:
            self.arguments(command, self.out)  # makes what it reads
            self.set_up(command)
            before = self.disk.used()
            code, said = self.run(command, self.out)
            assert code == 0, said
            after = self.disk.used()
            needs = [a - b for a, b in zip(after, before, strict=True)]
            self.quiet[command] = (content(self.out), *needs)
        return self.quiet[command]

    def try_out(self, case: Case) -> Outcome:
        """One case, and the same command again on the repaired disk."""
        expected = self.quietly(case.command)[0]
        self.set_up(case.command)
        nobody = contextlib.nullcontext()
        size, files = self.disk.used()
        if case.fault == "full":
            self.disk.set(size=size + case.free)
        elif case.fault == "inodes":
            self.disk.set(inodes=files + case.free)
        elif case.fault == "read-only":
            self.disk.set(mode="ro")
        else:
            nobody = as_nobody()
        with nobody:
            code, said = self.run(case.command, self.out)
        self.disk.set()
        left = temporaries(self.out)
        own = "export" if case.command == "publish" else case.command
        own = "evaluate" if case.command == "tune" else own
        lines = [x for x in re.split(r"[\r\n]", said) if x.startswith(f"{own}: ")]
        wrong = blamed(code, said, lines, str(self.disk.path))
        again, later = self.run(case.command, self.out)
        if again:
            wrong.append(f"again: {again}: {later[-500:]}")
        found = content(self.out)
        for name in sorted(expected.keys() | found.keys()):
            if expected.get(name) != found.get(name):
                wrong.append(f"{name}: {expected.get(name)}, and now {found.get(name)}")
        wrong += [f"{path}: left for ever" for path in temporaries(self.out)]
        return Outcome(case, code, lines, left, again, wrong)


def _make_deterministic(commands: list[str]) -> None:
    """Threads would add up in any order, and scores differ in the last digits."""
    if {"train", "evaluate", "tune"} & set(commands):
        import tensorflow as tf

        tf.config.experimental.enable_op_determinism()


def blamed(code: int, said: str, lines: list[str], where: str) -> list[str]:
    """What is wrong with how a command told of a fault."""
    wrong = []
    if code not in (0, 2):
        wrong.append(f"exit code {code}: {said[-800:]}")
    if "Traceback" in said and code != -1:
        wrong.append(f"a traceback: {said[-800:]}")
    if code == 2 and len(lines) != 1:
        wrong.append(f"{len(lines)} lines: {said[-800:]}")
    if code == 2 and not any(where in line for line in lines):
        wrong.append(f"names no file: {lines}")
    return wrong


@contextlib.contextmanager
def as_nobody() -> Iterator[None]:
    """With nobody's rights to files, which root has all of."""
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


def temporaries(folder: pathlib.Path) -> list[str]:
    """Files that no quiet run leaves."""
    marks = (".unfinished-", ".lock", "tmp", ".tempstate")
    return [
        os.path.relpath(os.path.join(place, name), folder)
        for place, folders, names in os.walk(folder)
        for name in (*folders, *names)
        if any(mark in name for mark in marks)
    ]


def content(folder: pathlib.Path) -> dict[str, str]:
    """Digests of all files by name, of those that vary nothing but that they are."""
    found = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        name, text = str(path.relative_to(folder)), path.read_bytes()
        if "events.out" in name:
            continue  # each call of train has its own
        if path.name == "dataset_info.json" and b'"times"' in text:
            text = as_text(json.loads(text), "times")
        if path.name == "metrics.jsonl":
            lines = [json.loads(line) for line in text.splitlines()]
            text = b"".join(as_text(line, "images_per_s") for line in lines)
        digest = hashlib.sha256(text).hexdigest()[:12]
        found[name] = "there" if VARYING.search(name) else digest
    return found


def as_text(record: dict[str, Any], without: str) -> bytes:
    record.pop(without, None)
    return json.dumps(record, sort_keys=True).encode()


def cases(bench: Bench, commands: list[str], count: int, seed: int) -> Iterator[Case]:
    """Each command on each kind of disk; a full one at `count` places of its work."""
    rng = random.Random(seed)
    for command in commands:
        yield Case(command, "read-only")
        yield Case(command, "closed")
        if command == "verify":
            continue
        _, size, files = bench.quietly(command)
        for _ in range(count):
            yield Case(command, "full", 4096 * rng.randrange(max(1, size // 4096)))
        for _ in range(-(-count // 3)):
            yield Case(command, "inodes", rng.randrange(max(1, files)))


def inside(given: argparse.Namespace) -> Iterator[Outcome]:
    """All cases, in a mount namespace that this process moves into."""
    if ctypes.CDLL(None).unshare(CLONE_NEWNS):
        raise OSError("no mount namespace here")
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)
    with tempfile.TemporaryDirectory(prefix="unet-disk-") as folder:
        os.chmod(folder, 0o755)  # noqa: S103  nobody has to reach it
        bench = Bench(pathlib.Path(folder), given.made)
        _make_deterministic(given.commands)
        for case in cases(bench, given.commands, given.count, given.seed):
            if case.fault in given.faults:
                yield bench.try_out(case)
        subprocess.run(["umount", bench.disk.path], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--count", type=int, default=6, help="sizes a command")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--commands", nargs="+", default=[*WRITERS, "verify"])
    parser.add_argument(
        "--made", type=pathlib.Path, help="holds cells, data, run, model: as is there"
    )
    parser.add_argument("--faults", nargs="+", default=FAULTS)
    parser.add_argument("--json", action="store_true", help="an outcome a line")
    given = parser.parse_args()
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    tally: dict[tuple[str, str], collections.Counter] = {}
    for outcome in inside(given):
        case = outcome.case
        if given.json:
            print(json.dumps(outcome), flush=True)
        name = f"{case.command} {case.fault} {case.free}"
        print(f"{name}: {outcome.code} {outcome.said[-1:]}", file=sys.stderr)
        for line in outcome.wrong:
            print(f"    WRONG: {line}", file=sys.stderr)
        counts = tally.setdefault((case.command, case.fault), collections.Counter())
        counts["tried"] += 1
        counts["survived"] += not outcome.wrong
    if not given.json:
        print("| command | fault | tried | survived |\n|---|---|---|---|")
        for (command, fault), counts in tally.items():
            print(f"| {command} | {fault} | {counts['tried']} | {counts['survived']} |")


if __name__ == "__main__":
    main()
