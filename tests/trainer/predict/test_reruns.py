"""predict typed again: what is missing or older is made."""

import json
import os
import shutil
import time

import pytest

from tests.commands import lines_of
from tests.trainer.predict.conftest import NOTES
from trainer.predict import job as predict_job


def settings_of(folder):
    return json.loads((folder / "predict.json").read_text())["settings"]


@pytest.mark.slow
def test_a_rerun_makes_only_what_is_missing_or_older(predict, images, tmp_path, capsys):
    assert predict(images) == 0
    out = tmp_path / "out"
    before = {p.name: p.stat().st_mtime_ns for p in out.iterdir()}
    capsys.readouterr()
    assert predict(images) == 0
    assert "0 images segmented, 8 were there" in capsys.readouterr().out
    assert before == {p.name: p.stat().st_mtime_ns for p in out.iterdir()}
    (out / "t001_mask.png").unlink()
    later = time.time() + 60
    os.utime(images / "t005.tif", (later, later))
    assert predict(images) == 0
    assert "2 images segmented, 6 were there" in capsys.readouterr().out
    after = {p.name: p.stat().st_mtime_ns for p in out.iterdir()}
    changed = {name for name in before if before[name] != after[name]}
    assert {n.split("_")[0] for n in changed - NOTES} == {"t001", "t005"}


@pytest.mark.slow
def test_an_image_replaced_by_an_older_one_is_segmented_again(
    predict, images, tmp_path, capsys
):
    """As by `cp -p`, or after the clock was set back: times do not rise for ever."""
    assert predict(images) == 0
    before = (tmp_path / "out/t001_mask.png").read_bytes()
    then = time.time() - 3600
    os.utime(images / "t004.tif", (then, then))
    os.replace(images / "t004.tif", images / "t001.tif")
    for made in (1, 0):
        capsys.readouterr()
        assert predict(images) == 0
        assert f"{made} images segmented" in capsys.readouterr().out
    after = (tmp_path / "out/t001_mask.png").read_bytes()
    assert after == (tmp_path / "out/t004_mask.png").read_bytes() != before


@pytest.mark.slow
def test_images_of_one_name_in_two_folders_are_not_mixed(
    predict, images, tmp_path, capfd
):
    """Equal times, too: as of archives that were made to be the same each time."""
    other = tmp_path / "other"
    shutil.copytree(images, other)
    os.replace(other / "t005.tif", other / "t001.tif")
    then = time.time() - 3600
    for path in (*images.iterdir(), *other.iterdir()):
        os.utime(path, (then, then))
    assert predict(images) == 0
    before = (tmp_path / "out/t001_mask.png").read_bytes()
    capfd.readouterr()
    assert predict(other) == 2
    lines = "".join(lines_of(capfd, "predict"))
    assert f"t001.tif: {tmp_path / 'out'} has outputs of that name of {images}" in lines
    assert (tmp_path / "out/t001_mask.png").read_bytes() == before
    shutil.rmtree(other)
    images.rename(other)  # moved: the same images
    capfd.readouterr()
    assert predict(other) == 0
    assert "0 images segmented" in capfd.readouterr().out


@pytest.mark.slow
def test_some_overwritten_by_another_setting_leave_none_of_the_old(
    predict, images, tmp_path, capsys
):
    assert predict(images) == 0
    assert predict(images / "t001.tif", "--tta", "--overwrite") == 0
    capsys.readouterr()
    assert predict(images, "--tta") == 0
    assert "7 images segmented, 1 were there" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize(
    "text",
    [
        b"5",
        b"[" * 10**5,
        b'{"settings": {}, "images": [1]}',
        b'{"images": {"\xff": 1}}',
    ],
)
def test_a_strange_record_is_refused_and_overwritten(
    predict, images, tmp_path, capfd, text
):
    assert predict(images / "t001.tif") == 0
    (tmp_path / "out/predict.json").write_bytes(text)
    assert predict(images / "t001.tif") == 2
    assert "holds outputs made otherwise" in capfd.readouterr().err
    assert predict(images / "t001.tif", "--overwrite") == 0


@pytest.mark.slow
def test_outputs_of_other_settings_are_not_mixed(predict, images, tmp_path, capfd):
    assert predict(images) == 0
    assert predict(images, "--tta") == 2
    [line] = lines_of(capfd, "predict")
    assert "holds outputs made otherwise (tta" in line and "--overwrite" in line
    assert predict(images, "--tta", "--overwrite") == 0
    assert settings_of(tmp_path / "out")["tta"] is True


@pytest.mark.slow
def test_an_overwrite_that_is_stopped_leaves_no_old_outputs(
    predict, images, tmp_path, monkeypatch
):
    assert predict(images) == 0
    read_images = predict_job.read_images

    def stopping(pages, channels, **named):
        if "t004" in pages[0].path:
            raise KeyboardInterrupt
        return read_images(pages, channels, **named)

    monkeypatch.setattr(predict_job, "read_images", stopping)
    assert predict(images, "--overwrite", "--tta") == 130
    monkeypatch.setattr(predict_job, "read_images", read_images)
    assert settings_of(tmp_path / "out")["tta"]
    assert len(list((tmp_path / "out").glob("*_mask.png"))) < 8
    assert predict(images, "--tta") == 0
    assert predict(images, "--tta", output="afresh") == 0
    for index in range(8):
        name = f"t{index:03d}_mask.png"
        ours, afresh = (tmp_path / folder / name for folder in ("out", "afresh"))
        assert ours.read_bytes() == afresh.read_bytes()


def test_two_at_once_in_one_folder_are_refused(predict, images, tmp_path, capfd):
    with predict_job.locks.exclusive(str(tmp_path / "out")):
        assert predict(images) == 2
    assert "another job is writing there" in capfd.readouterr().err


def test_what_a_killed_run_left_is_removed(predict, images, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/.unfinished-1234-t000_mask.png").write_text("half")
    assert predict(images) == 0
    assert not list((tmp_path / "out").glob(".unfinished*"))


@pytest.mark.slow
def test_outputs_without_a_record_are_not_replaced(predict, images, tmp_path, capfd):
    (tmp_path / "out").mkdir()
    mine = tmp_path / "out/t003_mask.png"
    mine.write_text("corrected by hand")
    assert predict(images) == 2
    assert "t003_mask.png: is there, and no predict.json" in capfd.readouterr().err
    assert mine.read_text() == "corrected by hand"
    assert predict(images, "--overwrite") == 0


@pytest.mark.slow
def test_overwriting_some_forgets_nothing_of_the_others(
    predict, images, tmp_path, capfd
):
    other = tmp_path / "other"
    shutil.copytree(images, other)
    assert predict(images / "t001.tif") == 0
    assert predict(images / "t002.tif", "--tta", "--overwrite") == 0
    capfd.readouterr()
    assert predict(other / "t001.tif", "--tta") == 2
    assert "has outputs of that name of" in capfd.readouterr().err


@pytest.mark.slow
def test_a_stop_notes_what_was_finished(predict, images, tmp_path, monkeypatch, capsys):
    segment = predict_job.outputs.result_of

    def slow(*arguments):
        time.sleep(0.1)
        return segment(*arguments)

    seen = []

    def stopping(*arguments, **named):
        seen.append(arguments)
        if len(seen) == 7:
            raise KeyboardInterrupt
        return read(*arguments, **named)

    read = predict_job.read_images
    monkeypatch.setattr(predict_job, "read_images", stopping)
    monkeypatch.setattr(predict_job.outputs, "result_of", slow)
    assert predict(images) == 130
    monkeypatch.undo()
    done = len(list((tmp_path / "out").glob("*_mask.png")))
    capsys.readouterr()
    assert predict(images) == 0
    assert f"{8 - done} images segmented, {done} were there" in capsys.readouterr().out
