"""Images and masks are read as viewers show them: compared with Pillow and tifffile."""

import io
import zlib

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageOps

from campaigns import bombs
from tests.commands import mistakes
from unet_tfrecords.command.errors import UserError
from unet_tfrecords.dataset.images import tiff_file
from unet_tfrecords.dataset.images.formats import (
    count_pages,
    pixel_size_um,
    read_image,
    read_labels,
    read_mask,
)
from unet_tfrecords.dataset.images.pages import Page

RAMP = np.arange(20 * 30, dtype=np.uint16).reshape(20, 30)
GREY = (RAMP % 256).astype(np.uint8)
ROWS, COLUMNS = np.indices((20, 30), np.uint8)
SMOOTH = np.stack([ROWS * 10, COLUMNS * 7, np.full_like(ROWS, 90)], -1)
MASK = np.kron(np.array([[0, 1], [2, 0]], np.uint8), np.ones((10, 15), np.uint8))


def image(path, channels=1, notes=None):
    return read_image(Page(str(path)), channels, notes)


def labels(path, notes=None):
    return read_labels(Page(str(path)), notes=notes)


def problem(read, path, *more) -> str:
    [line] = mistakes(read, path, *more)
    assert str(path) in line
    return line


# --- Orientation ---------------------------------------------------------------------


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("ending", ["jpg", "png", "webp", "tif"])
def test_orientation_is_applied_as_by_pillow(tmp_path, ending, turn):
    path = tmp_path / f"a.{ending}"
    tag = Image.Exif()
    tag[274] = turn
    options = {"webp": {"lossless": True}, "jpg": {"quality": 100}}.get(ending, {})
    if ending == "tif":
        tag = [(274, "H", 1, turn, True)]  # without LZW Pillow itself is wrong
        tifffile.imwrite(path, MASK * 100, extratags=tag, compression="lzw")
    else:
        Image.fromarray(MASK * 100).save(path, exif=tag, **options)
    with Image.open(path) as opened:
        shown = np.asarray(ImageOps.exif_transpose(opened).convert("L"))
    found = image(path)[..., 0]
    assert np.abs(found.astype(int) - shown).max() <= (1 if ending == "jpg" else 0)
    if ending != "jpg":
        np.testing.assert_array_equal(labels(path), shown)
    assert (found.shape == (30, 20)) == (turn >= 5)


def test_an_orientation_that_is_none_is_refused(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, GREY, extratags=[(274, "H", 1, 9, True)])
    assert "orientation tag says 9" in problem(image, path)


# --- Photometric interpretation ------------------------------------------------------


@pytest.mark.parametrize(
    "dtype, white", [("u1", 255), ("u2", 65535), ("u4", 2**32 - 1)]
)
def test_white_as_zero_is_turned_round(tmp_path, dtype, white):
    stored = (RAMP % 250).astype(dtype)
    stored.flat[:2] = 0, white
    tifffile.imwrite(tmp_path / "a.tif", stored, photometric="miniswhite")
    tifffile.imwrite(tmp_path / "b.tif", white - stored, photometric="minisblack")
    np.testing.assert_array_equal(image(tmp_path / "a.tif"), image(tmp_path / "b.tif"))
    if dtype == "u1":
        with Image.open(tmp_path / "a.tif") as opened:
            np.testing.assert_array_equal(image(tmp_path / "a.tif")[..., 0], opened)


def test_white_as_zero_of_one_bit(tmp_path):
    """As shown; but tifffile has True as black, and people who write with it do not."""
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, MASK > 0)
    line = problem(labels, path)
    assert "True as black" in line and "mask.astype('uint8')" in line
    tifffile.imwrite(path, MASK > 0, photometric="miniswhite", software="scanner")
    with Image.open(path) as opened:
        shown = np.asarray(opened.convert("L")) > 0
    np.testing.assert_array_equal(labels(path) > 0, shown)
    np.testing.assert_array_equal(image(path)[..., 0] > 0, shown)


def test_imagejs_inverting_lut_is_refused_with_the_choice(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(
        path, MASK * 127, photometric="miniswhite", description="ImageJ=1.54f\n"
    )
    line = problem(labels, path)
    assert "inverting LUT" in line and "Edit > Invert" in line


@pytest.mark.parametrize("photometric", ["cielab", "separated", "ycbcr"])
def test_other_colours_are_refused_by_name(tmp_path, photometric):
    path, samples = tmp_path / "a.tif", 4 if photometric == "separated" else 3
    pixels = np.resize(GREY, (20, 30, samples))
    tifffile.imwrite(path, pixels, photometric=photometric)
    assert f"its colours are {photometric.upper()}; save it as RGB" in problem(
        image, path, 3
    )


def test_jpeg_in_tiff_is_decoded_to_rgb_as_by_pillow(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, SMOOTH, photometric="rgb", compression="jpeg")
    with Image.open(path) as opened:
        shown = np.asarray(opened.convert("RGB")).astype(int)
    assert np.abs(image(path, 3).astype(int) - shown).max() <= 3
    assert np.abs(shown - SMOOTH).mean() < 8  # else the test compares two mistakes


def test_cmyk_jpeg_is_refused_by_name(tmp_path):
    path = tmp_path / "a.jpg"
    Image.fromarray(np.resize(GREY, (20, 30, 4)), "CMYK").save(path)
    assert "CMYK" in problem(image, path, 3)


# --- Palettes ------------------------------------------------------------------------


def save_palette(path, indices, colours):
    """The same picture in a format with a palette."""
    colours = np.array(colours, np.uint8)
    if path.suffix == ".tif":
        table = np.zeros((3, 256), np.uint16)
        table[:, : len(colours)] = colours.T.astype(np.uint16) * 257
        tifffile.imwrite(path, indices, photometric="palette", colormap=table)
        return
    picture = Image.fromarray(indices, "P")
    picture.putpalette(colours.tobytes())
    picture.save(path)


FORMATS = ["png", "tif", "bmp", "gif"]


@pytest.mark.parametrize("ending", FORMATS)
def test_a_grey_palette_gives_its_grey_values(tmp_path, ending):
    path = tmp_path / f"a.{ending}"
    save_palette(path, (MASK == 0).astype(np.uint8), [[255] * 3, [0] * 3])
    np.testing.assert_array_equal(labels(path), np.where(MASK == 0, 0, 255))
    save_palette(path, MASK, [[0] * 3, [2] * 3, [1] * 3])
    np.testing.assert_array_equal(labels(path), np.array([0, 2, 1])[MASK])
    with Image.open(path) as opened:
        np.testing.assert_array_equal(image(path)[..., 0], opened.convert("L"))


@pytest.mark.parametrize("ending", FORMATS)
def test_of_a_colour_palette_images_have_colours_and_masks_indices(tmp_path, ending):
    path, notes = tmp_path / f"a.{ending}", []
    save_palette(path, MASK, [[0, 0, 0], [200, 10, 10], [10, 200, 90]])
    with Image.open(path) as opened:
        np.testing.assert_array_equal(image(path, 3), opened.convert("RGB"))
    np.testing.assert_array_equal(labels(path, notes), MASK)
    assert notes == ["indices of a palette of colours are taken for the labels"]


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_grey_of_few_bits_is_shown_spread_and_labelled_as_stored(tmp_path, bits):
    path, most = tmp_path / "a.png", 2**bits - 1
    stored = (RAMP % (most + 1)).astype(np.uint8)
    each_bit = np.unpackbits(stored[..., None], axis=-1)[..., 8 - bits :]
    rows = np.packbits(each_bit.reshape(len(stored), -1), axis=1)
    filtered = b"".join(b"\0" + row.tobytes() for row in rows)
    path.write_bytes(bombs.png(*stored.shape, zlib.compress(filtered), bits))
    np.testing.assert_array_equal(labels(path), stored)
    with Image.open(path) as opened:
        np.testing.assert_array_equal(image(path)[..., 0], opened.convert("L"))


# --- Pages, channels, alpha ----------------------------------------------------------


def test_smaller_versions_are_no_frames(tmp_path):
    """With either tag, or none; first or last; a pyramid."""
    big = np.resize(RAMP, (64, 96)).astype(np.uint8)
    half, tiny = big[::2, ::2], big[::8, ::8]
    odd = big[:50, :70]  # that only its tag tells from a frame
    ways = {
        "tag": [(big, {}), (odd, {"subfiletype": 1})],
        "first": [(odd, {"subfiletype": 1}), (big, {})],
        "old": [(big, {}), (odd, {"extratags": [(255, "H", 1, 2, True)]})],
        "untagged": [(tiny, {}), (big, {}), (half, {}), (big, {})],
    }
    for name, pages in ways.items():
        path = tmp_path / f"{name}.tif"
        with tifffile.TiffWriter(path) as file:
            for pixels, options in pages:
                file.write(pixels, metadata=None, **options)
        whole = sum(pixels is big for pixels, _ in pages)
        assert count_pages(str(path)) == whole, name
        assert tiff_file.layout_of(str(path)).skipped == len(pages) - whole
        for number in range(whole):
            found = read_image(Page(str(path), number), 1)
            np.testing.assert_array_equal(found[..., 0], big)


@pytest.mark.parametrize(
    "form, axes",
    [
        *((form, "CYX") for form in ("imagej", "ome", "shaped")),
        *((form, "ZCYX") for form in ("imagej", "ome", "shaped")),
        *((form, "CZYX") for form in ("ome", "shaped")),  # ImageJ has one order
    ],
)
def test_pages_that_are_channels_become_channels(tmp_path, form, axes):
    sizes = {"C": 2, "Z": 3, "Y": 20, "X": 30}
    pixels = np.arange(np.prod([sizes[a] for a in axes]), dtype=np.uint16)
    pixels = pixels.reshape([sizes[a] for a in axes])
    path = tmp_path / ("a.ome.tif" if form == "ome" else "a.tif")
    tifffile.imwrite(
        path,
        pixels,
        imagej=form == "imagej",
        ome=form == "ome",
        photometric="minisblack",
        metadata={"axes": axes},
    )
    assert count_pages(str(path)) == sizes["Z"] if "Z" in axes else 1
    for z in range(count_pages(str(path))):
        plane = pixels.take(z, axes.index("Z")) if "Z" in axes else pixels
        found = read_image(Page(str(path), z), 2)
        np.testing.assert_array_equal(found, np.moveaxis(plane, 0, -1))
    assert "2 channels where" in problem(image, path)


@pytest.mark.parametrize("kind", ["unassalpha", "assocalpha", "unspecified"])
def test_alpha_is_dropped(tmp_path, kind):
    clear = np.full_like(GREY, 255)
    path = tmp_path / "a.tif"
    rgba = np.concatenate([SMOOTH, clear[..., None]], -1)
    tifffile.imwrite(path, rgba, photometric="rgb", extrasamples=[kind])
    np.testing.assert_array_equal(image(path, 3), SMOOTH)
    np.testing.assert_array_equal(image(path, 4), rgba)
    if kind != "unspecified":
        grey = np.stack([GREY, clear], -1)
        tifffile.imwrite(path, grey, photometric="minisblack", extrasamples=[kind])
        np.testing.assert_array_equal(image(path)[..., 0], GREY)


def test_a_grey_image_among_colours_has_three_equal_channels(tmp_path):
    Image.fromarray(GREY).save(tmp_path / "a.png")
    np.testing.assert_array_equal(
        image(tmp_path / "a.png", 3), np.stack([GREY] * 3, -1)
    )


@pytest.mark.parametrize(
    "description", ["ImageJ=1.11a\nimages=57\n", '{"shape": [9, 20, 30]}']
)
def test_pages_that_a_description_makes_up_are_not_there(tmp_path, description):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, GREY, description=description, metadata=None)
    assert count_pages(str(path)) == 1
    np.testing.assert_array_equal(image(path)[..., 0], GREY)


def test_wrong_counts_of_plain_strips_are_computed(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, GREY, rowsperstrip=5, metadata=None)
    with tifffile.TiffFile(path) as tiff:
        tag = tiff.pages[0].tags["StripByteCounts"]
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        tiff.pages[0].tags["StripByteCounts"].overwrite([1] * tag.count)
    np.testing.assert_array_equal(image(path)[..., 0], GREY)


def test_a_volume_is_named(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(
        path, np.stack([GREY] * 16), volumetric=True, tile=(16, 16, 16), metadata=None
    )
    assert "a volume of 16 slices" in problem(image, path)


# --- Outliers ------------------------------------------------------------------------


@pytest.mark.parametrize("outlier", [1e6, -1e6, 3.4e38, -9999.0])
@pytest.mark.parametrize("pixels", [1, 60])
def test_outliers_leave_the_other_levels(tmp_path, outlier, pixels):
    plain = (RAMP % 134).astype(np.float32) / 100
    hot = plain.copy()
    hot.flat[7 : 7 + pixels] = outlier
    tifffile.imwrite(tmp_path / "a.tif", hot)
    notes = []
    found = image(tmp_path / "a.tif", notes=notes)[..., 0]
    kept = np.ones(hot.size, bool)
    kept[7 : 7 + pixels] = False
    levels = found.reshape(-1)[kept]
    assert len(np.unique(levels)) == 134
    order = np.argsort(plain.reshape(-1)[kept], kind="stable")
    assert (np.diff(levels[order].astype(int)) >= 0).all()
    [note] = notes
    assert note.startswith("outliers of intensity are clipped: from ")


@pytest.mark.parametrize("filler", [-9999.0, 1e4])
def test_a_patch_without_data_leaves_the_others_contrast(tmp_path, filler):
    plain = (RAMP % 134).astype(np.float32)
    patch = np.zeros(plain.shape, bool)
    patch.flat[: plain.size // 6] = True
    tifffile.imwrite(tmp_path / "a.tif", np.where(patch, np.float32(filler), plain))
    notes = []
    found = image(tmp_path / "a.tif", notes=notes)[..., 0]
    levels = found[~patch]
    assert int(levels.max()) - int(levels.min()) > 65535 / 3
    assert len(np.unique(levels)) == 134
    [note] = notes
    assert note.startswith("outliers of intensity are clipped: from ")


def test_hot_pixels_of_16_bits_are_noted_and_kept(tmp_path):
    dark = (RAMP % 500).astype(np.uint16)
    dark[3, 3] = 65535
    tifffile.imwrite(tmp_path / "a.tif", dark)
    notes = []
    np.testing.assert_array_equal(image(tmp_path / "a.tif", notes=notes)[..., 0], dark)
    assert len(notes) == 1 and "a few pixels of 65535" in notes[0]


# --- Masks ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "bad, said", [(np.nan, "NaN in places"), (-1, "negative labels")]
)
def test_numbers_that_no_label_can_be_are_named(tmp_path, bad, said):
    mask = MASK.astype(np.float32)
    mask[2, 2] = bad
    tifffile.imwrite(tmp_path / "a.tif", mask)
    assert said in problem(labels, tmp_path / "a.tif")


def test_lossy_compression_inside_tiff_and_webp_is_no_place_for_labels(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", MASK, compression="jpeg")
    Image.fromarray(MASK).save(tmp_path / "a.webp")
    for name in ("a.tif", "a.webp"):
        assert "its compression" in problem(labels, tmp_path / name)
    Image.fromarray(MASK).save(tmp_path / "b.webp", lossless=True)
    np.testing.assert_array_equal(labels(tmp_path / "b.webp"), MASK)


def test_a_truncated_file_of_each_format_is_refused(tmp_path):
    for ending in ("png", "jpg", "bmp", "gif", "webp", "tif"):
        content = io.BytesIO()
        Image.fromarray(GREY).save(
            content, {"jpg": "jpeg", "tif": "tiff"}.get(ending, ending)
        )
        path = tmp_path / f"a.{ending}"
        path.write_bytes(content.getvalue()[: len(content.getvalue()) // 2])
        assert "cannot be read as an image" in problem(image, path)


# --- What a file's kind hides --------------------------------------------------------


def test_pages_that_all_say_they_are_reduced_are_kept(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, GREY, subfiletype=1)
    assert count_pages(str(path)) == 1
    np.testing.assert_array_equal(image(path)[..., 0], GREY)


@pytest.mark.parametrize("size", [(121, 121), (101, 77)])
def test_pyramids_of_odd_sizes_are_one_image_and_noted(tmp_path, size):
    big, path, notes = np.resize(RAMP, size).astype(np.uint8), tmp_path / "a.tif", []
    with tifffile.TiffWriter(path) as file:
        for page in (big, np.resize(GREY, [-(-edge // 2) for edge in size])):
            file.write(page, metadata=None)
    assert count_pages(str(path)) == 1
    np.testing.assert_array_equal(image(path, notes=notes)[..., 0], big)
    assert notes[0].startswith(
        "pages that are smaller versions or transparency are left out: 1"
    )


def test_a_page_of_transparency_is_no_image(tmp_path):
    """As GIMP writes it: NewSubfileType 4, a mask of the same size."""
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as file:
        file.write(GREY, metadata=None)
        file.write(GREY > 9, metadata=None, photometric="mask", subfiletype=4)
    assert count_pages(str(path)) == 1
    np.testing.assert_array_equal(image(path)[..., 0], GREY)


def test_ome_series_have_their_own_channels(tmp_path):
    path = tmp_path / "a.ome.tif"
    series = np.arange(4 * 20 * 30, dtype=np.uint16).reshape(2, 2, 20, 30)
    with tifffile.TiffWriter(path, ome=True) as file:
        for size, planes in zip((0.5, 2.0), series, strict=True):
            metadata = {"axes": "CYX", "PhysicalSizeX": size, "PhysicalSizeY": size}
            file.write(planes, photometric="minisblack", metadata=metadata)
    assert count_pages(str(path)) == 2
    for number, planes in enumerate(series):
        found = read_image(Page(str(path), number), 2)
        np.testing.assert_array_equal(found, np.moveaxis(planes, 0, -1))
    assert pixel_size_um(Page(str(path))) is None  # which of the two is not known


def test_ome_channels_in_other_files_are_refused(tmp_path):
    whole = tmp_path / "a.ome.tif"
    planes = np.resize(GREY, (2, 20, 30))
    tifffile.imwrite(whole, planes, ome=True, metadata={"axes": "CYX"})
    with tifffile.TiffFile(whole) as tiff:
        said = tiff.ome_metadata
    path = tmp_path / "b.ome.tif"  # the first of the two pages
    tifffile.imwrite(path, planes[:1], description=said, metadata=None)
    with pytest.raises(UserError, match="in other files or missing"):
        count_pages(str(path))
        image(path, 2)


def test_a_colour_map_of_8_bits_is_read_as_such(tmp_path):
    """As libtiff does: some writers leave values up to 255 where 65535 belongs."""
    path = tmp_path / "a.tif"
    table = np.tile(np.arange(256, dtype=np.uint16), (3, 1))
    tifffile.imwrite(path, GREY, photometric="palette", colormap=table)
    np.testing.assert_array_equal(image(path)[..., 0], GREY)


def test_a_palettes_colours_decide_for_masks_without_them_too(tmp_path):
    """Of [black, white, red], a mask without red has the same numbers as one with."""
    colours = [[0, 0, 0], [255, 255, 255], [255, 0, 0]]
    for name, indices in (("a", MASK), ("b", MASK % 2)):
        save_palette(tmp_path / f"{name}.png", indices.astype(np.uint8), colours)
        np.testing.assert_array_equal(labels(tmp_path / f"{name}.png"), indices)
    page = Page(str(tmp_path / "b.png"))
    greys = read_mask(page, whole_palette=False).values  # as for masks of two values
    np.testing.assert_array_equal(greys, MASK % 2 * 255)


def test_a_palette_whose_black_is_no_0_is_refused(tmp_path):
    save_palette(tmp_path / "a.png", MASK, [[255, 0, 0], [0, 0, 0], [0, 255, 0]])
    assert "black is number 1 of its palette" in problem(labels, tmp_path / "a.png")
    found = read_mask(Page(str(tmp_path / "a.png")), as_colours=True).values
    np.testing.assert_array_equal(found, np.array([0xFF0000, 0, 0xFF00])[MASK])


def test_animations_are_refused(tmp_path):
    first, second = Image.fromarray(GREY), Image.fromarray(255 - GREY)
    for ending in ("png", "gif", "webp"):
        path = tmp_path / f"a.{ending}"
        first.save(path, save_all=True, append_images=[second])
        assert "animation" in problem(image, path)


def test_lossy_webp_is_known_behind_other_parts(tmp_path):
    path = tmp_path / "a.webp"
    Image.fromarray(MASK).save(path, icc_profile=b"p" * 500, quality=90)
    assert "its compression" in problem(labels, path)


def test_grey_and_alpha_have_two_channels(tmp_path):
    clear = np.full_like(GREY, 255)
    Image.fromarray(np.dstack([GREY, clear])).save(tmp_path / "a.png")
    np.testing.assert_array_equal(image(tmp_path / "a.png")[..., 0], GREY)
    with pytest.raises(UserError, match="2 channels, the last is 1"):
        read_image(Page(str(tmp_path / "a.png")), 1, selected=(2,))


def test_each_channel_of_floats_is_spread_by_itself(tmp_path):
    ratio = (RAMP % 105).astype(np.float32) / 105
    pixels = np.dstack([RAMP * np.float32(100), ratio])
    options = {"photometric": "minisblack", "planarconfig": "contig"}
    tifffile.imwrite(tmp_path / "a.tif", pixels, **options)
    found = image(tmp_path / "a.tif", 2)
    assert len(np.unique(found[..., 1])) == 105 and found[..., 1].max() == 65535


def test_few_levels_for_most_pixels_are_noted(tmp_path):
    pixels = (RAMP % 116).astype(np.float32)
    pixels.flat[:12] = np.linspace(5e5, 1e6, 12)
    tifffile.imwrite(tmp_path / "a.tif", pixels)
    notes = []
    image(tmp_path / "a.tif", notes=notes)
    assert any("few of 65,536" in note or "clipped" in note for note in notes)
