"""Flags that several commands have."""

from unet_tfrecords.command import cli_flags

CHECKPOINT = cli_flags.string(
    "checkpoint",
    "best (by config.train.best_metric; newest where nothing was validated), newest, "
    "or a step",
    "best",
)
TTA = cli_flags.boolean(
    "tta",
    "averages over the eight turned and mirrored versions of each image, inside the "
    "graph: eight times the work",
)
WORKDIR = cli_flags.string("workdir", "folder of the run: checkpoints, logs, metrics")
EDGE_PX = cli_flags.integer(
    "edge_px",
    "objects that lie entirely within N px of a frame's edge don't count; by default "
    "as in the Cell Tracking Challenge (50 or 25 px, by the set's name), elsewhere 0",
    None,
    least=0,
)
