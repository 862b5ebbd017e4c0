"""Every frame tested once: a training a fold, scored together.

A fold is a folder that preprocess, train and evaluate fill, each in a process of its
own: what is finished is not done again, what was stopped goes on.
"""

import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import ml_collections

from trainer.evaluation.evaluate_run import read_measured, summary, write
from trainer.evaluation.report import page
from trainer.run import workdir
from unet_tfrecords.command import signals
from unet_tfrecords.command.errors import UserError
from unet_tfrecords.dataset import later_settings
from unet_tfrecords.storage import files, json_files, locks

SETUP_NAME = "cross-validation.json"
FINISHED = "finished"  # in a fold's folder
STOPPED = 143  # how train ends that was told to before its end; 0 would mean done


def cross_validate(
    config: ml_collections.ConfigDict,
    flags: Sequence[str],
    source: str,
    folder: str,
    *,
    folds: int,
    tta: bool,
    tune: bool,
) -> dict[str, Any]:
    """Trains and scores every fold and writes what they say together.

    Below the folder: fold-0/data and fold-0/train and so on; evaluation-test.json and
    report.html of all folds together.

    Args:
      config: the run's; its split is replaced.
      flags: --config and its overrides, as they were given.
      source: the data set's folder.
      folder: where everything is written.
      folds: contiguous blocks that each sequence is cut into, at least 3.
      tta: whether scores are averaged over symmetries.
      tune: whether each fold finds its rules on its own validation block.

    Returns:
      The evaluation of all folds together.

    Raises:
      UserError: too few folds, other settings there, or a fold that failed.
    """
    if folds < 3:
        raise UserError(f"--folds={folds}: at least 3, for each trains on all but two")
    with locks.exclusive(folder):
        files.remove_unfinished(folder)
        _claim(
            folder, config, input=source.rstrip("/"), folds=folds, tta=tta, tune=tune
        )
        measured, by_fold, scored = [], [], []
        for fold in range(folds):
            own = files.join(folder, f"fold-{fold}")
            print(f"fold {fold} of {folds}: {own}", file=sys.stderr, flush=True)
            split = {"method": "fold", "folds": folds, "fold": fold}
            more = [f"--config.data.split.{name}={split[name]}" for name in split]
            _fold(own, [*flags, *more], source, ["--tta"] * tta, tune)
            run = files.join(own, "train")
            measured += read_measured(run, "test")
            one = workdir.read_evaluation(run, "test")
            by_fold.append(one["scores"])
            scored.append({name: one.get(name) for name in ("frames_are", "edge_px")})
            if scored[-1] != scored[0]:  # by another version of this program
                raise UserError(
                    f"{run}/evaluation-test.json: was scored otherwise than fold 0 "
                    f"({scored[-1]}, {scored[0]}); remove both files and run this again"
                )
        about = {"split": "test", "step": config.train.steps, "tta": tta}
        about |= {name: value for name, value in scored[0].items() if value is not None}
        result = {**about, "folds": folds, **summary(measured), "by_fold": by_fold}
        write(folder, "test", result, measured)
        page.write_cross_validation(folder, config, result)
        return result


def _claim(folder: str, config: ml_collections.ConfigDict, **settings) -> None:
    """Makes the folder this cross-validation's own, or finds it again."""
    path = files.join(folder, SETUP_NAME)
    mine = {"config": json.loads(config.to_json()), **settings}
    if not files.exists(path):
        json_files.write(path, mine)
        return
    there = json_files.read(path, cure="give another --workdir")
    there["config"] = later_settings.filled(there.get("config", {}))
    if lines := json_files.differences(there, mine):
        raise UserError(
            [f"{path}: {line}; give another --workdir" for line in lines[:20]]
        )


def _fold(
    own: str, given: list[str], source: str, options: list[str], tune: bool
) -> None:
    """Fills a fold's folder; `given` are preprocess's and train's flags."""
    data, run = files.join(own, "data"), files.join(own, "train")
    # Not its evaluation, which may be of a training that has not ended.
    finished = files.join(own, FINISHED)
    if files.exists(finished):
        return
    scored = [f"--workdir={run}", f"--input={source}", *options]
    rules = files.exists(files.join(run, workdir.RULES_NAME))
    _run("preprocess.main", *given, f"--input={source}", f"--output={data}")
    trained = [f"--data={data}", f"--workdir={run}", f"--stopped_exit_code={STOPPED}"]
    _run("trainer.main", "train", *given, *trained)
    if tune and not rules:
        _run("trainer.main", "evaluate", *scored, "--tune")
    _run("trainer.main", "evaluate", *scored)
    files.write_bytes(finished, b"")


def _run(module: str, *arguments: str) -> None:
    """One command, in a process of its own, which ends with this one.

    Raises:
      UserError: it failed; it has said why.
      KeyboardInterrupt: it was stopped by Ctrl-C or SIGTERM.
    """
    command = [sys.executable, "-m", module, *arguments]
    process = subprocess.Popen(command, stdout=sys.stderr, env=_environment())
    try:
        code = process.wait()
    except KeyboardInterrupt:
        process.terminate()  # train saves first
        process.wait()
        raise
    finally:
        if process.poll() is None:  # a second Ctrl-C
            process.kill()
    if code:
        raise UserError(f"{module} {' '.join(arguments)}: ended with {code}; see above")


def _environment() -> dict[str, str]:
    """This process's, with its number, and the project where it has found that."""
    here = str(pathlib.Path(__file__).resolve().parents[2])
    paths = [here, os.environ.get("PYTHONPATH", "")]
    found = os.pathsep.join(filter(None, paths))
    return {**os.environ, "PYTHONPATH": found, signals.PARENT: str(os.getpid())}
