"""Folders that tests make: tiny data sets, programs, copies; and what is in them."""

import json
import pathlib
import shutil

import numpy as np
import tifffile
from PIL import Image

from tests.commands import ROOT, SMALL, process, run

FOLDER = (f"--config={ROOT}/configs/folder.py:smoke", *SMALL)


def noise(height: int, width: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).integers(1, 200, (height, width), np.uint8)


def bars(height: int, width: int, numbers=(1, 2)) -> np.ndarray:
    """Instances one below the other, or side by side where there is one row."""
    turned = height < width
    mask = np.zeros((max(height, width), min(height, width)), np.uint16)
    step = len(mask) // len(numbers)
    for index, number in enumerate(numbers):
        mask[index * step : index * step + max(1, step // 2)] = number
    return mask.T.copy() if turned else mask


def lay(folder: pathlib.Path, frames: dict, ending: str = "tif") -> pathlib.Path:
    """Images and masks by name, in the layout `folder`; None is left out."""
    for kind, index in (("images", 0), ("masks", 1)):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        for name, pair in frames.items():
            if pair[index] is not None:
                save(folder / kind / f"{name}.{ending}", pair[index])
    return folder


def save(path: pathlib.Path, pixels: np.ndarray) -> None:
    """As TIFF or by Pillow; without a temporary name, which may be too long."""
    with open(path, "wb") as file:
        if path.suffix == ".tif":
            tifffile.imwrite(file, pixels)
        else:
            Image.fromarray(pixels).save(file, path.suffix[1:])


def go_the_road(source, top: pathlib.Path, *settings, workdir: pathlib.Path) -> None:
    """All commands: shards in data/, pages in preview/, a run, its scores, model/."""
    data = top / "data"
    assert run("preprocess", *settings, input=source, output=data) == 0
    assert run("verify", data=data) == 0
    assert run("preview", data=data, output=top / "preview") == 0
    assert run("train", *settings, data=data, workdir=workdir) == 0
    assert run("evaluate", workdir=workdir, input=source) == 0
    assert run("export", workdir=workdir, output=top / "model") == 0


def split(validation, test) -> list[str]:
    """Flags that put frames into splits by name."""
    sequence = [("validation", validation), ("test", test)]
    flags = [
        f"--config.data.split.{name}_frames={tuple(f'folder/{n}' for n in names)!r}"
        for name, names in sequence
    ]
    return ["--config.data.split.method=list", *flags]


def plain(numbers=(1, 2), size=(40, 40), seed=1):
    return noise(*size, seed), bars(*size, numbers)


def write_program(path: pathlib.Path, text: str) -> None:
    """A script that can be run."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


def copy_project(folder: pathlib.Path) -> pathlib.Path:
    """What is committed or would be, and nothing of this checkout's builds."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    for name in filter(None, process(*listed, check=True).stdout.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    return folder


def flip(path: pathlib.Path, at: int | None = None) -> None:
    """Changes a bit of one of a file's bytes; of the one in the middle, unless told."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2 if at is None else at] ^= 1
    path.write_bytes(content)


def tree(folder: pathlib.Path) -> dict[str, bytes]:
    """Every file below a folder with its content."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def metrics_of(folder: pathlib.Path) -> list[dict]:
    text = (folder / "metrics.jsonl").read_text()
    assert "NaN" not in text and "Infinity" not in text
    return [json.loads(line) for line in text.splitlines()]
