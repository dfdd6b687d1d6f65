"""Garments of annotated street photos, such as Clothing Co-Parsing: pairs of shoes, and cut-outs before other photos."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
from pycocotools import mask as coco_mask

from pipeline.benchmark.crops.data import MIN_PX, CropSet, Garment, Shot, reader
from stages.detect.annotations import AnnotatedPhoto, Annotations
from stages.detect.coco import read_annotations
from stages.errors import CatalogueError
from stages.images import read_photo
from stages.types import LABELS, Box, Detection, Image

SHOES: Final = "shoes"
CUTOUTS: Final = "cutouts"
ALIKE: Final = 1 / 3
"""Two pieces are a pair of shoes where the smaller has so much of the larger one's area at least."""


def read(annotations: Path, photos: Path, most: int, seed: int = 0) -> tuple[Annotations, list[AnnotatedPhoto]]:
    """A COCO file, and so many of its photos, drawn by the seed, in their order.

    Raises:
        CatalogueError: it is no COCO instances file, or has fewer than three photos with a mask.
    """
    found = read_annotations(annotations, photos)
    usable = [photo for photo in found.photos if any(one.has_mask for one in photo.instances)]
    if len(usable) < 3:
        raise CatalogueError(f"{annotations} has {len(usable)} photos with masks; comparing crops needs at least 3")
    drawn = np.random.default_rng([seed, 11]).permutation(len(usable))[:most]
    return found, [usable[place] for place in sorted(drawn.tolist())]


def shoe_pairs(annotations: Path, photos: Path, most: int = 1000, seed: int = 0) -> CropSet:
    """A shoe finds the other of its pair among all shoes.

    Raises:
        CatalogueError: as :func:`read`.
    """
    found, chosen = read(annotations, photos, most, seed)
    shots = []
    for photo in chosen:
        shoes = [truth for truth in truths(photo) if truth.label == "shoes"]
        areas = sorted(int(shoe.mask.sum()) for shoe in shoes if shoe.mask is not None)
        pair = len(shoes) == 2 and areas[0] >= ALIKE * areas[1]
        garments = tuple(
            Garment(f"{photo.id}" if pair else f"{photo.id}/{place}", "shoes", shoe, asks=pair, unit=str(photo.id))
            for place, shoe in enumerate(shoes)
        )
        if garments:
            shots.append(Shot(photo.file_name, reader(str(photos / photo.file_name)), garments))
    return CropSet(
        SHOES,
        "the left shoe finds the right shoe of the same person among all shoes, and the right one the left",
        shots,
        whole=False,
        notes=(*found.notes, "shoes of a pair share a photo, and so a ground: a box has that to go by, a mask has not"),
        problems=tuple(map(str, found.problems)),
    )


def cutouts(annotations: Path, photos: Path, most: int = 120, seed: int = 0) -> CropSet:
    """A garment that is cut out and set before another photo finds itself in its own.

    Args:
        annotations: a COCO file with masks.
        photos: the folder of its photos.
        most: garments that ask.
        seed: of which they are.

    Raises:
        CatalogueError: as :func:`read`.
    """
    found, chosen = read(annotations, photos, 1 << 30, seed)
    every = [(place, number, truth) for place, photo in enumerate(chosen) for number, truth in enumerate(truths(photo))]
    drawn = sorted(np.random.default_rng([seed, 12]).permutation(len(every))[:most].tolist())
    asking, originals = [], {place: list[Garment]() for place in range(len(chosen))}
    for place, number, truth in (every[one] for one in drawn):
        photo, other = chosen[place], chosen[(place + 2) % len(chosen)]
        item = f"{photo.id}/{truth.label}-{number}"
        unit = str(photo.id)
        originals[place].append(Garment(item, truth.label, truth, asks=False, unit=unit))
        own, behind = photos / photo.file_name, photos / other.file_name
        ask = Garment(item, truth.label, truth, found=False, unit=unit)
        asking.append(Shot(f"{item} before {other.file_name}", _Composed(own, truth, behind), (ask,)))
    gallery = [
        Shot(chosen[place].file_name, reader(str(photos / chosen[place].file_name)), tuple(garments))
        for place, garments in originals.items()
        if garments
    ]
    about = "a garment that is cut out and set before another photo's background finds itself in its own photo"
    return CropSet(CUTOUTS, about, [*asking, *gallery], notes=found.notes, problems=tuple(map(str, found.problems)))


class _Composed:
    """Reads a garment set before another photo."""

    def __init__(self, own: Path, truth: Detection, behind: Path) -> None:
        self._own, self._truth, self._behind = own, truth, behind

    def __call__(self) -> Image:
        return set_before(read_photo(self._own).image, self._truth, read_photo(self._behind).image)


def set_before(image: Image, garment: Detection, behind: Image) -> Image:
    """A photo of the same size in which nothing is left but the garment, at its place.

    Behind it are the sides of another photo, where people seldom stand: the outer quarters of its width, mirrored
    until they fill the photo.
    """
    height, width = image.shape[:2]
    quarter = max(1, behind.shape[1] // 4)
    sides = np.concatenate([behind[:, :quarter], behind[:, -quarter:]], axis=1)
    high, wide = max(0, height - sides.shape[0]), max(0, width - sides.shape[1])
    composed = np.pad(sides, ((0, high), (0, wide), (0, 0)), mode="symmetric")[:height, :width].copy()
    part = composed[garment.box.slices]
    part[garment.mask] = image[garment.box.slices][garment.mask]
    return composed


def truths(photo: AnnotatedPhoto) -> Iterator[Detection]:
    """The garments of a photo that have a mask and are not tiny."""
    for instance in photo.instances:
        box = Box.clipped(*instance.box, photo.width, photo.height)
        if instance.rle is None or box is None or min(box.width, box.height) < MIN_PX:
            continue
        dense = coco_mask.decode({"size": [photo.height, photo.width], "counts": instance.rle})
        mask = dense[box.slices].astype(np.bool_)
        if mask.any():
            yield Detection(LABELS[instance.label - 1], 1.0, box, mask)
