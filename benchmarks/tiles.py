"""Tiles per second and core: this project's way beside the straightforward one.

    ./launch.sh benchmark --what=tiles --data=DIR   (with the challenges' sets)

The straightforward way is what a competent person writes first: SciPy's cubic
`map_coordinates` for the deformation, one SciPy distance transform of the frame a cell
for the border weights, float32 arrays in a `tf.train.Example`, TensorFlow's TFRecord
writer. Both read the same files, make the same units on one thread and write a shard;
rounds take turns, the median counts. What they made is compared too.
"""

import functools
import os
import pathlib
import statistics
import sys
import tempfile
import time

sys.path[0] = str(pathlib.Path(__file__).parent.parent)  # not this folder
os.environ["CUDA_VISIBLE_DEVICES"] = ""

import cv2
import numpy as np
from scipy import ndimage
from scipy.interpolate import CubicSpline

from benchmarks.record import Record, parser_of, run
from configs import dic_hela, phc_u373, synthetic
from preprocess import augment, plan, render, worker_memory
from trainer.devices.startup import starting
from unet_tfrecords.dataset import records, shards, tiling
from unet_tfrecords.dataset.images import layouts
from unet_tfrecords.dataset.images.formats import read_image
from unet_tfrecords.dataset.regions import touching_pixels
from unet_tfrecords.dataset.seeds import identity_seed

with starting():
    import tensorflow as tf

# By their folders' names; `drawn` is for who has none.
SETS = {
    "DIC-C2DH-HeLa": dic_hela.get_config,
    "PhC-C2DH-U373": phc_u373.get_config,
    "drawn": lambda: synthetic.get_config("cpu"),
}


def units_of(folder: str, config, number: int) -> list[plan.Unit]:
    """The first augmented training units, as they stand in their shards."""
    frames = plan.plan_dataset(folder, config).frames
    planned = plan.plan_all(frames, config)
    units = [u for each in planned for u in each.units() if u.augmentation]
    shard = [unit for unit in units if unit.shard == 0]
    return plan.in_order(shard, config.seed)[:number]


def write_ours(path: str, units, config) -> int:
    """Through the functions that the Beam job calls."""
    import itertools

    def made():
        for frame, group in itertools.groupby(units, key=lambda unit: unit.frame):
            loaded = render.load(frame, config)
            for unit in group:
                for tile in render.tiles_of_unit(unit, loaded, config, bits=8):
                    yield records.encode(tile, encoding="raw", step=10 / 255)

    return shards.write_shard(path, made())[0]


def natural_spline(moves, size, pad: int) -> np.ndarray:
    """A grid of displacements made dense by SciPy, constant beyond the frame."""
    dense = moves
    for axis, edge in enumerate(size):
        nodes = np.linspace(0, edge - 1, moves.shape[axis])
        spline = CubicSpline(nodes, dense, axis=axis, bc_type="natural")
        dense = spline(np.clip(np.arange(-pad, edge + pad), 0, edge - 1))
    return dense


def straightforward_tiles(unit, config):
    """Image [T, T, C], label and weight [O, O] of each tile, float32."""
    data, depth = config.data, config.model.depth
    image = read_image(unit.frame.image, 1)[..., 0].astype(np.float32)
    truth = layouts.read_truth(unit.frame, data, config.model.classes)
    height, width = image.shape
    pad, output = tiling.pad(depth), tiling.output_size(data.tile_size, depth)
    # The same draw; positions before folding, as SciPy mirrors by itself.
    rng = np.random.default_rng(identity_seed(unit.key, config.seed))
    drawn = augment.random_deformation(rng, data.augment, (height, width))
    grey = augment.random_grey(
        rng, data.augment, mean=np.array([image.mean()]), std=np.array([image.std()])
    )
    rows, columns = np.mgrid[-pad : height + pad, -pad : width + pad].astype(np.float64)
    y = (rows - (height - 1) / 2 - drawn.shift[0]) * drawn.flips[0]
    x = (columns - (width - 1) / 2 - drawn.shift[1]) * drawn.flips[1]
    cos, sin = np.cos(drawn.angle), np.sin(drawn.angle)
    bend = [natural_spline(moves, (height, width), pad) for moves in drawn.moves]
    at = np.stack(
        [
            y * cos - x * sin + (height - 1) / 2 + bend[0],
            y * sin + x * cos + (width - 1) / 2 + bend[1],
        ]
    )
    changed = grey.changed(image[..., None])[..., 0]
    warped = ndimage.map_coordinates(changed, at, order=3, mode="mirror")
    warped = np.clip(warped, 0, 255)
    inner = at[:, pad:-pad, pad:-pad]
    look_up = functools.partial(
        ndimage.map_coordinates, coordinates=inner, order=0, mode="mirror"
    )
    instances, classes = look_up(truth.instances), look_up(truth.classes)
    touching = touching_pixels(instances, classes)
    instances[touching] = classes[touching] = 0
    distances = [
        ndimage.distance_transform_edt(instances != i)
        for i in np.unique(instances[instances > 0])
    ]
    weight = np.zeros((height, width))
    if len(distances) > 1:
        d1, d2 = np.sort(np.stack(distances), axis=0)[:2]
        weight = data.border_weight * np.exp(
            -((d1 + d2) ** 2) / (2 * data.border_sigma_px**2)
        )
    weight[(instances > 0) | (classes == 255)] = 0
    for row in tiling.tile_origins(height, output):
        for column in tiling.tile_origins(width, output):
            target = np.s_[row : row + output, column : column + output]
            seen = np.s_[row : row + data.tile_size, column : column + data.tile_size]
            yield tuple(
                np.ascontiguousarray(a, np.float32)
                for a in (warped[seen], classes[target], weight[target])
            )


def write_straightforward(path: str, units, config) -> int:
    """float32 arrays in a tf.train.Example each, by TensorFlow's writer."""
    written = 0
    with tf.io.TFRecordWriter(path) as writer:
        for unit in units:
            for arrays in straightforward_tiles(unit, config):
                features = {
                    name: tf.train.Feature(
                        bytes_list=tf.train.BytesList(value=[array.tobytes()])
                    )
                    for name, array in zip(
                        ("image", "label", "weight"), arrays, strict=True
                    )
                }
                example = tf.train.Example(features=tf.train.Features(feature=features))
                writer.write(example.SerializeToString())
                written += 1
    return written


def compare(units, config) -> str:
    """How far the two ways' tiles lie apart."""
    grey, label, weight = [], [], []
    for unit in units[:6]:
        loaded = render.load(unit.frame, config)
        ours = render.tiles_of_unit(unit, loaded, config, bits=8)
        theirs = straightforward_tiles(unit, config)
        for tile, (image, classes, border) in zip(ours, theirs, strict=True):
            grey.append(np.abs(tile.image[..., 0] - image).ravel())
            label.append((tile.label != classes).mean())
            weight.append(np.abs(tile.weight - border)[tile.label == classes].ravel())
    grey, weight = np.concatenate(grey), np.concatenate(weight)
    return (
        f"grey values differ by {np.median(grey):.2f} in the median and "
        f"{np.percentile(grey, 99):.2f} at the 99th percentile (two kinds of cubic), "
        f"labels in {np.mean(label):.5%} of the pixels, weights by {weight.max():.3f} "
        f"at most (half a stored step is {records.weight_step(10) / 2:.3f})"
    )


def measure(folder: str, config, rounds: int, number: int, record: Record) -> None:
    units = units_of(folder, config, number)
    ways = {"straightforward": write_straightforward, "this project": write_ours}
    seconds = {name: [] for name in ways}
    sizes, tiles = {}, 0
    with tempfile.TemporaryDirectory() as scratch:
        for _ in range(rounds):
            for name, way in ways.items():
                path = os.path.join(scratch, name)
                started = time.perf_counter()
                tiles = way(path, units, config)
                seconds[name].append(time.perf_counter() - started)
                sizes[name] = os.path.getsize(path) / tiles
    rate = {name: tiles / statistics.median(s) for name, s in seconds.items()}
    group = os.path.basename(folder)
    for name, taken in seconds.items():
        rates = [tiles / each for each in taken]
        record.add("tiles made", name, rates, unit="tiles/s and core", group=group)
        size = [sizes[name] / 1000]
        record.add("size of a tile", name, size, unit="kB", group=group)
    ratios = [a / b for a, b in zip(*seconds.values(), strict=True)]
    for name in ways:
        print(f"{name:>16}: {rate[name]:6.1f} tiles/s, {sizes[name]:9.0f} bytes a tile")
    bytes_ratio = sizes["straightforward"] / sizes["this project"]
    print(
        f"{'ratio':>16}: {statistics.median(ratios):.1f} times as fast "
        f"({min(ratios):.1f} to {max(ratios):.1f} in {rounds} rounds), "
        f"1/{bytes_ratio:.1f} of the bytes"
    )
    print(f"{'difference':>16}: {compare(units, config)}")


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--data", required=True, help="folder that holds the sets")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--units", type=int, default=36, help="augmented frames, as in a shard of HeLa"
    )
    given = parser.parse_args()
    cv2.setNumThreads(1)  # as the job's workers do, both lines
    worker_memory.keep_freed_memory()
    record = Record()
    for name, config_of in SETS.items():
        folder = os.path.join(given.data, name)
        if os.path.isdir(folder):
            print(f"{name}, {given.units} augmented frames, one thread", flush=True)
            measure(folder, config_of(), given.rounds, given.units, record)
    if not record.rows:
        parser.error(f"--data={given.data}: none of {', '.join(SETS)} in it")
    record.write(given.json)


if __name__ == "__main__":
    run(main)
