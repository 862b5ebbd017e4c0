"""Tiles as PNG files through PyTorch's DataLoader, as its users write it.

    PYTHON benchmarks/sides/torch_loader.py FOLDER BATCH   (benchmarks/input.py does)

FOLDER/NUMBER-image.png, -label.png and -weight.png are a tile's. One process, no
workers: what a core does.
"""

import pathlib
import sys
import time

sys.path[0] = str(pathlib.Path(__file__).parents[2])  # not this folder

import numpy as np
import torch
from PIL import Image

from benchmarks.sides import turns

PARTS = "image", "label", "weight"


class Tiles(torch.utils.data.Dataset):
    """Flips, quarter turns and a grey change, drawn again for each."""

    def __init__(self, folder: pathlib.Path):
        self.paths = sorted(folder.glob("*-image.png"))

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int):
        path = str(self.paths[index])
        image, label, weight = (
            np.asarray(Image.open(path.replace("image", part))) for part in PARTS
        )
        turns_, flip = np.random.randint(4), np.random.randint(2)
        image, label, weight = (
            np.rot90(part[:, ::-1] if flip else part, turns_).copy()
            for part in (image, label, weight)
        )
        grey = torch.from_numpy(image[None]).float()
        deviation, mean = torch.std_mean(grey)
        contrast, brightness = 1 + 0.2 * torch.randn(1), 0.2 * torch.randn(1)
        grey = (grey - mean) / deviation * contrast + brightness
        return grey, torch.from_numpy(label).long(), torch.from_numpy(weight).float()


def endless(loader):
    while True:
        yield from loader


def main() -> None:
    torch.set_num_threads(1)
    tiles = Tiles(pathlib.Path(sys.argv[1]))
    batch = int(sys.argv[2])
    loader = torch.utils.data.DataLoader(tiles, batch, shuffle=True, drop_last=True)
    batches = endless(loader)
    next(batches)

    def some(number: int) -> dict[str, float]:
        started = time.process_time()
        for _ in range(number):
            next(batches)
        return {"cpu": time.process_time() - started}

    turns.answer(some)


if __name__ == "__main__":
    main()
