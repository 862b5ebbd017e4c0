"""Whole frames a second beside PyTorch's tile loop and MONAI's sliding windows.

    ./launch.sh benchmark --what=inference --torch_python=PYTHON
    ./launch.sh benchmark --what=inference --tiles   # tile size against memory

Each side is a process of its own, on the processor, in float32; they take turns frame
by frame. From a float32 array of raw intensities to one of
probabilities. That ours and PyTorch's are the same is checked on a frame of one tile.

* this project: the SavedModel, its default tile; and tile.onnx in onnxruntime.
* PyTorch: the same weights, the loop over 572 px tiles that give 388, mirrored and
  stitched; in both memory layouts.
* MONAI: SlidingWindowInferer (windows of 512 px, its defaults otherwise) with BasicUNet
  of the same width, whose output is as large as its input.
"""

import argparse
import os
import pathlib
import statistics
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).parent.parent
sys.path[0] = str(ROOT)  # not this folder: its names are no modules

import numpy as np

from benchmarks.record import Record, parser_of, run
from benchmarks.sides import torch_unet, turns
from unet_tfrecords.dataset import tiling

DEPTH = 4
FRAMES = ((512, 512), (520, 696), (4096, 4096))
OURS, ONNX = "this project", "this project, ONNX"
TORCH = "PyTorch tile loop"
TORCH_LAST = "PyTorch tile loop, channels last"
MONAI = "MONAI sliding windows"
WEIGHTS = "weights.npz"


def frame_of(size: tuple[int, int]) -> np.ndarray:
    """Noise, float32 [H, W]."""
    return np.random.default_rng(0).normal(128, 30, size).astype(np.float32)


def our_model(given, *, as_onnx: bool):
    """Exports a network with drawn weights and loads it again."""
    from trainer.devices.startup import load_tensorflow

    load_tensorflow()
    from configs import base
    from trainer.export import artefact, artefact_layout, onnx, tile_memory
    from trainer.export.signatures import SignatureSet
    from trainer.inference.segmenter import Segmenter
    from trainer.network.layers import freeze, with_variables
    from trainer.network.unet import build_model
    from trainer.predict import runtimes
    from unet_tfrecords.dataset.records import Geometry

    model = base.get_config().model
    model.update({"width": given.width, "depth": DEPTH, "dropout": 0.0})
    network = build_model(model, seed=1)
    rng = np.random.default_rng(1)
    for weight in network.weights:
        if len(weight.shape) == 1:  # zeros would be left out of the arithmetic
            weight.assign(rng.normal(scale=0.1, size=weight.shape))
    weights = {
        f"{layer.name}/{name}": getattr(layer, name).numpy()
        for layer in network.layers
        for name in ("kernel", "bias")
        if hasattr(layer, name)
    }
    np.savez(os.path.join(given.folder, WEIGHTS), **weights)
    constant = artefact.as_constants([network], given.weights, tile_memory.PROCESSOR)
    segmenter = Segmenter(
        freeze(network) if constant else with_variables(network),
        depth=DEPTH,
        classes=2,
        tile=given.tile,
        tiles_per_step=given.tiles_per_step,
    )
    geometry = Geometry(572, 388, DEPTH, 1, 2, 8, "raw", 1.0)
    variables = [] if constant else [weight.value for weight in network.weights]
    served = SignatureSet(segmenter, geometry, variables)
    about = {"depth": DEPTH, "classes": 2, "channels": 1, "tile": segmenter.tile}
    about |= {"normalization": None, "tta": False}
    if as_onnx:
        path = os.path.join(given.folder, artefact_layout.ONNX)
        onnx.write_tile(path, [network], segmenter, about)
        runtime = runtimes.OnnxRuntime(path, about)
    else:
        path = os.path.join(given.folder, "model")
        artefact.save(served, path)
        runtime = runtimes.TensorFlowRuntime(path)
    return lambda frame: runtime.segment(frame[..., None]).probabilities[..., 1]


def torch_loop(folder: str, width: int, channels_last: bool):
    """The loop that PyTorch's users write around a network of valid convolutions."""
    import torch

    torch.set_num_threads(os.cpu_count() or 1)
    network = torch_unet.unet(width, DEPTH).eval()
    torch_unet.copy_weights(dict(np.load(os.path.join(folder, WEIGHTS))), network)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    network = network.to(memory_format=layout)
    tile, output, pad = 572, 388, tiling.pad(DEPTH)

    @torch.inference_mode()
    def segment(frame):
        height, width = frame.shape
        normal = (frame - frame.mean()) / frame.std()
        rows, columns = (
            tiling.mirror_indices(-pad, max(size, output) + pad, size)
            for size in frame.shape
        )
        padded = torch.from_numpy(normal[rows[:, None], columns])
        result = torch.empty(2, max(height, output), max(width, output))
        for top in tiling.tile_origins(height, output):
            for left in tiling.tile_origins(width, output):
                window = padded[None, None, top : top + tile, left : left + tile]
                logits = network(window.contiguous(memory_format=layout))
                place = np.s_[:, top : top + output, left : left + output]
                result[place] = torch.softmax(logits, 1)[0]
        return result[1].numpy()

    return segment


def monai_windows(width: int):
    """MONAI's own inferer and network."""
    import torch
    from monai.inferers import SlidingWindowInferer
    from monai.networks.nets import BasicUNet

    torch.set_num_threads(os.cpu_count() or 1)
    features = [width * 2**level for level in range(DEPTH + 1)]
    network = BasicUNet(2, 1, 2, features=(*features, width)).eval()
    network = network.to(memory_format=torch.channels_last)
    inferer = SlidingWindowInferer(roi_size=(512, 512))

    @torch.inference_mode()
    def segment(frame):
        normal = torch.from_numpy((frame - frame.mean()) / frame.std())[None, None]
        normal = normal.contiguous(memory_format=torch.channels_last)
        return torch.softmax(inferer(normal, network), 1)[0, 1].numpy()

    return segment


def resident_mb(name: str) -> int:
    """VmRSS, or VmHWM its peak, of this process."""
    for line in pathlib.Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) // 1000
    return 0


def work(given) -> None:
    """The other process: a frame each turn."""
    if given.work in (OURS, ONNX):
        model = our_model(given, as_onnx=given.work == ONNX)
    elif given.work == MONAI:
        model = monai_windows(given.width)
    else:
        model = torch_loop(given.folder, given.width, given.work == TORCH_LAST)
    model(frame_of((64, 64)))

    def one(size):
        frame = frame_of(tuple(size))
        pathlib.Path("/proc/self/clear_refs").write_text("5")  # the peak, again
        before = resident_mb("VmRSS")
        started = time.perf_counter()
        result = model(frame)
        spent = time.perf_counter() - started
        extra = resident_mb("VmHWM") - before
        return {"spent": spent, "extra_mb": extra, "mean": float(result.mean())}

    turns.answer(one)


def start(name: str, given, folder: str, tile: int = 0, per_step: int = 1):
    """A process that is ready for frames."""
    torch = name in (TORCH, TORCH_LAST, MONAI)
    return turns.Player(
        [
            given.torch_python if torch else sys.executable,
            __file__,
            f"--work={name}",
            f"--width={given.width}",
            f"--weights={given.weights}",
            f"--folder={folder}",
            f"--tile={tile}",
            f"--tiles_per_step={per_step}",
        ],
        {"TF_CPP_MIN_LOG_LEVEL": "3"},
    )


def compare(given, folder: str, record: Record) -> None:
    """Megapixels a second of all, side by side."""
    names = [OURS, ONNX, TORCH, TORCH_LAST, MONAI]
    # Ours first: it writes the weights.
    sides = {name: lambda name=name: start(name, given, folder) for name in names}
    players = turns.start(sides, record)
    means = {name: player.turn((388, 388))["mean"] for name, player in players.items()}
    for name in {ONNX, TORCH, TORCH_LAST} & set(players):
        if abs(means[name] - means[OURS]) > 1e-5:
            raise SystemExit(f"{name} computes something else: {means}")
    print(f"width {given.width}; medians of {given.rounds} frames each, in turns")
    sizes = [tuple(map(int, frame.split("x"))) for frame in given.frames]
    for size in sizes:
        # The first of a size is not counted: it allocates, and plans its kernels.
        rounds = given.rounds + 1 if size[0] < 1000 else max(2, given.rounds // 2)
        told = {name: [player.turn(size)] for name, player in players.items()}
        for _ in range(rounds - 1):
            for name, player in players.items():
                told[name].append(player.turn(size))
        print(f"{size[0]} x {size[1]}")
        own = [turn["spent"] for turn in told[OURS][1:]]
        edge = {"at": (size[0] * size[1]) ** 0.5, "of": "edge of the frame, px"}
        for name in players:
            spent = [turn["spent"] for turn in told[name][1:]]
            record.add("time of a frame", name, spent, unit="s", **edge)
            extra = [max(turn["extra_mb"] for turn in told[name])]
            record.add("memory of a frame", name, extra, unit="MB more", **edge)
            ratios = [other / mine for other, mine in zip(spent, own, strict=True)]
            middle = statistics.median(spent)
            print(
                f"{name:>34}: {size[0] * size[1] / 1e6 / middle:6.2f} Mpx/s, "
                f"{middle:7.3f} s, "
                f"{statistics.median(ratios):5.2f} times our time "
                f"({min(ratios):.2f} to {max(ratios):.2f}), "
                f"{extra[0]:5d} MB more",
                flush=True,
            )
    for player in players.values():
        player.end()


def tabulate(given, folder: str) -> None:
    """Tile size, and tiles a step, against speed and memory."""
    from trainer.export.tile_memory import bytes_of_step

    kinds = [(output, 1) for output in (260, 516, 772, 1028, 1540, 2052)] + [(516, 4)]
    for output, per_step in kinds:
        tile = tiling.legal_input_at_least(output, DEPTH)
        player = start(OURS, given, folder, tile, per_step)
        line = f"tile {tile:5d} px, {per_step} a step: "
        for size in FRAMES:
            told = [player.turn(size) for _ in range(4 if size[0] < 1000 else 2)]
            spent = statistics.median(turn["spent"] for turn in told[1:])
            extra = max(turn["extra_mb"] for turn in told)
            line += f"{size[0] * size[1] / 1e6 / spent:5.2f} Mpx/s, +{extra:4d} MB; "
        player.end()
        said = bytes_of_step(tile, width=given.width, tiles_per_step=per_step) / 1e6
        print(f"{line}by trainer/export/tile_memory.py {said:.0f} MB", flush=True)


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--width", type=int, default=16, help="of the first level")
    parser.add_argument(
        "--rounds", type=int, default=7, help="frames of each, in turns"
    )
    parser.add_argument(
        "--frames",
        nargs="+",
        default=[f"{height}x{width}" for height, width in FRAMES],
        help="sizes, as 512x512",
    )
    parser.add_argument("--weights", default="auto", help="as export's")
    parser.add_argument("--tiles", action="store_true", help="tile sizes, us alone")
    parser.add_argument(
        "--torch_python", default=sys.executable, help="a Python with PyTorch and MONAI"
    )
    for name in ("work", "folder"):
        parser.add_argument(f"--{name}", help=argparse.SUPPRESS)
    for name, default in (("tile", 0), ("tiles_per_step", 1)):
        parser.add_argument(
            f"--{name}", type=int, default=default, help=argparse.SUPPRESS
        )
    given = parser.parse_args()
    if given.work:
        work(given)
        return
    record = Record()
    with tempfile.TemporaryDirectory() as folder:
        if given.tiles:
            tabulate(given, folder)
        else:
            compare(given, folder, record)
    record.write(given.json)


if __name__ == "__main__":
    run(main)
