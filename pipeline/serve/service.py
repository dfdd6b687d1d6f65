"""What is behind the API: photos in, garments, vectors and matches out; no HTTP here.

Photos are decoded and cut by a few threads; the networks run in one, a batch at a time; galleries are searched in another.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeVar

import numpy as np

from pipeline.gallery import Gallery
from pipeline.pipeline import sharp_crops
from pipeline.report_photo import rings
from pipeline.serve.batching import Batcher
from pipeline.serve.finding import Placed, Query, WrongQuery, find, like
from pipeline.serve.limits import Limits
from pipeline.serve.metrics import Metrics
from pipeline.serve.photos import Jpegs, Rereading, decode_upload
from pipeline.serve.shelf import Shelf
from stages.embed.calibration import Calibration
from stages.images import Photo, enough_px
from stages.protocols import Cropper, Detector, Embedder
from stages.types import WHOLE, Box, Detection, Image, Vectors

T = TypeVar("T")
R = TypeVar("R")


REGION: Final = "region"
"""The label of a box drawn by hand."""

HANDS: Final = 2
"""Threads that decode and cut."""


@dataclass(frozen=True, slots=True, eq=False)
class Way:
    """A way of cutting garments out, and the gallery that is searched by it."""

    crop: str
    cropper: Cropper
    shelf: Shelf


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """A photo as decoded, with what was found in its pixels, and where that is in the full-size photo's."""

    data: bytes
    photo: Photo
    found: Sequence[Detection]
    boxes: Sequence[Box]
    outlines: Sequence[list[list[tuple[int, int]]]]


class Service:
    """Detects, embeds and searches for many at once.

    Args:
        detector, embedder: loaded.
        ways: of cutting; the first is the default.
        limits: of photos and batches.
        metrics: are told of each stage's work.
        calibration: gives matches verdicts.
    """

    def __init__(
        self,
        detector: Detector,
        embedder: Embedder,
        ways: Sequence[Way],
        limits: Limits,
        metrics: Metrics,
        calibration: Calibration | None = None,
    ) -> None:
        self.ways = {way.crop: way for way in ways}
        self.limits, self.metrics, self.calibration = limits, metrics, calibration
        self.embedder, self.jpegs = embedder, Jpegs()
        self._enough_px = None if detector.input_px is None else max(detector.input_px, enough_px(embedder.input_px))
        self.labels = detector.labels
        self._hands = ThreadPoolExecutor(HANDS, "outfinder-hands")
        self._network = ThreadPoolExecutor(1, "outfinder-network")
        self._searching = ThreadPoolExecutor(1, "outfinder-search")
        self._detect: Batcher[Image, list[Detection]] = self._batched("detect", detector)
        self._embed: Batcher[list[Image], Vectors] = self._batched("embed", partial(_embed_each, embedder))

    @property
    def main(self) -> Way:
        """The way of cutting that is taken where none is named: the gallery's own."""
        return next(iter(self.ways.values()))

    def close(self) -> None:
        """End its threads, once what they are doing is done."""
        for pool in (self._hands, self._network, self._searching):
            pool.shutdown(cancel_futures=True)

    async def look(self, data: bytes, region: Box | None = None) -> Seen:
        """The garments of a photo, or one region of it, in pixels of the full-size photo.

        Raises:
            ImageError: it cannot be used.
            WrongQuery: the region lies outside it.
        """
        limit = self.limits.max_pixels
        photo = await self._by_hand("decode", partial(decode_upload, data, self._enough_px, limit))
        if region is not None:
            return Seen(data, photo, [_region(region, photo)], [region], [[]])
        found = await self._detect(photo.image)
        return await self._by_hand("outline", partial(_seen, data, photo, found))

    async def embed(self, data: bytes) -> Vectors:
        """``(1, dim)``: a photo as it is.

        Raises:
            ImageError: it cannot be used.
        """
        photo = await self._by_hand("decode", partial(decode_upload, data, None, self.limits.max_pixels))
        return await self._embed([photo.image])

    async def vectors(self, seen: Seen, ways: Sequence[Way]) -> list[Vectors]:
        """For each way of cutting a vector for each garment."""
        images = await self._by_hand("crop", partial(self._cut, seen, ways))
        every = await self._embed(images)
        return list(np.split(every, len(ways)))

    async def search(self, way: Way, vectors: Vectors, groups: Sequence[str], query: Query) -> list[list[Placed]]:
        """The matches of each vector.

        Args:
            way: whose gallery is searched.
            vectors: unit rows.
            groups: the garment group of each, or "" where it has none.
            query: what is wanted.

        Raises:
            WrongQuery: the filter is wrong.
            GalleryCorrupt: the gallery is damaged.
        """
        return await self.asked(
            way, partial(find, vectors=vectors, groups=groups, query=query, calibration=self.calibration)
        )

    async def more_like(self, way: Way, item: str, query: Query) -> tuple[Vectors, list[Placed]] | None:
        """The vector of an item's first photo, and items that look like any of its photos; None where it is gone."""
        return await self.asked(way, partial(like, item=item, query=query, calibration=self.calibration))

    async def asked(self, way: Way, question: Callable[[Gallery], R]) -> R:
        """A gallery's answer to a question."""
        loop = asyncio.get_running_loop()
        with self.metrics.timed("search"):
            return await loop.run_in_executor(self._searching, way.shelf.ask, question)

    async def picture(self, make: Callable[[], R]) -> R:
        """Work on a picture, done beside all else."""
        return await self._by_hand("picture", make)

    def _batched(self, stage: str, work: Callable[[list[T]], Sequence[R]]) -> Batcher[T, R]:
        def timed(batch: list[T]) -> Sequence[R]:
            with self.metrics.timed(stage):
                return work(batch)

        observe = self.metrics.batches.labels(stage).observe
        return Batcher(timed, self._network, self.limits.batch, self.limits.wait_s, observe)

    async def _by_hand(self, stage: str, work: Callable[[], R]) -> R:
        def timed() -> R:
            with self.metrics.timed(stage):
                return work()

        return await asyncio.get_running_loop().run_in_executor(self._hands, timed)

    def _cut(self, seen: Seen, ways: Sequence[Way]) -> list[Image]:
        """The crops of all garments, one way after the other."""
        read = Rereading(seen.data, self.limits.max_pixels)
        needed = self.embedder.input_px
        return [crop.image for way in ways for crop in sharp_crops(seen.photo, seen.found, way.cropper, needed, read)]


def group_of(detection: Detection) -> str:
    """The garment group of a detection; a region and a whole photo have none."""
    return "" if detection.label in (REGION, WHOLE) else detection.label


def _embed_each(embedder: Embedder, batch: list[list[Image]]) -> list[Vectors]:
    """The images of several requests, together."""
    vectors = embedder([image for images in batch for image in images])
    return np.split(vectors, np.cumsum([len(images) for images in batch])[:-1])


def _seen(data: bytes, photo: Photo, found: Sequence[Detection]) -> Seen:
    """Boxes and outlines in full-size pixels; masks stay as small as the photo was looked at."""
    height, width = photo.image.shape[:2]
    small = ([] if one.mask is None else rings(one.mask, one.box) for one in found)
    outlines = [
        [[(x * photo.width // width, y * photo.height // height) for x, y in ring] for ring in outline]
        for outline in small
    ]
    return Seen(data, photo, found, [photo.to_full(one.box) for one in found], outlines)


def _region(region: Box, photo: Photo) -> Detection:
    """A region of the full-size photo, in the pixels of the photo as decoded."""
    if region.x2 > photo.width or region.y2 > photo.height:
        raise WrongQuery(f"the box {region.corners} leaves the photo of {photo.width}x{photo.height} pixels")
    height, width = photo.image.shape[:2]
    across, down = width / photo.width, height / photo.height
    x1, y1, x2, y2 = region.corners
    box = Box.clipped(x1 * across, y1 * down, x2 * across, y2 * down, width, height)
    if box is None:
        raise WrongQuery(f"the box {region.corners} covers no pixel of the photo")
    return Detection(REGION, 1.0, box)
