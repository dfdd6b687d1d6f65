"""COCO segmentations (polygons and run lengths), validated before pycocotools reads them.

pycocotools trusts its input: it leaves pixels unset when run lengths do not add up, reads past the end of an
unfinished string, and allocates memory for every pixel on the way to a far corner of a polygon.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from stages.detect.annotations import AnnotationError, AnnotationIssue, Corners
from stages.problems import printable

SLACK_PX: Final = 1.0
"""How far a box or a polygon may reach out of its photo: annotation tools round."""

_MAX_CHARACTERS = 6  # per run length: 30 bits, more pixels than any photo has


FRACTIONS: Final = "lies within one pixel; COCO's coordinates are pixels, not fractions of the photo"


def numbers(values: object) -> list[float] | None:
    """Return a list of numbers as floats, NaN where one is infinite or absurd; None if it is not such a list."""
    if not isinstance(values, list) or not set(map(type, values)) <= {int, float}:
        return None
    return [float(value) if abs(value) < 1e300 else math.nan for value in values]


def are_fractions(values: list[float], width: int, height: int) -> bool:
    """Whether coordinates are all between 0 and 1 in a photo that is larger than that."""
    return min(width, height) > 2 and all(0 <= value <= 1 for value in values)


def to_rle(segmentation: object, height: int, width: int) -> bytes:
    """Return a segmentation as COCO's compressed run lengths, the ``counts`` of its RLE.

    Args:
        segmentation: polygons ``[[x1, y1, x2, y2, x3, y3, …], …]``, or ``{"size": [height, width], "counts": …}``
            with run lengths as a list or compressed.
        height: of the photo, in pixels.
        width: of the photo, in pixels.

    Raises:
        AnnotationError: it is none of these, or does not fit the photo.

    >>> to_rle({"size": [2, 3], "counts": [2, 2, 2]}, height=2, width=3)
    b'222'
    """
    if isinstance(segmentation, list):
        return _from_polygons(segmentation, height, width)
    if not isinstance(segmentation, dict):
        raise _malformed(f"is neither polygons nor run lengths, but {printable(segmentation)}")
    size, counts = segmentation.get("size"), segmentation.get("counts")
    if size != [height, width]:
        raise _malformed(f"has the size {printable(size)}, its photo [height, width] has [{height}, {width}]")
    if isinstance(counts, str):
        _check_runs(_decompress(counts).tolist(), height * width)
        return counts.encode()
    if not isinstance(counts, list) or not set(map(type, counts)) <= {int}:
        raise _malformed(f"has counts that are no run lengths: {printable(counts)}")
    _check_runs(counts, height * width)
    return _counts(coco_mask.frPyObjects({"size": [height, width], "counts": counts}, height, width))


def extent(rle: bytes, height: int, width: int) -> Corners | None:
    """Return the smallest box around a mask, or None if it has no pixel."""
    whole = {"size": [height, width], "counts": rle}
    if not coco_mask.area(whole):
        return None
    x, y, wide, high = map(float, coco_mask.toBbox(whole))
    return x, y, x + wide, y + high


def _malformed(what: str) -> AnnotationError:
    return AnnotationError(AnnotationIssue.MASK_MALFORMED, f"segmentation {what}")


def _counts(rle: dict[str, bytes]) -> bytes:
    return rle["counts"]


def _check_runs(runs: list[int], pixels: int) -> None:
    if min(runs, default=0) < 0:
        raise _malformed(f"has a run of {printable(min(runs))} pixels")
    if sum(runs) != pixels:
        raise _malformed(f"has runs of {printable(sum(runs))} pixels in all, its photo has {pixels}")


def _decompress(counts: str) -> NDArray[np.int64]:
    """Return the run lengths in a compressed string: five bits per character, lowest first, and whether more follow.

    From the fourth on, they are differences from the last but one.

    >>> _decompress("52203").tolist()
    [5, 2, 2, 2, 5]
    """
    digits = np.frombuffer(counts.encode("utf-8", "backslashreplace"), np.uint8).astype(np.int64) - ord("0")
    last = digits & 0x20 == 0
    if not digits.size or digits.min() < 0 or digits.max() > 0x3F or not last[-1] or not counts.isascii():
        raise _malformed(f"is no string of run lengths: {printable(counts)}")
    ends = np.flatnonzero(last) + 1
    lengths = np.diff(ends, prepend=0)
    if lengths.max() > _MAX_CHARACTERS:
        raise _malformed(f"has a run length of {lengths.max()} characters, more than any photo needs")
    starts = ends - lengths
    shifts = 5 * (np.arange(digits.size) - np.repeat(starts, lengths))
    runs = np.add.reduceat((digits & 0x1F) << shifts, starts)
    runs -= ((digits[ends - 1] & 0x10) >> 4) << (5 * lengths)  # the sign
    runs[1::2] = runs[1::2].cumsum()
    runs[2::2] = runs[2::2].cumsum()
    return runs


def _from_polygons(polygons: list[object], height: int, width: int) -> bytes:
    if numbers(polygons) is not None:
        raise _malformed("is a list of numbers; wanted a list of polygons, [[x1, y1, x2, y2, x3, y3, …], …]")
    points = [_points(polygon, height, width) for polygon in polygons]
    return _counts(coco_mask.merge(coco_mask.frPyObjects(points, height, width)))


def _points(polygon: object, height: int, width: int) -> list[float]:
    values = numbers(polygon)
    if values is None:
        raise _malformed(f"has a polygon that is no list of numbers: {printable(polygon)}")
    if len(values) % 2:
        raise _malformed(f"has a polygon of {len(values)} numbers, an odd count; they are x1, y1, x2, y2, …")
    if len(values) < 6:
        raise _malformed(f"has a polygon of {len(values) // 2} points; it takes 3")
    points = np.array(values).reshape(-1, 2)
    if are_fractions(values, width, height):
        raise AnnotationError(AnnotationIssue.FRACTIONS, f"polygon {printable(values)} {FRACTIONS}")
    reach = float(np.maximum(-points, points - (width, height)).max())
    if not reach <= SLACK_PX:  # NaN included
        raise _malformed(f"has a polygon that reaches {reach:.4g} px out of the {width}x{height} photo")
    if np.abs(np.diff(points, axis=0, append=points[:1])).sum() > 4 * (height + 2) * (width + 2):
        raise _malformed("has a polygon whose outline is longer than its photo has pixels")
    return values
