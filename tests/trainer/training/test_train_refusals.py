"""What train does not begin, go on with or save; each in a line."""

import msgspec
import numpy as np
import pytest
import tensorflow as tf

from tests.commands import mistakes
from tests.trainer.training.runs import ONE, run
from trainer.input.shard_files import Access
from trainer.run import checkpoints
from trainer.training.optimizers import Optimizer
from trainer.training.train_settings import check_batch, check_fit, check_train_config
from trainer.training.trainer import Trainer
from unet_tfrecords.command.errors import UserError
from unet_tfrecords.dataset.dataset_info import read_info
from unet_tfrecords.storage import locks


@pytest.mark.slow
def test_another_config_in_the_same_workdir_is_refused(
    shards_folder, train_config, tmp_path
):
    train_config.train.steps = 1
    run(train_config, shards_folder, tmp_path)
    train_config.train.learning_rate = 1e-4
    train_config.seed = 7
    problems = mistakes(run, train_config, shards_folder, tmp_path)
    assert "config.seed: 1 there, 7 here" in problems[0]
    assert "train.learning_rate: 0.01 there, 0.0001 here" in problems[1]


@pytest.mark.slow
def test_another_precision_is_refused(shards_folder, train_config, tmp_path):
    """auto resolves otherwise on another device."""
    train_config.train.steps = 2
    run(train_config, shards_folder, tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "trainer.devices.strategy.resolve_precision", lambda _: "mixed_bfloat16"
        )
        with pytest.raises(UserError, match="float32 there, mixed_bfloat16 here"):
            run(train_config, shards_folder, tmp_path)


@pytest.mark.slow
def test_weights_that_are_not_finite_are_not_saved(
    shards_folder, train_config, tmp_path
):
    """The last step's update, whose loss nobody sees any more."""
    apply = Optimizer.apply

    def overflow(self, gradients, rate):
        norm = apply(self, gradients, rate)
        self.trained[0].assign(np.inf * tf.ones_like(self.trained[0]))
        return norm

    train_config.train.steps = 1
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Optimizer, "apply", overflow)
        with pytest.raises(UserError, match="are not finite after step 1; nothing"):
            run(train_config, shards_folder, tmp_path)
    assert not checkpoints.complete_steps(str(tmp_path / "checkpoints"))


@pytest.mark.slow
def test_nan_names_step_rate_norm_and_tiles(shards_folder, train_config, tmp_path):
    train_config.train.learning_rate = 1e38
    [line] = mistakes(run, train_config, shards_folder, tmp_path)
    for words in (r"the loss is (nan|inf) at step \d+,", r"learning rate 1e\+38"):
        assert tf.strings.regex_full_match(line, f".*{words}.*")
    assert "gradient norm" in line
    step = int(line.split("at step ")[1].split(",")[0])
    keys = Trainer(train_config, shards_folder, ONE, Access()).data.keys_of(step - 1)
    assert len(keys) == 4 and all(key in line for key in keys)
    assert not checkpoints.complete_steps(str(tmp_path / "checkpoints"))


@pytest.mark.slow
def test_gradient_that_is_not_finite_stops_at_its_own_step(
    shards_folder, train_config, tmp_path, monkeypatch
):
    """A step later the loss would say it, of other tiles."""
    from trainer.training import step

    real = step.TrainingSteps.gradients_of

    def broken(self, batch, first_seed):
        [pack] = real(self, batch, first_seed)
        third = tf.equal(first_seed // step.MOST_TILES, 2)
        nan = tf.where(third, np.nan, 0.0)
        return [tf.concat([pack[:-1] + nan, pack[-1:]], 0)]  # the loss is the last

    monkeypatch.setattr(step.TrainingSteps, "gradients_of", broken)
    with pytest.raises(UserError, match=r"the loss is 0\.\d+ at step 3, .* norm nan"):
        run(train_config, shards_folder, tmp_path)


@pytest.mark.slow
def test_gradients_that_stay_infinite_stop_the_run(
    shards_folder, train_config, tmp_path, monkeypatch
):
    """In half precision single ones are usual; weights that never move are not."""
    from trainer.training import loop, step

    real = step.TrainingSteps.gradients_of

    def infinite(self, batch, first_seed):
        [pack] = real(self, batch, first_seed)
        return [tf.concat([pack[:-1] + np.inf, pack[-1:]], 0)]

    monkeypatch.setattr(step.TrainingSteps, "gradients_of", infinite)
    monkeypatch.setattr(loop, "MOST_OVERFLOWS", 6)
    train_config.train.precision = "mixed_float16"
    with pytest.raises(UserError, match="gradients of 6 steps up to 6 were infinite"):
        run(train_config, shards_folder, tmp_path)


def test_mismatch_of_data_and_model_names_both_numbers(shards_folder, train_config):
    train_config.model.depth, train_config.data.tile_size = 3, 92
    lines = mistakes(check_fit, read_info(shards_folder), train_config)
    assert "config.data.tile_size: 60 there, 92 here" in lines[0]
    assert "config.model.depth: 2 there, 3 here" in lines[1]


def test_config_that_reads_other_truth_or_splits_is_refused(
    shards_folder, train_config
):
    train_config.data.split.test = 0.51
    train_config.data.labels = "both"
    train_config.seed = 9  # of initial weights and order: several runs on one data set
    lines = mistakes(check_fit, read_info(shards_folder), train_config)
    named = [line.split(":")[0] for line in lines]
    assert named == ["config.data.labels", "config.data.split.test"]


def test_early_stopping_needs_a_validation_split(
    shards_folder, train_config, tmp_path, monkeypatch
):
    info = read_info(shards_folder)
    none = msgspec.structs.replace(info.splits["validation"], shards=())
    info = msgspec.structs.replace(info, splits=info.splits | {"validation": none})
    monkeypatch.setattr("trainer.training.trainer.read_info", lambda _: info)
    train_config.train.patience = 3
    with pytest.raises(UserError, match="no validation split to judge by"):
        run(train_config, shards_folder, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["config.json", "dataset_info.json"])
def test_a_workdirs_own_files_are_not_overwritten(
    shards_folder, train_config, tmp_path, name
):
    train_config.train.steps = 1
    run(train_config, shards_folder, tmp_path)
    for content in ("{}", "null", "{"):
        (tmp_path / name).write_text(content)
        with pytest.raises(UserError):
            run(train_config, shards_folder, tmp_path)
        assert (tmp_path / name).read_text() == content


def test_failed_start_claims_no_workdir(shards_folder, train_config, tmp_path):
    for change in (dict(width=0), dict(dropout=1.0)):
        wrong = train_config.copy_and_resolve_references()
        wrong.model.update(change)
        with pytest.raises(UserError):
            run(wrong, shards_folder, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_workdir_where_checkpoints_would_be_lost_is_refused(
    shards_folder, train_config, tmp_path
):
    with pytest.raises(UserError, match="finds no weights"):
        run(train_config, shards_folder, tmp_path / "run [1]")


def test_two_trainers_in_one_workdir(shards_folder, train_config, tmp_path):

    with locks.exclusive(str(tmp_path / "run")):
        with pytest.raises(UserError, match="another job is writing there"):
            run(train_config, shards_folder, tmp_path / "run")


def test_own_settings_beside_the_known_ones_are_let_be(train_config):
    train_config.unlock()
    train_config.train.update({"note": "try 3", "shift": -1.0, "more": None})
    check_train_config(train_config)


def test_bad_train_settings_are_all_named(train_config):
    train_config.train.optimizer = "lion"
    train_config.train.global_batch = -1
    train_config.train.precision = "float8"
    train_config.train.ema = 1.0
    train_config.train.augment.contrast = -1.0
    assert len(mistakes(check_train_config, train_config)) == 5
    train_config.train.update({"optimizer": "adamw", "global_batch": 1, "ema": 0.0})
    train_config.train.precision = "auto"
    train_config.train.augment.contrast = 0.0
    with pytest.raises(UserError, match="weight_decay is adam"):
        check_train_config(train_config)


def test_batch_that_does_not_divide_is_refused_with_both_numbers(train_config):
    train_config.train.global_batch = 6
    check_batch(train_config.train, 3)
    with pytest.raises(UserError, match="global_batch=6 is not divisible by 4 repl"):
        check_batch(train_config.train, 4)
    train_config.train.accumulate = 2
    with pytest.raises(UserError, match="2 replicas times .*accumulate=2; .*4 or 8"):
        check_batch(train_config.train, 2)
