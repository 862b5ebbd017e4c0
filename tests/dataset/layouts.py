"""What tests ask of a layout of files."""

import pytest

from unet_tfrecords.command.errors import UserError
from unet_tfrecords.dataset.images import layouts


def frames_of(module, path, **changes):
    data = module.get_config().data
    data.update(changes)
    return data, layouts.find_frames(data, str(path))


def truth_of(data, frame, classes=2):
    return layouts.read_truth(frame, data, classes)


def problems(function, *arguments, **named) -> str:
    with pytest.raises(UserError) as caught:
        function(*arguments, **named)
    return str(caught.value)
