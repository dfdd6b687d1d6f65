"""Annotated photos: garments with a label, a box and perhaps a mask. :mod:`stages.detect.coco` reads them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from stages.errors import CatalogueError
from stages.problems import Problem, described, plural
from stages.types import Box

Corners = tuple[float, float, float, float]
"""``(x1, y1, x2, y2)`` in pixels of the photo, not rounded."""


class AnnotationIssue(StrEnum):
    """Kinds of problem in an annotation file; each value is the heading that its problems are listed under."""

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
    MASK_MALFORMED = "segmentations that cannot be used"
    MASK_EMPTY = "segmentations without a pixel"
    MASK_OUTSIDE = "segmentations outside their box"


class AnnotationError(CatalogueError):
    """One record that cannot be used; the message names no record."""

    def __init__(self, kind: AnnotationIssue, what: str) -> None:
        super().__init__(what)
        self.kind = kind

    def at(self, where: str) -> Problem:
        """Return this error as the problem of a record."""
        return Problem(self.kind, where, str(self))


@dataclass(frozen=True, slots=True)
class Instance:
    """One garment of a photo.

    Attributes:
        label: its class, from 1.
        box: within the photo; around the mask where the file gives no box.
        rle: COCO's compressed run lengths over the whole photo, or None if only the box is known.
        type: the type of article, such as ``jeans``, if the annotation names one.
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
    """Return the mask of an instance, ``(height, width)`` uint8 of 0 and 1; a filled box if it has no mask.

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
    """A photo with its garments; sizes are pixels of the upright photo, ``file_name`` is relative to the photos folder."""

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
    """The usable photos of an annotation file, sorted by id, and the problems of the rest.

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
        """Return how much can be used, the problems by kind, and the notes, in lines."""
        garments = sum(1 for _ in self.instances)
        usable = f"{plural(garments, 'garment')} in {plural(len(self.photos), 'photo')}"
        return described(self.source, usable, self.problems, self.notes)

    def raise_on_problems(self, *, skip_bad: bool = False) -> None:
        """Raise if the file has problems or no garment.

        Args:
            skip_bad: accept problems as long as a garment is left.

        Raises:
            CatalogueError: the message lists the problems.
        """
        if not any(photo.instances for photo in self.photos):
            raise CatalogueError(f"{self.describe()}\nThere is no garment to train on.")
        if self.problems and not skip_bad:
            raise CatalogueError(f"{self.describe()}\nFix the file, or pass --skip-bad to train on the rest.")

    def raise_on_boxes_only(self) -> None:
        """Raise if a garment has no mask, which Mask R-CNN needs.

        Raises:
            CatalogueError: there is such a garment.
        """
        without = sum(not instance.has_mask for instance in self.instances)
        if without:
            raise CatalogueError(
                f"{self.source}: {plural(without, 'garment')} with a box but no segmentation, which Mask R-CNN needs;"
                " train a Faster R-CNN, or leave these annotations out"
            )
