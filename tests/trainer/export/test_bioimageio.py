"""The package for bioimage.io, judged by its own library."""

import sys
import zipfile

import numpy as np
import pytest

from tests.commands import PYTHON, process, refused, run
from trainer.export import artefact_layout, bioimageio
from trainer.predict import runtimes
from unet_tfrecords.dataset import tiling
from unet_tfrecords.dataset.images import formats, pages

pytest.importorskip("bioimageio.spec")


@pytest.mark.parametrize("depth", range(1, 6))
def test_blocks_are_legal_and_their_grids_agree(depth):
    least, step = bioimageio.block_sizes(depth)
    halo = bioimageio.halo(depth)
    assert halo >= tiling.pad(depth)  # no pixel that is kept has met the mirror
    for count in range(5):
        size = least + count * step
        assert tiling.is_legal_input(size + 2 * tiling.pad(depth), depth)
        kept = size - 2 * halo
        assert kept > 0 and kept % 2**depth == 0  # where the next block begins


@pytest.fixture(scope="module")
def exported(trained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("bioimageio") / "model"
    assert run("export", "--bioimageio", workdir=trained, output=folder) == 0
    return folder / "1"


AS_ITS_USERS_DO = """
import sys
import numpy as np
from bioimageio import core
package, image, made = sys.argv[1:]
summary = core.test_model(package)
assert summary.status == "passed", summary.format()
sample = core.predict(
    model=core.load_model_description(package),
    inputs={"image": np.load(image)},
    blocksize_parameter=3,
)
np.save(made, sample.members["probabilities"].data.to_numpy())
"""


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of its library, which leaves files open
def test_its_library_accepts_and_runs_it(exported, cells, tmp_path):
    """In blocks, by another runtime, what `predict` says of the image in one piece."""
    package = exported / artefact_layout.EXTRA / artefact_layout.BIOIMAGEIO
    assert set(zipfile.ZipFile(package).namelist()) == {
        "rdf.yaml",
        "weights.onnx",
        "README.md",
        "cover.png",
        "input.npy",
        "output.npy",
    }
    frame = formats.read_image(pages.Page(str(cells / "01/t003.tif"), 0), 1)
    image, made = tmp_path / "image.npy", tmp_path / "made.npy"
    np.save(image, frame[None].astype(np.float32))
    alone = {"PYTHONPATH": "", "BIOIMAGEIO_CACHE_PATH": str(tmp_path / "cache")}
    done = process(PYTHON, "-c", AS_ITS_USERS_DO, package, image, made, env=alone)
    assert done.returncode == 0, done.stderr
    [own] = runtimes.load(str(exported), runtime="tensorflow")
    # It adds 1e-6 to the deviation, of some 30 here.
    np.testing.assert_allclose(
        np.load(made)[0], own.segment(frame).probabilities, atol=1e-5
    )


def test_without_its_library_one_line(trained, tmp_path, monkeypatch, capfd):
    monkeypatch.setitem(sys.modules, "bioimageio.spec", None)
    where = {"workdir": trained, "output": tmp_path / "m"}
    line = refused(capfd, "export", "--bioimageio", **where)
    assert line.startswith("export: --bioimageio needs bioimageio.spec")
    assert not (tmp_path / "m").exists()
