r"""Cell Tracking Challenge, DIC-C2DH-HeLa: touching cells in differential contrast.

./launch.sh preprocess --config=configs/dic_hela.py \
    --input=DIR --output=runs/dic_hela/data
./launch.sh train --config=configs/dic_hela.py \
    --data=runs/dic_hela/data --workdir=runs/dic_hela/train
"""

import ml_collections

from configs import base, variants


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    config = base.get_config()
    config.data.name = "DIC-C2DH-HeLa"
    config.data.layout = "ctc"
    config.data.labels = "both"
    config.model.class_names = ("background", "cell")
    return variants.apply(config, variant)
