"""The Beam job: same bytes, complete or not there, one line for each mistake."""

import hashlib
import pathlib
import shutil
import subprocess
import sys

import apache_beam as beam
import numpy as np
import pytest
import tifffile
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.testing import test_pipeline
from apache_beam.testing.util import assert_that, equal_to

from preprocess import pipeline as job
from preprocess import plan, records, shards, tfds_info, tiling
from preprocess.cli import main
from preprocess.images import encode_png
from preprocess.main import COMMAND
from preprocess.render import load, tiles_of_unit
from preprocess.runners import LOCAL_RUNNER
from preprocess.verify import verify

DRAWN = "--config=configs/synthetic.py:smoke"
ROOT = pathlib.Path(__file__).parent.parent
SMALL = (
    "--config.data.tile_size=60",
    "--config.model.depth=2",
    "--config.data.augmentations=3",
)


@pytest.fixture(autouse=True)
def in_root(monkeypatch):
    monkeypatch.chdir(ROOT)


def preprocess(source, output, *more, config="synthetic.py:smoke") -> int:
    arguments = [f"--config=configs/{config}", *SMALL, f"--input={source}"]
    return main(COMMAND, [*arguments, f"--output={output}", *more])


def read_tiles(folder, info, split):
    for shard in info["splits"][split]["shards"]:
        yield from shards.read_tiles(str(folder / shard["name"]), info["geometry"])


def tiles_of(unit, config):
    return tiles_of_unit(unit, load(unit.frame, config), config, bits=8)


@pytest.fixture(scope="module")
def made(cells, tmp_path_factory):
    """A finished data set."""
    output = tmp_path_factory.mktemp("made") / "data"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        assert preprocess(cells, output) == 0
    return output


def test_same_bytes_again(cells, made, digests, tmp_path):
    assert preprocess(cells, tmp_path / "again") == 0
    assert digests(tmp_path / "again") == digests(made)
    # ... and whatever the path that leads there.
    assert not [name for name in digests(made) if name.startswith(".")]


@pytest.mark.slow
def test_another_seed_makes_other_bytes(cells, made, tmp_path, digests):
    assert preprocess(cells, tmp_path / "other", "--config.seed=2") == 0
    other, first = digests(tmp_path / "other"), digests(made)
    assert other.keys() == first.keys()
    assert (
        other["train-00000-of-00002.tfrecord"] != first["train-00000-of-00002.tfrecord"]
    )


def keys_of(info, split: str) -> list[str]:
    return [s["frame"] for s in info["sources"] if s["split"] == split]


def units_of(folder, config) -> list[plan.Unit]:
    frames = plan.plan_dataset(str(folder), config).frames
    return [u for planned in plan.plan_all(frames, config) for u in planned.units()]


def test_info_tells_the_truth(cells, made):
    info = shards.read_info(str(made))
    frames = {split: keys_of(info, split) for split in info["splits"]}
    numbers = [content["num_frames"] for content in info["splits"].values()]
    assert numbers == [len(keys) for keys in frames.values()]
    assert [len(frames[s]) for s in ("train", "validation", "test")] == [5, 1, 2]
    assert len({key for keys in frames.values() for key in keys}) == 8
    for split, content in info["splits"].items():
        tiles = list(read_tiles(made, info, split))
        assert len(tiles) == content["num_tiles"]
        assert {tile.key.rsplit("/", 2)[0] for tile in tiles} == set(frames[split])
        augmentations = {tile.key.split("/")[3] for tile in tiles}
        assert augmentations == ({"a00", "a01", "a02"} if split == "train" else {"a00"})
        counts = np.bincount(
            np.concatenate([t.label.ravel() for t in tiles]), minlength=2
        )
        assert content["class_pixels"] == counts[:2].tolist()
        for shard in content["shards"]:
            stored = (made / shard["name"]).read_bytes()
            assert shard["bytes"] == len(stored)
            assert shard["sha256"] == hashlib.sha256(stored).hexdigest()
    first = info["sources"][0]
    assert first["files"][0]["path"] == "01/t000.tif"
    expected = hashlib.sha256((cells / "01/t000.tif").read_bytes()).hexdigest()
    assert first["files"][0]["sha256"] == expected


def test_unchanged_tiles_are_the_mirrored_frame(cells, made):
    info = shards.read_info(str(made))
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
    for kind in ("images", "masks"):
        (tmp_path / "in" / kind).mkdir(parents=True)
        for index in range(4):
            pixels = np.random.default_rng(index).integers(0, 2, (11, 7)) * 200
            tifffile.imwrite(
                tmp_path / f"in/{kind}/{index}.tif", pixels.astype(np.uint8)
            )
    folders = tmp_path / "in", tmp_path / "out"
    assert preprocess(*folders, config="folder.py:smoke") == 0
    info = shards.read_info(str(tmp_path / "out"))
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
        inspected = frames | job.InspectFrames(config, str(tmp_path))
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
    info = shards.read_info(str(tmp_path))
    total = sum(split["num_tiles"] for split in info["splits"].values())
    assert counters["tiles_written"] == total == (5 * 2 + 1 + 2) * 49
    assert counters["frames_inspected"] == 8
    timed = {name for name in counters if name.endswith("_msec")}
    stages = ("inspect", "read", "render", "encode", "write")
    assert timed == {f"{stage}_msec" for stage in stages}
    assert counters["render_msec"] > 0
    assert "shards_kept" not in counters


def test_rerun_of_a_finished_job_does_nothing(cells, made, capsys):
    before = {path: path.stat().st_mtime_ns for path in made.iterdir()}
    assert preprocess(cells, made) == 0
    assert "complete already" in capsys.readouterr().out
    assert before == {path: path.stat().st_mtime_ns for path in made.iterdir()}


def test_another_config_into_the_same_folder_is_refused(cells, made, capsys, digests):
    before = digests(made)
    assert preprocess(cells, made, "--config.data.border_sigma_px=3.0") == 2
    error = capsys.readouterr().err
    assert "config.data.border_sigma_px: 5.0 there, 3.0 here" in error
    assert digests(made) == before


@pytest.mark.slow
def test_changed_sources_are_refused_and_overwrite_starts_afresh(
    cells, tmp_path, capsys
):
    shutil.copytree(cells, tmp_path / "in")
    assert preprocess(tmp_path / "in", tmp_path / "out") == 0
    image = tifffile.imread(tmp_path / "in/01/t002.tif")
    tifffile.imwrite(tmp_path / "in/01/t002.tif", 255 - image)
    assert preprocess(tmp_path / "in", tmp_path / "out") == 2
    assert "01/t002.tif: changed since" in capsys.readouterr().err
    assert preprocess(tmp_path / "in", tmp_path / "out", "--overwrite") == 0
    assert preprocess(tmp_path / "in", tmp_path / "out") == 0


@pytest.mark.slow
def test_unfinished_job_keeps_whole_shards_and_remakes_damaged_ones(
    cells, made, tmp_path, config, digests
):
    """As after a kill: some shards finished, one of them damaged since."""
    first = digests(made)
    # Sidecars are made by a real run that stops before the end.
    stopped = tmp_path / "stopped"
    code = (
        "import os, preprocess.pipeline as job\n"
        "job.write_info = lambda *a, **k: os._exit(9)\n"
        "import sys; from preprocess.main import run; run()"
    )
    arguments = [DRAWN, *SMALL, f"--input={cells}", f"--output={stopped}"]
    ended = subprocess.run([sys.executable, "-c", code, *arguments], cwd=ROOT)
    assert ended.returncode == 9
    assert not (stopped / shards.INFO_NAME).exists()
    (stopped / ".unfinished-0123abcd-train-00000-of-00002.tfrecord").write_text("half")
    damaged = stopped / "train-00001-of-00002.tfrecord"
    content = bytearray(damaged.read_bytes())
    content[1000] ^= 1
    damaged.write_bytes(content)
    kept = stopped / "train-00000-of-00002.tfrecord"
    before = kept.stat().st_mtime_ns
    assert preprocess(cells, stopped) == 0
    assert digests(stopped) == first
    assert kept.stat().st_mtime_ns == before


@pytest.mark.slow
def test_missing_and_damaged_shards_are_made_again(
    cells, made, tmp_path, capsys, digests
):
    shutil.copytree(made, tmp_path / "out [1]")
    folder = tmp_path / "out [1]"
    (folder / "train-00000-of-00002.tfrecord").unlink()
    test = folder / "test-00000-of-00002.tfrecord"
    test.write_bytes(test.read_bytes()[:-100])
    kept = folder / "train-00001-of-00002.tfrecord"
    before = kept.stat().st_mtime_ns
    assert preprocess(cells, folder) == 0
    said = capsys.readouterr().out
    assert "train-00000-of-00002.tfrecord" in said and test.name in said
    assert digests(folder) == digests(made)
    assert kept.stat().st_mtime_ns == before


@pytest.mark.slow
def test_two_jobs_at_once_are_refused(cells, made, tmp_path, capfd, digests):
    output = tmp_path / "out"
    code = (
        "import sys, time\n"
        "from preprocess import locks\n"
        "with locks.exclusive(sys.argv[1]):\n"
        "    print('locked', flush=True)\n"
        "    time.sleep(60)"
    )
    command = [sys.executable, "-c", code, str(output)]
    first = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE)
    try:
        assert first.stdout.readline() == b"locked\n"
        assert preprocess(cells, output, "--overwrite") == 2
        assert "another job is writing there" in capfd.readouterr().err
    finally:
        first.kill()
        first.wait()
        first.stdout.close()
    assert preprocess(cells, output) == 0  # a killed job locks nothing
    assert digests(output) == digests(made)


@pytest.mark.slow
def test_overwrite_clears_everything_ours(cells, made, tmp_path):
    shutil.copytree(made, tmp_path / "out [1]")
    (tmp_path / "out [1]/notes.txt").write_text("mine")
    more = "--overwrite", "--config.data.num_shards=1"
    assert preprocess(cells, tmp_path / "out [1]", *more) == 0
    names = {path.name for path in (tmp_path / "out [1]").iterdir()}
    splits = {f"{s}-00000-of-00001.tfrecord" for s in ("train", "validation", "test")}
    assert names == splits | {"notes.txt", shards.INFO_NAME, tfds_info.FOLDER}


@pytest.mark.slow
def test_copies_in_two_splits_are_refused(cells, tmp_path, capfd):
    shutil.copytree(cells, tmp_path / "in")
    shutil.copy(cells / "01/t000.tif", tmp_path / "in/01/t007.tif")
    assert preprocess(tmp_path / "in", tmp_path / "out") == 2
    error = capfd.readouterr().err
    assert "t007.tif (test) is a copy of" in error and "t000.tif (train)" in error


def test_frames_without_any_foreground_are_refused(tmp_path, capfd):
    for kind in ("images", "masks"):
        (tmp_path / "in" / kind).mkdir(parents=True)
        for index in range(4):
            pixels = np.random.default_rng(index).integers(0, 9, (30, 30))
            pixels *= kind == "images"
            path = tmp_path / f"in/{kind}/{index}.tif"
            tifffile.imwrite(path, pixels.astype(np.uint8))
    folders = tmp_path / "in", tmp_path / "out"
    assert preprocess(*folders, config="folder.py:smoke") == 2
    assert "hold no two classes (only: 0)" in capfd.readouterr().err


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def changed(path, change):
    """Writes an image anew with other pixels."""
    tifffile.imwrite(path, change(tifffile.imread(path)))


# What is done to which file, and what is said of it.
BROKEN = {
    "cut image": ("01/t003.tif", cut, "cannot be read"),
    "text for an image": (
        "01/t003.tif",
        lambda p: p.write_text("hi"),
        "cannot be read",
    ),
    "cut label": ("01_GT/SEG/man_seg003.tif", cut, "cannot be read"),
    "label of another shape": (
        "01_GT/SEG/man_seg003.tif",
        lambda p: changed(p, lambda label: label[:100]),
        "100 x 128",
    ),
    "missing image": ("01/t003.tif", lambda p: p.unlink(), "label without image"),
    "NaN": (
        "01/t003.tif",
        lambda p: changed(p, lambda image: np.where(image > 120, np.nan, image)),
        "NaN or infinite",
    ),
    "constant": (
        "01/t003.tif",
        lambda p: changed(p, lambda image: image * 0 + 7),
        "every pixel is 7",
    ),
    "colours": (
        "01/t003.tif",
        lambda p: changed(p, lambda image: np.dstack([image, image, 255 - image])),
        "3 channels where config.model.channels promises 1",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", BROKEN)
def test_broken_input_is_one_line_and_leaves_nothing(cells, tmp_path, capfd, name):
    shutil.copytree(cells, tmp_path / "in")
    path, break_it, words = BROKEN[name]
    break_it(tmp_path / "in" / path)
    assert preprocess(tmp_path / "in", tmp_path / "out") == 2
    shown = capfd.readouterr().err.splitlines()
    error = [line for line in shown if line.startswith("preprocess: ")]
    assert len(error) == 1 and path in error[0] and words in error[0]
    left = list((tmp_path / "out").iterdir()) if (tmp_path / "out").exists() else []
    assert not left


def write_folder(folder, frames):
    """Images and masks in the layout of people's own: name to (image, mask)."""
    for kind, index in (("images", 0), ("masks", 1)):
        (folder / kind).mkdir(parents=True)
        for name, pair in frames.items():
            if pair[index] is not None:
                (folder / kind / name).write_bytes(encode_png(pair[index]))


@pytest.mark.slow
def test_every_kind_of_bad_frame_is_listed_at_once(tmp_path, capfd):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 255, (40, 40)).astype(np.uint8)
    mask = (np.arange(1600).reshape(40, 40) % 40 > 20).astype(np.uint8)
    frames = {f"good{i}.png": (image + np.uint8(i), mask) for i in range(8)}
    frames |= {
        "alone.png": (image, None),
        "lost.png": (None, mask),
        "constant.png": (image * 0, mask),
        "shape.png": (image, mask[:30]),
        "class.png": (image, mask * 7),
        "rgb.png": (np.dstack([image, image, 255 - image]), mask),
        "cut.png": (image, mask),
    }
    write_folder(tmp_path / "in", frames)
    cut(tmp_path / "in/images/cut.png")
    expected = {
        "images/alone.png": "image without mask",
        "masks/lost.png": "mask without image",
        "images/constant.png": "every pixel is 0",
        "masks/shape.png": "30 x 40",
        "masks/class.png": "class 7",
        "images/rgb.png": "3 channels",
        "images/cut.png": "cannot be read",
    }
    named = dict(config="folder.py:smoke")
    folders = tmp_path / "in", tmp_path / "out"
    assert preprocess(*folders, "--config.data.labels=class", **named) == 2
    lines = [
        line
        for line in capfd.readouterr().err.splitlines()
        if line.startswith("preprocess: ")
    ]
    assert len(lines) == len(expected)
    for path, words in expected.items():
        assert [line for line in lines if path in line and words in line], path
    more = "--config.data.labels=class", "--on_bad_frame=skip"
    assert preprocess(*folders, *more, **named) == 0
    info = shards.read_info(str(tmp_path / "out"))
    reasons = [reason for left in info["skipped"] for reason in left["reasons"]]
    assert len(reasons) == len(expected)
    for path, words in expected.items():
        assert [reason for reason in reasons if path in reason and words in reason]
    assert verify(str(tmp_path / "out")) > 0


@pytest.mark.slow
def test_images_without_labels_are_counted(cells, tmp_path, capsys):
    shutil.copytree(cells, tmp_path / "in")
    for number in (2, 5):
        (tmp_path / f"in/01_GT/SEG/man_seg{number:03d}.tif").unlink()
    assert preprocess(tmp_path / "in", tmp_path / "out") == 0
    assert "2 images without labels left out" in capsys.readouterr().out
    assert shards.read_info(str(tmp_path / "out"))["unlabelled_images"] == 2


@pytest.mark.slow
def test_normalisation_by_the_whole_data_set(cells, made, tmp_path):
    more = "--config.data.normalization=dataset"
    assert preprocess(cells, tmp_path / "out", more) == 0
    info = shards.read_info(str(tmp_path / "out"))
    train = [s["files"][0]["path"] for s in info["sources"] if s["split"] == "train"]
    pixels = np.stack([tifffile.imread(cells / path) for path in train])
    of_all = info["normalization"]
    np.testing.assert_allclose(of_all["mean"], [pixels.mean()], rtol=1e-12)
    np.testing.assert_allclose(of_all["std"], [pixels.std()], rtol=1e-12)
    for split in info["splits"]:
        for tile in read_tiles(tmp_path / "out", info, split):
            np.testing.assert_allclose(tile.mean, of_all["mean"], rtol=1e-6)
            np.testing.assert_allclose(tile.std, of_all["std"], rtol=1e-6)
    # Nothing but the numbers to normalise by is different.
    own = shards.read_info(str(made))
    assert own["normalization"] is None
    for split in info["splits"]:
        pairs = zip(
            read_tiles(made, own, split),
            read_tiles(tmp_path / "out", info, split),
            strict=True,
        )
        for first, second in pairs:
            assert first.key == second.key
            np.testing.assert_array_equal(first.image, second.image)


@pytest.mark.slow
def test_float_images_are_normalised_one_by_one_only(cells, tmp_path, capfd):
    shutil.copytree(cells, tmp_path / "in")
    changed(tmp_path / "in/01/t001.tif", lambda image: image / np.float32(7))
    more = "--config.data.normalization=dataset"
    assert preprocess(tmp_path / "in", tmp_path / "out", more) == 2
    assert "t001.tif: not unsigned 8 or 16 bit" in capfd.readouterr().err
    assert preprocess(tmp_path / "in", tmp_path / "out") == 0


@pytest.mark.slow
def test_bad_frames_are_skipped_when_asked_and_recorded(cells, tmp_path, capfd):
    shutil.copytree(cells, tmp_path / "in")
    (tmp_path / "in/01/t001.tif").write_text("hello")
    (tmp_path / "in/01/t006.tif").unlink()
    folders = tmp_path / "in", tmp_path / "out"
    assert preprocess(*folders) == 2
    assert preprocess(*folders, "--on_bad_frame=skip") == 0
    info = shards.read_info(str(tmp_path / "out"))
    broken, missing = (reason for left in info["skipped"] for reason in left["reasons"])
    assert broken.startswith("01/t001.tif: cannot be read")
    assert missing.startswith("01_GT/SEG/man_seg006.tif: label without image")
    error = capfd.readouterr().err
    assert f"skipped: {broken}" in error and f"skipped: {missing}" in error
    keys = [source["frame"] for source in info["sources"]]
    assert [key.split("/")[-1] for key in sorted(keys)] == [
        f"t{i:03d}" for i in (0, 2, 3, 4, 5, 7)
    ]
    tiles = [
        t.key for s in info["splits"] for t in read_tiles(tmp_path / "out", info, s)
    ]
    assert not [key for key in tiles if "t001" in key or "t006" in key]
    assert verify(str(tmp_path / "out")) == len(tiles)
    assert preprocess(*folders, "--on_bad_frame=skip") == 0  # nothing to do
    assert "complete already" in capfd.readouterr().out


def test_all_broken_frames_are_listed_at_once(cells, tmp_path, capfd):
    shutil.copytree(cells, tmp_path / "in")
    for name in ("t001", "t004", "t006"):
        (tmp_path / f"in/01/{name}.tif").write_text("hello")
    assert preprocess(tmp_path / "in", tmp_path / "out") == 2
    error = capfd.readouterr().err
    assert all(
        f"{name}.tif: cannot be read" in error for name in ("t001", "t004", "t006")
    )
    assert "Traceback" not in error


@pytest.mark.parametrize(
    "more, words",
    [
        (["--config.data.tile_sise=60"], "tile_sise"),
        (["--config.data.tile_size=61"], "61 px is not legal at depth 2"),
        (["--config.data.tile_size=abc"], "abc"),
        (["--config.data.image_encoding=gif"], "none of png, raw"),
        (["--config.data.border_weight=20.0"], "steps of 0.078"),
        (["--config.data.layout=zarr"], "none of isbi, ctc, folder"),
        (["--config.data.augment.gamma=-1.0"], "augment.gamma=-1.0 must be at least 0"),
        (["--config.data.split.test=-0.5"], "split.test=-0.5 must be at least 0"),
        (["--config.model.classes=300"], "classes=300: at most 255"),
        (["--runner=Foo"], "--runner=Foo"),
        (["--direct_num_workers=abc"], "direct_num_workers"),
        (["--outputs=x"], "neither a flag of preprocess nor an option of Beam"),
    ],
)
def test_mistyped_commands_are_one_line(cells, tmp_path, capfd, more, words):
    assert preprocess(cells, tmp_path / "out", *more) == 2
    lines = capfd.readouterr().err.splitlines()
    assert words in lines[-1] and len(lines) == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "config, words",
    [("nope.py", "configs/nope.py"), ("synthetic.py:gpu", "no variant 'gpu'")],
)
def test_unknown_configs_are_one_line(cells, tmp_path, capfd, config, words):
    given = f"--config=configs/{config}", f"--input={cells}", f"--output={tmp_path}/o"
    assert main(COMMAND, given) == 2  # the file alone, without overrides
    [line] = capfd.readouterr().err.splitlines()
    assert words in line


@pytest.mark.parametrize("text", ["def get_config(:", "import nope", "1 / 0"])
def test_broken_configs_are_one_line(cells, tmp_path, capfd, text):
    (tmp_path / "c.py").write_text(text)
    given = f"--config={tmp_path}/c.py", f"--input={cells}", f"--output={tmp_path}/o"
    assert main(COMMAND, given) == 2
    [line] = capfd.readouterr().err.splitlines()
    assert line.startswith("preprocess: ") and len(line) > 30


@pytest.mark.slow
def test_configs_are_found_from_any_folder(cells, tmp_path, monkeypatch, made, digests):
    monkeypatch.chdir(tmp_path)
    assert preprocess(cells, tmp_path / "out") == 0
    assert digests(tmp_path / "out") == digests(made)


def test_output_in_a_files_place_is_one_line(cells, tmp_path, capfd):
    (tmp_path / "file").write_text("")
    for output in (tmp_path / "file", tmp_path / "file/below"):
        assert preprocess(cells, output) == 2
        [line] = [s for s in capfd.readouterr().err.splitlines() if "preprocess: " in s]
        assert str(tmp_path / "file") in line


def test_missing_flags_and_help(capsys):
    assert main(COMMAND, ["--input=x"]) == 2
    assert "--output, --config must be given" in capsys.readouterr().err
    assert main(COMMAND, ["--help"]) == 0
    text = capsys.readouterr().out
    assert "--input (required)" in text and "Beam option" in text


@pytest.mark.slow
def test_preprocess_never_loads_tensorflow(cells, tmp_path):
    code = (
        "import sys\n"
        "from preprocess import cli, main\n"
        "code = cli.main(main.COMMAND)\n"
        "loaded = {m.split('.')[0] for m in sys.modules} & {'tensorflow', 'keras'}\n"
        "assert not loaded, loaded\n"
        "sys.exit(code)"
    )
    arguments = [DRAWN, *SMALL, f"--input={cells}", f"--output={tmp_path / 'out'}"]
    subprocess.run([sys.executable, "-c", code, *arguments], cwd=ROOT, check=True)
    assert (tmp_path / "out" / shards.INFO_NAME).exists()


@pytest.mark.slow
def test_paths_may_be_relative(cells, tmp_path, monkeypatch, made, digests):
    monkeypatch.chdir(cells.parent)
    config = f"--config={ROOT}/configs/synthetic.py:smoke"
    arguments = [config, *SMALL, "--input=cells/", f"--output={tmp_path / 'out'}"]
    assert main(COMMAND, arguments) == 0
    assert digests(tmp_path / "out") == digests(made)


def stop_before_the_end(source, output, *more):
    """A run that ends, as by kill -9, when all shards lie there."""
    code = (
        "import os, preprocess.pipeline as job\n"
        "job.write_info = lambda *a, **k: os._exit(9)\n"
        "import sys; from preprocess.main import run; run()"
    )
    given = [DRAWN, *SMALL, f"--input={source}", f"--output={output}", *more]
    ended = subprocess.run([sys.executable, "-c", code, *given], cwd=ROOT)
    assert ended.returncode == 9


@pytest.mark.slow
def test_bad_input_in_between_does_not_open_the_folder_to_another_config(
    cells, tmp_path, capfd
):
    source, output = tmp_path / "in", tmp_path / "out"
    shutil.copytree(cells, source)
    stop_before_the_end(source, output)
    whole = (source / "01/t001.tif").read_bytes()
    (source / "01/t001.tif").write_text("broken")
    assert preprocess(source, output) == 2
    (source / "01/t001.tif").write_bytes(whole)
    capfd.readouterr()
    assert preprocess(source, output, "--config.seed=9") == 2
    assert "config.seed: 1 there, 9 here" in capfd.readouterr().err
    assert preprocess(source, output) == 0
    assert verify(str(output)) > 0


@pytest.mark.slow
def test_no_shard_of_an_older_plan_is_left(cells, tmp_path):
    source, output = tmp_path / "in", tmp_path / "out"
    shutil.copytree(cells, source)
    stop_before_the_end(source, output, "--config.data.num_shards=16")
    for name in ("01/t000.tif", "01_GT/SEG/man_seg000.tif"):
        (source / name).unlink()
    assert preprocess(source, output, "--config.data.num_shards=16") == 0
    assert verify(str(output)) > 0


@pytest.mark.slow
def test_a_full_disk_ends_in_one_clear_line(cells, tmp_path):
    """Beam's workers print a traceback of their own before; the last line is ours."""
    code = (
        "import resource, signal, sys\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "from preprocess.main import run; run()"
    )
    given = [DRAWN, *SMALL, f"--input={cells}", f"--output={tmp_path / 'out'}"]
    ended = subprocess.run(
        [sys.executable, "-c", code, *given],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 2
    last = ended.stderr.splitlines()[-1]
    assert last.startswith("preprocess: ") and "File too large" in last


@pytest.mark.slow
def test_mixed_depths_cannot_be_pooled(cells, tmp_path, capfd):
    shutil.copytree(cells, tmp_path / "in")
    changed(tmp_path / "in/01/t001.tif", lambda image: image.astype(np.uint16) * 200)
    more = "--config.data.normalization=dataset"
    assert preprocess(tmp_path / "in", tmp_path / "out", more) == 2
    assert "has 8 bits" in capfd.readouterr().err
    assert preprocess(tmp_path / "in", tmp_path / "out") == 0


def test_too_few_frames_and_stray_files_are_told_together(tmp_path, capfd):
    image = np.arange(1600).reshape(40, 40).astype(np.uint8)
    frames = {f"{i}.png": (image + np.uint8(i), None) for i in range(3)}
    write_folder(tmp_path / "in", frames | {"4.png": (image, image // 200)})
    folders = tmp_path / "in", tmp_path / "out"
    assert preprocess(*folders, config="folder.py:smoke") == 2
    error = capfd.readouterr().err
    assert "none to train on" in error and error.count("image without mask") == 3
