"""The pipeline: photos → detections → crops → vectors, streamed and batched.

Worker threads decode photos ahead while the networks compute: the detector on one batch, the embedder on the batch
before, so that each uses the cores that the other leaves idle. Memory holds a few batches, however many photos there
are.
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
from typing import Final

import cv2
import numpy as np

from pipeline.kinds import CATALOGUE_TRUST, TRUST, fitting_garment, relabelled, settle
from stages.colours import named_colours
from stages.cores import cores
from stages.embed.attributes import Attribute, Probabilities, attribute_part
from stages.errors import ImageError
from stages.files import check_several
from stages.images import Photo, enough_px, read_photo
from stages.protocols import Cropper, Detector, Embedder
from stages.timing import timed
from stages.types import WHOLE, Box, Crop, Detection, Image, Vectors

MAIN_SHARE: Final = 0.05
"""The smallest share of a catalogue photo that its main garment covers."""

_AHEAD: Final = 2
"""Batches in progress besides the one to be yielded, so that no network waits for the other or for the caller."""


@dataclass(frozen=True, slots=True, eq=False)
class Analysis:
    """What the pipeline found in one photo.

    Attributes:
        path: of the photo.
        photo: as decoded, perhaps at a reduced scale.
        detections: in full-size pixels.
        crops: one per detection, with boxes in full-size pixels.
        vectors: ``(n, dim)``, a row per detection.
        error: why the photo could not be read; everything else is empty then.
        whole_kinds: ``(1, 14)``, the kinds of a catalogue photo as a whole, if the embedder knows kinds.
        attributes: those of each detection that are sure enough, if the embedder knows attributes.
        colours: of each detection, with their shares of its pixels.
    """

    path: Path
    photo: Photo | None = None
    detections: tuple[Detection, ...] = ()
    crops: tuple[Crop, ...] = ()
    vectors: Vectors = field(default_factory=lambda: np.zeros((0, 0), np.float32))
    error: str | None = None
    whole_kinds: Probabilities | None = None
    attributes: tuple[tuple[Attribute, ...], ...] = ()
    colours: tuple[tuple[tuple[str, float], ...], ...] = ()


class Pipeline:
    """Runs a detector, a cropper and an embedder on photos.

    Args:
        detector: finds garments.
        cropper: cuts them out; None if only detections are wanted.
        embedder: turns crops into vectors; None if only crops are wanted.
        batch_size: photos per batch.
        workers: threads that decode photos; None means one per available core, at most four.
        main_garment: keep only the main garment of each photo, for catalogues; see :func:`main_garment`.

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
        self._kinds = attribute_part(embedder)

    def __call__(self, paths: Iterable[str | Path]) -> Iterator[Analysis]:
        """Yield one analysis per photo, in order; a photo that cannot be read has an error."""
        with closing(self.batches(paths)) as batches:
            for batch in batches:
                yield from batch

    def batches(self, paths: Iterable[str | Path]) -> Generator[list[Analysis]]:
        """Yield the analyses in the batches in which they are computed."""
        check_several(paths)
        with (
            ThreadPoolExecutor(self._workers) as pool,
            ThreadPoolExecutor(1) as detecting,
            ThreadPoolExecutor(1) as embedding,
        ):
            pending: deque[Future[list[Analysis]]] = deque()
            try:
                for batch in self._decoded(paths, pool):
                    detected = detecting.submit(self._detect, batch, pool)
                    pending.append(embedding.submit(self._embed, detected))
                    if len(pending) > _AHEAD:
                        yield pending.popleft().result()
                while pending:
                    yield pending.popleft().result()
            finally:
                for threads in (embedding, detecting, pool):  # in this order: each waits for the next
                    threads.shutdown(cancel_futures=True)

    def _decoded(self, paths: Iterable[str | Path], pool: ThreadPoolExecutor) -> Iterator[list[Analysis]]:
        """Yield batches of decoded photos while the next two batches are being decoded."""
        remaining = iter(paths)
        ahead: deque[Future[Analysis]] = deque()
        while True:
            missing = 2 * self._batch_size - len(ahead)
            ahead.extend(pool.submit(self._read, Path(path)) for path in islice(remaining, missing))
            if not ahead:
                return
            yield [ahead.popleft().result() for _ in range(min(self._batch_size, len(ahead)))]

    def _read(self, path: Path) -> Analysis:
        try:
            with timed("decode"):
                return Analysis(path, read_photo(path, self._enough_px()))
        except ImageError as error:
            return Analysis(path, error=str(error))

    def _enough_px(self) -> int | None:
        """Return the long side to decode to; None (full size) if the detector wants that, or crops are the result."""
        if self.detector.input_px is None or (self.cropper and not self.embedder):
            return None
        return max(self.detector.input_px, enough_px(self.embedder.input_px) if self.embedder else 1)

    def _detect(self, batch: list[Analysis], pool: ThreadPoolExecutor) -> list[Future[Analysis]]:
        """Detect the garments of a batch and submit the cropping of each photo to the pool."""
        images = [analysis.photo.image for analysis in batch if analysis.photo]
        with timed("detect"):
            detections = iter(self.detector(images))
        kinds = iter(self._kinds_of_whole(images))
        return [
            pool.submit(self._crop, *((one, next(detections), next(kinds)) if one.photo else (one, (), None)))
            for one in batch
        ]

    def _kinds_of_whole(self, images: Sequence[Image]) -> Sequence[Probabilities | None]:
        """Return the kinds of each photo as a whole, if they decide which garment is its main one."""
        if not self._main_garment or self._kinds is None or self.embedder is None or not images:
            return [None] * len(images)
        with timed("embed"):
            return list(self._kinds.kinds(self.embedder(images))[:, None])

    def _crop(self, analysis: Analysis, detections: Sequence[Detection], kinds: Probabilities | None) -> Analysis:
        """Crop the detections, from a larger decoding if a garment has too few pixels for the embedder."""
        photo = analysis.photo
        if photo is None:
            return analysis
        if self._main_garment:
            detections = [main_garment(detections, photo.image, kinds)]
        full = tuple(to_full(detection, photo) for detection in detections)
        analysis = replace(analysis, detections=full, whole_kinds=kinds)
        if self.cropper is None:
            return analysis
        needed_px = self.embedder.input_px if self.embedder else 1
        crops = sharp_crops(photo, detections, self.cropper, needed_px, partial(read_photo, analysis.path))
        named = () if self._kinds is None else detections
        colours = tuple(named_colours(photo.image[one.box.slices], one.mask) for one in named)
        return replace(analysis, crops=tuple(crops), colours=colours)

    def _embed(self, detected: Future[list[Future[Analysis]]]) -> list[Analysis]:
        """Embed the crops of all photos of a batch together."""
        batch = [future.result() for future in detected.result()]
        if self.embedder is None:
            return batch
        with timed("embed"):
            vectors = self.embedder([crop.image for analysis in batch for crop in analysis.crops])
        ends = np.cumsum([len(analysis.crops) for analysis in batch])
        split = np.split(vectors, ends[:-1])
        return [self._settled(replace(one, vectors=rows)) for one, rows in zip(batch, split, strict=True)]

    def _settled(self, analysis: Analysis) -> Analysis:
        """Combine the detector's labels with the embedder's kinds."""
        if self._kinds is None:
            return analysis
        labels = [detection.label for detection in analysis.detections]
        trust = CATALOGUE_TRUST if self._main_garment else TRUST
        beside = None if labels == [WHOLE] else analysis.whole_kinds  # they would count twice
        vectors, settled = settle(self._kinds, analysis.vectors, labels, trust, beside)
        detections = tuple(map(relabelled, analysis.detections, settled))
        return replace(analysis, vectors=vectors, detections=detections, attributes=self._kinds.stated(vectors))


def sharp_crops(
    photo: Photo,
    detections: Sequence[Detection],
    cropper: Cropper,
    needed_px: int,
    read: Callable[[int], Photo],
) -> list[Crop]:
    """Crop detections from a photo that may be reduced; the crops' boxes are in full-size pixels.

    Args:
        photo: as decoded for the detector.
        detections: in the pixels of ``photo``.
        cropper: cuts them out.
        needed_px: crops with a shorter long side are cut from a larger decoding.
        read: decodes the photo again with a long side of at least so many pixels.
    """
    with timed("crop"):
        (crops,) = cropper([photo.image], [detections])
    if photo.scale == 1:
        return list(crops)
    sharp = [replace(crop, box=photo.to_full(crop.box)) for crop in crops]
    small = [number for number, crop in enumerate(crops) if max(crop.image.shape[:2]) < needed_px]
    if small:
        shortest = min(max(crops[number].image.shape[:2]) for number in small)
        wanted_px = -(-max(photo.image.shape[:2]) * needed_px // shortest)
        try:
            with timed("decode"):
                larger = read(min(wanted_px, max(photo.width, photo.height)))
        except ImageError:  # the file was deleted meanwhile: keep the reduced crops
            return sharp
        before, after = ((one.image.shape[1], one.image.shape[0]) for one in (photo, larger))
        moved = [_resized(detections[number], detections[number].box.scaled(before, after)) for number in small]
        with timed("crop"):
            (larger_crops,) = cropper([larger.image], [moved])
        for number, crop in zip(small, larger_crops, strict=True):
            sharp[number] = replace(crop, box=larger.to_full(crop.box))
    return sharp


def main_garment(found: Sequence[Detection], image: Image, kinds: Probabilities | None = None) -> Detection:
    """Return the detection that a catalogue photo sells, by area and score, or the whole photo if there is none.

    Detections that cover less than :data:`MAIN_SHARE` of the photo are ignored, such as shoes below a pair of shorts
    that was missed, or a zip in a close-up.

    Args:
        found: the detections.
        image: the photo.
        kinds: ``(1, 14)``, the kinds of the photo as a whole, if the embedder knows kinds.
    """
    height, width = image.shape[:2]
    whole = Detection(WHOLE, 1.0, Box(0, 0, width, height))
    large = [detection for detection in found if detection.box.area >= MAIN_SHARE * whole.box.area]
    if kinds is not None:
        return fitting_garment(large, whole, kinds[0])
    return max(large, key=lambda detection: detection.score * detection.box.area, default=whole)


def to_full(detection: Detection, photo: Photo) -> Detection:
    """Return a detection of a reduced photo in full-size pixels."""
    return detection if photo.scale == 1 else _resized(detection, photo.to_full(detection.box))


def _resized(detection: Detection, box: Box) -> Detection:
    mask = detection.mask
    if mask is not None:
        grey = cv2.resize(mask.astype(np.uint8) * 255, (box.width, box.height), interpolation=cv2.INTER_LINEAR)
        mask = grey > 127
    return replace(detection, box=box, mask=mask)
