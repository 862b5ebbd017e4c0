"""By another Python: what napari's reader, ome-zarr-py and its models see.

    python opened_by_others.py FOLDER ...

Prints a line of JSON for each folder: the layers, and what the metadata are.
"""

import json
import sys

import numpy as np
import ome_zarr_models
from napari_ome_zarr import napari_get_reader
from ome_zarr.io import parse_url
from ome_zarr.reader import Reader

for folder in sys.argv[1:]:
    layers = []
    for data, about, kind in napari_get_reader(folder)(folder):
        sums = [int(np.asarray(level, np.int64).sum()) for level in data]
        shapes = [list(level.shape) for level in data]
        layers.append(
            {
                "kind": kind,
                "name": about.get("name", ""),
                "scale": list(about["scale"]),
                "shapes": shapes,
                "sums": sums,
            }
        )
    nodes = len(list(Reader(parse_url(folder))()))
    try:
        model = type(ome_zarr_models.open_ome_zarr(folder)).__name__
    except RuntimeError as error:
        model = f"none: {error}"
    print(json.dumps({"layers": layers, "nodes": nodes, "model": model}))
