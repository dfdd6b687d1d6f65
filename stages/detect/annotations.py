"""Annotated photos: garments with a label, a box and an optional mask; :mod:`stages.detect.coco` reads them from files.

Segmentations are validated before they reach pycocotools, which trusts its input: it leaves pixels unset when run lengths do
not add up, reads past the end of an unfinished string, and allocates memory up to the far corners of a polygon.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from stages.errors import CatalogueError
from stages.problems import Problem, brief, described, plural
from stages.types import Box

Corners = tuple[float, float, float, float]
"""``(x1, y1, x2, y2)`` in pixels of the photo, not rounded."""

SLACK_PX: Final = 1.0
"""How far a box or a polygon may reach out of its photo, since annotation tools round coordinates."""

FRACTIONS: Final = "lies within one pixel; COCO's coordinates are pixels, not fractions of the photo"

_MAX_CHARACTERS: Final = 6  # per run length: 30 bits, more pixels than any photo has


class Issue(StrEnum):
    """Kinds of problem in an annotation file; the value is the heading of their list."""

    PHOTO_RECORD = "image records that cannot be used"
    PHOTO_ID = "image ids used twice"
    PHOTO_TWICE = "photos with several image records"
    PHOTO_OUTSIDE = "file names outside the photos folder"
    PHOTO_MISSING = "photos that are missing"
    PHOTO_UNREADABLE = "photos that cannot be read"
    PHOTO_SIZE = "photos of another size than recorded"
    CATEGORY = "category records that cannot be used"
    RECORD = "annotation records that cannot be used"
    ID = "annotation ids used twice"
    UNKNOWN_PHOTO = "annotations of unknown images"
    UNKNOWN_CATEGORY = "annotations of unknown categories"
    BOX_MALFORMED = "boxes that are not four numbers"
    BOX_EMPTY = "empty boxes"
    BOX_OUTSIDE = "boxes out of range"
    BOX_CORNERS = "boxes that look like corners"
    FRACTIONS = "coordinates between 0 and 1"
    PERCENTAGES = "coordinates that look like percentages"
    MASK_MALFORMED = "segmentations that cannot be used"
    MASK_EMPTY = "segmentations without a pixel"
    MASK_OUTSIDE = "segmentations outside their box"


class AnnotationError(CatalogueError):
    """A record that cannot be used; the message does not name the record."""

    def __init__(self, kind: Issue, what: str) -> None:
        super().__init__(what)
        self.kind = kind

    def at(self, where: str) -> Problem:
        """Return this error as the problem of the record at ``where``."""
        return Problem(self.kind, where, str(self))


@dataclass(frozen=True, slots=True)
class Instance:
    """One garment of a photo.

    Attributes:
        label: the class, from 1.
        box: within the photo; that of the mask where the file gives no box.
        rle: COCO's compressed run lengths over the whole photo, or None if only the box is known.
        type: the article type, such as ``jeans``, or empty.
    """

    label: int
    box: Corners
    rle: bytes | None = None
    type: str = ""

    @property
    def has_mask(self) -> bool:
        """Whether its mask is known."""
        return self.rle is not None


def mask_of(instance: Instance, height: int, width: int) -> NDArray[np.uint8]:
    """Return the mask of an instance, ``(height, width)`` uint8 of 0 and 1; its filled box if it has no mask.

    >>> mask_of(Instance(label=1, box=(1.0, 0.0, 3.0, 1.0)), height=2, width=4).tolist()
    [[0, 1, 1, 0], [0, 0, 0, 0]]
    """
    mask: NDArray[np.uint8]
    if instance.rle is not None:
        mask = coco_mask.decode({"size": [height, width], "counts": instance.rle})
        return mask
    mask = np.zeros((height, width), np.uint8)
    if box := Box.clipped(*instance.box, width=width, height=height):
        mask[box.slices] = 1
    return mask


@dataclass(frozen=True, slots=True)
class AnnotatedPhoto:
    """A photo with its garments; the size is that of the upright photo, ``file_name`` is relative to the photos folder."""

    id: int
    file_name: str
    width: int
    height: int
    instances: tuple[Instance, ...] = ()

    def masks(self) -> NDArray[np.uint8]:
        """Return the masks of all instances, ``(n, height, width)`` uint8 of 0 and 1."""
        masks = np.zeros((len(self.instances), self.height, self.width), np.uint8)
        for mask, instance in zip(masks, self.instances, strict=True):
            mask[:] = mask_of(instance, self.height, self.width)
        return masks


@dataclass(frozen=True, slots=True)
class Annotations:
    """The usable photos of an annotation file, sorted by id, and the problems of the other records.

    ``categories`` maps the file's category ids to names; ``notes`` are remarks that are not problems.
    """

    source: Path
    photos: tuple[AnnotatedPhoto, ...]
    categories: dict[int, str]
    problems: tuple[Problem, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def instances(self) -> Iterator[Instance]:
        """The garments of all photos."""
        return (instance for photo in self.photos for instance in photo.instances)

    def describe(self) -> str:
        """Return as text how much can be used, the problems by kind, and the notes."""
        garments = sum(1 for _ in self.instances)
        usable = f"{plural(garments, 'garment')} in {plural(len(self.photos), 'photo')}"
        return described(self.source, usable, self.problems, self.notes)

    def raise_on_problems(self, *, skip_bad: bool = False) -> None:
        """Raise a CatalogueError that lists the problems, if there are any or no garment is left.

        With ``skip_bad`` problems are accepted.
        """
        if not any(photo.instances for photo in self.photos):
            raise CatalogueError(f"{self.describe()}\nThere is no garment to train on.")
        if self.problems and not skip_bad:
            raise CatalogueError(f"{self.describe()}\nFix the file, or pass --skip-bad to train on the rest.")

    def raise_on_boxes_only(self) -> None:
        """Raise a CatalogueError if a garment has no mask, which Mask R-CNN needs."""
        without = sum(not instance.has_mask for instance in self.instances)
        if without:
            raise CatalogueError(
                f"{self.source}: {plural(without, 'garment')} with a box but no segmentation, which Mask R-CNN needs;"
                " train a Faster R-CNN, or leave these annotations out"
            )


def numbers(values: object) -> list[float] | None:
    """Return a list of numbers as floats, NaN in place of infinite and absurdly large ones; None for anything else."""
    if not isinstance(values, list) or not set(map(type, values)) <= {int, float}:
        return None
    return [float(value) if abs(value) < 1e300 else math.nan for value in values]


def are_fractions(values: list[float], width: int, height: int) -> bool:
    """Return whether all coordinates are between 0 and 1, although the photo has more pixels than that."""
    return min(width, height) > 2 and all(0 <= value <= 1 for value in values)


def to_rle(segmentation: object, height: int, width: int) -> bytes:
    """Return a segmentation of a photo as COCO's compressed run lengths, the ``counts`` of its RLE.

    A segmentation is a list of polygons ``[[x1, y1, x2, y2, x3, y3, …], …]``, or ``{"size": [height, width], "counts": …}``
    with run lengths as a list or compressed.

    Raises:
        AnnotationError: it is neither, or does not fit the photo.

    >>> to_rle({"size": [2, 3], "counts": [2, 2, 2]}, height=2, width=3)
    b'222'
    """
    if isinstance(segmentation, list):
        return _from_polygons(segmentation, height, width)
    if not isinstance(segmentation, dict):
        raise _malformed(f"is neither polygons nor run lengths, but {brief(segmentation)}")
    size, counts = segmentation.get("size"), segmentation.get("counts")
    if size != [height, width]:
        raise _malformed(f"has the size {brief(size)}, its photo [height, width] has [{height}, {width}]")
    if isinstance(counts, str):
        _check_runs(_decompress(counts).tolist(), height * width)
        return counts.encode()
    if not isinstance(counts, list) or not set(map(type, counts)) <= {int}:
        raise _malformed(f"has counts that are no run lengths: {brief(counts)}")
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
    return AnnotationError(Issue.MASK_MALFORMED, f"segmentation {what}")


def _counts(rle: dict[str, bytes]) -> bytes:
    return rle["counts"]


def _check_runs(runs: list[int], pixels: int) -> None:
    if min(runs, default=0) < 0:
        raise _malformed(f"has a run of {brief(min(runs))} pixels")
    if sum(runs) != pixels:
        raise _malformed(f"has runs of {brief(sum(runs))} pixels in all, its photo has {pixels}")


def _decompress(counts: str) -> NDArray[np.int64]:
    """Return the run lengths in a compressed string.

    Each character holds five bits, lowest first, and a flag that more follow. From the fourth run on, a number is the
    difference from the run before the last.

    >>> _decompress("52203").tolist()
    [5, 2, 2, 2, 5]
    """
    digits = np.frombuffer(counts.encode("utf-8", "backslashreplace"), np.uint8).astype(np.int64) - ord("0")
    last = digits & 0x20 == 0
    if not digits.size or digits.min() < 0 or digits.max() > 0x3F or not last[-1] or not counts.isascii():
        raise _malformed(f"is no string of run lengths: {brief(counts)}")
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
        raise _malformed(f"has a polygon that is no list of numbers: {brief(polygon)}")
    if len(values) % 2:
        raise _malformed(f"has a polygon of {len(values)} numbers, an odd count; they are x1, y1, x2, y2, …")
    if len(values) < 6:
        raise _malformed(f"has a polygon of {len(values) // 2} points; it takes 3")
    points = np.array(values).reshape(-1, 2)
    if are_fractions(values, width, height):
        raise AnnotationError(Issue.FRACTIONS, f"polygon {brief(values)} {FRACTIONS}")
    reach = float(np.maximum(-points, points - (width, height)).max())
    if not reach <= SLACK_PX:  # NaN included
        raise _malformed(f"has a polygon that reaches {reach:.4g} px out of the {width}x{height} photo")
    if np.abs(np.diff(points, axis=0, append=points[:1])).sum() > 4 * (height + 2) * (width + 2):
        raise _malformed("has a polygon whose outline is longer than its photo has pixels")
    return values
