r"""Your own images: DIR/images/NAME.* with DIR/masks/NAME.* (PNG, TIFF or JPEG).

./launch.sh preprocess --config=configs/folder.py:cpu \
    --input=DIR --output=runs/mine/data

Say what the masks hold with --config.data.labels: binary (not 0 is foreground), class
(the value is the class; set --config.model.classes) or instance (one value a cell).
"""

import ml_collections

from configs import base, variants


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    config = base.get_config()
    config.data.layout = "folder"
    return variants.apply(config, variant)
