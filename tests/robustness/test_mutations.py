"""Damaged files are read right or refused in a line; bombs do not go off."""

import collections
import gzip
import io
import json
import pathlib
import shutil
import struct

import google_crc32c
import msgspec
import numpy as np
import pytest
import tifffile

from campaigns import bombs, samples
from campaigns.mutations import BAD, Material, Reader, damage_files, table
from campaigns.mutators import flip
from campaigns.readers import READ, REFUSED
from preprocess import main, plan
from tests.commands import lines_of, mistakes, run
from trainer.export import artefact_layout
from trainer.inference.instances import InstanceRules
from trainer.input.shard_files import damage, find_shards
from trainer.run import checkpoints, workdir
from unet_tfrecords.command.errors import UserError
from unet_tfrecords.dataset import dataset_info, records, shards
from unet_tfrecords.dataset.images import formats
from unet_tfrecords.dataset.images.image_checks import MOST_PIXELS_FLAG, check_size
from unet_tfrecords.dataset.images.pages import Page
from unet_tfrecords.storage import checksums, json_files


@pytest.fixture
def material(shards_folder, trained, models):
    return Material(pathlib.Path(shards_folder), trained, models)


COUNTS = {
    "tiff": 300,
    "png": 200,
    "tfrecord": 12,
    "info": 60,
    "config": 60,
    "checkpoint": 40,
    "savedmodel": 10,
}


@pytest.mark.long
@pytest.mark.parametrize("kind", COUNTS)
def test_damaged_files_are_read_right_or_refused(kind, tmp_path, material):
    """`python -m campaigns.mutations` does the same by thousands."""
    cases = list(damage_files(kind, COUNTS[kind], 7, tmp_path, material))
    assert not [case for case in cases if case.verdict in BAD]
    counts = collections.Counter(case.verdict for case in cases)
    assert counts[REFUSED] > len(cases) / 4, table({kind: counts})


# --- Images -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    """A process that reads images, 10 s and 2 GB each."""
    folder = tmp_path_factory.mktemp("bombs")
    process = Reader("tiff", folder)
    (folder / "whole.tif").write_bytes(bombs.tiff_pages(3))
    assert process.read("whole.tif").status == READ
    yield process
    process.close()


@pytest.mark.slow
def test_planes_behind_one_header_are_not_lost(tmp_path):
    """tifffile's own form; MetaMorph's and ImageJ's are told in the same way."""
    path = tmp_path / "stack.tif"
    with tifffile.TiffWriter(path) as writer:
        writer.write(np.zeros((5, 64, 70), np.uint8), truncate=True)
    with pytest.raises(UserError, match="stack.tif: 5 images behind one header"):
        formats.count_pages(str(path))
    tifffile.imwrite(path, np.zeros((64, 70, 3), np.uint8))
    assert formats.count_pages(str(path)) == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", bombs.IMAGES)
def test_bombs_are_refused_and_large_images_are_not(reader, name):
    content, said = bombs.IMAGES[name]
    path = reader.folder / name
    path.write_bytes(content)
    reader.read("whole.tif")  # starts it again where the last file ended it
    reader.seconds = 10 if said else 120  # a large image takes its time
    found = reader.read(name)
    path.unlink()
    assert found.status == (REFUSED if said else READ), found
    assert said in found.told and (not said or name in found.told)


@pytest.mark.slow
def test_a_million_pages_are_counted(reader):
    path = reader.folder / "million.tif"
    path.write_bytes(bombs.tiff_pages(10**6))
    assert formats.count_pages(str(path)) == 10**6
    path.unlink()


def test_the_limit_of_pixels_can_be_raised(monkeypatch):
    with pytest.raises(UserError, match="40000 x 40000 px, over 1,073,741,824"):
        check_size("a.tif", 40_000, 40_000, 1)
    monkeypatch.setenv(MOST_PIXELS_FLAG, str(2**40))
    check_size("a.tif", 40_000, 40_000, 0.01)
    with pytest.raises(UserError, match="need 1024.0 GB of memory"):
        check_size("a.tif", 10**6, 10**6, 1.024)


@pytest.mark.parametrize("kind", ["plain", "lzw", "deflate", "jpeg", "tiles"])
def test_a_tiff_cut_anywhere_is_noticed(tmp_path, kind):
    samples.write_tiffs(tmp_path)
    name = {"tiles": "deflate-tiles", "plain": "plain-stack"}.get(kind, kind)
    path = tmp_path / f"{name}.tif"
    whole = path.read_bytes()
    wrong = []
    for size in range(0, len(whole), 37):
        path.write_bytes(whole[:size])
        try:
            pages = formats.count_pages(str(path))
            for number in range(pages):
                formats.read_image(Page(str(path), number), 1)
            wrong.append(size)
        except UserError as error:
            assert path.name in str(error)
    assert not wrong


def test_missing_strips_are_no_pixels(tmp_path):
    """tifffile leaves in their places what was in memory."""
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, samples.picture(), compression="lzw", rowsperstrip=8)
    with tifffile.TiffFile(path, mode="r+") as tiff:
        tag = tiff.pages[0].tags["StripOffsets"]
        tag.overwrite(tag.value[:3])
    with pytest.raises(UserError, match="6 strips or tiles, and places of 3"):
        formats.read_image(Page(str(path)), 1)


@pytest.mark.parametrize("name", ["label-palette", "grey16", "label-one-bit"])
def test_every_bit_of_a_png_counts(tmp_path, name):
    samples.write_pngs(tmp_path)
    path = tmp_path / f"{name}.png"
    whole = path.read_bytes()
    for bit in range(64, 8 * len(whole), max(1, len(whole) // 7)):
        flip(path, bit)
        with pytest.raises(UserError, match=path.name):
            formats.read_labels(Page(str(path)))
        path.write_bytes(whole)


# --- Shards and what stands beside them ---------------------------------------------


@pytest.fixture
def data(shards_folder, tmp_path):
    return pathlib.Path(shutil.copytree(shards_folder, tmp_path / "data"))


@pytest.mark.slow
def test_every_bit_of_a_shard_is_covered(data):
    """Length and its checksum, record and its checksum: there is nothing else."""
    path = next(data.glob("test-*"))
    with open(path, "rb") as file:
        first = records.frame_record(next(records.read_records(file)))
    changed = bytearray(first)
    for bit in range(8 * len(first)):
        changed[bit // 8] ^= 1 << bit % 8
        found = list(records.scan_records(io.BytesIO(changed)))
        assert all(place.record is None for place in found), bit
        changed[bit // 8] ^= 1 << bit % 8


@pytest.mark.parametrize("length", [2**62, 2**40, 2**31 - 1])
def test_a_record_that_claims_too_much(data, length):
    """With the right checksum, as nothing but malice makes it."""
    path = next(data.glob("test-*"))
    head = struct.pack("<Q", length)
    crc = google_crc32c.value(head)  # rotated and shifted, as TFRecord files have it
    crc = ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
    claim = head + struct.pack("<I", crc)
    path.write_bytes(claim + path.read_bytes()[12:])
    info = dataset_info.read_info(str(data))
    shard = next(s for s in find_shards(info, str(data), "test") if s.path == str(path))
    [line] = damage([shard], info.geometry)
    assert line.startswith(f"{path}: ") and "at byte 0" in line


def test_a_compressed_shard_is_damage(data):
    path = next(data.glob("test-*"))
    path.write_bytes(gzip.compress(path.read_bytes()))
    with pytest.raises(UserError, match=f"{path.name}: corrupted length at byte 0"):
        find_shards(dataset_info.read_info(str(data)), str(data), "test")


LIES = {
    "records": lambda info: info["splits"]["train"]["shards"][0].update(records=1),
    "sha256": lambda info: info["splits"]["train"]["shards"][0].update(sha256="0" * 64),
    "class_pixels": lambda info: info["splits"]["train"].update(class_pixels=[1, 1]),
    "weight_step": lambda info: info["geometry"].update(weight_step=0.01),
    "normalization": lambda info: info.update(normalization={"mean": [1], "std": [1]}),
    "height": lambda info: info["sources"][0].update(height=127),
    "seed": lambda info: info["config"].update(seed=8),
}


@pytest.mark.parametrize("lie", LIES)
def test_no_field_of_the_info_changes_without_notice(data, lie):
    path = data / dataset_info.INFO_NAME
    info = json.loads(path.read_text())
    LIES[lie](info)
    path.write_text(json.dumps(info))
    with pytest.raises(UserError, match="dataset_info.json: not as it was"):
        dataset_info.read_info(str(data))
    del info[json_files.OWN_DIGEST]  # as older versions wrote it, and whoever edits it
    path.write_text(json.dumps(info))
    assert dataset_info.read_info(str(data)).content() == {
        name: value for name, value in info.items() if name != "times"
    }


@pytest.mark.parametrize("what", bombs.WELL_FORMED)
@pytest.mark.parametrize("name", ["info", "sidecar", "job", "sources", "plan"])
def test_strange_json_beside_shards_is_a_line(data, tmp_path, what, name, config):
    text = bombs.WELL_FORMED[what]
    info = dataset_info.read_info(str(data))
    shard = info.splits["train"].shards[0]
    if name == "sidecar":
        path = pathlib.Path(shards.sidecar_path(str(data), shard.name))
        path.write_bytes(text)
        made_from = shard.made_from
        assert shards.kept_shard(str(data), shard.name, made_from) is None
        return
    part = dataset_info.write_sources(str(data), 0, 1, info.sources)
    paths = {
        "info": data / dataset_info.INFO_NAME,
        "job": data / main.JOB_NAME,
        "sources": data / part.name,
        "plan": data / "plan",
    }
    reads = {
        "info": lambda: dataset_info.read_info(str(data)),
        "job": lambda: main.find_existing(str(data), config, [], ""),
        "sources": lambda: list(
            msgspec.structs.replace(
                info, sources=(), source_parts=(part,)
            ).read_sources(str(data))
        ),
        "plan": lambda: list(plan.read_plan(str(data / "plan"))),
    }
    if name == "job":
        (data / dataset_info.INFO_NAME).unlink()
    paths[name].write_bytes(text)
    assert str(data) in mistakes(reads[name])[0]


def test_a_changed_note_of_a_shard_is_not_believed(data):
    info = dataset_info.read_info(str(data))
    shard = info.splits["train"].shards[0]
    shards.write_sidecar(str(data), shard)
    assert shards.kept_shard(str(data), shard.name, shard.made_from) is not None
    path = pathlib.Path(shards.sidecar_path(str(data), shard.name))
    note = json.loads(path.read_text())
    note["class_pixels"][0] += 1
    path.write_text(json.dumps(note))
    assert shards.kept_shard(str(data), shard.name, shard.made_from) is None


# --- Work directories and models -----------------------------------------------------


@pytest.mark.parametrize("what", bombs.WELL_FORMED)
def test_strange_json_beside_weights_is_a_line(tmp_path, what):
    text = bombs.WELL_FORMED[what]
    run, folder = tmp_path / "run", str(tmp_path / "run")
    (run / "checkpoints/step-00000001").mkdir(parents=True)
    (run / "checkpoints/step-00000001/about.json").write_bytes(text)
    with pytest.raises(UserError, match="step-00000001: damaged"):
        checkpoints.newest_whole(str(run / "checkpoints"))
    extra = tmp_path / "model/assets.extra"
    extra.mkdir(parents=True)
    (extra / "model.json").write_bytes(text)
    with pytest.raises(UserError, match="model.json: broken"):
        artefact_layout.read_about(str(tmp_path / "model"))
    (run / "metrics.jsonl").write_bytes(text + b'\n{"step": 1}\n')
    workdir.trim_metrics(folder, 1)
    assert workdir.read_metrics(folder)[-1] == {"step": 1}
    (run / workdir.RULES_NAME).write_bytes(text)
    if what in ("deep", "no object", "empty", "zeros", "huge"):
        with pytest.raises(UserError, match="postprocessing.json: broken"):
            workdir.read_rules(folder)


@pytest.mark.slow
def test_changed_settings_of_a_run_are_noticed(trained, tmp_path):
    run = pathlib.Path(shutil.copytree(trained, tmp_path / "run"))
    config = run / "config.json"
    config.write_text(config.read_text().replace('"width": 4', '"width": 5'))
    info = run / "dataset_info.json"
    info.write_text(info.read_text().replace('"normalization": null', '"n": null'))
    for read, path in ((workdir.read_config, config), (workdir.read_info, info)):
        if path.read_text() != (trained / path.name).read_text():
            with pytest.raises(UserError, match=f"{path.name}: not as it was written"):
                read(str(run))
    workdir.write_rules(str(run), InstanceRules(threshold=0.4), {})
    rules = run / workdir.RULES_NAME
    rules.write_text(rules.read_text().replace("0.4", "0.6"))
    with pytest.raises(UserError, match="postprocessing.json: not as it was"):
        workdir.read_rules(str(run))
    (run / checksums.NAME).unlink()  # an older version's, or changed on purpose
    workdir.read_config(str(run))


@pytest.mark.slow
@pytest.mark.parametrize(
    "version, name", [(2, "saved_model.pb"), (1, "variables.data")]
)
def test_a_bit_of_a_model_is_noticed(models, cells, tmp_path, capfd, version, name):
    model = pathlib.Path(shutil.copytree(models / str(version), tmp_path / "model"))
    path = next(p for p in model.rglob("*") if p.name.startswith(name))
    flip(path, 4 * path.stat().st_size + 3)
    where = {"input": cells / "01", "output": tmp_path / "out"}
    assert run("predict", model=model, **where) == 2
    [line] = lines_of(capfd, "predict")
    assert f"{path}: not as it was written" in line


@pytest.mark.slow
def test_a_list_of_digests_that_is_cut_is_no_pardon(models, cells, tmp_path, capfd):
    model = pathlib.Path(shutil.copytree(models / "2", tmp_path / "model"))
    (model / "assets.extra/SHA256SUMS").write_bytes(b"")
    where = {"input": cells / "01", "output": tmp_path / "out"}
    assert run("predict", model=model, **where) == 2
    assert "damaged, it has no line of" in capfd.readouterr().err


def test_damaged_images_among_good_ones(models, cells, tmp_path, capfd):
    source = tmp_path / "in"
    shutil.copytree(cells / "01", source)
    good = {path.stem for path in source.iterdir()}
    whole = (source / "t000.tif").read_bytes()
    bad = {
        "cut.tif": whole[: len(whole) // 2],
        "empty.tif": b"",
        "circle.tif": bombs.tiff_pages(3, last=24),
        "huge.tif": bombs.tiff(65536, 32768, bytes(64)),
        "bomb.png": bombs.IMAGES["zeros.png"][0],
        "text.png": b"not a picture",
        "changed.png": bytes(bombs.png(50, 50)).replace(b"IDAT", b"IDAU"),
    }
    for name, content in bad.items():
        (source / name).write_bytes(content)
    where = {"input": source, "output": tmp_path / "out"}
    assert run("predict", model=models / "2", **where) == 2
    lines = lines_of(capfd, "predict")
    for name in bad:
        assert [line for line in lines if str(source / name) in line], (name, lines)
    assert len(lines) == len(bad)
    masks = {path.name for path in (tmp_path / "out").glob("*_mask.png")}
    assert masks == {f"{stem}_mask.png" for stem in good}
