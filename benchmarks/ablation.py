"""What each change of a variant gains: trainings that lack one of them, in a row.

    ./launch.sh benchmark --what=ablation --config=configs/dic_hela.py:cpu --data=DIR \
        --steps=300

Each is a whole training of --steps, scored by its last validation; one seed, so
differences of a point mean little.
"""

import json
import pathlib
import subprocess
import sys
import tempfile

from absl import flags

from unet_tfrecords.command import cli, cli_flags
from unet_tfrecords.command.errors import UserError

ROOT = pathlib.Path(__file__).parent.parent
WITHOUT = {
    "as it is": (),
    "kernels as they are": ("--config.model.standardized_kernels=False",),
    "SGD with momentum 0.99": ("--config.train.optimizer=sgd",),
    "constant learning rate": ("--config.train.schedule=constant",),
    "no average of weights": ("--config.train.ema=0.0",),
    "balanced class weights": ("--config.train.class_weights=balanced",),
    "dropout 0.5": ("--config.model.dropout=0.5",),
    "no flips, turns, grey changes": (
        "--config.train.augment.flip=False",
        "--config.train.augment.quarter_turns=False",
        "--config.train.augment.contrast=0.0",
        "--config.train.augment.brightness=0.0",
    ),
}
SHOWN = ("val_mean_iou", "val_pixel_error", "val_cross_entropy")


def _run(values: flags.FlagValues, _: list[str]) -> None:
    given = [flag for flag in cli.given_flags(values) if flag.startswith("--config")]
    names = [values.only] if values.only else list(WITHOUT)
    print(f"{'':32}" + "".join(f"{name:>20}" for name in SHOWN))
    for name in names:
        found = _trained(values.data, values.steps, [*given, *WITHOUT[name]])
        row = "".join(f"{found[shown]:20.4f}" for shown in SHOWN)
        print(f"{name:32}{row}", flush=True)


def _trained(data: str, steps: int, settings: list[str]) -> dict[str, float]:
    """The last line of metrics.jsonl."""
    with tempfile.TemporaryDirectory(prefix="unet-ablation-") as folder:
        command = [sys.executable, "-m", "trainer.main", "train", *settings]
        command += [
            f"--data={data}",
            f"--workdir={folder}/run",
            f"--config.train.steps={steps}",
            f"--config.train.validate_every_steps={steps}",
        ]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        if done.returncode:
            raise UserError(done.stderr.strip().splitlines()[-1])
        lines = (pathlib.Path(folder) / "run/metrics.jsonl").read_text().splitlines()
        return json.loads(lines[-1])


COMMAND = cli.Command(
    "benchmark --what=ablation",
    "What each change of a variant gains, by trainings that lack it.",
    flags=(
        cli_flags.string("data", "folder that preprocess made with this config"),
        cli_flags.choice("only", "one of the trainings; all otherwise", list(WITHOUT)),
        cli_flags.integer("steps", "of each training", 300, least=1),
    ),
    run=_run,
    required=("data",),
    takes_config=True,
)

if __name__ == "__main__":
    sys.exit(cli.main(COMMAND))
