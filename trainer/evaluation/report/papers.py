"""What was published for the challenges' data sets, to set beside a run's scores."""

from typing import NamedTuple

_CTC = (
    "The paper's figure is of the challenge's secret test videos, after training on "
    "both training videos with the full network. Here it is frames of a training video "
    "that were held out as a block: the same microscope, often the same cells, so "
    "expect it to be easier; and a handful of gold frames, so look at the interval."
)
_ISBI = (
    "The paper's figures are of the challenge's secret test stack, after training on "
    "all 30 slices with the full network. Here it is held-out slices of the training "
    "stack itself, so the figures are comparable with each other, not with the board."
)


class PublishedScore(NamedTuple):
    """Figures of one data set.

    Attributes:
      scores: by the name that `scores.frame.pooled` has for them.
      comparable: what is and isn't comparable.
    """

    scores: dict[str, float]
    comparable: str


# Ronneberger et al. 2015, arXiv 1505.04597, tables 1 and 2, by config.data.name.
UNET = {
    "PhC-C2DH-U373": PublishedScore({"seg": 0.9203}, _CTC),
    "DIC-C2DH-HeLa": PublishedScore({"seg": 0.7756}, _CTC),
    "isbi2012": PublishedScore(
        {
            "best_pixel_error": 0.0611,
            "rand_error": 0.0382,
            "warping_error": 0.000353,
        },
        _ISBI,
    ),
}
