"""The table of what was found, and the headers that it is made from."""

import numpy as np
import pytest
from PIL import Image

from configs import folder as own_images
from tests.dataset import kinds
from unet_tfrecords.dataset.images import layouts
from unet_tfrecords.dataset.images.formats import header_of, read_image
from unet_tfrecords.dataset.images.overview import overview
from unet_tfrecords.dataset.images.pages import Page

GREY = np.arange(44 * 56, dtype=np.uint32).reshape(44, 56).astype(np.uint8)


@pytest.mark.parametrize("channels", [1, 3])
def test_headers_say_what_is_then_read(tmp_path, channels):
    """Of every kind, with depth as stored, before anything is spread."""
    pixels = GREY if channels == 1 else np.dstack([GREY, GREY // 2, 255 - GREY])
    for number, kind in enumerate(kinds.GREY if channels == 1 else kinds.RGB):
        path = tmp_path / f"{number}.{kind.ending}"
        kind.write(path, pixels)
        header = header_of(Page(str(path)))
        stored = read_image(Page(str(path)), channels, spread=False)
        assert (header.height, header.width) == stored.shape[:2], kind.name
        assert header.dtype == str(stored.dtype), kind.name
        looks_like = {channels, 3} if channels == 1 else {channels, 1}
        assert header.channels in looks_like, kind.name


def test_the_table_says_what_there_is(tmp_path):
    for number, size in enumerate([(44, 56), (20, 20), (30, 10)]):
        for kind, value in (("images", number), ("masks", 0)):
            (tmp_path / kind).mkdir(exist_ok=True)
            pixels = np.full(size, value, np.uint16 if number else np.uint8)
            pixels[2:5, 2:5], pixels[8:18, 2:8] = 9, 7 * (number > 0)
            Image.fromarray(pixels).save(tmp_path / f"{kind}/{number}.png")
    (tmp_path / "more").mkdir()
    Image.fromarray(GREY).save(tmp_path / "more/x.png")
    (tmp_path / "notes.txt").touch()
    data = own_images.get_config().data
    found = layouts.look_for_frames(data, str(tmp_path))
    masks = layouts.look_at_masks(data, found.frames)
    assert overview(found, masks).splitlines() == [
        "     found  3 images, 3 with masks (images/ and masks/)",
        "      size  30 x 10 to 44 x 56 px, height x width",
        "      kind  2 of 1 channel, uint16; 1 of 1 channel, uint8",
        "    values  0, 7 and 9, in 3 masks looked at",
        "   objects  1 to 2, median 2, connected regions in a mask; "
        "one value covers up to 20% of a mask",
        f"  left out  images in no pair: 1: {tmp_path}/more/x.png",
        f"  left out  files that are no images: 1: {tmp_path}/notes.txt",
    ]
