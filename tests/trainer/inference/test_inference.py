"""Stitched equals one-shot, on any size; the SavedModel gives the trainer's numbers."""

import itertools

import cv2
import numpy as np
import pytest
import tensorflow as tf

from configs import base
from tests.commands import PYTHON, process
from trainer.export.artefact import save
from trainer.export.signatures import SignatureSet
from trainer.inference import numpy_segmenter
from trainer.inference.segmenter import Segmenter, mirrored, normalise_images
from trainer.network.layers import freeze
from trainer.network.unet import build_model
from unet_tfrecords.dataset import tiling
from unet_tfrecords.dataset.dataset_info import Normalization
from unet_tfrecords.dataset.pixel_statistics import moments
from unet_tfrecords.dataset.records import Geometry

# At depth 4, among them the sets' own sizes, thin, tiny and prime ones.
SIZES = [(512, 512), (520, 696), (97, 1031), (40, 33), (1, 1), (1, 300), (613, 389)]


def network_of(depth=4, channels=1, classes=2, width=4, precision="float32"):
    model = base.get_config().model
    changes = dict(depth=depth, channels=channels, classes=classes, width=width)
    model.update(changes | {"dropout": 0.0})
    network = build_model(model, seed=7, precision=precision)
    rng = np.random.default_rng(7)
    for weight in network.weights:
        if len(weight.shape) == 1:
            weight.assign(rng.normal(scale=0.1, size=weight.shape))
    return network


def random_image(height, width, channels=1, batch=1):
    rng = np.random.default_rng(height * 10007 + width)
    shape = (batch, height, width, channels)
    return rng.normal(300, 50, shape).astype(np.float32)


def one_shot(network, depth, image):
    """The whole mirrored image, normalised in float64, through the network at once."""
    exact = image.astype(np.float64)
    mean, std = exact.mean((1, 2), keepdims=True), exact.std((1, 2), keepdims=True)
    normal = ((exact - mean) / np.where(std > 0, std, 1)).astype(np.float32)
    return one_shot_raw(network, depth, normal)


def one_shot_raw(network, depth, normal):
    height, width = normal.shape[1:3]
    pad = tiling.pad(depth)
    extent = []
    for size in (height, width):
        legal = tiling.legal_input_at_least(size, depth)
        extent.append(tiling.mirror_indices(-pad, legal - pad, size))
    mirrored = normal[:, extent[0][:, None], extent[1][None, :]]
    return tf.nn.softmax(network(mirrored)).numpy()[:, :height, :width]


def assert_stitches_exactly(depth, tile, image, network, **settings):
    classes = network.output_shape[-1]
    segmenter = Segmenter(
        freeze(network), depth=depth, classes=classes, tile=tile, **settings
    )
    result = tf.function(segmenter)(tf.constant(image))
    expected = one_shot(network, depth, image)
    assert result["probabilities"].shape == (*image.shape[:3], classes)
    assert np.abs(result["probabilities"] - expected).max() < 1e-5
    agree = result["classes"].numpy() == expected.argmax(-1)
    certain = np.abs(expected[..., 0] - 0.5) > 1e-5 if classes == 2 else True
    assert (agree | ~np.broadcast_to(certain, agree.shape)).all()


@pytest.mark.slow
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("tile", [0, 572])
def test_stitched_equals_one_shot(size, tile):
    assert_stitches_exactly(4, tile, random_image(*size), network_of())


@pytest.mark.parametrize("depth", [1, 2, 3, 5])
def test_stitched_equals_one_shot_at_every_depth(depth):
    tile = tiling.legal_input_at_least(3 * 2**depth + 4, depth)
    network = network_of(depth, channels=2, classes=3, width=2)
    image = random_image(101, 83, channels=2, batch=2)
    assert_stitches_exactly(depth, tile, image, network)


def test_more_than_one_tile_was_really_used():
    assert tiling.inference_grid(613, 388, 4)[0] == 2
    assert tiling.inference_grid(1031, 388, 4)[0] == 3


def test_mirror_indices_in_the_graph_are_tilings():
    for size in (1, 2, 3, 50, 300):
        inside = tf.function(mirrored)(
            tf.range(-92, size + 96, dtype=tf.int64), tf.constant(size, tf.int64)
        )
        np.testing.assert_array_equal(
            inside, tiling.mirror_indices(-92, size + 96, size)
        )


def test_brightness_and_contrast_of_the_raw_image_do_not_matter():
    segmenter = Segmenter(network_of(2), depth=2, classes=2)
    image = random_image(50, 60)
    first, second = (segmenter(tf.constant(i)) for i in (image, image * 7 + 1000))
    difference = np.abs(first["probabilities"] - second["probabilities"])
    assert difference.max() < 1e-4


@pytest.mark.parametrize("value", [0.1, 255.0, 65535.0])
def test_constant_image_is_normalised_to_zero(value):
    for size in ((64, 64), (520, 696), (1031, 977)):
        normal = normalise_images(tf.fill([1, *size, 2], value))
        assert not normal.numpy().any()


def test_normalisation_is_that_of_the_records():
    image = np.random.default_rng(0).integers(60000, 60090, (300, 200, 2))
    found = moments(image.astype(np.uint16))
    expected = (image - found.mean) / found.std
    normal = normalise_images(tf.constant(image[None], tf.float32))[0]
    np.testing.assert_allclose(normal, expected, atol=1e-4)


def test_normalisation_by_the_data_set_is_the_trainers():
    """Raw intensities in, divided by the data set's numbers as the records' are."""
    network = network_of(2, channels=2)
    said = Normalization((100.0, 30.0), (20.0, 5.0))
    image = 150 * random_image(50, 70, channels=2)
    normal = (image - said.mean) / said.std
    settings = dict(depth=2, classes=2)
    whole = Segmenter(network, **settings, normalization=said)(tf.constant(image))
    expected = Segmenter(network, **settings).stitch(tf.constant(normal, tf.float32))
    np.testing.assert_allclose(whole["probabilities"], expected, atol=1e-6)
    own = Segmenter(network, **settings)(tf.constant(image))["probabilities"]
    assert np.abs(own - expected).max() > 1e-3


def test_tile_too_small_for_its_grid_is_refused():
    with pytest.raises(ValueError, match="too small at depth 3"):
        Segmenter(None, depth=3, classes=2, tile=92)


OUTSIDER = """
import sys
import numpy as np
import tensorflow as tf
model = tf.saved_model.load(sys.argv[1])
segment = model.signatures["serving_default"]
data = np.load(sys.argv[2])
for name in data.files:
    result = segment(image=tf.constant(data[name]))
    assert set(result) == {"probabilities", "classes"}, result
    np.savez(f"{sys.argv[3]}/{name}.npz", **{k: v.numpy() for k, v in result.items()})
ours = {m.split(".")[0] for m in sys.modules} & {"preprocess", "trainer", "configs"}
assert not ours, ours
"""


def served(depth=4, channels=1, precision="float32", **settings):
    network = network_of(depth, channels, precision=precision)
    segmenter = Segmenter(freeze(network), depth=depth, classes=2, **settings)
    tile = tiling.legal_input_at_least(40, depth)
    output = tiling.output_size(tile, depth)
    return SignatureSet(
        segmenter, Geometry(tile, output, depth, channels, 2, 8, "png", 1.0)
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "depth, precision",
    [
        pytest.param(4, "float32", marks=pytest.mark.long),
        (2, "mixed_bfloat16"),
    ],
)
def test_saved_model_reloads_without_any_of_our_code(tmp_path, depth, precision):
    model = served(depth, precision=precision)
    save(model, str(tmp_path / "model"))
    images = {f"image{i}": random_image(*size) for i, size in enumerate(SIZES[1:5])}
    np.savez(tmp_path / "images.npz", **images)
    given = [tmp_path / "model", tmp_path / "images.npz", tmp_path]
    process(PYTHON, "-c", OUTSIDER, *given, cwd=tmp_path, check=True)
    for name, image in images.items():
        ours = model.functions["serving_default"](tf.constant(image))
        with np.load(tmp_path / f"{name}.npz") as theirs:
            assert theirs["probabilities"].dtype == np.float32
            difference = np.abs(theirs["probabilities"] - ours["probabilities"])
            assert difference.max() < 1e-6
            np.testing.assert_array_equal(theirs["classes"], ours["classes"])


@pytest.mark.slow
@pytest.mark.parametrize(
    "case",
    [*range(4), *(pytest.param(case, marks=pytest.mark.long) for case in range(4, 12))],
)
def test_stitched_equals_one_shot_whatever_the_image(case):
    """Sizes from 1 to 1500 px, thin ones too; depth, channels, tiles, batch drawn."""
    rng = np.random.default_rng(case)
    height, width = np.exp(rng.uniform(0, np.log(1500), 2)).round().astype(int)
    depth, channels = int(rng.integers(1, 5)), int(rng.integers(1, 5))
    classes, batch = int(rng.integers(2, 5)), int(rng.integers(1, 3))
    least = 2**depth + 4
    output = int(rng.integers(least, least + max(height, width) // 2 + 40))
    network = network_of(depth, channels, classes, width=2)
    assert_stitches_exactly(
        depth,
        tiling.legal_input_at_least(output, depth),
        random_image(height, width, channels, batch),
        network,
        tiles_per_step=int(rng.integers(1, 4)),
    )


@pytest.mark.slow
def test_mixed_precision_stitches_within_its_rounding():
    network = network_of(precision="mixed_bfloat16")
    image = random_image(300, 420)
    settings = dict(depth=4, classes=2)
    tiled = Segmenter(freeze(network), tile=284, **settings)(tf.constant(image))
    assert tiled["probabilities"].dtype == tf.float32
    exact = one_shot(network_of(), 4, image)
    # How much bfloat16 changes depends on the processor's kernels; stitching must not
    # add to it. (Half as much again, because tiles are summed in another order.)
    rounding = np.abs(one_shot(network, 4, image) - exact)
    error = np.abs(tiled["probabilities"] - exact)
    assert error.max() < 1.5 * rounding.max() and error.mean() < 1.5 * rounding.mean()
    assert 1e-5 < rounding.max() < 0.05  # it was bfloat16, and no more than that


def test_frozen_network_is_the_network():
    network = network_of(3, channels=2)
    tile = tf.constant(random_image(108, 124, channels=2)) / 300
    np.testing.assert_allclose(freeze(network)(tile), network(tile), atol=1e-5)
    before = freeze(network)(tile)
    frozen = freeze(network)
    for weight in network.weights:
        weight.assign(tf.zeros_like(weight))
    np.testing.assert_array_equal(frozen(tile), before)


SQUARE = [(turns, mirrored) for turns in range(4) for mirrored in (False, True)]


def turn(image, turns, mirrored):
    image = np.flip(image, 2) if mirrored else image
    return np.rot90(image, turns, (1, 2)).copy()


def turn_back(image, turns, mirrored):
    image = np.rot90(image, -turns, (1, 2))
    return np.flip(image, 2) if mirrored else image


@pytest.mark.slow
def test_tta_is_the_mean_over_the_eight_symmetries():
    network = network_of(2)
    image = random_image(70, 45)
    settings = dict(depth=2, classes=2, tile=84)
    plain, averaged = (Segmenter(network, tta=tta, **settings) for tta in (False, True))
    by_hand = np.mean(
        [
            turn_back(plain(turn(image, *way))["probabilities"].numpy(), *way)
            for way in SQUARE
        ],
        axis=0,
    )
    found = averaged(tf.constant(image))
    np.testing.assert_allclose(found["probabilities"], by_hand, atol=1e-5)
    assert np.abs(plain(image)["probabilities"] - by_hand).max() > 1e-4
    # So that a turned image gives the turned result.
    turned = averaged(turn(image, 1, True))["probabilities"].numpy()
    np.testing.assert_allclose(turn_back(turned, 1, True), by_hand, atol=1e-5)


def roughness(probabilities, at):
    """Mean squared step from one column to the next, at some columns."""
    steps = np.diff(probabilities[..., 1], axis=2) ** 2
    return steps[:, :, [x - 1 for x in at]].mean()


@pytest.mark.long
@pytest.mark.parametrize("way", [(0, False), (1, False), (2, True)])
def test_no_seam_in_the_variance_along_tile_borders(way):
    """Across tile borders a smooth image, however turned, varies as it does across
    other columns of the pooling grid."""
    depth, size, stride = 3, 192, 24
    network = freeze(network_of(depth))
    noise = np.random.default_rng(0).normal(size=(16, 16, 12)).astype(np.float32)
    smooth = cv2.resize(noise, (size, size), interpolation=cv2.INTER_CUBIC)
    image = turn(smooth.transpose(2, 0, 1)[..., None], *way)
    tile = tiling.legal_input_at_least(stride + 4, depth)
    segmenter = Segmenter(network, depth=depth, classes=2, tile=tile)
    grid = [x for x in range(8, size, 8) if x % stride]
    borders = range(stride, size, stride)
    ours = tf.function(segmenter.stitch)(tf.constant(image)).numpy()
    assert roughness(ours, borders) == pytest.approx(roughness(ours, grid), rel=0.15)
    # A margin of noise; what the measure sees where each tile is an image of its own.
    segment = tf.function(segmenter)
    blocks = [
        segment(tf.constant(image[:, top : top + stride, left : left + stride]))
        for top in range(0, size, stride)
        for left in range(0, size, stride)
    ]
    split = [size // stride, size // stride, len(image), stride, stride, 2]
    apart = np.stack([block["probabilities"] for block in blocks]).reshape(split)
    apart = apart.transpose(2, 0, 3, 1, 4, 5).reshape(ours.shape)
    assert roughness(apart, borders) > 1.5 * roughness(apart, grid)


PEAK = """
import sys
import numpy as np
from trainer.devices.startup import load_tensorflow
load_tensorflow()
import tensorflow as tf
from tests.trainer.inference.test_inference import network_of
from trainer.export import tile_memory
from trainer.inference.segmenter import Segmenter
from trainer.network.layers import freeze

def resident_mb(name):
    with open("/proc/self/status") as file:
        return next(int(x.split()[1]) / 1000 for x in file if x.startswith(name))

budget = int(sys.argv[1])
tile = tile_memory.tile_within(budget, width=16, depth=4)
segmenter = Segmenter(freeze(network_of(width=16)), depth=4, classes=2, tile=tile)
image = tf.TensorSpec([None, None, None, 1], tf.float32)
segment = tf.function(segmenter, input_signature=[image])
segment(tf.zeros([1, 64, 64, 1]))
noise = np.random.default_rng(0).normal(size=(1, 2048, 2048, 1))
frame = tf.constant(noise, tf.float32)
before = resident_mb("VmRSS")
with open("/proc/self/clear_refs", "w") as file:
    file.write("5")
segment(frame)
print(resident_mb("VmHWM") - before)
"""


@pytest.mark.long
def test_memory_stays_within_its_budget():
    """Beside it, 36 bytes a pixel for the image and its probabilities, as docs say."""
    found = {}
    for budget in (150, 1000):
        done = process(PYTHON, "-c", PEAK, budget)
        found[budget] = float(done.stdout.splitlines()[-1])
        assert found[budget] < budget + 36 * 2048**2 / 10**6
    assert found[1000] > found[150] + 150  # and a larger budget is made use of


@pytest.mark.slow
@pytest.mark.parametrize("tta", [False, True])
def test_numpy_segments_as_the_graph_does(tta):
    network = network_of(2)
    image = np.random.default_rng(5).integers(0, 255, (45, 70, 1)).astype(np.float32)
    graph = Segmenter(freeze(network), depth=2, classes=2, tile=60, tta=tta)
    expected = graph(tf.constant(image[None]))["probabilities"][0].numpy()

    def of_tile(tile):
        return tf.nn.softmax(network(tile[None]))[0].numpy()

    normal = numpy_segmenter.normalise(image)
    found = numpy_segmenter.segment(normal, of_tile, depth=2, tile=60, tta=tta)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    flat = numpy_segmenter.normalise(np.full((4, 5, 2), 1e4, np.float32))
    assert not flat.any()


@pytest.mark.slow
@pytest.mark.parametrize("tta", [False, True])
def test_windows_of_an_image_are_those_of_the_whole(tta):
    """Read no further than the border; in the image's corners it is mirrored."""
    network, depth = network_of(2), 2
    reach = tiling.pad(depth) + 4 + 2 * 2**depth  # one for where pooling grids begin

    def of_tile(tile):
        return tf.nn.softmax(network(tile[None]))[0].numpy()

    for height, width in ((90, 130), (7, 61)):
        image = np.random.default_rng(5).normal(size=(height, width, 1))
        image = image.astype(np.float32)
        how = {"depth": depth, "tile": 60, "tta": tta}
        whole = numpy_segmenter.segment(image, of_tile, **how)
        # Of no multiple of 4 px, to which pooling grids are bound.
        for top, left in itertools.product(range(0, height, 35), range(0, width, 43)):
            box = top, left, min(top + 35, height), min(left + 43, width)

            def read(rows, columns, image=image, box=box):
                assert rows.start >= max(0, box[0] - reach)
                assert columns.stop <= max(box[3] + reach, 2 * reach)
                return image[rows, columns]

            found = numpy_segmenter.segment_window(
                read, box, (height, width), of_tile, **how
            )
            expected = whole[box[0] : box[2], box[1] : box[3]]
            np.testing.assert_allclose(found, expected, atol=1e-6)
