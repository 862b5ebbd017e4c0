"""Tables of objects, compared with sums in NumPy."""

import csv

import numpy as np
import pytest
import tifffile
from skimage.measure import regionprops_table

from trainer.predict import object_table
from trainer.predict.inputs import Job
from unet_tfrecords.dataset.images.formats import pixel_size_um
from unet_tfrecords.dataset.images.pages import Page

INSTANCES = np.zeros((20, 30), np.int32)
INSTANCES[2:6, 3:13], INSTANCES[10:20, 20:22] = 1, 4
UM = {"unit": "um", "axes": "YX"}


def rows_of(text: bytes) -> list[dict[str, str]]:
    return list(csv.DictReader(text.decode().splitlines()))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_measures_are_those_of_the_stored_pixels(tmp_path, dtype):
    image = (np.arange(600).reshape(20, 30) % 250).astype(dtype)
    path = tmp_path / "=a.tif"
    tifffile.imwrite(path, image, imagej=True, resolution=(4, 2), metadata=UM)
    probabilities = np.stack([image / 500, 1 - image / 500], -1).astype(np.float32)
    job = Job(Page(str(path)), "=a", "=a", 1, 0.0)
    found = object_table.measured(INSTANCES, image[..., None], probabilities)
    rows = rows_of(object_table.table_of(job, found))
    assert [row["label"] for row in rows] == ["1", "4"]
    for row in rows:
        inside = INSTANCES == int(row["label"])
        y, x = np.nonzero(inside)
        assert row["file"] == "'=a.tif"  # no formula to a spreadsheet
        assert int(row["area_px"]) == inside.sum()
        box = [int(row[f"{side}_px"]) for side in ("top", "left", "bottom", "right")]
        assert box == [y.min(), x.min(), y.max() + 1, x.max() + 1]
        assert float(row["centroid_y_px"]) == pytest.approx(y.mean(), abs=1e-3)
        assert float(row["centroid_x_um"]) == pytest.approx(x.mean() / 4, rel=1e-5)
        assert float(row["area_um2"]) == pytest.approx(inside.sum() / 8, rel=1e-5)
        assert float(row["mean_intensity_0"]) == pytest.approx(image[inside].mean())
        total = float(row["sum_intensity_0"])
        assert total == pytest.approx(image[inside].sum(), rel=1e-5)
        mean = float(row["mean_probability"])
        assert mean == pytest.approx(probabilities[..., 1][inside].mean(), abs=1e-4)


def test_measures_are_scikit_images_and_add_up_over_parts(random_cells):
    instances = random_cells(3)
    rng = np.random.default_rng(0)
    image = rng.integers(0, 60_000, (*instances.shape, 2), np.uint16)
    foreground = rng.random(instances.shape, np.float32)
    probabilities = np.stack([1 - foreground, foreground], axis=-1)
    parts = []
    for top, left in np.ndindex(3, 4):
        at = np.s_[top * 50 : (top + 1) * 50, left * 40 : (left + 1) * 40]
        parts.append([each[at] for each in (instances, image, probabilities)])
        parts[-1].append((top * 50, left * 40))
    assert sum(part[0].size for part in parts) >= instances.size
    whole = object_table.measured(instances, image, probabilities)
    joined = object_table.added([object_table.measured(*part) for part in parts])
    for one, two in zip(whole, joined, strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-12)
    job = Job(Page("a.png"), "a", "a", 1, 0.0)
    assert object_table.table_of(job, whole) == object_table.table_of(job, joined)
    wanted = "label", "area", "centroid", "bbox", "eccentricity", "intensity_mean"
    values = np.concatenate([foreground[..., None], image], axis=2, dtype=np.float64)
    expected = regionprops_table(instances, values, properties=wanted)
    rows = rows_of(object_table.table_of(job, whole))
    for name, column in {
        **{"label": "label", "area_px": "area", "eccentricity": "eccentricity"},
        **{"centroid_y_px": "centroid-0", "centroid_x_px": "centroid-1"},
        **{"bottom_px": "bbox-2", "left_px": "bbox-1"},
        "mean_probability": "intensity_mean-0",
        "mean_intensity_1": "intensity_mean-2",
    }.items():
        found = [float(row[name]) for row in rows]
        np.testing.assert_allclose(found, expected[column], atol=6e-4, rtol=1e-5)


def test_the_size_of_a_pixel_is_read_where_it_is_known(tmp_path):
    image = np.zeros((20, 30), np.uint16)
    written = {
        "imagej": ({"imagej": True, "resolution": (4, 2), "metadata": UM}, (0.5, 0.25)),
        "ome": (
            {
                "ome": True,
                "metadata": {
                    "PhysicalSizeX": 65.0,
                    "PhysicalSizeY": 130.0,
                    "PhysicalSizeXUnit": "nm",
                    "PhysicalSizeYUnit": "nm",
                },
            },
            (0.13, 0.065),
        ),
        "screen": ({"resolution": (72, 72), "resolutionunit": "inch"}, None),
        "none": ({}, None),
    }
    for name, (options, expected) in written.items():
        path = tmp_path / f"{name}.ome.tif"
        tifffile.imwrite(path, image, **options)
        found = pixel_size_um(Page(str(path)))
        assert found == (expected and pytest.approx(expected)), name
    assert pixel_size_um(Page("a.png")) is None


@pytest.mark.slow
def test_predict_writes_a_table_of_all_images(predict, images, tmp_path):
    assert predict(images, "--table", "--instances") == 0
    out = tmp_path / "out"
    rows = rows_of((out / "objects.csv").read_bytes())
    names = sorted(path.name for path in images.iterdir())
    assert [name for name in dict.fromkeys(row["file"] for row in rows)] == names
    for name in names:
        labels = tifffile.imread(out / f"{name.removesuffix('.tif')}_instances.tif")
        own = [row for row in rows if row["file"] == name]
        assert [int(row["label"]) for row in own] == np.unique(labels)[1:].tolist()
        areas = [int(row["area_px"]) for row in own]
        assert areas == np.bincount(labels.ravel())[1:].tolist()
