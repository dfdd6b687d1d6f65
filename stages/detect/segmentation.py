"""COCO's polygons and run lengths as one kind of mask, checked before C code sees them.

pycocotools trusts its input: of run lengths that do not add up it leaves pixels unset, an unfinished string is
read past its end, and a far corner of a polygon takes memory for every pixel on the way.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from stages.detect.annotation_checks import SLACK_PX, Fault, numbers, printable
from stages.detect.annotations import Corners, Kind

_MAX_CHARACTERS = 6  # of one run length: 30 bits, more pixels than any photo has


def to_rle(segmentation: object, height: int, width: int) -> bytes:
    """A segmentation of a photo as COCO's compressed run lengths, the ``counts`` of its RLE.

    Args:
        segmentation: polygons ``[[x1, y1, x2, y2, x3, y3, …], …]``, or ``{"size": [height, width], "counts": …}``
            with run lengths as a list or compressed.
        height: of the photo, in pixels.
        width: of the photo, in pixels.

    Raises:
        Fault: it is none of these, or does not fit the photo.

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
    """The corners of the smallest box around a mask; None where it has no pixel."""
    whole = {"size": [height, width], "counts": rle}
    if not coco_mask.area(whole):
        return None
    x, y, wide, high = map(float, coco_mask.toBbox(whole))
    return x, y, x + wide, y + high


def _malformed(what: str) -> Fault:
    return Fault(Kind.MASK_MALFORMED, f"segmentation {what}")


def _counts(rle: dict[str, bytes]) -> bytes:
    return rle["counts"]


def _check_runs(runs: list[int], pixels: int) -> None:
    if min(runs, default=0) < 0:
        raise _malformed(f"has a run of {printable(min(runs))} pixels")
    if sum(runs) != pixels:
        raise _malformed(f"has runs of {printable(sum(runs))} pixels in all, its photo has {pixels}")


def _decompress(counts: str) -> NDArray[np.int64]:
    """The run lengths in a string of COCO's: per character five bits, lowest first, and whether more follow.

    From the fourth on they are differences from the last but one.

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
    reach = float(np.maximum(-points, points - (width, height)).max())
    if not reach <= SLACK_PX:  # NaN included
        raise _malformed(f"has a polygon that reaches {reach:.4g} px out of the {width}x{height} photo")
    if np.abs(np.diff(points, axis=0, append=points[:1])).sum() > 4 * (height + 2) * (width + 2):
        raise _malformed("has a polygon whose outline is longer than its photo has pixels")
    return values
