"""Order, lanes, workers, light augmentation: functions of (seed, epoch, step)."""

import numpy as np
import pytest
import tensorflow as tf
from scipy import ndimage, optimize

from configs import base
from trainer.input import input_pipeline, light_augment
from trainer.input.reading_order import ShardFile, deal_lanes, part_of
from trainer.input.shard_files import find_shards
from unet_tfrecords.dataset.dataset_info import read_info
from unet_tfrecords.dataset.shards import read_tiles


@pytest.fixture(scope="module")
def info(shards_folder):
    return read_info(shards_folder)


@pytest.fixture(scope="module")
def many_shards(shards_folder, info, tmp_path_factory):
    """The same tiles in 12 shards of unequal lengths, 6 to 17 records each."""
    folder = tmp_path_factory.mktemp("many")
    records = [
        record.numpy()
        for shard in find_shards(info, shards_folder, "train")
        for record in tf.data.TFRecordDataset(shard.path)
    ]
    shards, first = [], 0
    for number in range(12):
        count = 6 + number
        path = str(folder / f"{number}.tfrecord")
        with tf.io.TFRecordWriter(path) as writer:
            for record in records[first : first + count]:
                writer.write(record)
        shards.append(ShardFile(path, len(records[first : first + count]), None))
        first += count
    return shards


def total(shards) -> int:
    return sum(shard.records for shard in shards)


def batches(info, shards, batch, /, **options):
    return input_pipeline.training_batches(
        deal_lanes(shards, batch),
        info.geometry,
        global_batch=batch,
        **{"shuffle_tiles": 50, "seed": 1, "with_keys": True, **options},
    )


def keys(dataset, count):
    return [batch["key"].numpy().tolist() for batch in dataset.take(count)]


@pytest.mark.slow
@pytest.mark.parametrize("batch", [1, 4])
def test_order_is_a_function_of_seed_epoch_and_step(info, many_shards, batch):
    steps = 5 * total(many_shards) // (2 * batch)
    first = keys(batches(info, many_shards, batch), steps)
    assert keys(batches(info, many_shards, batch), steps) == first
    for start in (1, 100 // batch, steps // 3, 2 * steps // 3 + 7):
        resumed = keys(batches(info, many_shards, batch, start_step=start), 20)
        assert resumed == first[start : start + 20]
    assert keys(batches(info, many_shards, batch, seed=2), 20) != first[:20]


@pytest.mark.slow
@pytest.mark.parametrize("batch, lanes", [(1, 1), (6, 6)])
def test_every_epoch_of_a_lane_has_each_tile_once(info, many_shards, batch, lanes):
    dealt = deal_lanes(many_shards, batch)
    assert len(dealt) == lanes
    each = batch // lanes
    steps = 2 * max(sum(s.records for s in lane) for lane in dealt) // each + 1
    made = keys(batches(info, many_shards, batch), steps)
    for number, lane in enumerate(dealt):
        own = [key for tiles in made for key in tiles[number * each :][:each]]
        size = sum(shard.records for shard in lane)
        first, second = own[:size], own[size : 2 * size]
        assert len(set(first)) == size
        assert sorted(first) == sorted(second) and first != second


@pytest.mark.slow
def test_neighbours_in_a_batch_come_from_different_frames(info, many_shards):
    made = batches(info, many_shards, 16, shuffle_tiles=256)
    [batch] = keys(made, 1)
    assert len({key.split(b"/")[2] for key in batch}) > 2


@pytest.mark.slow
@pytest.mark.parametrize("batch, workers", [(4, 2), (6, 3), (15, 5)])
def test_workers_read_the_parts_of_one_devices_batches(
    info, many_shards, batch, workers
):
    whole = keys(batches(info, many_shards, batch, start_step=5), 30)
    parts = [
        part_of(w, workers, batch, len(deal_lanes(many_shards, batch)))
        for w in range(workers)
    ]
    by_worker = [
        keys(
            batches(
                info,
                many_shards,
                batch,
                start_step=5,
                part=part,
                batch=len(part.places),
            ),
            30,
        )
        for part in parts
    ]
    assert [sum(together, []) for together in zip(*by_worker, strict=True)] == whole


def test_workers_share_files_where_lanes_divide(many_shards):
    lanes = deal_lanes(many_shards, 8)
    parts = [part_of(worker, 2, 8, len(lanes)) for worker in range(2)]
    read = [{s.path for i in part.lanes for s in lanes[i]} for part in parts]
    assert not read[0] & read[1] and len(read[0] | read[1]) == 12
    assert all(part.by_file for part in parts)
    assert not part_of(0, 2, 8, 1).by_file


def test_starting_in_the_middle_leaves_whole_files_unread(
    info, many_shards, monkeypatch
):
    """With the lane's other files gone, what comes from the middle still comes."""
    monkeypatch.setattr(input_pipeline, "READ_AT_ONCE", 4)
    made = keys(batches(info, many_shards, 1), total(many_shards))
    origin = {}
    for shard in many_shards:
        for tile in read_tiles(shard.path, info.geometry):
            origin.setdefault(tile.key.encode(), []).append(shard.path)
    start = total(many_shards) - 40
    late = made[start:]
    needed = {path for [key] in late for path in origin[key]}
    assert len(needed) < 12
    missing = [
        shard if shard.path in needed else shard._replace(path=shard.path + ".gone")
        for shard in many_shards
    ]
    assert keys(batches(info, missing, 1, start_step=start), 30) == late[:30]


def test_shuffle_reaches_across_shards(info, many_shards):
    made = [key for [key] in keys(batches(info, many_shards, 1), 60)]
    in_file = [
        tile.key.encode() for tile in read_tiles(many_shards[0].path, info.geometry)
    ]
    assert not any(
        made[i : i + 3] == in_file[j : j + 3]
        for i in range(57)
        for j in range(len(in_file) - 3)
    )


def everything():
    augment = base.get_config().train.augment
    augment.flip, augment.quarter_turns = True, True
    augment.contrast, augment.brightness = 0.3, 0.5
    return augment


def seen_worse(image, seed=1, **changes):
    """An image after some of the changes that touch pixels."""
    augment = base.get_config().train.augment
    augment.update(changes)
    std = tf.fill([image.shape[2]], 40.0)
    seed = tf.constant([7, seed], tf.int64)
    made = light_augment.seen_worse(tf.constant(image), std, seed, augment)
    assert made.dtype == image.dtype and made.shape == image.shape
    return made.numpy()


def drawn_tile():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 255, (60, 60, 1), np.uint8)
    return {
        "image": tf.constant(image),
        # The label is the image's middle, so that both must turn alike.
        "label": tf.constant(image[20:40, 20:40, 0]),
        "weight": tf.constant(image[20:40, 20:40, 0] // 2),
        "mean": tf.constant([100.0]),
        "std": tf.constant([40.0]),
    }


def test_light_augmentation_turns_image_label_and_weight_alike():
    seen = set()
    for number in range(64):
        made = light_augment.change(
            drawn_tile(), tf.constant(number, tf.int64), augment=everything(), seed=1
        )
        image = made["image"].numpy()
        label = image[20:40, 20:40, 0]
        np.testing.assert_array_equal(made["label"], label)
        np.testing.assert_array_equal(made["weight"], label // 2)
        original = drawn_tile()["image"].numpy()
        assert sorted(image.ravel()) == sorted(original.ravel())
        seen.add(image.tobytes())
    assert len(seen) == 8  # the symmetries of the square, each of them


def test_light_grey_values_are_contrast_and_brightness_after_normalising():
    changes = set()
    for number in range(20):
        augment = everything()
        augment.flip = augment.quarter_turns = False
        made = light_augment.change(
            drawn_tile(), tf.constant(number, tf.int64), augment=augment, seed=3
        )
        image = made["image"].numpy().astype(np.float64)
        before = (image - 100) / 40
        after = (image - made["mean"].numpy()) / made["std"].numpy()
        contrast, brightness = np.polyfit(before.ravel(), after.ravel(), 1)
        assert np.exp(-0.3) <= contrast <= np.exp(0.3) and abs(brightness) <= 0.5
        changes.add(round(contrast, 5))
    assert len(changes) == 20


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_blur_is_scipys_gaussian_filter(dtype):
    rng = np.random.default_rng(5)
    image = rng.integers(0, np.iinfo(dtype).max, (50, 50, 2), dtype)
    deviations = []
    for seed in range(6):
        blurred = seen_worse(image, seed, blur_px=1.5)

        def by_scipy(sigma, image=image):
            given = dict(sigma=(sigma, sigma, 0), mode="mirror", radius=(5, 5, 0))
            return ndimage.gaussian_filter(image.astype(np.float64), **given)

        def misfit(sigma, blurred=blurred):
            return np.square(by_scipy(sigma) - blurred).sum()

        found = optimize.minimize_scalar(misfit, bounds=(0.01, 1.5), method="bounded")
        step = 2 if dtype == np.uint8 else 40  # of rounding and of the fit
        assert np.abs(by_scipy(found.x) - blurred).max() < step
        deviations.append(found.x)
    assert min(deviations) < 0.6 and max(deviations) > 0.9


def test_noise_and_gradient_have_the_frames_deviation_as_their_unit():
    image = np.full((400, 400, 1), 3000, np.uint16)
    spreads, slopes = [], []
    for seed in range(30):
        noise = seen_worse(image, seed, noise=0.5).astype(float) - 3000
        assert abs(noise.mean()) < 1
        spreads.append(noise.std() / 40)
        plane = seen_worse(image, seed, gradient=2.0)[..., 0].astype(float) - 3000
        down, across = plane[:, 200], plane[200]
        np.testing.assert_allclose(plane, down[:, None] + across, atol=2.1)
        slopes += [(down[-1] - down[0]) / 80, (across[-1] - across[0]) / 80]
    assert max(spreads) <= 0.51 and max(spreads) > 0.4 and min(spreads) < 0.1
    assert -2.02 <= min(slopes) < -1.5 and 1.5 < max(slopes) <= 2.02


def test_values_beyond_the_dtype_are_clipped():
    image = np.array([0, 255], np.uint8).repeat(800).reshape(40, 40, 1)
    made = seen_worse(image, 3, noise=1.0, gradient=3.0)
    assert made.min() == 0 and made.max() == 255
    assert (np.abs(made.astype(int) - image) < 200).all()  # nothing has wrapped around


@pytest.mark.slow
def test_light_augmentation_hangs_on_the_tiles_number_alone(info, many_shards):
    """The same for two workers, and after a restart."""
    options = dict(augment=everything(), with_keys=False)

    def images(**more):
        made = batches(info, many_shards, 4, **options, **more)
        return [batch["image"].numpy() for batch in made.take(6)]

    whole = images(start_step=10)
    for worker in range(2):
        part = part_of(worker, 2, 4, 4)
        for own, all_ in zip(
            images(start_step=10, part=part, batch=2), whole, strict=True
        ):
            np.testing.assert_array_equal(own, all_[2 * worker :][:2])
    plain = batches(info, many_shards, 4, with_keys=False, start_step=10)
    changed = [
        (a != b["image"].numpy()).any()
        for a, b in zip(whole, plain.take(6), strict=True)
    ]
    assert any(changed)
    resumed = images(start_step=13)
    np.testing.assert_array_equal(resumed[0], whole[3])
