"""Whole frames from tiles: what preprocess cut is put together again, and scored."""

import numpy as np
import pytest
import tensorflow as tf
import tifffile

from trainer.inference.segmenter import Segmenter
from trainer.input import whole_frames
from trainer.input.shard_files import find_shards
from trainer.network.unet import build_model
from trainer.training.validate import Validator, cross_entropy, picture
from unet_tfrecords.dataset.dataset_info import read_info
from unet_tfrecords.dataset.pictures import MISSED
from unet_tfrecords.dataset.records import UNLABELLED


@pytest.fixture(scope="module")
def info(shards_folder):
    return read_info(shards_folder)


def frames_of(info, folder, split="validation"):
    paths = [shard.path for shard in find_shards(info, folder, split)]
    sizes = whole_frames.frame_sizes(folder, info, split)
    return whole_frames.read_frames(paths, info.geometry, sizes)


@pytest.mark.parametrize("split, count", [("validation", 1), ("test", 2)])
def test_frames_are_the_files_again(info, shards_folder, cells, split, count):
    frames = list(frames_of(info, shards_folder, split))
    assert len(frames) == count
    for frame in frames:
        name = frame.key.rsplit("/", 1)[1]
        image = tifffile.imread(cells / f"01/{name}.tif")
        np.testing.assert_array_equal(frame.image[..., 0], image)
        truth = tifffile.imread(cells / f"01_GT/SEG/man_seg{name[1:]}.tif") > 0
        assert frame.label.shape == truth.shape
        # Touching cells are parted: a few pixels of theirs are background.
        differ = frame.label != truth
        assert not (differ & ~truth).any() and differ.sum() < 0.05 * truth.sum()
        assert frame.mean[0] == pytest.approx(image.mean(), rel=1e-6)


def test_a_frame_smaller_than_a_tile_is_cut_to_its_size(info, shards_folder):
    [frame] = frames_of(info, shards_folder)
    tiles = list(tiles_of(info, shards_folder))
    small = whole_frames.assemble(tiles[:1], (13, 11))
    np.testing.assert_array_equal(small.image, frame.image[:13, :11])
    np.testing.assert_array_equal(small.label, frame.label[:13, :11])


def test_what_no_tile_covers_is_unlabelled(info, shards_folder):
    tiles = list(tiles_of(info, shards_folder))
    some = whole_frames.assemble(tiles[:-1], (128, 128))
    assert (some.label[-10:, -10:] == UNLABELLED).all()


def tiles_of(info, folder):
    from unet_tfrecords.dataset.shards import read_tiles

    for shard in find_shards(info, folder, "validation"):
        yield from read_tiles(shard.path, info.geometry)


@pytest.mark.slow
def test_scores_are_those_of_the_whole_frame_by_hand(
    info, shards_folder, config, cells
):
    """Against the exported code on the raw file, counted here."""
    network = build_model(config.model, seed=5)
    one = tf.distribute.OneDeviceStrategy("/cpu:0")
    validator = Validator(
        network, one, lambda: frames_of(info, shards_folder, "test"), config.model
    )
    found = validator()
    segmenter = Segmenter(network, depth=config.model.depth, classes=2)
    right = total = entropy = 0
    for frame in frames_of(info, shards_folder, "test"):
        name = frame.key.rsplit("/", 1)[1]
        image = tifffile.imread(cells / f"01/{name}.tif").astype(np.float32)
        out = segmenter(tf.constant(image[None, ..., None]))
        right += (out["classes"][0].numpy() == frame.label).sum()
        total += frame.label.size
        p = out["probabilities"][0].numpy().astype(np.float64)
        entropy -= np.log(np.where(frame.label == 1, p[..., 1], p[..., 0])).sum()
    assert found.scores["pixel_error"] == pytest.approx(1 - right / total, abs=1e-6)
    assert found.scores["cross_entropy"] == pytest.approx(entropy / total, rel=1e-5)
    assert list(found.pictures) == [
        f.key for f in frames_of(info, shards_folder, "test")
    ]
    # One frame alone, for the dry run.
    assert list(validator(1).pictures) == list(found.pictures)[:1]


@pytest.mark.slow
def test_frames_are_dealt_over_replicas(info, shards_folder, config):
    """Three frames over two replicas: the odd one counts once."""
    three = [*frames_of(info, shards_folder, "test"), *frames_of(info, shards_folder)]
    scores = {}
    mirrored = tf.distribute.MirroredStrategy(["/cpu:0", "/cpu:1"])
    for devices in (tf.distribute.OneDeviceStrategy("/cpu:0"), mirrored):
        with devices.scope():
            network = build_model(config.model, seed=5)
        found = Validator(network, devices, lambda: iter(three), config.model)()
        scores[devices.num_replicas_in_sync] = found.scores
        assert len(found.pictures) == 3
    assert scores[1] == pytest.approx(scores[2], rel=1e-5)


def test_unlabelled_costs_nothing():
    label = np.array([[0, 1, UNLABELLED]], np.uint8)
    probability = np.array([[[0.8, 0.2], [0.6, 0.4], [1.0, 0.0]]], np.float32)
    assert cross_entropy(label, probability) == pytest.approx(-np.log(0.8 * 0.4))
    certain = np.array([[[0.0, 1.0]]], np.float32)
    assert np.isfinite(cross_entropy(label[:, :1], certain))


def test_picture_shows_four_panels_within_bounds():
    rng = np.random.default_rng(0)
    label = np.full((40, 1200), UNLABELLED, np.uint8)
    label[:, :600] = 1
    image = rng.integers(0, 65535, (40, 1200, 1), np.uint16)
    frame = whole_frames.WholeFrame("k", image, label, np.ones(1), np.ones(1))
    probability = np.zeros((40, 1200, 2), np.float32)
    probability[..., 0] = 1  # background everywhere: wrong where labelled
    shown = picture(frame, probability)
    assert shown.shape == (17, 4 * 512, 3) and shown.dtype == np.uint8
    error = shown[:, 3 * 512 :]
    assert (error[:, 10:240] == MISSED).all()
    assert (error[:, 270:] < 60).all()  # unlabelled is dark
    image, truth = shown[:, :512], shown[:, 512 : 2 * 512]
    assert (truth[:, 300:] == image[:, 300:]).all()
    assert (truth[:, 10:240] != image[:, 10:240]).any(axis=2).all()
