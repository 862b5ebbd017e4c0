"""What was found in a folder, as a table for people to look at before any work."""

import collections
import concurrent.futures
import os
import statistics
from collections.abc import Iterator, Sequence

from unet_tfrecords.command import bars
from unet_tfrecords.command.errors import UserError
from unet_tfrecords.dataset.images.formats import Header, header_of, is_image, unread
from unet_tfrecords.dataset.images.frames import Frame, FrameListing
from unet_tfrecords.dataset.images.mask_survey import MaskFacts, named
from unet_tfrecords.storage import files

MOST_HEADERS = 400  # of images, evenly spread
MOST_REMOTE = 20  # of a store, from which a whole file is copied to see its header
MOST_SHOWN = 4  # kinds of images in a line
MOST_NAMED = 10  # files in a line


def overview(found: FrameListing, masks: Sequence[MaskFacts]) -> str:
    """What there is, a line each.

    Args:
      found: of the folder.
      masks: what was seen of some of its masks.
    """
    lines = [("found", _found(found)), *_images(found.frames), *_masks(found, masks)]
    lines += [("left out", line) for line in _left_out(found.left_out)]
    return "\n".join(f"{name:>10}  {text}" for name, text in lines)


def _found(found: FrameListing) -> str:
    labelled = sum(bool(f.label or f.silver or f.objects) for f in found.frames)
    sequences = len({frame.sequence for frame in found.frames})
    parts = [f"{len(found.frames)} images, {labelled} with masks"]
    if sequences > 1:
        parts.append(f"{sequences} sequences or groups")
    if found.unlabelled:
        parts.append(f"{found.unlabelled} images more without")
    if found.problems:
        parts.append(f"{len(found.problems)} problems")
    arrangement = f" ({found.arrangement})" if found.arrangement else ""
    return ", ".join(parts) + arrangement


def _sampled(frames: Sequence[Frame]) -> list[Frame]:
    is_far = any(files.is_remote(frame.image.path) for frame in frames)
    step = -(-len(frames) // (MOST_REMOTE if is_far else MOST_HEADERS))
    return list(frames[:: max(1, step)])


def _images(frames: Sequence[Frame]) -> Iterator[tuple[str, str]]:
    """Sizes, channels and bits, from the headers of some."""
    chosen = _sampled(frames)

    def look(frame: Frame) -> Header | None:
        try:
            return header_of(frame.image)
        except UserError:
            return None  # the job says why

    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        seen = bars.bar(
            pool.map(look, chosen),
            total=len(chosen),
            desc="images",
            unit="image",
            delay=2,
        )
        headers = [header for header in seen if header]
    if not headers:
        return
    of = f" (of {len(headers)} looked at)" if len(headers) < len(frames) else ""
    sizes = sorted({(h.height, h.width) for h in headers}, key=lambda s: s[0] * s[1])
    shown = [f"{height} x {width}" for height, width in (sizes[0], sizes[-1])]
    yield "size", " to ".join(dict.fromkeys(shown)) + f" px, height x width{of}"
    kinds = collections.Counter((h.channels, h.dtype) for h in headers)
    texts = [
        f"{number} of {channels} channel{'s' * (channels > 1)}, {dtype}"
        for (channels, dtype), number in kinds.most_common(MOST_SHOWN)
    ]
    yield "kind", "; ".join(texts) + ("; ..." if len(kinds) > MOST_SHOWN else "")


def _masks(
    found: FrameListing, masks: Sequence[MaskFacts]
) -> Iterator[tuple[str, str]]:
    """Values, objects in a frame, and how much the largest covers."""
    single = [len(frame.objects) for frame in found.frames if frame.objects]
    if single:
        yield "objects", f"{_spread(single)} masks of single objects an image"
    if not masks:
        return
    with_colours = any(mask.has_colours for mask in masks)
    values = {value for mask in masks for value in mask.values}
    kind = "colours" if with_colours else named(values)
    yield "values", f"{kind}, in {len(masks)} masks looked at"
    pieces = [sum(mask.pieces) for mask in masks if not mask.has_rims]
    if pieces:
        share = max(mask.share for mask in masks)
        yield (
            "objects",
            f"{_spread(pieces)} connected regions in a mask; one value covers up to "
            f"{share:.0%} of a mask",
        )


def _spread(numbers: Sequence[int]) -> str:
    """
    >>> _spread([3, 1, 2])
    '1 to 3, median 2,'
    """
    median = statistics.median_low(numbers)
    return f"{min(numbers)} to {max(numbers)}, median {median},"


def _left_out(paths: Sequence[str]) -> Iterator[str]:
    images = [path for path in paths if is_image(path) or unread(path)]
    others = sorted(set(paths) - set(images))
    for what, chosen in (
        ("images in no pair", images),
        ("files that are no images", others),
    ):
        if chosen:
            more = ["..."] if len(chosen) > MOST_NAMED else []
            names = ", ".join([*chosen[:MOST_NAMED], *more])
            yield f"{what}: {len(chosen)}: {names}"
