"""What a network learns to say of each pixel, and how objects are made of it.

A target is a module of pure functions with

* `VERSION`: of the target; data sets and models note it.
* `PLANES`: uint8 planes that a record has beside the label.
* `reach_px(instances)`: how far around a pixel cells must be whole for exact planes.
* `render(instances, classes) -> planes`: uint8 [H, W, PLANES]; cells don't touch.
"""

from types import ModuleType

import ml_collections

from unet_tfrecords.dataset.targets import classes, distance

TARGETS: dict[str, ModuleType] = {"classes": classes, "distance": distance}


def planes_of(data: ml_collections.ConfigDict) -> int:
    """Planes of a config's `data` part; one from before there were others has none."""
    return TARGETS[data.get("targets", "classes")].PLANES
