r"""Cell Tracking Challenge, PhC-C2DH-U373: glioblastoma cells in phase contrast.

./launch.sh preprocess --config=configs/phc_u373.py \
    --input=DIR --output=runs/phc_u373/data
./launch.sh train --config=configs/phc_u373.py \
    --data=runs/phc_u373/data --workdir=runs/phc_u373/train
"""

import ml_collections

from configs import base, variants


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    config = base.get_config()
    config.data.name = "PhC-C2DH-U373"
    config.data.layout = "ctc"
    config.data.labels = "both"
    config.model.class_names = ("background", "cell")
    return variants.apply(config, variant)
