r"""ISBI 2012: serial-section EM of Drosophila nerve cord; membranes (0), interior (1).

./launch.sh preprocess --config=configs/isbi2012.py \
    --input=DIR --output=runs/isbi2012/data
./launch.sh train --config=configs/isbi2012.py \
    --data=runs/isbi2012/data --workdir=runs/isbi2012/train
"""

import ml_collections

from configs import base, variants


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    config = base.get_config()
    config.data.name = "isbi2012"
    config.data.layout = "isbi"
    config.data.labels = "class"  # the stack itself says: 0 membrane, else interior
    config.model.class_names = ("membrane", "interior")
    return variants.apply(config, variant)
