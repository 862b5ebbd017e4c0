"""Drawn cells in the Cell Tracking Challenge's layout: needs no download.

./launch.sh demo   # draws the data, then everything with :cpu
"""

import ml_collections

from configs import base, variants


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    config = base.get_config()
    config.data.name = "drawn-cells"
    config.data.layout = "ctc"
    config.data.labels = "gold"
    config.model.class_names = ("background", "cell")
    return variants.apply(config, variant, cpu=cpu)


def cpu(config: ml_collections.ConfigDict) -> None:
    """Small frames and a shallow network: the demo's few minutes."""
    variants.cpu(config)
    config.model.depth = 3  # drawn cells are small: 44 px of context see them whole
    config.data.tile_size = 276  # px in, 188 out
    config.train.tiles_per_replica = 4
    config.train.reference_batch = 4
    config.train.steps = 250
    config.train.checkpoint_every_steps = 50
    config.train.validate_every_steps = 125
