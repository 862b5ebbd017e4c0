"""TensorFlow's start loads nothing that is not called, and hides nothing for longer."""

import pytest

from tests.commands import PYTHON, process

CODE = """
import gc, sys
from trainer.devices.startup import load_tensorflow
load_tensorflow()
found = {"matplotlib.pyplot", "pandas", "sklearn"} & set(sys.modules)
assert not found, found
frozen = gc.get_freeze_count()
assert gc.isenabled() and frozen > 100_000
left = [[] for _ in range(1000)]  # by a training before
load_tensorflow()
assert gc.get_freeze_count() <= frozen
import matplotlib.pyplot, pandas, sklearn  # tests have them all
"""


@pytest.mark.slow
def test_what_keras_loads_for_itself_is_left_out_and_can_be_had_later():
    done = process(PYTHON, "-c", CODE)
    assert done.returncode == 0 and not done.stderr, done.stderr
