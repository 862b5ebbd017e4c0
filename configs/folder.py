r"""Your own images: DIR/images/NAME.* with DIR/masks/NAME.* (PNG, TIFF or JPEG).

./launch.sh preprocess --config=configs/folder.py:cpu \
    --input=DIR --output=runs/mine/data

What the masks hold is found out and printed. --config.data.labels says it: binary (two
values), class (the value is the class; set --config.model.classes) or instance (each
cell has a value of its own).
"""

import ml_collections

from configs import base, variants


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    config = base.get_config()
    config.data.layout = "folder"
    return variants.apply(config, variant)
