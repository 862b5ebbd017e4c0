"""Damages files by thousands and has the product read them.

    python -m campaigns.mutations --kind=tiff --count=2000 --seed=1

Each file is either read right, or refused in lines that name it. A traceback, an end of
the interpreter, more than 10 s or 2 GB, or other data taken for right is a failure: it
is shown, and kept with --keep=FOLDER. --only=NUMBER repeats one.
"""

import argparse
import collections
import json
import os
import pathlib
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from campaigns import samples
from campaigns.mutators import mutate
from campaigns.readers import RAISED, READ, REFUSED, Outcome

SECONDS, BYTES = 10.0, 2 * 10**9
START_S = 120.0  # until a reader has loaded what it needs
RIGHT, LEGAL, LATER = "read right", "another image", "noticed later"
GOOD = (RIGHT, REFUSED, LEGAL, LATER)
BAD = ("wrong", RAISED, "unnamed", "crash", "too long", "too large")


class Reader:
    """A process that reads; started again where the last one ended."""

    def __init__(self, kind: str, folder: pathlib.Path):
        self.kind, self.folder = kind, folder
        self.process: subprocess.Popen | None = None
        self.base = 0  # bytes in memory before anything was read
        self.peak = 0
        self.seconds = SECONDS

    def read(self, target: str) -> Outcome:
        """Has one file read; the status is one of BAD where the process ended."""
        started = self.process is not None
        process = self.process = self.process or self._start()
        assert process.stdin and process.stdout
        self.base = self.base or _resident(process.pid)
        process.stdin.write(f"{target}\n".encode())
        process.stdin.flush()
        deadline = time.monotonic() + (self.seconds if started else START_S)
        self.peak = 0
        while True:
            if select.select([process.stdout], [], [], 0.02)[0]:
                line = process.stdout.readline()
                if line:
                    return Outcome(*json.loads(line))
                self.close()
                return Outcome("crash", told=f"exit code {process.returncode}")
            self.peak = max(self.peak, _resident(process.pid) - self.base)
            for status, over in (
                ("too long", time.monotonic() > deadline),
                ("too large", started and self.peak > BYTES),
            ):
                if over:
                    self.close()
                    return Outcome(status, told=f"{self.peak / 1e9:.1f} GB")

    def _start(self) -> subprocess.Popen:
        command = "-m", "campaigns.readers", self.kind, str(self.folder)
        environment = os.environ | {
            "TF_CPP_MIN_LOG_LEVEL": "3",
            "PYTHONPATH": str(samples.ROOT),
        }
        return subprocess.Popen(
            [sys.executable, *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
        )

    def close(self) -> None:
        """Ends the process; the next file is read by a new one."""
        if self.process:
            self.process.kill()
            with self.process:  # waits, and closes its pipes
                self.process = None


def _resident(process: int) -> int:
    """Bytes of a process that are in memory."""
    try:
        pages = int(pathlib.Path(f"/proc/{process}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


class Case(NamedTuple):
    """One damaged file and what came of it."""

    number: int
    target: str
    how: str
    verdict: str
    told: str


class Material(NamedTuple):
    """What takes long to make; made where it isn't given."""

    data: pathlib.Path
    run: pathlib.Path
    models: pathlib.Path


def lay_out(kind: str, folder: pathlib.Path, material: Material) -> list[str]:
    """Whole files of a kind in a folder; returns the names of those to be damaged."""
    import shutil

    folder.mkdir(parents=True, exist_ok=True)
    if kind == "tiff":
        samples.write_tiffs(folder)
    elif kind == "png":
        samples.write_pngs(folder)
    elif kind == "tfrecord":
        shutil.copytree(material.data, folder, dirs_exist_ok=True)
        return sorted(path.name for path in folder.glob("*.tfrecord"))
    elif kind == "info":
        shutil.copytree(material.data, folder / "plain")
        samples.write_parted(folder / "plain", folder / "parted")
        wanted = "*/dataset_info.json", "parted/sources-*", "parted/.unfinished-*"
        return sorted(
            str(p.relative_to(folder)) for name in wanted for p in folder.glob(name)
        )
    elif kind == "config":
        from trainer.inference.instances import InstanceRules
        from trainer.run import workdir

        shutil.copytree(material.run, folder / "run")
        shutil.copytree(material.models, folder / "model")
        rules = InstanceRules(threshold=0.4, split_px=3)
        workdir.write_rules(str(folder / "run"), rules, {"step": 4, "tta": False})
        names = "config", "dataset_info", "postprocessing"
        return [f"run/{name}.json" for name in names] + [
            "model/1/assets.extra/model.json"
        ]
    elif kind == "checkpoint":
        shutil.copytree(material.run / "checkpoints", folder / "checkpoints")
        return sorted(
            str(p.relative_to(folder)) for p in folder.glob("checkpoints/*/*")
        )
    elif kind == "savedmodel":
        shutil.copytree(material.models, folder, dirs_exist_ok=True)
        wanted = "saved_model.pb", "variables/*", "assets.extra/*[nx]", "fingerprint.pb"
        return sorted(
            str(p.relative_to(folder))
            for name in wanted
            for p in folder.glob(f"*/{name}")
        )
    return sorted(path.name for path in folder.iterdir())


def judge(
    kind: str, target: str, how: str, whole: Outcome, found: Outcome
) -> tuple[str, str]:
    """The verdict on one damaged file, and what was told of it."""
    name = pathlib.Path(target).name
    if found.status == REFUSED:
        named = name in found.told or kind in ("savedmodel", "checkpoint")
        return (REFUSED if named else "unnamed"), found.told
    if found.status != READ:
        return found.status, found.told
    if found.value == whole.value:
        return RIGHT, ""
    if kind == "checkpoint" and "damaged" in found.told:  # and an older one was taken
        return REFUSED, found.told
    if found.later:
        return LATER, ""
    # No checksums in these: pixels may be others, but none may be made up.
    unchecked = kind == "tiff" or (kind == "png" and not target.endswith(".png"))
    if unchecked and how not in ("cut",):
        return LEGAL, ""
    return "wrong", f"read {found.value}, {whole.value} when whole"


def damage_files(
    kind: str,
    count: int,
    seed: int,
    folder: pathlib.Path,
    material: Material,
    *,
    only: int | None = None,
    keep: pathlib.Path | None = None,
) -> Iterator[Case]:
    """Damages `count` files of a kind, each drawn from the seed and its number."""
    targets = lay_out(kind, folder, material)
    reader = Reader(kind, folder)
    try:
        whole = {target: reader.read(target) for target in targets}
        for target, outcome in whole.items():
            assert outcome.status == READ and not outcome.later, (target, outcome)
        for number in range(count) if only is None else [only]:
            rng = np.random.default_rng([seed, number])
            target = targets[rng.integers(len(targets))]
            path = folder / target
            content = path.read_bytes()
            how, changed = mutate(rng, content, text=path.suffix in (".json", ".jsonl"))
            path.write_bytes(changed)
            try:
                if reader.process is None:  # start-up is not the file's
                    reader.read(next(t for t in targets if t != target))
                found = reader.read(target)
            finally:
                path.write_bytes(content)
            verdict, told = judge(kind, target, how, whole[target], found)
            if keep and verdict in BAD:
                keep.mkdir(parents=True, exist_ok=True)
                kept = keep / f"{kind}-{number}-{verdict}-{path.name}".replace(" ", "-")
                kept.write_bytes(changed)
            yield Case(number, target, how, verdict, told)
    finally:
        reader.close()


def table(found: dict[str, collections.Counter]) -> str:
    """Verdicts of each kind, Markdown."""
    names = [*GOOD, *BAD]
    lines = [f"| kind | tried | {' | '.join(names)} |", "|---" * (len(names) + 2) + "|"]
    for kind, counts in found.items():
        numbers = " | ".join(str(counts[name]) for name in names)
        lines.append(f"| {kind} | {sum(counts.values())} | {numbers} |")
    return "\n".join(lines)


def main() -> int:
    from campaigns.readers import READERS

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kind", choices=[*READERS, "all"], default="all")
    parser.add_argument("--count", type=int, default=1000, help="files of each kind")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", type=int, help="the number of one file, repeated")
    parser.add_argument("--keep", type=pathlib.Path, help="where failures are kept")
    parser.add_argument("--data", type=pathlib.Path, help="a data set, else made")
    parser.add_argument("--workdir", type=pathlib.Path, help="a run on it, else made")
    parser.add_argument("--model", type=pathlib.Path, help="two versions, else made")
    given = parser.parse_args()
    found: dict[str, collections.Counter] = {}
    with tempfile.TemporaryDirectory() as scratch:
        place = pathlib.Path(scratch)
        kinds = list(READERS) if given.kind == "all" else [given.kind]
        material = made(place, kinds, given)
        for kind in kinds:
            found[kind] = collections.Counter()
            cases = damage_files(
                kind,
                given.count,
                given.seed,
                place / kind,
                material,
                only=given.only,
                keep=given.keep,
            )
            for case in tqdm(cases, kind, given.count, file=sys.stderr, mininterval=5):
                found[kind][case.verdict] += 1
                if case.verdict in BAD or given.only is not None:
                    tail = case.told.strip().splitlines()[-1:]
                    print(kind, *case[:4], *tail, sep=" | ", flush=True)
    print(table(found))
    return int(any(counts[name] for counts in found.values() for name in BAD))


def made(place: pathlib.Path, kinds: list[str], given) -> Material:
    """Data set, run and models as far as the kinds need them."""
    data = given.data or place / "made-data"
    run = given.workdir or place / "made-run"
    models = given.model or place / "made-models"
    steps: list[tuple[pathlib.Path, Callable[[], None]]] = []
    if set(kinds) - {"tiff", "png"}:
        steps = [(data, lambda: samples.make_data(data))]
    if set(kinds) & {"config", "checkpoint", "savedmodel"}:
        steps += [
            (run, lambda: samples.make_run(data, run)),
            (models, lambda: samples.make_models(run, models)),
        ]
    for path, make in steps:
        if not path.exists():
            make()
    return Material(data, run, models)


if __name__ == "__main__":
    sys.exit(main())
