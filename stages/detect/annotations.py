"""Photos and their garments as training data, and what is wrong with them; :mod:`stages.detect.coco` reads them."""

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


class Kind(StrEnum):
    """The kinds of problem, each by the heading that it is listed under."""

    PHOTO_RECORD = "image records that cannot be used"
    PHOTO_ID = "image ids used twice"
    PHOTO_TWICE = "photos with several image records"
    PHOTO_ASTRAY = "file names that leave the photos folder"
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
    MASK_MALFORMED = "segmentations that cannot be used"
    MASK_EMPTY = "segmentations without a pixel"
    MASK_ASTRAY = "segmentations apart from their box"


@dataclass(frozen=True, slots=True)
class Instance:
    """One garment: ``label`` counts from 1; ``rle`` are COCO's compressed run lengths over the whole photo.

    ``box`` lies within the photo, and is around the mask where the file gives none. ``type`` is the type of article, such
    as "jeans", where the annotation names one.
    """

    label: int
    box: Corners
    rle: bytes | None = None
    type: str = ""

    @property
    def has_mask(self) -> bool:
        """Whether its outline is known, not its box alone."""
        return self.rle is not None


def mask_of(instance: Instance, height: int, width: int) -> NDArray[np.uint8]:
    """The mask of an instance of a photo of this size, ``(height, width)`` uint8 of 0 and 1.

    Where there is a box alone, the box is filled.

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
    """A photo, its size in pixels, upright, and its garments; ``file_name`` is relative to the photos folder."""

    id: int
    file_name: str
    width: int
    height: int
    instances: tuple[Instance, ...] = ()

    def masks(self) -> NDArray[np.uint8]:
        """``(n, height, width)`` uint8 of 0 and 1, one per instance."""
        masks = np.zeros((len(self.instances), self.height, self.width), np.uint8)
        for mask, instance in zip(masks, self.instances, strict=True):
            mask[:] = mask_of(instance, self.height, self.width)
        return masks


@dataclass(frozen=True, slots=True)
class Annotations:
    """What an annotation file holds: the photos that can be used, by id, and what is wrong with the rest.

    ``categories`` are the names that its category ids stand for; ``notes`` tell what is no problem, yet worth
    knowing: categories that are left out, photos without a garment.
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
        """How much can be used, what is wrong with the rest, grouped by kind, and the notes; in lines."""
        garments = sum(1 for _ in self.instances)
        usable = f"{plural(garments, 'garment')} in {plural(len(self.photos), 'photo')}"
        return described(self.source, usable, Kind, self.problems, self.notes)

    def raise_on_problems(self, *, skip_bad: bool = False) -> None:
        """Stop before training starts where something is wrong.

        Args:
            skip_bad: the rest, which ``photos`` holds, will do, so long as there is a garment in it.

        Raises:
            CatalogueError: there are problems, or nothing to train on; the message lists them.
        """
        if not any(photo.instances for photo in self.photos):
            raise CatalogueError(f"{self.describe()}\nThere is no garment to train on.")
        if self.problems and not skip_bad:
            raise CatalogueError(f"{self.describe()}\nMend the file, or pass --skip-bad to train on the rest.")

    def raise_on_boxes_only(self) -> None:
        """Stop before masks are learnt from garments of which the box alone is known.

        Raises:
            CatalogueError: there is such a garment.
        """
        lacking = sum(not instance.has_mask for instance in self.instances)
        if lacking:
            raise CatalogueError(
                f"{self.source}: {plural(lacking, 'garment')} with a box but no segmentation, and Mask R-CNN learns"
                " masks; train a Faster R-CNN, or leave these annotations out"
            )
