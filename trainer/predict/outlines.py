"""Outlines of objects, for ImageJ and QuPath: exactly around their pixels.

Coordinates are those of both programs: pixel 0 reaches from 0 to 1, so that an outline
has whole numbers and encloses the area that the object has in pixels.
"""

import json
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from typing import IO, TYPE_CHECKING

import numpy as np

from unet_tfrecords.dataset.regions import bounding_boxes

if TYPE_CHECKING:
    import shapely

ROIS, GEOJSON = "_rois.zip", "_objects.geojson"  # after the image's name
ZIP_TIME = (1980, 1, 1, 0, 0, 0)  # the first that a ZIP can hold, so bytes repeat
MOVE, LINE, CLOSE = (
    0,
    1,
    4,
)  # segments of a path, as java.awt.geom.PathIterator has them
LARGEST_ROI_PX = 32_767  # ImageJ's ROIs have coordinates of 16 bits, signed
Numbered = tuple[int, "shapely.Geometry"]


def outlines(
    instances: np.ndarray, origin: tuple[int, int] = (0, 0)
) -> Iterator[Numbered]:
    """Yields the number and the outline of each object.

    Args:
      instances: integer [H, W], 0 is background.
      origin: of this part in the image: row and column.

    Yields:
      A number, and a Polygon or, of an object in pieces, a MultiPolygon. Outer rings
      run the other way round than holes.
    """
    import shapely

    numbers, boxes = bounding_boxes(instances)
    for number, (top, left, bottom, right) in zip(numbers, boxes, strict=True):
        inside = instances[top:bottom, left:right] == number
        edges = np.diff(inside.astype(np.int8), axis=1, prepend=0, append=0)
        rows, starts = np.nonzero(edges > 0)
        _, ends = np.nonzero(edges < 0)  # in reading order, as the starts are
        above, before = top + origin[0] + rows, left + origin[1]
        runs = shapely.box(before + starts, above, before + ends, above + 1)
        yield int(number), joined(runs)


def joined(parts: "Sequence[shapely.Geometry] | np.ndarray") -> "shapely.Geometry":
    """One outline of an object's parts, without points on straight lines."""
    import shapely

    merged = shapely.simplify(shapely.union_all(parts), 0)
    return shapely.orient_polygons(shapely.normalize(merged))


def geojson(objects: Iterable[Numbered]) -> Iterator[bytes]:
    """Objects as a GeoJSON FeatureCollection of QuPath's detections, piece by piece.

    QuPath's schema: https://qupath.readthedocs.io/en/stable/docs/advanced/exporting_annotations.html
    """
    import shapely

    yield b'{"type":"FeatureCollection","features":['
    between = b""
    for number, outline in objects:
        feature = {
            "type": "Feature",
            "geometry": json.loads(shapely.to_geojson(outline)),
            "properties": {"objectType": "detection", "name": str(number)},
        }
        yield between + json.dumps(feature, separators=(",", ":")).encode()
        between = b","
    yield b"]}"


def write_rois(
    file: IO[bytes], objects: Iterable[Numbered], page: int | None = None
) -> None:
    """Writes objects as a ZIP of ImageJ's ROIs, for its ROI Manager.

    A polygon each; with holes or in pieces, a composite.

    Args:
      file: takes the ZIP.
      objects: numbers and outlines.
      page: of a stack, from 0; None of a single image.
    """
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for number, outline in objects:
            entry = zipfile.ZipInfo(f"{number:06d}.roi", ZIP_TIME)
            archive.writestr(entry, _roi(f"{number}", outline, page))


def _roi(name: str, outline: "shapely.Geometry", page: int | None) -> bytes:
    import shapely
    from roifile import ROI_TYPE, ImagejRoi

    polygons = shapely.get_parts(outline).tolist()
    rings = [ring for p in polygons for ring in (p.exterior, *p.interiors)]
    points = [np.asarray(ring.coords, np.int32)[:-1] for ring in rings]
    roi = ImagejRoi.frompoints(np.concatenate(points), name=name, position=page)
    roi.roitype = ROI_TYPE.POLYGON
    if len(points) > 1:
        path = [value for ring in points for value in _path(ring)]
        roi.roitype = ROI_TYPE.RECT  # as ImageJ marks what has a path
        roi.multi_coordinates = np.array(path, np.float32)
        roi.shape_roi_size = len(path)
        roi.n_coordinates, roi.integer_coordinates = 0, None
    return roi.tobytes()


def _path(ring: np.ndarray) -> Iterator[float]:
    for index, (x, y) in enumerate(ring.tolist()):
        yield from (LINE if index else MOVE, x, y)
    yield CLOSE
