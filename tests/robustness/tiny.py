"""Tiny data sets in a folder, and what became of them."""

import json
import pathlib

import numpy as np
import tifffile

from tests.conftest import ROOT

CONFIG = f"--config={ROOT}/configs/folder.py:smoke"


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


def lay(folder: pathlib.Path, frames: dict) -> pathlib.Path:
    """Images and masks by name, in the layout `folder`."""
    for kind, index in (("images", 0), ("masks", 1)):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        for name, pair in frames.items():
            tifffile.imwrite(folder / kind / f"{name}.tif", pair[index])
    return folder


def split(validation, test) -> list[str]:
    """Flags that put frames into splits by name."""
    sequence = [("validation", validation), ("test", test)]
    flags = [
        f"--config.data.split.{name}_frames={tuple(f'folder/{n}' for n in names)!r}"
        for name, names in sequence
    ]
    return ["--config.data.split.method=list", *flags]


def lines_of(capfd, name: str) -> list[str]:
    told = capfd.readouterr().err.splitlines()
    return [line for line in told if line.startswith(f"{name}: ")]


def plain(numbers=(1, 2), size=(40, 40), seed=1):
    return noise(*size, seed), bars(*size, numbers)


def metrics_of(folder: pathlib.Path) -> list[dict]:
    text = (folder / "metrics.jsonl").read_text()
    assert "NaN" not in text and "Infinity" not in text
    return [json.loads(line) for line in text.splitlines()]
