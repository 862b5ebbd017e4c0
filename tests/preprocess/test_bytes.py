"""Shards: the same bytes, and what they hold."""

import hashlib

import apache_beam as beam
import numpy as np
import pytest
import tifffile
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.testing import test_pipeline
from apache_beam.testing.util import assert_that, equal_to

from preprocess import plan
from preprocess.beam import pipeline as job
from preprocess.beam.runners import LOCAL_RUNNER
from preprocess.render import load, tiles_of_unit
from tests.folders import lay
from tests.preprocess.commands import changed, preprocess, read_tiles
from unet_tfrecords.dataset import dataset_info, records, tiling


def tiles_of(unit, config):
    return tiles_of_unit(unit, load(unit.frame, config), config, bits=8)


@pytest.mark.slow
def test_another_seed_makes_other_bytes(cells, made, tmp_path, digests):
    assert preprocess(cells, tmp_path / "other", "--config.seed=2") == 0
    other, first = digests(tmp_path / "other"), digests(made)
    assert other.keys() == first.keys()
    assert (
        other["train-00000-of-00002.tfrecord"] != first["train-00000-of-00002.tfrecord"]
    )


def keys_of(info, split: str) -> list[str]:
    return [s.frame for s in info.sources if s.split == split]


def units_of(folder, config) -> list[plan.Unit]:
    frames = plan.plan_dataset(str(folder), config).frames
    return [u for planned in plan.plan_all(frames, config) for u in planned.units()]


def test_info_tells_the_truth(cells, made):
    info = dataset_info.read_info(str(made))
    frames = {split: keys_of(info, split) for split in info.splits}
    numbers = [content.num_frames for content in info.splits.values()]
    assert numbers == [len(keys) for keys in frames.values()]
    assert [len(frames[s]) for s in ("train", "validation", "test")] == [5, 1, 2]
    assert len({key for keys in frames.values() for key in keys}) == 8
    for split, content in info.splits.items():
        tiles = list(read_tiles(made, info, split))
        assert len(tiles) == content.num_tiles
        assert {tile.key.rsplit("/", 2)[0] for tile in tiles} == set(frames[split])
        augmentations = {tile.key.split("/")[3] for tile in tiles}
        assert augmentations == ({"a00", "a01", "a02"} if split == "train" else {"a00"})
        counts = np.bincount(
            np.concatenate([t.label.ravel() for t in tiles]), minlength=2
        )
        assert list(content.class_pixels) == counts[:2].tolist()
        for shard in content.shards:
            stored = (made / shard.name).read_bytes()
            assert shard.bytes == len(stored)
            assert shard.sha256 == hashlib.sha256(stored).hexdigest()
    first = info.sources[0]
    assert first.files[0].path == "01/t000.tif"
    expected = hashlib.sha256((cells / "01/t000.tif").read_bytes()).hexdigest()
    assert first.files[0].sha256 == expected


def test_unchanged_tiles_are_the_mirrored_frame(cells, made):
    info = dataset_info.read_info(str(made))
    pad, seen = tiling.pad(2), 0
    for split in ("train", "test"):
        for tile in read_tiles(made, info, split):
            _, _, name, augmentation, place = tile.key.split("/")
            if augmentation != "a00":
                continue
            row, column = (int(v) for v in place[1:].split("c"))
            image = tifffile.imread(cells / f"01/{name}.tif")
            padded = np.pad(image, pad, mode="reflect")
            expected = padded[row : row + 60, column : column + 60]
            np.testing.assert_array_equal(tile.image[..., 0], expected)
            gold = tifffile.imread(cells / f"01_GT/SEG/man_seg{name[1:]}.tif")
            label = gold[row : row + 20, column : column + 20] > 0
            # Parted cells lose a line of pixels, and gain none.
            assert (tile.label <= label).all() and (tile.label != label).mean() < 0.2
            assert tile.mean[0] == pytest.approx(image.mean(), rel=1e-6)
            assert tile.std[0] == pytest.approx(image.std(), rel=1e-6)
            seen += 1
    assert seen == 7 * 49  # tiles at 0, 18, ... 108 along both axes


def test_augmented_tiles_agree_with_each_other(cells, config):
    """Overlapping tiles of one unit show the same pixels, labels and weights."""
    config.data.tile_size, config.data.augmentations = 60, 2
    units = units_of(cells, config)
    [unit] = [u for u in units if u.frame.name == "t001" and u.augmentation == 1]
    by_place = {t.key.rsplit("/")[-1]: t for t in tiles_of(unit, config)}
    assert len(by_place) == 49
    left, right = by_place["r18c18"], by_place["r18c36"]
    np.testing.assert_array_equal(left.image[:, 18:], right.image[:, :-18])
    np.testing.assert_array_equal(left.label[:, 18:], right.label[:, :-18])
    np.testing.assert_array_equal(left.weight[:, 18:], right.weight[:, :-18])
    unchanged = {t.key: t for u in units for t in tiles_of(u, config)}
    plain = unchanged["drawn-cells/01/t001/a00/r18c18"]
    assert (plain.image != left.image).mean() > 0.5


def test_frame_smaller_than_a_tile(tmp_path):
    rng = np.random.default_rng(0)
    pixels = [rng.integers(0, 2, (11, 7), np.uint8) * np.uint8(200) for _ in range(4)]
    source = lay(tmp_path / "in", {i: (each, each) for i, each in enumerate(pixels)})
    assert preprocess(source, tmp_path / "out", config="folder.py:smoke") == 0
    info = dataset_info.read_info(str(tmp_path / "out"))
    [tile] = read_tiles(tmp_path / "out", info, "test")
    assert (tile.label[:11, :7] <= 1).all()
    outside = np.ones((20, 20), bool)
    outside[:11, :7] = False
    assert (tile.label[outside] == records.UNLABELLED).all()
    assert (tile.weight[outside] == 0).all()


@pytest.mark.slow
def test_transforms_plan_each_unit_once(cells, config, tmp_path):
    with test_pipeline.TestPipeline(
        options=PipelineOptions([f"--runner={LOCAL_RUNNER}"])
    ) as pipeline:
        planned = plan.plan_dataset(str(cells), config)
        prepared = job.prepare(str(cells), str(tmp_path), config, planned, parts=3)
        assert len(prepared.plan_files) == 3  # 3 + 3 + 2 frames
        read = pipeline | beam.Create(prepared.plan_files) | job.ReadPlan()
        units = read | beam.FlatMap(lambda each: each.units())
        keys = units | beam.Map(lambda unit: unit.key)
        expected = [unit.key for unit in units_of(cells, config)]
        assert_that(keys, equal_to(expected))
        frames = read | "Frame" >> beam.Map(lambda each: each.frame)
        inspected = frames | job.InspectFrames(config=config, output=str(tmp_path))
        sizes = inspected | beam.Map(
            lambda found: (found.height, found.width, found.bits)
        )
        assert_that(sizes, equal_to([(128, 128, 8)] * 8), label="sizes")


def test_counters_count_tiles(cells, tmp_path, config):
    pipeline = beam.Pipeline(options=PipelineOptions([f"--runner={LOCAL_RUNNER}"]))
    planned = plan.plan_dataset(str(cells), config)
    job.build(pipeline, job.prepare(str(cells), str(tmp_path), config, planned))
    result = pipeline.run()
    result.wait_until_finish()
    counters = {
        c.key.metric.name: c.committed for c in result.metrics().query()["counters"]
    }
    info = dataset_info.read_info(str(tmp_path))
    total = sum(split.num_tiles for split in info.splits.values())
    assert counters["tiles_written"] == total == (5 * 2 + 1 + 2) * 49
    assert counters["frames_inspected"] == 8
    timed = {name for name in counters if name.endswith("_msec")}
    stages = ("inspect", "read", "render", "encode", "write")
    assert timed == {f"{stage}_msec" for stage in stages}
    assert counters["render_msec"] > 0
    assert "shards_kept" not in counters


@pytest.mark.slow
def test_normalisation_by_the_whole_data_set(cells, made, tmp_path):
    more = "--config.data.normalization=dataset"
    assert preprocess(cells, tmp_path / "out", more) == 0
    info = dataset_info.read_info(str(tmp_path / "out"))
    train = [s.files[0].path for s in info.sources if s.split == "train"]
    pixels = np.stack([tifffile.imread(cells / path) for path in train])
    of_all = info.normalization
    np.testing.assert_allclose(of_all.mean, [pixels.mean()], rtol=1e-12)
    np.testing.assert_allclose(of_all.std, [pixels.std()], rtol=1e-12)
    for split in info.splits:
        for tile in read_tiles(tmp_path / "out", info, split):
            np.testing.assert_allclose(tile.mean, of_all.mean, rtol=1e-6)
            np.testing.assert_allclose(tile.std, of_all.std, rtol=1e-6)
    # Nothing but the numbers to normalise by is different.
    own = dataset_info.read_info(str(made))
    assert own.normalization is None
    for split in info.splits:
        pairs = zip(
            read_tiles(made, own, split),
            read_tiles(tmp_path / "out", info, split),
            strict=True,
        )
        for first, second in pairs:
            assert first.key == second.key
            np.testing.assert_array_equal(first.image, second.image)


@pytest.mark.slow
@pytest.mark.parametrize(
    "change, said",
    [
        (lambda image: image / np.float32(7), "t001.tif: not unsigned 8 or 16 bit"),
        (lambda image: image.astype(np.uint16) * 200, "has 8 bits"),
    ],
    ids=["floats", "two depths"],
)
def test_images_that_cannot_be_pooled_are_normalised_one_by_one_only(
    source, tmp_path, capfd, change, said
):
    changed(source / "01/t001.tif", change)
    more = "--config.data.normalization=dataset"
    assert preprocess(source, tmp_path / "out", more) == 2
    assert said in capfd.readouterr().err
    assert preprocess(source, tmp_path / "out") == 0
