"""The commands that the campaign kills: how each is called, and what it must leave.

Each is a folder for itself, in which `out` is what it writes.
"""

import hashlib
import json
import pathlib
from typing import NamedTuple

import cv2
import numpy as np

from campaigns import store
from trainer.predict import prediction_record
from trainer.run import checkpoints
from unet_tfrecords.dataset import dataset_info
from unet_tfrecords.storage import checksums, json_files

ROOT = pathlib.Path(__file__).parents[1]
CONFIG = (
    f"--config={ROOT}/configs/synthetic.py:smoke",
    "--config.data.tile_size=60",
    "--config.model.depth=2",
    "--config.data.augmentations=2",
)
OUT = "out"
UNFINISHED = ".unfinished"


class Inputs(NamedTuple):
    """What the commands are given: drawn cells, and what was made of them in quiet."""

    cells: str
    data: str
    run: str
    model: str


class Command:
    """One of the commands, with what is known of its outputs."""

    name = ""
    module = "trainer.main"
    may_be_more = "nothing"  # outputs besides the quiet run's: a regular expression

    def arguments(self, given: Inputs, place: pathlib.Path) -> list[str]:
        """What follows the module."""
        raise NotImplementedError

    def prepare(self, place: pathlib.Path) -> None:
        """What lies there before."""

    def environment(self, place: pathlib.Path) -> dict[str, str]:
        return {}

    def outputs(self, place: pathlib.Path) -> dict[str, str]:
        """Every output that must be the quiet run's, with its digest."""
        raise NotImplementedError

    def broken(self, place: pathlib.Path, quiet: dict[str, str]) -> list[str]:
        """What has a final name and is not whole, in between."""
        found = self.outputs(place) if (place / OUT).exists() else {}
        return [
            f"{name} is not the quiet run's"
            for name, digest in found.items()
            if quiet.get(name, digest) != digest
        ]

    def finished(self, place: pathlib.Path) -> dict[str, int]:
        """What must not be made again: files with the time of their last change."""
        return {}


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _is_final(path: pathlib.Path, folder: pathlib.Path) -> bool:
    parts = path.relative_to(folder).parts
    return not any(part.startswith((UNFINISHED, ".lock")) for part in parts)


def _files(folder: pathlib.Path) -> list[pathlib.Path]:
    return [
        p for p in sorted(folder.rglob("*")) if p.is_file() and _is_final(p, folder)
    ]


def _times(paths) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in paths}


def _info(content: bytes) -> str:
    info = json.loads(content)
    del info["times"]
    return _digest(json_files.as_json(info))


def _data_set(folder: pathlib.Path) -> dict[str, str]:
    found = {}
    for path in _files(folder):
        content = path.read_bytes()
        is_info = path == folder / dataset_info.INFO_NAME
        found[str(path.relative_to(folder))] = (
            _info(content) if is_info else _digest(content)
        )
    return found


def _sidecars(folder: pathlib.Path) -> dict[str, int]:
    """Shards that are noted as finished."""
    noted = folder.glob(f"{UNFINISHED}-*.tfrecord.json")
    names = [p.name.removeprefix(f"{UNFINISHED}-").removesuffix(".json") for p in noted]
    if (folder / dataset_info.INFO_NAME).exists():
        names = [p.name for p in _files(folder) if p.suffix == ".tfrecord"]
    return _times(folder / name for name in names if (folder / name).exists())


class Preprocess(Command):
    name = "preprocess"
    module = "preprocess.main"
    more: tuple[str, ...] = ()

    def arguments(self, given, place):
        return [
            *CONFIG,
            f"--input={given.cells}",
            f"--output={place / OUT}",
            *self.more,
        ]

    def outputs(self, place):
        return _data_set(place / OUT)

    def finished(self, place):
        return _sidecars(place / OUT)


class PreprocessInProcesses(Preprocess):
    """Beam's workers are processes of their own."""

    name = "preprocess, processes"
    more = ("--direct_running_mode=multi_processing", "--direct_num_workers=2")


def _weights(folder: pathlib.Path, step: int) -> str:
    """A digest of all that a checkpoint holds; loading it reads every byte."""
    import tensorflow as tf

    checkpoints.read_about(str(folder), step)
    reader = tf.train.load_checkpoint(
        str(folder / checkpoints.name_of(step) / checkpoints.STATE)
    )
    digest = hashlib.sha256()
    for name in sorted(reader.get_variable_to_shape_map()):
        if name != "_CHECKPOINTABLE_OBJECT_GRAPH":
            digest.update(name.encode() + np.asarray(reader.get_tensor(name)).tobytes())
    return digest.hexdigest()[:16]


def _run(folder: pathlib.Path) -> dict[str, str]:
    """Of a work directory: lines of metrics, checkpoints, what JSON says."""
    found = {}
    saved = folder / "checkpoints"
    for step in checkpoints.complete_steps(str(saved)):
        found[f"weights of step {step}"] = _weights(saved, step)
    if (folder / "metrics.jsonl").exists():
        for line in (folder / "metrics.jsonl").read_bytes().splitlines(keepends=True):
            if line.endswith(b"\n"):  # a kill may cut the last one
                content = json.loads(line)
                del content["images_per_s"]
                found[f"line {content['step']}"] = _digest(json_files.as_json(content))
    for name in ("config.json", "computed.json"):
        if (folder / name).exists():
            content = json.loads((folder / name).read_bytes())
            # Where a run lies is no part of what it makes.
            found[name] = _digest(json_files.as_json(content))
    if (folder / "report.html").exists():
        assert (folder / "report.html").read_bytes().rstrip().endswith(b"</html>")
        found["report.html"] = "whole"
    return found


class Train(Command):
    name = "train"
    may_be_more = r"weights of step \d+$"  # where a signal has stopped it

    def arguments(self, given, place):
        return [
            "train",
            *CONFIG,
            "--config.train.steps=60",
            "--config.train.checkpoint_every_steps=7",
            "--config.train.validate_every_steps=30",
            "--config.train.keep_checkpoints=50",
            "--config.model.dropout=0.3",
            f"--data={given.data}",
            f"--workdir={place / OUT}",
        ]

    def outputs(self, place):
        return _run(place / OUT)

    def finished(self, place):
        return _times((place / OUT).glob("checkpoints/step-*/state.*"))


def _answers(version: pathlib.Path) -> str:
    """What a SavedModel says of a fixed picture."""
    import tensorflow as tf

    model = tf.saved_model.load(str(version))
    image = np.random.default_rng(0).integers(0, 256, (1, 50, 70, 1))
    given = tf.constant(image, tf.float32)
    made = model.signatures["serving_default"](image=given)["probabilities"]
    return _digest(made.numpy().tobytes())


def _version(folder: pathlib.Path) -> str:
    """A digest of a version: which files, which answers, what is said beside."""
    names = [str(path.relative_to(folder)) for path in _files(folder)]
    # Not the sums: TensorFlow writes a graph in other bytes each time.
    extras = [
        path.read_bytes()
        for path in _files(folder / "assets.extra")
        if path.name != checksums.NAME
    ]
    said = hashlib.sha256(b"".join(extras)).hexdigest()
    return _digest(json.dumps([names, said, _answers(folder)]).encode())


class Export(Command):
    name = "export"

    def arguments(self, given, place):
        return ["export", f"--workdir={given.run}", f"--output={place / OUT}"]

    def outputs(self, place):
        """The newest version, by whatever number: each export makes one more."""
        versions = self.versions(place)
        return {"newest version": _version(versions[-1])} if versions else {}

    def broken(self, place, quiet):
        return [
            f"version {version.name} is not the quiet run's"
            for version in self.versions(place)
            if _version(version) != quiet["newest version"]
        ]

    def finished(self, place):
        return _times(path for v in self.versions(place) for path in _files(v))

    def versions(self, place) -> list[pathlib.Path]:
        found = [p for p in (place / OUT).glob("*") if p.name.isdigit()]
        return sorted(found, key=lambda path: int(path.name))


class Publish(Export):
    """To a bucket, in which nothing is renamed."""

    name = "publish"

    def arguments(self, given, place):
        return [
            "export",
            f"--workdir={given.run}",
            f"--publish={store.place_of(place)}",
        ]

    def environment(self, place):
        return store.environment()

    def outputs(self, place):
        store.fetch(place, place / OUT)
        return super().outputs(place)

    def broken(self, place, quiet):
        store.fetch(place, place / OUT)
        return super().broken(place, quiet)

    def finished(self, place):
        """Objects with their generation, which any change raises."""
        return store.generations(place)

    def versions(self, place):
        """Those that a server would load."""
        return [v for v in super().versions(place) if (v / "saved_model.pb").exists()]


class Predict(Command):
    name = "predict"

    def arguments(self, given, place):
        return [
            "predict",
            f"--model={given.model}",
            f"--input={given.cells}/01",
            f"--output={place / OUT}",
        ]

    def outputs(self, place):
        found = {}
        for path in _files(place / OUT):
            if path.name == prediction_record.NAME:
                continue  # grows from image to image, and has their times
            content = path.read_bytes()
            if path.suffix == ".png":
                assert cv2.imdecode(np.frombuffer(content, np.uint8), -1) is not None
            found[path.name] = _digest(content)
        return found

    def finished(self, place):
        record = place / OUT / prediction_record.NAME
        images = json.loads(record.read_text())["images"] if record.exists() else {}
        kinds = ("mask", "overlay")
        return _times(place / OUT / f"{n}_{kind}.png" for n in images for kind in kinds)


class CrossValidate(Command):
    name = "cross_validate"
    may_be_more = r"fold-\d weights of step \d+$"

    def arguments(self, given, place):
        return [
            "cross_validate",
            *CONFIG,
            f"--input={given.cells}",
            f"--workdir={place / OUT}",
            "--folds=3",
            "--notune",
        ]

    def outputs(self, place):
        folder, found = place / OUT, {}
        for own in sorted(folder.glob("fold-*")):
            for part, look in (("data", _data_set), ("train", _run)):
                if (own / part).exists():
                    looked = look(own / part).items()
                    found |= {f"{own.name} {name}": digest for name, digest in looked}
        for path in _files(folder):
            if path.name.startswith("evaluation-"):
                name = str(path.relative_to(folder))
                found[name] = _digest(path.read_bytes())
        return found

    def finished(self, place):
        return _times((place / OUT).glob("fold-*/train/evaluation-test.json"))


ALL: dict[str, type[Command]] = {
    command.name: command
    for command in (
        Preprocess,
        PreprocessInProcesses,
        Train,
        Export,
        Publish,
        Predict,
        CrossValidate,
    )
}


def unfinished(folder: pathlib.Path) -> list[str]:
    """Temporaries, and locks, that lie about."""
    own = (".claims",)  # which publish keeps
    found = [path for path in sorted(folder.rglob(".*")) if path.name not in own]
    return [str(path.relative_to(folder)) for path in found]
