"""What a network learns to say of each pixel, and how objects are made of it.

A target is a module of pure functions with

* `VERSION`: of the target; data sets and models note it.
* `PLANES`: uint8 planes that a record has beside the label. No two targets have the
  same number, so that a network's outputs say what they are.
* `PLANES_ARE`: "scalars" from 0 to 1, or "probabilities"; what the loss and the last
  step of the network go by.
* `reach_px(instances, zoom)`: how far around a pixel cells must be whole for exact
  planes, where augmentation makes them up to `zoom` times as large.
* `render(instances, classes) -> planes`: uint8 [H, W, PLANES]; cells don't touch.
"""

from types import ModuleType

import ml_collections

from unet_tfrecords.dataset.targets import border, classes, distance

TARGETS: dict[str, ModuleType] = {
    "classes": classes,
    "border": border,
    "distance": distance,
}


def planes_of(data: ml_collections.ConfigDict) -> int:
    """Planes of a config's `data` part."""
    return TARGETS[data.targets].PLANES


def planes_are(planes: int) -> str:
    """What a target's planes are, by their number: see `PLANES_ARE`."""
    [kind] = [t.PLANES_ARE for t in TARGETS.values() if planes == t.PLANES]
    return kind
