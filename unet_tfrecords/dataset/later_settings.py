"""Settings that came after data sets and runs had been made without them.

Each at the value by which everything is as it was before: a data set made with such a
value is the one that was made without the setting, and a run from before has the value.
"""

from typing import Any

LATER: dict[str, Any] = {
    "data.targets": "classes",
    "data.neighbours": [],  # as JSON has it
    "data.level": 0,
    "data.times": [],
    "data.slices": [],
    "data.regions": "",
    "data.augment.zoom": 0.0,
    "train.plane_weight": 1.0,
    "train.augment.blur_px": 0.0,
    "train.augment.gradient": 0.0,
    "train.augment.noise": 0.0,
}


def filled(config: dict[str, Any]) -> dict[str, Any]:
    """A config from before, with what it lacks.

    >>> filled({"train": {"plane_weight": 2.0}})["train"]
    {'plane_weight': 2.0}
    >>> filled({"data": {"augment": {}}})["data"]["augment"]
    {'zoom': 0.0}
    """
    return _each(config, lambda part, key, value: {key: value} | part)


def stripped(config: dict[str, Any]) -> dict[str, Any]:
    """A config as it was before, where it says nothing else.

    >>> stripped({"data": {"augment": {"zoom": 0.0}, "targets": "distance"}})
    {'data': {'augment': {}, 'targets': 'distance'}}
    """
    return _each(
        config,
        lambda part, key, value: {
            k: v for k, v in part.items() if (k, v) != (key, value)
        },
    )


def _each(config: dict[str, Any], change) -> dict[str, Any]:
    """The config with `change` made to the part of each later setting, where it is."""
    for name, value in LATER.items():
        *path, key = name.split(".")
        config = _changed(config, path, lambda part, k=key, v=value: change(part, k, v))
    return config


def _changed(config: dict[str, Any], path: list[str], change) -> dict[str, Any]:
    if not path:
        return change(config)
    first, *rest = path
    if not isinstance(config.get(first), dict):
        return config
    return config | {first: _changed(config[first], rest, change)}
