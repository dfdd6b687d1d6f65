"""Each photo is looked at once: detected by each detector, cut in each way, embedded by each embedder."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pipeline.benchmark.crops.conditions import AVERAGE, BOX, CROPS, MASK, MASKS, NONE, TRUTH, WHOLE, Key
from pipeline.benchmark.crops.data import CropSet, Garment, Shot
from pipeline.pipeline import main_garment
from stages.protocols import Detector, Embedder
from stages.types import WHOLE as WHOLE_PHOTO
from stages.types import Detection, Image, Vectors

IOU: Final = 0.5
"""A detection is of a garment where their boxes overlap by so much, intersection over union."""

_BATCH: Final = 96
_BATCH_BYTES: Final = 200_000_000

Placed = Sequence[Detection | None]
"""For each garment of a photo where it is, or None where it was missed."""


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """What a set looks like to every embedder.

    Attributes:
        data: what was looked at.
        garments: of all photos, in order; the rows of what follows.
        photos: ``(n,)``, the photo of each garment.
        there: by detections and crop, ``(n,)``, whether there is a crop: whether the garment was found.
        vectors: by embedder, detections and crop, ``(n, dim)`` unit rows; zero where there is no crop.
    """

    data: CropSet
    garments: tuple[Garment, ...]
    photos: NDArray[np.int64]
    there: dict[Key, NDArray[np.bool_]]
    vectors: dict[tuple[str, Key], Vectors]

    @property
    def detections(self) -> list[str]:
        """Whose detections there are."""
        return list(dict.fromkeys(source for source, crop in self.there if crop == BOX))


def look(
    data: CropSet,
    detectors: Mapping[str, Detector],
    embedders: Mapping[str, Embedder],
    tell: Callable[[int, int], None] = lambda _done, _of: None,
) -> Seen:
    """Detect, cut and embed.

    Args:
        data: the photos.
        detectors: by name.
        embedders: by name.
        tell: called with photos done and photos in all.

    Raises:
        ImageError: a photo cannot be read.
    """
    queue = _Queue(len(data.garments), embedders)
    photos: list[int] = []
    for place, shot in enumerate(data.shots):
        image = shot.read()
        rows = range(len(photos), len(photos) + len(shot.garments))
        photos += [place] * len(shot.garments)
        if data.whole:
            queue.put((NONE, WHOLE), list(rows), image)
        for source, placed in places(data, shot, image, detectors):
            queue.expect((source, BOX))
            for crop in CROPS:
                for number, cut in cuts(image, placed, crop):
                    queue.put((source, crop), [rows[number]], cut)
        queue.flush(_BATCH)
        tell(place + 1, len(data.shots))
    queue.flush(1)
    _average(queue)
    return Seen(data, tuple(data.garments), np.array(photos, np.int64), queue.there, queue.vectors)


def places(
    data: CropSet, shot: Shot, image: Image, detectors: Mapping[str, Detector]
) -> Iterator[tuple[str, list[Detection | None]]]:
    """Where the garments of a photo are, by the annotations and by each detector."""
    if data.annotated:
        yield TRUTH, [garment.truth for garment in shot.garments]
    for name, detector in detectors.items():
        (found,) = detector([image])
        if data.annotated:
            yield name, matched(shot.garments, found)
        else:
            main = main_garment(found, image)
            missed = main.label == WHOLE_PHOTO and WHOLE_PHOTO not in detector.labels
            yield name, [None if missed else main for _ in shot.garments]


def matched(garments: Sequence[Garment], found: Sequence[Detection]) -> list[Detection | None]:
    """For each garment its detection: of its label, overlapping by :data:`IOU`, the best overlap first, none twice."""
    pairs = [
        (garment.truth.box.iou(detection.box), own, other)
        for own, garment in enumerate(garments)
        for other, detection in enumerate(found)
        if garment.truth is not None and garment.label in ("", detection.label)
    ]
    chosen: dict[int, int] = {}
    for overlap, own, other in sorted(pairs, key=lambda pair: -pair[0]):
        if overlap >= IOU and own not in chosen and other not in chosen.values():
            chosen[own] = other
    return [found[chosen[own]] if own in chosen else None for own in range(len(garments))]


def cuts(image: Image, placed: Placed, crop: str) -> list[tuple[int, Image]]:
    """The crops of the garments that were found, each with its number; a mask crop needs a mask, a whole photo nobody."""
    if crop == WHOLE:
        return []
    there = [
        (number, detection)
        for number, detection in enumerate(placed)
        if detection is not None and (crop not in MASKS or detection.mask is not None)
    ]
    (crops,) = CROPS[crop]([image], [[detection for _, detection in there]])
    return [(number, cut.image) for (number, _), cut in zip(there, crops, strict=True)]


@dataclass
class _Queue:
    """Crops that wait to be embedded together."""

    rows: int
    embedders: Mapping[str, Embedder]
    there: dict[Key, NDArray[np.bool_]] = field(default_factory=dict)
    vectors: dict[tuple[str, Key], Vectors] = field(default_factory=dict)
    _waiting: list[tuple[Key, list[int], Image]] = field(default_factory=list)

    def expect(self, key: Key) -> None:
        """Such crops may come, though perhaps none does."""
        if key not in self.there:
            self.there[key] = np.zeros(self.rows, np.bool_)
            for name, embedder in self.embedders.items():
                self.vectors[name, key] = np.zeros((self.rows, embedder.dim), np.float32)

    def put(self, key: Key, rows: list[int], image: Image) -> None:
        """One crop, that of all these rows."""
        self.expect(key)
        self.there[key][rows] = True
        self._waiting.append((key, rows, image))

    def flush(self, least: int) -> None:
        """Embed what waits, where it is so much or large."""
        waiting = self._waiting
        if len(waiting) < least and sum(image.nbytes for _, _, image in waiting) < _BATCH_BYTES:
            return
        for name, embedder in self.embedders.items():
            found = embedder([image for _, _, image in waiting])
            for (key, rows, _), vector in zip(waiting, found, strict=True):
                self.vectors[name, key][rows] = vector
        waiting.clear()


def _average(queue: _Queue) -> None:
    """Add the means of mask and box, and drop masks that only some of the garments have, which would compare nothing."""
    there = queue.there
    for source in {source for source, _ in there}:
        for mask in MASKS:
            if (source, mask) in there and not np.array_equal(there[source, mask], there[source, BOX]):
                del there[source, mask]
        if (source, MASK) in there:
            there[source, AVERAGE] = there[source, BOX]
            for name in queue.embedders:
                mean = queue.vectors[name, (source, MASK)] + queue.vectors[name, (source, BOX)]
                queue.vectors[name, (source, AVERAGE)] = _unit(mean)


def _unit(vectors: Vectors) -> Vectors:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    found: Vectors = np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 0)
    return found
