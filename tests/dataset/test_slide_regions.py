"""Regions of slides are frames: the same as if each were an image of its own."""

import numpy as np
import pytest
import tifffile

from configs import folder
from tests.commands import SMALL, mistakes, run
from tests.dataset import ome_zarr
from tests.dataset.layouts import frames_of
from unet_tfrecords.dataset import dataset_info
from unet_tfrecords.dataset.images import formats, layouts, tiff_file
from unet_tfrecords.dataset.images.pages import Page
from unet_tfrecords.dataset.images.slide_regions import labelled_regions

# Multiples of 64, so that they are found as they are; one ends at the slide's corner.
BOXES = [(64, 128, 192, 320), (256, 0, 384, 128), (448, 384, 600, 500)]
NAMED = {"mask_values": "255=unlabelled", "labels": "binary"}


@pytest.fixture
def slides(tmp_path, cells):
    """A slide of 600 x 500 px, and a mask that is labelled in three rectangles."""
    pair = []
    for kind in ("01", "01_GT/SEG"):
        paths = sorted((cells / kind).glob("*.tif"))
        pages = [tifffile.imread(path).astype(np.uint8) for path in paths]
        turned = [page[::-1] for page in pages] + [page.T for page in pages[:4]]
        pages += turned
        rows = [np.concatenate(pages[n : n + 4], axis=1) for n in range(0, 20, 4)]
        pair.append(np.concatenate(rows)[:600, :500])
    image, cells_there = pair
    mask = np.full(image.shape, 255, np.uint8)
    for top, left, bottom, right in BOXES:
        there = np.s_[top:bottom, left:right]
        mask[there] = cells_there[there] > 0
    where = tmp_path / "in"
    for kind, array in (("images", image), ("masks", mask)):
        (where / kind).mkdir(parents=True)
        how = {"tile": (64, 64), "compression": "zlib"}
        tifffile.imwrite(where / kind / "a.tif", array, **how)
    return where


def table_in(slides, boxes, name="a") -> str:
    lines = [f"{name},{','.join(map(str, box))},seen by A.\n" for box in boxes]
    header = "file,top_px,left_px,bottom_px,right_px,who\n"
    (slides / "regions.csv").write_text(header + "".join(lines))
    return "regions.csv"


@pytest.mark.parametrize("kind", ["labelled", "table"])
@pytest.mark.parametrize("of", ["tiff", "zarr"])
def test_frames_are_the_regions(slides, kind, of):
    if of == "zarr":
        for where in ("images", "masks"):
            path = slides / where / "a.tif"
            ome_zarr.write(slides / where / "a.zarr", tifffile.imread(path), chunks=64)
            path.rename(slides.parent / f"{where}.tif")
    arrays = {
        where: formats.decode(Page(str(next((slides / where).glob("a.*"))))).values
        for where in ("images", "masks")
    }
    regions = "labelled" if kind == "labelled" else table_in(slides, BOXES)
    data, frames = frames_of(folder, slides, regions=regions, **NAMED)
    assert [frame.image.window for frame in frames] == BOXES
    assert frames[0].name == "a-y000064-x000128"
    for frame, (top, left, bottom, right) in zip(frames, BOXES, strict=True):
        image, truth = layouts.check_frame(frame, data, channels=1, classes=2)
        there = np.s_[top:bottom, left:right]
        np.testing.assert_array_equal(image[..., 0], arrays["images"][there])
        np.testing.assert_array_equal(truth.classes, arrays["masks"][there])


def test_regions_hold_all_that_is_labelled_and_never_overlap(tmp_path):
    rng = np.random.default_rng(0)
    for seed in range(20):
        labelled = np.zeros((700, 5000), bool)
        for top, left in rng.integers(0, (700, 5000), (rng.integers(0, 12), 2)):
            height, width = rng.integers(1, 400, 2)
            labelled[top : top + height, left : left + width] = True
        path = tmp_path / f"{seed}.tif"
        tifffile.imwrite(path, labelled.view(np.uint8))
        asked = []

        def part(page, asked=asked):
            asked.append(page.window)
            return formats.read_mask(page).values > 0

        found = labelled_regions(Page(str(path)), part)
        assert max(b[3] - b[1] for b in asked) == 2048  # never the whole
        times = np.zeros(labelled.shape, int)
        for top, left, bottom, right in found:
            times[top:bottom, left:right] += 1
            assert labelled[top:bottom, left:right].any()
        assert times.max(initial=0) <= 1 and not (labelled & (times == 0)).any()


@pytest.mark.slow
def test_a_job_reads_regions_alone(slides, tmp_path, monkeypatch, capsys):
    """No process reads a slide as a whole; shards are those of regions cut out."""
    boxes = [(r, c, r + 128, c + 128) for r in (0, 128, 256) for c in (0, 128, 256)]
    image, mask = (tifffile.imread(slides / k / "a.tif") for k in ("images", "masks"))
    mask[mask == 255] = 0
    tifffile.imwrite(slides / "masks/a.tif", mask, tile=(64, 64))
    flags = ["--config=configs/folder.py:smoke", *SMALL]
    flags += ["--config.data.labels=binary", "--config.data.name=set"]
    cut = tmp_path / "cut"
    for kind, array in (("images", image), ("masks", mask)):
        (cut / kind).mkdir(parents=True)
        for top, left, bottom, right in boxes:
            path = cut / kind / f"a-y{top:06d}-x{left:06d}.tif"
            tifffile.imwrite(path, array[top:bottom, left:right])
    assert run("preprocess", *flags, input=cut, output=tmp_path / "expected") == 0
    table = table_in(slides, boxes, "images/a.tif")
    monkeypatch.setattr(tiff_file, "read", None)
    more = f"--config.data.regions={table}"
    assert run("preprocess", *flags, more, input=slides, output=tmp_path / "data") == 0
    shards = sorted((tmp_path / "expected").glob("*.tfrecord*"))
    assert len(shards) > 2
    for shard in shards:
        assert shard.read_bytes() == (tmp_path / "data" / shard.name).read_bytes()
    folder = str(tmp_path / "data")
    sources = list(dataset_info.read_info(folder).read_sources(folder))
    assert {source.files[0].window for source in sources} == set(boxes)
    capsys.readouterr()
    assert run("verify", data=tmp_path / "data") == 0


def test_what_can_be_no_region_is_named(slides):
    def told(**more) -> str:
        return "\n".join(mistakes(frames_of, folder, slides, **{**NAMED, **more}))

    assert "no such file, nor 'labelled'" in told(regions="none.csv")
    table = table_in(slides, BOXES[:1])
    with open(slides / table, "a") as file:
        file.write("images/a.tif,256,0,384,128\nimages/a.tif,70,130,90,140\n")
    assert "regions at row 64, column 128 and at row 70, column 130" in told(
        regions=table
    )
    (slides / table).write_text((slides / table).read_text().splitlines()[0])
    assert "regions.csv: lists no region" in told(regions=table)
    (slides / table).write_text(
        'file,top_px,left_px,bottom_px,right_px\n"a' + "x" * 2**18
    )
    assert "field larger than" in told(regions=table)
    assert "say which value of masks is unlabelled" in told(
        regions="labelled", mask_values=""
    )
    (slides / "bad.csv").write_text("file,top_px\na,1\n")
    assert "bad.csv: lacks the columns left_px, bottom_px, right_px" in told(
        regions="bad.csv"
    )
    table = table_in(slides, [(0, 0, 700, 100), (0, 50, 10, 90), (5, 5, 5, 9)])
    assert "line 4: no rectangle: rows 5 to 5" in told(regions=table)
    table_in(slides, [(0, 0, 700, 100), (0, 50, 10, 90)])
    lines = told(regions=table)
    assert "rows 0 to 700, columns 0 to 100): ends beyond the image, 600 x 500" in lines
    assert "regions at row 0, column 0 and at row 0, column 50 overlap" in lines
    table_in(slides, [(0, 0, 9, 9)], "b.tif")
    assert "no image with a mask in" in told(regions=table)
    assert "is named b.tif" in told(regions=table)
    tifffile.imwrite(slides / "masks/a.tif", np.zeros((600, 501), np.uint8))
    table_in(slides, BOXES)
    assert "masks/a.tif: 600 x 501 px, but" in told(regions=table)
