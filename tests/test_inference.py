"""Stitched equals one-shot, on any size; the SavedModel gives the trainer's numbers."""

import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from configs import base
from preprocess import tiling
from preprocess.statistics import moments
from trainer import inference
from trainer.export import save
from trainer.inference import Segmenter
from trainer.model import build_model

# At depth 4, among them the sets' own sizes, thin, tiny and prime ones.
SIZES = [(512, 512), (520, 696), (97, 1031), (40, 33), (1, 1), (1, 300), (613, 389)]


def network_of(depth=4, channels=1, classes=2, width=4):
    model = base.get_config().model
    changes = dict(depth=depth, channels=channels, classes=classes, width=width)
    model.update(changes | {"dropout": 0.0})
    return build_model(model, seed=7)


def random_image(height, width, channels=1, batch=1):
    rng = np.random.default_rng(height * 10007 + width)
    shape = (batch, height, width, channels)
    return rng.normal(300, 50, shape).astype(np.float32)


def one_shot(network, depth, image):
    """The whole mirrored image through the network at once."""
    height, width = image.shape[1:3]
    pad = tiling.pad(depth)
    extent = []
    for size in (height, width):
        legal = tiling.legal_input_at_least(size, depth)
        extent.append(tiling.mirror_indices(-pad, legal - pad, size))
    exact = image.astype(np.float64)
    mean, std = exact.mean((1, 2), keepdims=True), exact.std((1, 2), keepdims=True)
    normal = ((exact - mean) / np.where(std > 0, std, 1)).astype(np.float32)
    mirrored = normal[:, extent[0][:, None], extent[1][None, :]]
    return tf.nn.softmax(network(mirrored)).numpy()[:, :height, :width]


def assert_stitches_exactly(depth, tile, image, network):
    classes = network.output_shape[-1]
    segmenter = Segmenter(network, depth=depth, classes=classes, tile=tile)
    result = tf.function(segmenter)(tf.constant(image))
    expected = one_shot(network, depth, image)
    assert result["probabilities"].shape == (*image.shape[:3], classes)
    assert np.abs(result["probabilities"] - expected).max() < 1e-5
    agree = result["classes"].numpy() == expected.argmax(-1)
    certain = np.abs(expected[..., 0] - 0.5) > 1e-5 if classes == 2 else True
    assert (agree | ~np.broadcast_to(certain, agree.shape)).all()


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
        inside = tf.function(inference.mirror_indices)(
            -92, size + 96, tf.constant(size)
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
        normal = inference.normalise_images(tf.fill([1, *size, 2], value))
        assert not normal.numpy().any()


def test_normalisation_is_that_of_the_records():
    image = np.random.default_rng(0).integers(60000, 60090, (300, 200, 2))
    found = moments(image.astype(np.uint16))
    expected = (image - found.mean) / found.std
    normal = inference.normalise_images(tf.constant(image[None], tf.float32))[0]
    np.testing.assert_allclose(normal, expected, atol=1e-4)


def test_normalisation_by_the_data_set_is_the_trainers():
    """Raw intensities in, divided by the data set's numbers as the records' are."""
    network = network_of(2, channels=2)
    said = {"mean": [100.0, 30.0], "std": [20.0, 5.0]}
    image = 150 * random_image(50, 70, channels=2)
    normal = (image - said["mean"]) / said["std"]
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


def test_saved_model_reloads_without_any_of_our_code(tmp_path):
    segmenter = Segmenter(network_of(), depth=4, classes=2)
    save(segmenter, 1, str(tmp_path / "model"))
    images = {f"image{i}": random_image(*size) for i, size in enumerate(SIZES[1:5])}
    np.savez(tmp_path / "images.npz", **images)
    arguments = [tmp_path / "model", tmp_path / "images.npz", tmp_path]
    command = [sys.executable, "-c", OUTSIDER, *map(str, arguments)]
    subprocess.run(command, cwd=tmp_path, check=True)
    for name, image in images.items():
        ours = segmenter(tf.constant(image))
        with np.load(tmp_path / f"{name}.npz") as theirs:
            assert theirs["probabilities"].dtype == np.float32
            difference = np.abs(theirs["probabilities"] - ours["probabilities"])
            assert difference.max() < 1e-6
            np.testing.assert_array_equal(theirs["classes"], ours["classes"])


def test_other_sizes_do_not_retrace(tmp_path):
    segmenter = Segmenter(network_of(2), depth=2, classes=2)
    save(segmenter, 1, str(tmp_path))
    segment = tf.saved_model.load(str(tmp_path)).signatures["serving_default"]
    for size in ((30, 40), (77, 20), (200, 300)):
        assert segment(image=random_image(*size))["classes"].shape == (1, *size)
