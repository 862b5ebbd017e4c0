"""Outlines of objects as ImageJ and QuPath read them."""

import io
import json
import zipfile

import numpy as np
import pytest
import tifffile
from matplotlib.path import Path
from roifile import ImagejRoi

from trainer.predict import outlines


def shapes():
    """A pixel, a ring around an island, pieces that touch at a corner, at the edges."""
    instances = np.zeros((40, 50), np.int32)
    instances[0, 0] = 1
    instances[5:20, 5:20] = 300
    instances[8:16, 8:16] = 0
    instances[11, 11] = 300
    instances[25:30, 25:30] = instances[30:35, 30:35] = 4  # touch at a corner
    instances[25:30, 30:34] = 9  # beside it
    instances[36:, 45:] = 70_000
    return instances


def filled(rings, shape):
    """Pixels whose centres are within an odd number of rings of (x, y)."""
    y, x = np.mgrid[: shape[0], : shape[1]] + 0.5
    centres = np.column_stack([x.ravel(), y.ravel()])
    inside = sum(Path(ring).contains_points(centres).astype(int) for ring in rings)
    return (inside % 2 == 1).reshape(shape)


def rois_of(content):
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return [ImagejRoi.frombytes(archive.read(name)) for name in archive.namelist()]


def geojson_of(instances) -> bytes:
    return b"".join(outlines.geojson(outlines.outlines(instances)))


def rois_file_of(instances) -> bytes:
    file = io.BytesIO()
    outlines.write_rois(file, outlines.outlines(instances))
    return file.getvalue()


@pytest.mark.parametrize("of", ["shapes", "cells"])
def test_filled_outlines_are_the_objects(of, random_cells):
    instances = shapes() if of == "shapes" else random_cells(4)
    numbers = np.unique(instances)[1:]
    features = json.loads(geojson_of(instances))["features"]
    rois = rois_of(rois_file_of(instances))
    assert [int(roi.name) for roi in rois] == numbers.tolist()
    assert [int(f["properties"]["name"]) for f in features] == numbers.tolist()
    for number, feature, roi in zip(numbers, features, rois, strict=True):
        geometry, expected = feature["geometry"], instances == number
        parts = geometry["coordinates"]
        parts = parts if geometry["type"] == "MultiPolygon" else [parts]
        rings = [ring for part in parts for ring in part]
        np.testing.assert_array_equal(filled(rings, instances.shape), expected)
        rings = roi.coordinates(multi=True)
        rings = rings if isinstance(rings, list) else [rings]
        np.testing.assert_array_equal(filled(rings, instances.shape), expected)


@pytest.mark.parametrize("block", [7, 16, 33])
def test_outlines_of_parts_join_to_those_of_the_whole(random_cells, block):
    for instances in (shapes(), random_cells(4)):
        parts: dict[int, list] = {}
        for top, left in np.ndindex(*(-(-side // block) for side in instances.shape)):
            origin = top * block, left * block
            part = instances[origin[0] :, origin[1] :][:block, :block]
            for number, outline in outlines.outlines(part, origin):
                parts.setdefault(number, []).append(outline)
        for number, whole in outlines.outlines(instances):
            assert outlines.joined(parts[number]).equals_exact(whole)


def test_the_same_objects_are_the_same_bytes_and_none_is_an_empty_file():
    for write in (geojson_of, rois_file_of):
        assert write(shapes()) == write(shapes().astype(np.uint32))
        assert len(write(np.zeros((9, 9), np.uint16))) < 100
    assert rois_of(rois_file_of(np.zeros((9, 9), np.uint16))) == []


@pytest.mark.slow
def test_predict_writes_outlines_and_sizes_of_pixels(predict, em, tmp_path):
    """Of the pages of a stack, whose pixels are 0.25 x 0.5 um."""
    pages = tifffile.imread(em / "train-volume.tif")[:2]
    tifffile.imwrite(
        tmp_path / "a.tif",
        pages,
        imagej=True,
        resolution=(2, 4),
        metadata={"axes": "ZYX", "unit": "um"},
    )
    more = "--rois", "--geojson", "--instances", "--min_size_px=0"
    assert predict(tmp_path / "a.tif", *more) == 0
    written = {p.name: p.read_bytes() for p in (tmp_path / "out").glob("a-z*")}
    for page in range(2):
        name = f"a-z00{page}"
        with tifffile.TiffFile(tmp_path / f"out/{name}_instances.tif") as tiff:
            instances = tiff.asarray()
            said = tiff.ome_metadata
        assert 'PhysicalSizeX="0.5"' in said and 'PhysicalSizeY="0.25"' in said
        assert said.count('Unit="\u00b5m"') == 2 and instances.dtype == np.uint16
        rois = rois_of(written[f"{name}_rois.zip"])
        assert len(rois) == instances.max() > 0
        assert {roi.position for roi in rois} == {page + 1}
        features = json.loads(written[f"{name}_objects.geojson"])["features"]
        assert len(features) == len(rois)
    assert predict(tmp_path / "a.tif", *more, "--overwrite") == 0
    for name, content in written.items():
        assert content == (tmp_path / "out" / name).read_bytes(), name
