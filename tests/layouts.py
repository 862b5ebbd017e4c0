"""What tests ask of a layout of files."""

import pytest

from preprocess import sources
from preprocess.errors import UserError


def frames_of(module, path, **changes):
    data = module.get_config().data
    data.update(changes)
    return data, sources.find_frames(data, str(path))


def truth_of(data, frame, classes=2):
    return sources.read_truth(frame, data, classes)


def problems(function, *arguments, **named) -> str:
    with pytest.raises(UserError) as caught:
        function(*arguments, **named)
    return str(caught.value)
