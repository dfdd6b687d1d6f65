"""Evaluation of a detector on annotated photos: COCO average precision, mistakes, score thresholds, latency.

Average precision (Lin et al., ECCV 2014) is computed by pycocotools.
"""

from __future__ import annotations

import contextlib
import io
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from time import perf_counter
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from stages.detect.annotations import AnnotatedPhoto, Annotations, Instance, mask_of
from stages.detect.coco import read_annotations
from stages.errors import CatalogueError, ImageError, StageError
from stages.images import read_image
from stages.protocols import Detector
from stages.types import Box, Detection, Image

EVALUATION_MIN_SCORE: Final = 0.005
"""The ``min_score`` of a detector that is evaluated: average precision needs unsure detections as well."""

SAME_IOU: Final = 0.5
"""Boxes that overlap at least so much are of the same garment."""

NEAR_IOU: Final = 0.1
"""Boxes that overlap at least so much are shown together."""

_MAX_PER_PHOTO: Final = 100  # detections of a label that COCO evaluates, those with the highest scores
_PRIOR_GARMENTS: Final = 10  # the weight of the common threshold in that of each label
_MIN_THRESHOLD, _MAX_THRESHOLD = 0.05, 0.95

ProgressCallback = Callable[[str, str | None, int], None]
"""Called with a photo's name, the error if it has one, and the number of all photos."""


@dataclass(frozen=True, slots=True)
class AveragePrecision:
    """COCO's figures, in [0, 1]: AP and recall averaged over IoU 0.50 to 0.95, and AP at IoU 0.50 and 0.75."""

    ap: float
    ap50: float
    ap75: float
    recall: float


@dataclass(frozen=True, slots=True)
class PrecisionRecall:
    """Precision at IoU 0.50 and the score that reaches it, for each recall of 0.00, 0.01, … 1.00.

    Precision is COCO's: the best at this recall or a higher one. Precision and score are 0 where a recall is not reached.
    """

    recall: tuple[float, ...]
    precision: tuple[float, ...]
    score: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Latency:
    """Seconds per photo, from pixels to detections, one photo at a time; the first photo only warms up."""

    mean_s: float
    median_s: float
    p95_s: float


@dataclass(frozen=True, slots=True)
class LabelEvaluation:
    """The figures of one label; misses and false alarms are counted at the score threshold, by boxes at IoU 0.50.

    At ``balanced_threshold`` there would be as many false alarms as misses; None if there are always more misses.
    Average precision and curves are None without garments, or without masks.
    """

    garments: int
    missed: int
    false_alarms: int
    balanced_threshold: float | None
    box: AveragePrecision | None
    mask: AveragePrecision | None
    box_curve: PrecisionRecall | None
    mask_curve: PrecisionRecall | None

    @property
    def found(self) -> int:
        """The number of garments that were found."""
        return self.garments - self.missed


@dataclass(frozen=True, slots=True, eq=False)
class Mistake:
    """A detection, an annotated garment (with score 1), or both, and the IoU of their boxes.

    ``width`` and ``height`` are the photo's.
    """

    photo: str
    width: int
    height: int
    detection: Detection | None
    truth: Detection | None
    iou: float


@dataclass(frozen=True, slots=True)
class Mistakes:
    """The worst mistakes of each kind, worst first.

    ``confusions``: missed garments that were detected under another label, by score. ``false_alarms``: other detections
    without a garment of their own, by score. ``misses``: garments that were not detected at any score, by size.
    """

    false_alarms: tuple[Mistake, ...] = ()
    misses: tuple[Mistake, ...] = ()
    confusions: tuple[Mistake, ...] = ()


@dataclass(frozen=True, slots=True)
class DetectorEvaluation:
    """All figures of a detector.

    ``box`` and ``mask`` are means over the labels with garments; ``mask`` is None unless the detector makes masks and
    every garment has one. ``failed`` has the error of each photo that could not be evaluated, ``problems`` what is wrong
    with the annotations, and ``notes`` what else to know, such as labels that only one side has.
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
        """The number of garments that were missed at the threshold."""
        return sum(label.missed for label in self.labels.values())

    @property
    def false_alarms(self) -> int:
        """The number of detections at the threshold without a garment of their own."""
        return sum(label.false_alarms for label in self.labels.values())


@dataclass(frozen=True, slots=True)
class _Garment:
    """A garment in a photo, annotated (with score 1) or detected."""

    photo: AnnotatedPhoto
    instance: Instance
    score: float = 1.0

    @property
    def xywh(self) -> list[float]:
        x1, y1, x2, y2 = self.instance.box
        return [x1, y1, x2 - x1, y2 - y1]

    @property
    def area(self) -> float:
        return self.xywh[2] * self.xywh[3]


def evaluate(
    detector: Detector,
    annotations: str | Path,
    photos: str | Path,
    *,
    threshold: float = 0.5,
    mistakes: int = 0,
    limit: int | None = None,
    progress: ProgressCallback = lambda _photo, _error, _photos: None,
) -> DetectorEvaluation:
    """Evaluate a detector on the photos of a COCO instances file, one photo at a time.

    Categories are matched with the detector's labels by name; crowds are left out. Build the detector with ``min_score``
    :data:`EVALUATION_MIN_SCORE`.

    Args:
        detector: to evaluate.
        annotations: the COCO instances file.
        photos: the folder that its file names are relative to.
        threshold: the score at which misses and false alarms are counted.
        mistakes: how many of each kind to return.
        limit: evaluate only the first photos.
        progress: called after each photo.

    Raises:
        CatalogueError: the file is not COCO instances, has no category in common with the labels, or none of its photos
            can be read.
        StageError: a detection has a label that the detector does not declare.
    """
    annotations, photos = Path(annotations), Path(photos)
    known = read_annotations(annotations, photos, detector.labels, check_images=False)
    seen, detections, seconds, failed = _detect(detector, known.photos[:limit], photos, progress)
    if not seen:
        raise CatalogueError(
            f"no photo of {annotations} could be read; is {photos} the folder that its file names are relative to?"
        )
    truths = [_Garment(photo, instance) for photo in seen for instance in photo.instances]
    names = {number: name for number, name in enumerate(detector.labels, start=1) if name in known.categories.values()}
    detections = [detection for detection in detections if detection.instance.label in names]
    boxes = _compare(seen, truths, detections, list(names), "bbox")
    has_masks = bool(detections) and all(garment.instance.has_mask for garment in (*truths, *detections))
    masks = _compare(seen, truths, detections, list(names), "segm") if has_masks else None
    errors = _Errors(truths, detections, boxes.truth_of, threshold, names)
    return DetectorEvaluation(
        photos=len(seen),
        garments=len(truths),
        threshold=threshold,
        box=boxes.overall,
        mask=masks.overall if masks else None,
        labels={name: _label(number, truths, detections, errors, boxes, masks) for number, name in names.items()},
        latency=_latency(seconds),
        mistakes=errors.worst(mistakes),
        failed=failed,
        problems=tuple(map(str, known.problems)),
        notes=known.notes + _missing_categories(known, detector.labels),
    )


def balanced_threshold(scores: Iterable[float], garments: int) -> float | None:
    """Return the threshold at which a label has as many false alarms as misses; None if there are too few detections.

    That is where there are as many detections as garments.

    >>> balanced_threshold([0.2, 0.9, 0.6, 0.4], garments=3), balanced_threshold([0.9], garments=3)
    (0.4, None)
    """
    falling = sorted(scores, reverse=True)
    return falling[garments - 1] if 0 < garments <= len(falling) else None


def balanced_thresholds(evaluation: DetectorEvaluation) -> dict[str, float]:
    """Return a score threshold for each label, from the evaluation of a detector that has none yet."""
    return shrunk({name: (label.balanced_threshold, label.garments) for name, label in evaluation.labels.items()})


def shrunk(thresholds: Mapping[str, tuple[float | None, int]]) -> dict[str, float]:
    """Shrink thresholds of labels with few garments towards the common one, given the garments of each.

    The mean in log-odds weights a label's own threshold by its garments, and the common one by ten.

    >>> shrunk({"top": (0.8, 90), "belt": (0.2, 0), "hat": (None, 10)})
    {'top': 0.79, 'belt': 0.72, 'hat': 0.27}
    """
    scores = np.array([threshold or _MIN_THRESHOLD for threshold, _ in thresholds.values()])
    garments = np.array([count for _, count in thresholds.values()])
    clipped = np.clip(scores, _MIN_THRESHOLD, _MAX_THRESHOLD)
    odds = np.log(clipped / (1 - clipped))
    common = (odds * garments).sum() / max(1, garments.sum())
    mean = (odds * garments + common * _PRIOR_GARMENTS) / (garments + _PRIOR_GARMENTS)
    return {name: round(float(one), 2) for name, one in zip(thresholds, 1 / (1 + np.exp(-mean)), strict=True)}


def _detect(
    detector: Detector, photos: Sequence[AnnotatedPhoto], folder: Path, progress: ProgressCallback
) -> tuple[list[AnnotatedPhoto], list[_Garment], list[float], dict[str, str]]:
    """Return the photos that could be read, their detections, the seconds for each, and the errors of the others."""
    seen: list[AnnotatedPhoto] = []
    garments: list[_Garment] = []
    seconds: list[float] = []
    failed: dict[str, str] = {}
    numbers = {name: number for number, name in enumerate(detector.labels, start=1)}
    for photo in photos:
        try:
            image = _read(folder, photo)
        except ImageError as error:
            failed[photo.file_name] = str(error)
            progress(photo.file_name, str(error), len(photos))
            continue
        start = perf_counter()
        (detections,) = detector([image])
        seconds.append(perf_counter() - start)
        seen.append(photo)
        if unknown := {detection.label for detection in detections} - numbers.keys():
            raise StageError(f"the detector found a {min(unknown)!r}, which is not one of its labels")
        garments += [_Garment(photo, _instance(numbers[one.label], one, photo), one.score) for one in detections]
        progress(photo.file_name, None, len(photos))
    return seen, garments, seconds, failed


def _read(folder: Path, photo: AnnotatedPhoto) -> Image:
    image = read_image(folder / photo.file_name)
    height, width = image.shape[:2]
    if (width, height) != (photo.width, photo.height):
        raise ImageError(f"is {width}x{height} px, its annotations are for {photo.width}x{photo.height}")
    return image


def _instance(label: int, detection: Detection, photo: AnnotatedPhoto) -> Instance:
    x1, y1, x2, y2 = map(float, detection.box.corners)
    if detection.mask is None:
        return Instance(label, (x1, y1, x2, y2))
    whole = np.zeros((photo.height, photo.width), np.uint8, order="F")
    whole[detection.box.slices] = detection.mask
    return Instance(label, (x1, y1, x2, y2), coco_mask.encode(whole)["counts"])


def _label(
    number: int,
    truths: Sequence[_Garment],
    detections: Sequence[_Garment],
    errors: _Errors,
    boxes: _Comparison,
    masks: _Comparison | None,
) -> LabelEvaluation:
    garments = sum(truth.instance.label == number for truth in truths)
    scores = [detections[place].score for place in boxes.truth_of if detections[place].instance.label == number]
    return LabelEvaluation(
        garments=garments,
        missed=sum(truths[place].instance.label == number for place in errors.missed),
        false_alarms=sum(detections[place].instance.label == number for place in errors.false),
        balanced_threshold=balanced_threshold(scores, garments),
        box=boxes.by_label.get(number),
        mask=masks.by_label.get(number) if masks else None,
        box_curve=boxes.curves.get(number),
        mask_curve=masks.curves.get(number) if masks else None,
    )


def _latency(seconds: Sequence[float]) -> Latency:
    counted = seconds[1:] or seconds
    return Latency(fmean(counted), float(np.median(counted)), float(np.percentile(counted, 95)))


def _missing_categories(known: Annotations, labels: Sequence[str]) -> tuple[str, ...]:
    names = set(known.categories.values())
    return tuple(
        f"label {name} is none of the categories: its detections are left out" for name in labels if name not in names
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Comparison:
    """COCO's comparison of detections with annotated garments, overall and for each label with garments.

    ``truth_of`` maps the place of each compared detection to the place of its garment at IoU 0.50, None if it has none.
    """

    overall: AveragePrecision
    by_label: dict[int, AveragePrecision]
    curves: dict[int, PrecisionRecall]
    truth_of: dict[int, int | None]


def _compare(
    photos: Sequence[AnnotatedPhoto],
    truths: Sequence[_Garment],
    detections: Sequence[_Garment],
    labels: Sequence[int],
    kind: Literal["bbox", "segm"],
) -> _Comparison:
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
        result = COCOeval(_to_coco(photos, truths, labels, kind), _to_coco(photos, detections, labels, kind), kind)
        result.params.areaRng, result.params.areaRngLbl = [[0, 1e10]], ["all"]
        result.params.maxDets = [_MAX_PER_PHOTO]
        result.evaluate()
        result.accumulate()
    precision: NDArray[np.float64] = result.eval["precision"][..., 0, 0]  # (IoUs, recalls, labels); -1: no garments
    recall, score = result.eval["recall"][..., 0, 0], result.eval["scores"][0, ..., 0, 0]
    grid = tuple(np.linspace(0, 1, precision.shape[1]).round(2).tolist())
    present = [place for place in range(len(labels)) if recall[0, place] >= 0]
    return _Comparison(
        overall=_average(precision[..., present], recall[:, present]),
        by_label={labels[k]: _average(precision[..., k], recall[:, k]) for k in present},
        curves={
            labels[k]: PrecisionRecall(grid, tuple(precision[0, :, k].tolist()), tuple(score[:, k].tolist()))
            for k in present
        },
        truth_of={
            number - 1: int(truth) - 1 if truth else None
            for photo in result.evalImgs
            if photo is not None
            for number, truth in zip(photo["dtIds"], photo["dtMatches"][0], strict=True)
        },
    )


def _average(precision: NDArray[np.float64], recall: NDArray[np.float64]) -> AveragePrecision:
    if not recall.size:
        return AveragePrecision(0.0, 0.0, 0.0, 0.0)
    return AveragePrecision(*(float(part.mean()) for part in (precision, precision[0], precision[5], recall)))


def _to_coco(photos: Sequence[AnnotatedPhoto], garments: Sequence[_Garment], labels: Sequence[int], kind: str) -> COCO:
    """Return a COCO dataset whose annotation ids are the places of the garments, counted from 1: 0 means no match."""
    annotations: list[dict[str, Any]] = []
    for number, garment in enumerate(garments, start=1):
        annotation = {
            "id": number,
            "image_id": garment.photo.id,
            "category_id": garment.instance.label,
            "score": garment.score,
            "bbox": garment.xywh,
            "area": garment.area,
            "iscrowd": 0,
        }
        if kind == "segm":
            size = [garment.photo.height, garment.photo.width]
            annotation["segmentation"] = {"size": size, "counts": garment.instance.rle}
        annotations.append(annotation)
    coco = COCO()
    coco.dataset = {
        "images": [{"id": photo.id, "width": photo.width, "height": photo.height} for photo in photos],
        "categories": [{"id": label} for label in labels],
        "annotations": annotations,
    }
    coco.createIndex()
    return coco


class _Errors:
    """The errors at a score threshold: ``false`` detections, by falling score, and ``missed`` garments, by place."""

    def __init__(
        self,
        truths: Sequence[_Garment],
        detections: Sequence[_Garment],
        truth_of: Mapping[int, int | None],
        threshold: float,
        names: Mapping[int, str],
    ) -> None:
        self._truths, self._detections, self._truth_of, self._names = truths, detections, truth_of, names
        confident = [place for place in truth_of if detections[place].score >= threshold]
        self.false = sorted((k for k in confident if truth_of[k] is None), key=lambda k: (-detections[k].score, k))
        matched = {truth_of[k] for k in confident}
        self.missed = [place for place in range(len(truths)) if place not in matched]

    def worst(self, count: int) -> Mistakes:
        """Return the worst mistakes, at most ``count`` of each kind."""
        confusions = dict(self._confusions())
        alarms = [place for place in self.false if place not in confusions]
        unmatched = set(self.missed) - set(self._truth_of.values()) - set(confusions.values())
        largest = sorted(unmatched, key=lambda place: (-self._truths[place].area, place))
        return Mistakes(
            tuple(self._mistake(place, self._truth_near(place)) for place in alarms[:count]),
            tuple(self._mistake(self._detection_near(place), place) for place in largest[:count]),
            tuple(self._mistake(place, truth) for place, truth in list(confusions.items())[:count]),
        )

    def _confusions(self) -> Iterator[tuple[int, int]]:
        """Yield false detections with the missed garment of another label at the same place."""
        missed = defaultdict(list)
        for place in self.missed:
            missed[self._truths[place].photo.id].append(place)
        for place in self.false:
            one = self._detections[place]
            others = [k for k in missed[one.photo.id] if self._truths[k].instance.label != one.instance.label]
            nearest = _nearest(one, self._truths, others, SAME_IOU)
            if nearest is not None:
                missed[one.photo.id].remove(nearest)
                yield place, nearest

    def _truth_near(self, place: int) -> int | None:
        """Return the nearest garment of the detection's label, else of any label."""
        one = self._detections[place]
        here = [k for k, truth in enumerate(self._truths) if truth.photo.id == one.photo.id]
        same = [k for k in here if self._truths[k].instance.label == one.instance.label]
        nearest = _nearest(one, self._truths, same, NEAR_IOU)
        return _nearest(one, self._truths, here, NEAR_IOU) if nearest is None else nearest

    def _detection_near(self, place: int) -> int | None:
        """Return the nearest detection of the garment's label, at any score."""
        truth = self._truths[place]
        wanted = truth.photo.id, truth.instance.label
        same = [
            k for k in self._truth_of if (self._detections[k].photo.id, self._detections[k].instance.label) == wanted
        ]
        return _nearest(truth, self._detections, same, NEAR_IOU)

    def _mistake(self, place: int | None, truth_place: int | None) -> Mistake:
        detection = None if place is None else self._detections[place]
        truth = None if truth_place is None else self._truths[truth_place]
        photo = (detection or truth).photo  # type: ignore[union-attr]  # one of them is given
        iou = float(_ious(detection, [truth])[0]) if detection and truth else 0.0
        return Mistake(photo.file_name, photo.width, photo.height, self._shown(detection), self._shown(truth), iou)

    def _shown(self, garment: _Garment | None) -> Detection | None:
        if garment is None:
            return None
        photo, instance = garment.photo, garment.instance
        box = Box.clipped(*instance.box, width=photo.width, height=photo.height)
        if box is None:
            raise ValueError(f"{instance.box} is not a box of {photo.file_name}, {photo.width}x{photo.height} px")
        mask = mask_of(instance, photo.height, photo.width)[box.slices] > 0 if instance.has_mask else None
        return Detection(self._names[instance.label], garment.score, box, mask)


def _nearest(garment: _Garment, among: Sequence[_Garment], places: Sequence[int], min_iou: float) -> int | None:
    """Return the place with the highest IoU, None if that is below ``min_iou``."""
    if not places:
        return None
    ious = _ious(garment, [among[place] for place in places])
    best = int(ious.argmax())
    return places[best] if ious[best] >= min_iou else None


def _ious(garment: _Garment, others: Sequence[_Garment]) -> NDArray[np.float64]:
    ious: NDArray[np.float64] = coco_mask.iou([garment.xywh], [other.xywh for other in others], [0] * len(others))[0]
    return ious
