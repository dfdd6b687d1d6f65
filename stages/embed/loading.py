"""The pixels of a photo set: garments cut out of their photos, all made small and kept in memory."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
from pycocotools import mask as coco_mask

from stages.embed.items import Cut, Kind, PhotoSet, Sample
from stages.embed.trimming import trimmed
from stages.errors import ImageError
from stages.images import enough_px, read_photo
from stages.problems import Problem
from stages.types import Image

KEPT_PX = 256
"""The long side that photos are kept in memory at."""

_THREADS = 2


@dataclass(frozen=True, slots=True, eq=False)
class Item:
    """One thing, in one colour: its photos are positives of each other.

    ``style`` is shared by all colours of the thing; ``source`` by items whose photos share a ground, so that
    the ground does not tell them apart; ``domains`` has one name per photo, or none.
    """

    kind: str
    style: str
    colour: str
    source: str
    photos: tuple[Image, ...]
    label: str = ""
    domains: tuple[str, ...] = ()

    @property
    def identity(self) -> tuple[str, str]:
        """What makes it one item: the style and the colour."""
        return self.style, self.colour


def read_sample(sample: Sample, at_least_px: int | None = None) -> Image:
    """The pixels of one sample; a photo that is not cut may come reduced, its long side at least so long.

    Raises:
        ImageError: its photo, or the one that is to be behind it, cannot be read.
    """
    if sample.cut is None:
        return read_photo(sample.path, at_least_px).image
    return cut_out(read_photo(sample.path).image, sample.cut)


def load(photos: PhotoSet, keep_px: int = KEPT_PX, *, trim: bool = False) -> tuple[PhotoSet, list[Image]]:
    """All pixels, the long side at most ``keep_px``; what cannot be read is left out, and is a problem of the set.

    A photo of which several garments are cut is decoded once. With ``trim`` the white around what a photo shows is cut
    away before it is made small, see :func:`~stages.embed.trimming.trimmed`: so more is kept of the thing itself.
    """
    by_path: defaultdict[Path, list[int]] = defaultdict(list)
    for place, sample in enumerate(photos.samples):
        by_path[sample.path].append(place)

    def read(places: list[int]) -> list[Image] | str:
        try:
            return list(_read_together([photos.samples[place] for place in places], keep_px, trim=trim))
        except ImageError as error:
            return str(error)

    images: dict[int, Image] = {}
    problems: list[Problem] = []
    with ThreadPoolExecutor(_THREADS) as pool:
        for (path, places), found in zip(by_path.items(), pool.map(read, by_path.values()), strict=True):
            if isinstance(found, str):
                problems.append(Problem(Kind.UNREADABLE, str(path), found))
            else:
                images |= zip(places, found, strict=True)
    kept = sorted(images)
    left = replace(
        photos,
        samples=tuple(photos.samples[place] for place in kept),
        problems=(*photos.problems, *problems),
    )
    return left, [images[place] for place in kept]


def items_of(photos: PhotoSet, images: Sequence[Image]) -> list[Item]:
    """A loaded set as items in memory, in order; styles of different sets never meet."""
    groups: defaultdict[str, list[int]] = defaultdict(list)
    for place, sample in enumerate(photos.samples):
        groups[sample.item].append(place)
    items = []
    for places in groups.values():
        samples = [photos.samples[place] for place in places]
        first = samples[0]
        colour = first.item.removeprefix(f"{first.style}-") if first.style else ""
        domains = tuple(sample.domain for sample in samples)
        items.append(
            Item(
                photos.name.partition(",")[0],
                f"{photos.name.partition(',')[0]}/{first.thing}",
                colour,
                first.source,
                tuple(images[place] for place in places),
                first.label,
                domains if any(domains) else (),
            )
        )
    return items


def in_memory(photos: PhotoSet, keep_px: int = KEPT_PX, *, trim: bool = False) -> list[Item]:
    """A set that is as it should be, loaded as items; see :func:`load`.

    Raises:
        ImageError: a photo cannot be read.
    """
    loaded, images = load(photos, keep_px, trim=trim)
    if bad := loaded.problems[len(photos.problems) :]:
        raise ImageError(str(bad[0]))
    return items_of(loaded, images)


def cut_out(image: Image, cut: Cut) -> Image:
    """A garment out of its full-size photo.

    Raises:
        ImageError: the box reaches out of the photo, or the other ground cannot be read.
    """
    height, width, _ = image.shape
    if cut.box.x2 > width or cut.box.y2 > height:
        raise ImageError(f"is {width}x{height}, too small for the box {cut.box.corners}; is it the annotated photo?")
    pixels = image[cut.box.slices]
    if cut.ground == "own" or cut.rle is None:
        return np.ascontiguousarray(pixels)
    mask = coco_mask.decode({"size": [height, width], "counts": cut.rle})[cut.box.slices].astype(np.bool_)
    if isinstance(cut.ground, Path):
        return np.where(mask[..., None], pixels, _behind(cut.ground, *pixels.shape[:2]))
    return np.where(mask[..., None], pixels, np.uint8(255))


def small(image: Image, keep_px: int = KEPT_PX) -> Image:
    """The image with its long side at most so long."""
    height, width = image.shape[:2]
    scale = keep_px / max(height, width)
    if scale >= 1:
        return np.ascontiguousarray(image)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)


def _read_together(samples: Sequence[Sample], keep_px: int, *, trim: bool) -> Iterator[Image]:
    """The samples of one photo."""
    cuts = [sample.cut for sample in samples]
    at_least_px = enough_px(keep_px) if trim else keep_px
    image = read_photo(samples[0].path, at_least_px if not any(cuts) else None).image
    for cut in cuts:
        pixels = cut_out(image, cut) if cut else image
        yield small(trimmed(pixels) if trim else pixels, keep_px)


def _behind(path: Path, height: int, width: int) -> Image:
    """A part of another photo: the top of its left third, where people seldom stand, in the shape that is wanted."""
    try:
        photo = read_photo(path).image
    except ImageError as error:
        raise ImageError(f"cannot be set before {path}: that {error}") from error
    strip = photo[:, : max(1, photo.shape[1] // 3)]
    scale = min(strip.shape[0] / height, strip.shape[1] / width)
    window = strip[: max(1, int(height * scale)), : max(1, int(width * scale))]
    return np.asarray(cv2.resize(window, (width, height), interpolation=cv2.INTER_LINEAR), np.uint8)
