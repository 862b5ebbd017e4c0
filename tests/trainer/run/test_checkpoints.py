"""Checkpoints: complete or not there, damage found, the one before it taken."""

import pytest
import tensorflow as tf

from tests.commands import mistakes
from tests.folders import flip
from tests.trainer.training.runs import run
from trainer.run import checkpoints
from unet_tfrecords.command.errors import UserError


@pytest.fixture
def variable():
    return tf.Variable(tf.zeros([1000]))


@pytest.fixture
def saved(variable, tmp_path):
    """Steps 1 to 4, each with its number as values."""
    for step in range(1, 5):
        variable.assign(tf.fill([1000], float(step)))
        progress = {"best_step": 2}
        checkpoint = tf.train.Checkpoint(variable=variable)
        checkpoints.save(checkpoint, str(tmp_path), step, progress)
    return tmp_path


def value_at(folder, variable, step):
    checkpoint = tf.train.Checkpoint(variable=variable)
    checkpoints.restore(checkpoint, str(folder), step).assert_consumed()
    return float(variable[0])


def data_of(folder, step):
    [path] = (folder / checkpoints.name_of(step)).glob("state.data*")
    return path


def test_a_disk_that_fails_damages_no_checkpoint(saved, monkeypatch):
    """An error of permission, or of a network disk, isn't the file's."""

    def refuse(path):
        raise tf.errors.PermissionDeniedError(None, None, path)

    monkeypatch.setattr(tf.train, "load_checkpoint", refuse)
    with pytest.raises(tf.errors.PermissionDeniedError):
        checkpoints.newest_whole(str(saved))


def test_an_index_that_cannot_be_read_is_no_damage(saved, monkeypatch):
    """TensorFlow's error for it is the same as for a broken one."""
    read_bytes = checkpoints.files.read_bytes

    def refuse(path):
        if path.endswith("state.index"):
            raise PermissionError(13, "Permission denied", path)
        return read_bytes(path)

    monkeypatch.setattr(checkpoints.files, "read_bytes", refuse)
    with pytest.raises(PermissionError):
        checkpoints.newest_whole(str(saved))


def test_what_is_saved_comes_back(saved, variable):
    assert checkpoints.complete_steps(str(saved)) == [1, 2, 3, 4]
    newest = checkpoints.newest_whole(str(saved))
    assert newest.step == 4 and newest.progress == {"best_step": 2}
    assert value_at(saved, variable, 3) == 3.0
    assert not list(saved.glob(".*"))


def test_newest_and_best_are_kept(saved):
    checkpoints.prune(str(saved), keep=1, best=2)
    assert checkpoints.complete_steps(str(saved)) == [2, 4]


DAMAGES = {
    "values have changed": lambda folder: flip(data_of(folder, 4)),
    "a file is cut": lambda folder: data_of(folder, 4).write_bytes(
        data_of(folder, 4).read_bytes()[:-1]
    ),
    "a file is missing": lambda folder: data_of(folder, 4).unlink(),
    "file is missing": lambda folder: (
        data_of(folder, 4).with_name("state.index").unlink()
    ),
    "about.json is broken: Expecting": lambda folder: (
        folder / checkpoints.name_of(4) / checkpoints.ABOUT
    ).write_text("{"),
    "about.json is broken: not as it was": lambda folder: change_about(
        folder, '"best_step": 2', '"best_step": 3'
    ),
    "broken: not as it was": lambda folder: change_about(
        folder, '"step": 4', '"step": 5'
    ),
}


def change_about(folder, old, new):
    path = folder / checkpoints.name_of(4) / checkpoints.ABOUT
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_one_falls_back_to_the_one_before_and_says_so(saved, capsys, kind):
    DAMAGES[kind](saved)
    assert checkpoints.newest_whole(str(saved)).step == 3
    said = capsys.readouterr().err
    assert "step-00000004: damaged: " in said and kind in said
    assert "taking the one before it" in said


def test_half_a_checkpoint_is_none(saved):
    """Killed between TensorFlow's files and the mark, remotely and locally."""
    (saved / checkpoints.name_of(4) / checkpoints.ABOUT).unlink()
    (saved / ".unfinished-step-00000005").mkdir()
    assert checkpoints.newest_whole(str(saved)).step == 3
    checkpoints.clear_unfinished(str(saved))
    assert sorted(p.name for p in saved.iterdir()) == [
        checkpoints.name_of(step) for step in (1, 2, 3)
    ]


def test_none_whole_is_an_error_and_none_is_a_start(saved, tmp_path):
    assert checkpoints.newest_whole(str(tmp_path / "nothing")) is None
    for step in range(1, 5):
        flip(data_of(saved, step))
    assert len(mistakes(checkpoints.newest_whole, str(saved))) == 5


def test_saving_over_a_damaged_one(saved, variable):
    flip(data_of(saved, 4))
    variable.assign(tf.fill([1000], 9.0))
    checkpoint = tf.train.Checkpoint(variable=variable)
    checkpoints.save(checkpoint, str(saved), 4, {"best_step": 4})
    assert checkpoints.newest_whole(str(saved)).step == 4
    assert value_at(saved, variable, 4) == 9.0


def test_chosen_by_name(saved):
    folder = str(saved)
    assert checkpoints.chosen(folder, "newest").step == 4
    assert checkpoints.chosen(folder, "best").step == 2
    assert checkpoints.chosen(folder, "3").step == 3
    for which, words in (("7", "there are 1, 2, 3, 4"), ("last", "best, newest or")):
        with pytest.raises(UserError, match=words):
            checkpoints.chosen(folder, which)
    flip(data_of(saved, 2))
    with pytest.raises(UserError, match="step-00000002: damaged"):
        checkpoints.chosen(folder, "best")


def test_newer_damaged_ones_take_no_place(saved, variable):
    """With one kept: the one saved next must stay, not the damaged newer one."""
    folder = str(saved)
    for step in (5, 20):
        (saved / checkpoints.name_of(step)).mkdir()
        (saved / checkpoints.name_of(step) / checkpoints.ABOUT).write_text("{}")
    newest = checkpoints.newest_whole(folder)
    assert newest.step == 4
    checkpoints.forget_newer(folder, newest.step)
    checkpoints.save(tf.train.Checkpoint(variable=variable), folder, 12, {})
    checkpoints.prune(folder, keep=1, best=None)
    assert checkpoints.complete_steps(folder) == [12]


@pytest.mark.slow
def test_training_goes_on_from_the_one_before(
    shards_folder, train_config, tmp_path, metrics, capsys
):
    """The loss series is that of a run without damage."""

    def losses(folder):
        run(train_config, shards_folder, folder)
        return [(line["step"], line["loss"]) for line in metrics(folder)]

    train_config.train.validate_every_steps = 100
    whole = losses(tmp_path / "whole")
    losses(tmp_path / "damaged")
    flip(data_of(tmp_path / "damaged/checkpoints", 20))
    capsys.readouterr()
    assert losses(tmp_path / "damaged") == whole
    said = capsys.readouterr()
    assert "step-00000020: damaged" in said.err
    assert "going on after step 15" in said.out
