"""What they share."""

import pytest

from tests.commands import ROOT
from tests.preprocess.commands import preprocess


@pytest.fixture(autouse=True)
def in_root(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.fixture(scope="module")
def made(cells, tmp_path_factory):
    """A finished data set."""
    output = tmp_path_factory.mktemp("made") / "data"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        assert preprocess(cells, output) == 0
    return output
