"""The composition: photos → detections → crops → vectors, streamed, batched and overlapped.

Photos are decoded ahead by worker threads while the networks compute: the detector at one batch, the embedder at the
one before, so that one has work for the cores where the other has none. At most a few batches are in memory, however
many photos there are.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from pathlib import Path

import cv2
import numpy as np

from stages.cores import cores
from stages.errors import ImageError
from stages.images import Photo, enough_px, read_photo
from stages.parts import part
from stages.protocols import Cropper, Detector, Embedder
from stages.types import WHOLE, Box, Crop, Detection, Vectors

MAIN_SHARE = 0.05
"""The least part of a catalogue photo that its garment covers."""

_AHEAD = 2
"""Batches that are looked at while one is asked for: neither network waits for the other, or for who asks."""


@dataclass(frozen=True, slots=True, eq=False)
class Analysis:
    """What the pipeline found in one photo.

    ``photo`` may be decoded at a reduced scale; detections and crops are in full-size pixels. ``vectors`` has
    a row for each detection. With an ``error`` there is nothing else.
    """

    path: Path
    photo: Photo | None = None
    detections: tuple[Detection, ...] = ()
    crops: tuple[Crop, ...] = ()
    vectors: Vectors = field(default_factory=lambda: np.zeros((0, 0), np.float32))
    error: str | None = None


class Pipeline:
    """A detector, a cropper and an embedder, composed.

    Args:
        detector: finds garments.
        cropper: cuts them out; None where only detections are wanted.
        embedder: turns crops into vectors; None where only crops are wanted.
        batch_size: photos that are looked at together.
        workers: threads that decode photos ahead; None is one for each core that this process may use, at most four.
        main_garment: keep only the largest confident detection of each photo, or the whole photo where there is
            none: what a catalogue photo shows.

    Raises:
        ValueError: an embedder without a cropper, or a count below one.
    """

    def __init__(
        self,
        detector: Detector,
        cropper: Cropper | None = None,
        embedder: Embedder | None = None,
        *,
        batch_size: int = 8,
        workers: int | None = None,
        main_garment: bool = False,
    ) -> None:
        if embedder is not None and cropper is None:
            raise ValueError("an embedder needs a cropper before it, got none; pass stages.crop.BoxCrop()")
        workers = min(4, cores()) if workers is None else workers
        if min(batch_size, workers) < 1:
            raise ValueError(f"batch_size and workers are at least 1, got {batch_size} and {workers}")
        self.detector, self.cropper, self.embedder = detector, cropper, embedder
        self._batch_size, self._workers, self._main_garment = batch_size, workers, main_garment

    def __call__(self, paths: Iterable[Path]) -> Iterator[Analysis]:
        """One analysis per path, in order; a photo that cannot be read has its error."""
        with closing(self.batches(paths)) as batches:
            for batch in batches:
                yield from batch

    def batches(self, paths: Iterable[Path]) -> Generator[list[Analysis]]:
        """The same, but those that are done together at once, for whoever has more to do with several."""
        with (
            ThreadPoolExecutor(self._workers) as pool,
            ThreadPoolExecutor(1) as detecting,
            ThreadPoolExecutor(1) as embedding,
        ):
            waiting: deque[Future[list[Analysis]]] = deque()
            try:
                for batch in self._decoded(paths, pool):
                    found = detecting.submit(self._detect, batch, pool)
                    waiting.append(embedding.submit(self._embed, found))
                    if len(waiting) > _AHEAD:
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            finally:
                for threads in (embedding, detecting, pool):  # each waits for the next
                    threads.shutdown(cancel_futures=True)

    def _decoded(self, paths: Iterable[Path], pool: ThreadPoolExecutor) -> Iterator[list[Analysis]]:
        remaining = iter(paths)
        ahead: deque[Future[Analysis]] = deque()
        while True:
            short = 2 * self._batch_size - len(ahead)
            ahead.extend(pool.submit(self._read, path) for path in islice(remaining, short))
            if not ahead:
                return
            yield [ahead.popleft().result() for _ in range(min(self._batch_size, len(ahead)))]

    def _read(self, path: Path) -> Analysis:
        try:
            with part("decode"):
                return Analysis(path, read_photo(path, self._enough_px()))
        except ImageError as error:
            return Analysis(path, error=str(error))

    def _enough_px(self) -> int | None:
        """The long side to decode to: None (full size) where the detector asks for it, or crops are the result."""
        if self.detector.input_px is None or (self.cropper and not self.embedder):
            return None
        return max(self.detector.input_px, enough_px(self.embedder.input_px) if self.embedder else 1)

    def _detect(self, batch: list[Analysis], pool: ThreadPoolExecutor) -> list[Future[Analysis]]:
        """Find the garments of a batch, and leave it to the pool to cut them out."""
        images = [analysis.photo.image for analysis in batch if analysis.photo]
        with part("detect"):
            found = iter(self.detector(images))
        return [pool.submit(self._cut, self._with_detections(one, next(found)) if one.photo else one) for one in batch]

    def _with_detections(self, analysis: Analysis, found: Sequence[Detection]) -> Analysis:
        photo = analysis.photo
        assert photo is not None
        if self._main_garment:
            found = [main_garment(found, photo)]
        return replace(analysis, detections=tuple(found))

    def _cut(self, analysis: Analysis) -> Analysis:
        """Crops in full-size pixels, from a larger decoding where the embedder needs it for a small garment."""
        photo = analysis.photo
        if photo is None:
            return analysis
        full = tuple(to_full(detection, photo) for detection in analysis.detections)
        if self.cropper is None:
            return replace(analysis, detections=full)
        needed_px = self.embedder.input_px if self.embedder else 1
        crops = sharp_crops(photo, analysis.detections, self.cropper, needed_px, partial(read_photo, analysis.path))
        return replace(analysis, detections=full, crops=tuple(crops))

    def _embed(self, found: Future[list[Future[Analysis]]]) -> list[Analysis]:
        """The crops of all photos of a batch go through the embedder together."""
        batch = [future.result() for future in found.result()]
        if self.embedder is None:
            return batch
        with part("embed"):
            vectors = self.embedder([crop.image for analysis in batch for crop in analysis.crops])
        ends = np.cumsum([len(analysis.crops) for analysis in batch])
        return [replace(one, vectors=rows) for one, rows in zip(batch, np.split(vectors, ends[:-1]), strict=True)]


def sharp_crops(
    photo: Photo,
    detections: Sequence[Detection],
    cropper: Cropper,
    needed_px: int,
    read: Callable[[int], Photo],
) -> list[Crop]:
    """Crops of a photo that may be reduced, their boxes in full-size pixels.

    Args:
        photo: as it was decoded for the detector.
        detections: in its pixels.
        cropper: cuts them out.
        needed_px: crops with a shorter long side are cut out of a larger decoding.
        read: decodes the photo again, its long side at least so many pixels.
    """
    with part("crop"):
        (crops,) = cropper([photo.image], [detections])
    if photo.scale == 1:
        return list(crops)
    small = [place for place, crop in enumerate(crops) if max(crop.image.shape[:2]) < needed_px]
    if small:
        shortest = min(max(crops[place].image.shape[:2]) for place in small)
        wanted = -(-max(photo.image.shape[:2]) * needed_px // shortest)
        try:
            with part("decode"):
                larger = read(min(wanted, max(photo.width, photo.height)))
        except ImageError:  # it has vanished since: the reduced crops serve
            larger = photo
        moved = [between(detections[place], photo, larger) for place in small]
        with part("crop"):
            (sharp,) = cropper([larger.image], [moved])
        by_place = dict(zip(small, sharp, strict=True))
    else:
        larger, by_place = photo, {}
    return [
        replace(by_place[place], box=larger.to_full(by_place[place].box))
        if place in by_place
        else replace(crop, box=photo.to_full(crop.box))
        for place, crop in enumerate(crops)
    ]


def main_garment(found: Sequence[Detection], photo: Photo) -> Detection:
    """What a catalogue photo shows: the detection with most area for its score, else the whole photo.

    What covers less than :data:`MAIN_SHARE` of the photo is not what it sells: the shoes under a pair of shorts
    that were not found, a zip in a close-up.
    """
    height, width = photo.image.shape[:2]
    whole = Detection(WHOLE, 1.0, Box(0, 0, width, height))
    large = [detection for detection in found if detection.box.area >= MAIN_SHARE * whole.box.area]
    return max(large, key=lambda detection: detection.score * detection.box.area, default=whole)


def to_full(detection: Detection, photo: Photo) -> Detection:
    """A detection of a reduced photo in the full-size photo's pixels."""
    return detection if photo.scale == 1 else _resized(detection, photo.to_full(detection.box))


def between(detection: Detection, photo: Photo, larger: Photo) -> Detection:
    """A detection of one decoding of a photo in the pixels of a larger one."""
    height, width = photo.image.shape[:2]
    big_h, big_w = larger.image.shape[:2]
    x1, y1, x2, y2 = detection.box.corners
    box = Box(x1 * big_w // width, y1 * big_h // height, -(-x2 * big_w // width), -(-y2 * big_h // height))
    return _resized(detection, box)


def _resized(detection: Detection, box: Box) -> Detection:
    mask = detection.mask
    if mask is not None:
        grown = cv2.resize(mask.astype(np.uint8) * 255, (box.width, box.height), interpolation=cv2.INTER_LINEAR)
        mask = grown > 127
    return replace(detection, box=box, mask=mask)
