"""An image's pixels by window, however large it is."""

import numpy as np

from trainer.predict.inputs import Job
from unet_tfrecords.command.errors import UserError
from unet_tfrecords.dataset.images.formats import (
    has_windows,
    header_of,
    read_image,
    read_images,
)
from unet_tfrecords.dataset.regions import Box


class WindowedImage:
    """An image, and its neighbours' channels after its own.

    Attributes:
      size: height and width, px.
    """

    def __init__(self, job: Job, channels: int, selected: tuple[int, ...]):
        """Opens it; what can't be read in parts is read as a whole.

        Args:
          job: the image.
          channels: of it and its neighbours together.
          selected: as `read_images` takes it.

        Raises:
          UserError: it can't be read.
        """
        self.pages = [job.page, *job.neighbours]
        self.channels, self.selected = channels, selected
        self.own = channels // len(self.pages)
        self.whole: np.ndarray | None = None
        self._stored: np.ndarray | None = None
        different = [*dict.fromkeys(self.pages)]
        if all(map(has_windows, different)):
            sizes = [(each.height, each.width) for each in map(header_of, different)]
            self.size = sizes[0]
            for page, size in zip(different, sizes, strict=True):
                if size != self.size:
                    raise UserError(
                        f"{page}: {size[0]} x {size[1]} px, but its neighbour "
                        f"{job.page} has {self.size[0]} x {self.size[1]} px"
                    )
        else:
            self.whole = read_images(self.pages, channels, selected=selected)
            self.size = self.whole.shape[:2]

    def read(self, rows: slice, columns: slice) -> np.ndarray:
        """uint8 or uint16 [h, w, C]."""
        if self.whole is not None:
            return self.whole[rows, columns]
        window = rows, columns
        return read_images(
            self.pages, self.channels, selected=self.selected, window=window
        )

    def stored(self, box: Box) -> np.ndarray:
        """The image's own channels [h, w, C] as the file stores them."""
        if self.whole is None:  # which is 8 or 16 bit, and so as it is stored
            return self.box(box)[..., : self.own]
        if self._stored is None:
            self._stored = read_image(
                self.pages[0], self.own, selected=self.selected, spread=False
            )
        return self._stored[box[0] : box[2], box[1] : box[3]]

    def box(self, box: Box) -> np.ndarray:
        """The same of a box."""
        return self.read(slice(box[0], box[2]), slice(box[1], box[3]))
