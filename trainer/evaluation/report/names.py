"""What scores are called before people, and which way they are good."""

import re
from collections.abc import Iterable, Sequence
from typing import Any

_WORDS = {
    "seg": "SEG, gold truth",
    "seg_all": "SEG, all truth",
    "det": "DET",
    "op_csb": "OP_CSB, mean of SEG and DET",
    "ap": "average precision, Jaccard 0.5 to 0.95",
    "ap_50": "average precision, Jaccard 0.5",
    "ap_75": "average precision, Jaccard 0.75",
    "v_rand": "V_rand, thinned borders",
    "v_rand_split": "V_rand, split part",
    "v_rand_merge": "V_rand, merge part",
    "v_info": "V_info, thinned borders",
    "v_info_split": "V_info, split part",
    "v_info_merge": "V_info, merge part",
    "rand_error": "Rand error, borders as they are",
    "warping_error": "warping error",
    "best_pixel_error": "pixel error, best threshold",
    "pixel_error": "pixel error",
    "mean_iou": "mean IoU over classes",
    "surface_px": "mean surface distance, px",
    "hausdorff_px": "Hausdorff distance, px",
    "calibration_error": "calibration error",
}
_OF_CLASS = {"iou": "IoU", "dice": "Dice", "precision": "precision", "recall": "recall"}


def in_order(scores: Iterable[str]) -> list[str]:
    """Names of scores, those of objects and partitions first, of classes last.

    >>> in_order(["iou_0", "dice_0", "seg", "mean_iou"])
    ['seg', 'mean_iou', 'dice_0', 'iou_0']
    """
    known = list(_WORDS)
    return sorted(
        scores, key=lambda n: (known.index(n) if n in known else len(known), n)
    )


def title(name: str, classes: list[str]) -> str:
    """A score's name for people.

    >>> title("dice_1", ["background", "cell"])
    'Dice, cell'
    """
    match = re.fullmatch(r"(iou|dice|precision|recall)_(\d+)", name)
    if match and int(match[2]) < len(classes):
        return f"{_OF_CLASS[match[1]]}, {classes[int(match[2])]}"
    return _WORDS.get(name, name)


def lower_is_better(name: str) -> bool:
    """
    >>> lower_is_better("rand_error"), lower_is_better("seg")
    (True, False)
    """
    return name.endswith(("_error", "_px"))


def rows(
    evaluations: Sequence[dict[str, Any]], classes: list[str]
) -> list[dict[str, Any]]:
    """Scores of several evaluations: name, values, and the best of them."""
    found = []
    for name in in_order({name for e in evaluations for name in e.get("scores", {})}):
        values = [e.get("scores", {}).get(name) for e in evaluations]
        if known := [value for value in values if value is not None]:
            best = min(known) if lower_is_better(name) else max(known)
            found.append({"name": title(name, classes), "values": values, "best": best})
    return found
