"""What a photo costs: milliseconds of detector, crop and embedder, and the peak of memory of all three together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context
from typing import Final

from pipeline.benchmark.crops.conditions import AVERAGE, BOX, CROPS, MASK, MASKS, NONE, WHOLE
from pipeline.benchmark.crops.subject import Subject, config_of
from pipeline.benchmark.timing import Times, middle, peak_bytes, resident_bytes, take_turns
from pipeline.config import Config, build_detector, build_embedder
from stages.protocols import Detector, Embedder
from stages.types import Detection, Image

PARTS: Final[Mapping[str, tuple[str, ...]]] = {crop: (crop,) for crop in CROPS} | {AVERAGE: (MASK, BOX)}
"""The crops that are cut and embedded for each."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What one photo costs with a detector, a crop and an embedder.

    ``detect_ms``, ``crop_ms`` and ``embed_ms`` are medians over photos, looked at one by one, all candidates taking
    turns; ``peak_mb`` is by how much a process that looks at some photos grows at its peak, networks included, None where
    it was not measured or the system does not tell. ``garments`` is how many are found in a photo on average.
    """

    detections: str
    crop: str
    embedder: str
    garments: float
    detect_ms: float
    crop_ms: float
    embed_ms: float
    peak_mb: float | None

    @property
    def total_ms(self) -> float:
        """Of all three stages."""
        return self.detect_ms + self.crop_ms + self.embed_ms


def costs(
    images: Sequence[Image], subject: Subject, rounds: int = 2, *, memory: bool = True,
    tell: Callable[[str], None] = lambda _: None,
) -> list[Cost]:  # fmt: skip
    """Measure every way of looking at some photos.

    Args:
        images: the photos.
        subject: detectors and embedders.
        rounds: how often all take turns.
        memory: whether to start a process for each way, for its peak of memory.
        tell: is told what is being done.
    """
    tell("times")
    found = {name: [detector([image])[0] for image in images] for name, detector in subject.detectors.items()}
    taken = _Turns(images, subject, found, rounds)
    told = [
        Cost(
            source,
            crop,
            embedder,
            round(sum(map(len, found[source])) / len(images), 1) if source != NONE else 1.0,
            _ms(taken.detecting.get(source)),
            round(sum(_ms(taken.cutting.get(f"{source} {part}")) for part in PARTS[crop]), 2),
            round(sum(_ms(taken.embedding[f"{source} {embedder}"]) for _ in PARTS[crop]), 2),
            None,
        )
        for source, crop in _ways(subject, found)
        for embedder in subject.embedders
    ]
    if not memory:
        return told
    peaks = _peaks(told, images, subject, tell)
    return [_with_peak(cost, peaks) for cost in told]


class _Turns:
    """Seconds of every detector, every way of cutting and every embedder, candidates of a stage taking turns."""

    def __init__(
        self, images: Sequence[Image], subject: Subject, found: Mapping[str, list[list[Detection]]], rounds: int
    ) -> None:
        numbers = range(len(images))
        detect = {name: partial(_detect, detector, images) for name, detector in subject.detectors.items()}
        cut = {
            f"{source} {crop}": partial(_cut, crop, images, found[source])
            for source, crop in _ways(subject, found)
            if crop in CROPS and source != NONE
        }
        boxes = {
            source: [
                [crop.image for crop in CROPS[BOX]([image], [own])[0]] for image, own in zip(images, all_, strict=True)
            ]
            for source, all_ in found.items()
        } | {NONE: [[image] for image in images]}
        embed = {
            f"{source} {name}": partial(_embed, embedder, own)
            for source, own in boxes.items()
            for name, embedder in subject.embedders.items()
        }
        self.detecting = take_turns(detect, numbers, rounds, most_s=10.0)
        self.cutting = take_turns(cut, numbers, rounds, most_s=10.0)
        self.embedding = take_turns(embed, numbers, rounds, most_s=10.0)


def _detect(detector: Detector, images: Sequence[Image], number: int) -> object:
    return detector([images[number]])


def _cut(crop: str, images: Sequence[Image], found: Sequence[Sequence[Detection]], number: int) -> object:
    return CROPS[crop]([images[number]], [found[number]])


def _embed(embedder: Embedder, crops: Sequence[Sequence[Image]], number: int) -> object:
    return embedder(crops[number])


def _ms(times: Times | None) -> float:
    return round(1000 * middle(times), 2) if times else 0.0


def _ways(subject: Subject, found: Mapping[str, list[list[Detection]]]) -> Iterator[tuple[str, str]]:
    """Detections and crops that go together."""
    yield NONE, WHOLE
    for source in subject.detectors:
        masks = all(one.mask is not None for some in found[source] for one in some)
        for crop in PARTS:
            if crop != WHOLE and (masks or crop not in (*MASKS, AVERAGE)):
                yield source, crop


def _peaks(
    told: Sequence[Cost], images: Sequence[Image], subject: Subject, tell: Callable[[str], None]
) -> dict[tuple[str, str], float | None]:
    """In MB, of whole photos, boxes and masks, each with the first embedder; others are as large."""
    spec = next(iter(subject.sources.values()))
    peaks = {}
    for way in dict.fromkeys((cost.detections, cost.crop) for cost in told if cost.crop in (WHOLE, BOX, MASK)):
        tell(f"memory: {' '.join(way)}")
        with ProcessPoolExecutor(1, get_context("spawn")) as apart:
            grown = apart.submit(_grown, *way, spec, list(images)).result()
        peaks[way] = None if grown is None else round(grown / 1e6, 1)
    return peaks


def _with_peak(cost: Cost, peaks: Mapping[tuple[str, str], float | None]) -> Cost:
    kind = MASK if cost.crop in (*MASKS, AVERAGE) else WHOLE if cost.crop == WHOLE else BOX
    return replace(cost, peak_mb=peaks[cost.detections, kind])


def _grown(detections: str, crop: str, spec: str, images: Sequence[Image]) -> int | None:
    """By how many bytes this process, which is a fresh one, has grown at most when it has looked at photos."""
    import stages.detect.rcnn  # noqa: PLC0415  so that modules count for nobody
    import stages.embed.siamese  # noqa: F401, PLC0415

    before = resident_bytes()
    embedder = build_embedder(config_of(spec))
    detector = build_detector(Config(detector=detections)) if detections != NONE else None
    for image in images:
        crops = [image]
        if detector is not None:
            (cut,) = CROPS[crop]([image], detector([image]))
            crops = [one.image for one in cut]
        embedder(crops)
    most = peak_bytes()
    return None if before is None or most is None else max(0, most - before)
