"""How good a detector is on photos with known answers: average precision, mistakes, latency."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from time import perf_counter

import numpy as np
from pycocotools import mask as coco_mask

from stages.detect.annotations import AnnotatedPhoto, Annotations, Instance
from stages.detect.coco import read_annotations
from stages.detect.mistakes import Findings, Mistakes, balanced_threshold
from stages.detect.precision import AveragePrecision, Curve, Judgement, Placed, judge
from stages.errors import CatalogueError, ImageError, StageError
from stages.images import read_image
from stages.protocols import Detector
from stages.types import Detection, Image

DOUBTFUL = 0.005
"""The ``min_score`` to build a detector with for evaluation: average precision needs its doubtful detections too."""

Tell = Callable[[str, str | None, int], None]


@dataclass(frozen=True, slots=True)
class Latency:
    """Seconds per photo, from pixels to detections, one photo at a time; the first, a warm-up, does not count."""

    mean_s: float
    median_s: float
    p95_s: float


@dataclass(frozen=True, slots=True)
class LabelEvaluation:
    """One label: its garments, its curves, and what is found at the threshold (by boxes, at IoU 0.50).

    At ``balanced_threshold`` there would be as many false alarms as misses; None where misses always prevail.
    Average precision and curves are None where there is no garment, or no mask.
    """

    garments: int
    missed: int
    false_alarms: int
    balanced_threshold: float | None
    box: AveragePrecision | None
    mask: AveragePrecision | None
    box_curve: Curve | None
    mask_curve: Curve | None

    @property
    def found(self) -> int:
        """The garments that are not missed."""
        return self.garments - self.missed


@dataclass(frozen=True, slots=True)
class Evaluation:
    """How good a detector is.

    ``box`` and ``mask`` are means over the labels that have garments; ``mask`` is None where the detector makes no
    masks or not every garment's is known. ``failed`` says of each photo that could not be judged why, ``problems``
    what is wrong with the annotations, ``notes`` what else is worth knowing: names that only one side has, crowds.
    """

    photos: int
    garments: int
    threshold: float
    box: AveragePrecision
    mask: AveragePrecision | None
    labels: dict[str, LabelEvaluation]
    latency: Latency
    mistakes: Mistakes
    failed: dict[str, str]
    problems: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def missed(self) -> int:
        """Garments that were not found at the threshold."""
        return sum(label.missed for label in self.labels.values())

    @property
    def false_alarms(self) -> int:
        """Detections at the threshold that no garment accounts for."""
        return sum(label.false_alarms for label in self.labels.values())


def evaluate(
    detector: Detector,
    annotations: Path,
    photos: Path,
    *,
    threshold: float = 0.5,
    mistakes: int = 0,
    limit: int | None = None,
    tell: Tell = lambda _photo, _error, _photos: None,
) -> Evaluation:
    """Judge a detector on the photos of a COCO instances file, one photo at a time.

    Categories are matched with the detector's labels by name. Build the detector with the ``min_score``
    :data:`DOUBTFUL`.

    Args:
        detector: any.
        annotations: the COCO instances file; crowds are left out.
        photos: the folder that its file names are relative to.
        threshold: the score that detections have in use; by it finds, misses and false alarms are counted.
        mistakes: show so many of each kind.
        limit: look at so many photos, the first ones.
        tell: called with the name of each photo once it is done, why it could not be judged, and how many there are.

    Raises:
        CatalogueError: the file is not COCO instances, no category of it is one of the labels, or none of its photos
            could be read.
        StageError: the detector found what is none of its labels.
    """
    known = read_annotations(annotations, photos, detector.labels, check_images=False)
    seen, found, times, failed = _detect(detector, known.photos[:limit], photos, tell)
    if not seen:
        raise CatalogueError(
            f"no photo of {annotations} could be read; is {photos} the folder that its file names are relative to?"
        )
    truths = [Placed(photo, instance) for photo in seen for instance in photo.instances]
    labels = {number: name for number, name in enumerate(detector.labels, start=1) if name in known.categories.values()}
    found = [garment for garment in found if garment.instance.label in labels]
    boxes = judge(seen, truths, found, list(labels), "bbox")
    has_masks = bool(found) and all(garment.instance.has_mask for garment in (*truths, *found))
    masks = judge(seen, truths, found, list(labels), "segm") if has_masks else None
    findings = Findings(truths, found, boxes.truth_of, threshold, labels)
    return Evaluation(
        photos=len(seen),
        garments=len(truths),
        threshold=threshold,
        box=boxes.overall,
        mask=masks.overall if masks else None,
        labels=_by_label(labels, truths, found, findings, boxes, masks),
        latency=_latency(times),
        mistakes=findings.worst(mistakes),
        failed=failed,
        problems=tuple(map(str, known.problems)),
        notes=known.notes + _lacking(known, detector.labels),
    )


def _detect(
    detector: Detector, records: Sequence[AnnotatedPhoto], folder: Path, tell: Tell
) -> tuple[list[AnnotatedPhoto], list[Placed], list[float], dict[str, str]]:
    """The photos that could be read, their detections, the seconds that each took, and why the others failed."""
    seen: list[AnnotatedPhoto] = []
    found: list[Placed] = []
    times: list[float] = []
    failed: dict[str, str] = {}
    numbers = {name: number for number, name in enumerate(detector.labels, start=1)}
    for photo in records:
        try:
            image = _read(folder, photo)
        except ImageError as error:
            failed[photo.file_name] = str(error)
            tell(photo.file_name, str(error), len(records))
            continue
        start = perf_counter()
        (detections,) = detector([image])
        times.append(perf_counter() - start)
        seen.append(photo)
        if unknown := {detection.label for detection in detections} - numbers.keys():
            raise StageError(f"the detector found a {min(unknown)!r}, which is not one of its labels")
        found += [Placed(photo, _instance(numbers[one.label], one, photo), one.score) for one in detections]
        tell(photo.file_name, None, len(records))
    return seen, found, times, failed


def _read(folder: Path, photo: AnnotatedPhoto) -> Image:
    image = read_image(folder / photo.file_name)
    height, width = image.shape[:2]
    if (width, height) != (photo.width, photo.height):
        raise ImageError(f"is {width}x{height} px, its annotations are for {photo.width}x{photo.height}")
    return image


def _instance(label: int, detection: Detection, photo: AnnotatedPhoto) -> Instance:
    x1, y1, x2, y2 = map(float, detection.box.corners)
    corners = x1, y1, x2, y2
    if detection.mask is None:
        return Instance(label, corners)
    full = np.zeros((photo.height, photo.width), np.uint8, order="F")
    full[detection.box.slices] = detection.mask
    return Instance(label, corners, coco_mask.encode(full)["counts"])


def _by_label(
    labels: Mapping[int, str],
    truths: Sequence[Placed],
    found: Sequence[Placed],
    findings: Findings,
    boxes: Judgement,
    masks: Judgement | None,
) -> dict[str, LabelEvaluation]:
    evaluations = {}
    for number, name in labels.items():
        garments = sum(truth.instance.label == number for truth in truths)
        scores = [found[place].score for place in boxes.truth_of if found[place].instance.label == number]
        evaluations[name] = LabelEvaluation(
            garments=garments,
            missed=findings.missed(number),
            false_alarms=findings.false_alarms(number),
            balanced_threshold=balanced_threshold(scores, garments),
            box=boxes.by_label.get(number),
            mask=masks.by_label.get(number) if masks else None,
            box_curve=boxes.curves.get(number),
            mask_curve=masks.curves.get(number) if masks else None,
        )
    return evaluations


def _latency(times: Sequence[float]) -> Latency:
    counted = times[1:] or times
    return Latency(fmean(counted), float(np.median(counted)), float(np.percentile(counted, 95)))


def _lacking(known: Annotations, labels: Sequence[str]) -> tuple[str, ...]:
    names = set(known.categories.values())
    return tuple(
        f"label {name} is none of the categories: its detections are left out" for name in labels if name not in names
    )
