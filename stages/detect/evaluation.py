"""Evaluation of a detector on annotated photos: COCO average precision, mistakes, score thresholds, latency.

Average precision (Lin et al., ECCV 2014) is computed by pycocotools.
"""

from __future__ import annotations

import contextlib
import io
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
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

from stages.detect.annotations import AnnotatedPhoto, Instance, mask_of
from stages.detect.coco import read_annotations
from stages.errors import CatalogueError, ImageError, StageError
from stages.images import read_image
from stages.protocols import Detector
from stages.types import Box, Detection

EVALUATION_MIN_SCORE: Final = 0.005
"""The ``min_score`` with which a detector is evaluated: average precision needs detections of low score too."""

SAME_IOU: Final = 0.5
"""The least IoU of two boxes of the same garment."""

NEAR_IOU: Final = 0.1
"""The least IoU of two boxes that are shown together."""

_MAX_PER_PHOTO: Final = 100  # detections per label, with the highest scores, as in COCO's evaluation
_PRIOR_GARMENTS: Final = 10  # the weight of the common threshold in the threshold of each label
_MIN_THRESHOLD, _MAX_THRESHOLD = 0.05, 0.95

ProgressCallback = Callable[[str, str | None, int], None]
"""Called with a photo's name, its error or None, and the number of all photos."""


@dataclass(frozen=True, slots=True)
class AveragePrecision:
    """COCO's figures, in [0, 1]: AP and recall averaged over IoU 0.50 to 0.95, and AP at IoU 0.50 and 0.75."""

    ap: float
    ap50: float
    ap75: float
    recall: float


@dataclass(frozen=True, slots=True)
class PrecisionRecall:
    """The best precision at IoU 0.50 with a recall of at least 0.00, 0.01, … 1.00, and its score; 0 if unreached."""

    recall: tuple[float, ...]
    precision: tuple[float, ...]
    score: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Latency:
    """Seconds per photo, from pixels to detections, one photo at a time; the first photo does not count."""

    mean_s: float
    median_s: float
    p95_s: float


@dataclass(frozen=True, slots=True)
class LabelEvaluation:
    """The figures of one label; misses and false alarms are counted at the score threshold, by boxes at IoU 0.50.

    At ``balanced_threshold`` there are as many false alarms as misses; None if there are always more misses.
    Average precision and curves are None if there are no garments, or no masks.
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
        """The number of garments that were detected."""
        return self.garments - self.missed


@dataclass(frozen=True, slots=True, eq=False)
class Mistake:
    """A detection, an annotated garment (with score 1), or both, with the IoU of their boxes and the photo's size."""

    photo: str
    width: int
    height: int
    detection: Detection | None
    truth: Detection | None
    iou: float


@dataclass(frozen=True, slots=True)
class Mistakes:
    """The worst mistakes of each kind, worst first.

    ``confusions``: missed garments detected with another label, by score. ``false_alarms``: other detections that match no
    garment, by score. ``misses``: garments that were not detected at any score, by size.
    """

    false_alarms: tuple[Mistake, ...] = ()
    misses: tuple[Mistake, ...] = ()
    confusions: tuple[Mistake, ...] = ()


@dataclass(frozen=True, slots=True)
class DetectorEvaluation:
    """All figures of a detector.

    ``box`` and ``mask`` are means over the labels with garments; ``mask`` is None unless all detections and garments have
    masks. ``failed`` has the error of each photo that could not be evaluated, ``problems`` those of the annotations, and
    ``notes`` further remarks, such as labels that are not categories.
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
        """The number of detections at the threshold that match no garment."""
        return sum(label.false_alarms for label in self.labels.values())


@dataclass(frozen=True, slots=True, eq=False)
class _Garment:
    """A garment in a photo, annotated (with score 1) or detected."""

    photo: AnnotatedPhoto
    instance: Instance
    score: float = 1.0

    @property
    def label(self) -> int:
        return self.instance.label

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

    Categories are matched with the detector's labels by name; crowds are skipped. Build the detector with the ``min_score``
    :data:`EVALUATION_MIN_SCORE`.

    Args:
        detector: to evaluate.
        annotations: the COCO instances file.
        photos: the folder that its file names are relative to.
        threshold: the score at which misses and false alarms are counted.
        mistakes: how many mistakes of each kind to return.
        limit: evaluate only the first photos.
        progress: called after each photo.

    Raises:
        CatalogueError: the file is not COCO instances, none of its categories is a label, or no photo can be read.
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
    categories = set(known.categories.values())
    names = {number: name for number, name in enumerate(detector.labels, start=1) if name in categories}
    detections = [detection for detection in detections if detection.label in names]
    boxes = _compare(seen, truths, detections, list(names), "bbox")
    has_masks = bool(detections) and all(garment.instance.has_mask for garment in (*truths, *detections))
    masks = _compare(seen, truths, detections, list(names), "segm") if has_masks else None
    matches = boxes.matches
    confident = [detection for detection in matches if detection.score >= threshold]
    false = sorted((one for one in confident if matches[one] is None), key=lambda one: -one.score)
    found = {matches[one] for one in confident}
    missed = [truth for truth in truths if truth not in found]

    def of_label(number: int) -> LabelEvaluation:
        garments = sum(truth.label == number for truth in truths)
        return LabelEvaluation(
            garments=garments,
            missed=sum(truth.label == number for truth in missed),
            false_alarms=sum(one.label == number for one in false),
            balanced_threshold=balanced_threshold((one.score for one in matches if one.label == number), garments),
            box=boxes.by_label.get(number),
            mask=masks.by_label.get(number) if masks else None,
            box_curve=boxes.curves.get(number),
            mask_curve=masks.curves.get(number) if masks else None,
        )

    absent = (name for name in detector.labels if name not in categories)
    return DetectorEvaluation(
        photos=len(seen),
        garments=len(truths),
        threshold=threshold,
        box=boxes.overall,
        mask=masks.overall if masks else None,
        labels={name: of_label(number) for number, name in names.items()},
        latency=_latency(seconds),
        mistakes=_worst_mistakes(truths, matches, false, missed, names, mistakes),
        failed=failed,
        problems=tuple(map(str, known.problems)),
        notes=(
            *known.notes,
            *(f"label {name} is not one of the categories: its detections are left out" for name in absent),
        ),
    )


def balanced_threshold(scores: Iterable[float], garments: int) -> float | None:
    """Return the threshold at which there are as many detections as garments, and so as many false alarms as misses.

    None if there are fewer detections than garments.

    >>> balanced_threshold([0.2, 0.9, 0.6, 0.4], garments=3), balanced_threshold([0.9], garments=3)
    (0.4, None)
    """
    falling = sorted(scores, reverse=True)
    return falling[garments - 1] if 0 < garments <= len(falling) else None


def balanced_thresholds(evaluation: DetectorEvaluation) -> dict[str, float]:
    """Return a score threshold for each label, from the evaluation of a detector without thresholds."""
    return shrunk({name: (label.balanced_threshold, label.garments) for name, label in evaluation.labels.items()})


def shrunk(thresholds: Mapping[str, tuple[float | None, int]]) -> dict[str, float]:
    """Shrink the thresholds of labels with few garments towards the common threshold.

    It is the mean in log-odds of the label's threshold, weighted by its garments, and of the common one, weighted by ten.

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
            image = read_image(folder / photo.file_name)
            height, width = image.shape[:2]
            if (width, height) != (photo.width, photo.height):
                what = f"is {width}x{height} px, its annotations are for {photo.width}x{photo.height}"
                raise ImageError(what)  # noqa: TRY301
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


def _instance(label: int, detection: Detection, photo: AnnotatedPhoto) -> Instance:
    x1, y1, x2, y2 = map(float, detection.box.corners)
    if detection.mask is None:
        return Instance(label, (x1, y1, x2, y2))
    whole = np.zeros((photo.height, photo.width), np.uint8, order="F")
    whole[detection.box.slices] = detection.mask
    return Instance(label, (x1, y1, x2, y2), coco_mask.encode(whole)["counts"])


def _latency(seconds: Sequence[float]) -> Latency:
    counted = seconds[1:] or seconds
    return Latency(fmean(counted), float(np.median(counted)), float(np.percentile(counted, 95)))


@dataclass(frozen=True, slots=True, eq=False)
class _Comparison:
    """COCO's comparison of detections with annotated garments, overall and for each label with garments.

    ``matches`` maps each detection to its garment at IoU 0.50, or to None.
    """

    overall: AveragePrecision
    by_label: dict[int, AveragePrecision]
    curves: dict[int, PrecisionRecall]
    matches: dict[_Garment, _Garment | None]


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
        matches={
            detections[number - 1]: truths[int(truth) - 1] if truth else None
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
    """Return a COCO dataset whose annotation ids are the positions of the garments from 1, since 0 means no match."""
    annotations: list[dict[str, Any]] = []
    for number, garment in enumerate(garments, start=1):
        photo = garment.photo
        annotation = {"id": number, "image_id": photo.id, "category_id": garment.label, "score": garment.score,
                      "bbox": garment.xywh, "area": garment.area, "iscrowd": 0}  # fmt: skip
        if kind == "segm":
            annotation["segmentation"] = {"size": [photo.height, photo.width], "counts": garment.instance.rle}
        annotations.append(annotation)
    coco = COCO()
    coco.dataset = {
        "images": [{"id": photo.id, "width": photo.width, "height": photo.height} for photo in photos],
        "categories": [{"id": label} for label in labels],
        "annotations": annotations,
    }
    coco.createIndex()
    return coco


def _worst_mistakes(
    truths: Sequence[_Garment],
    matches: Mapping[_Garment, _Garment | None],
    false: Sequence[_Garment],
    missed: Sequence[_Garment],
    names: Mapping[int, str],
    count: int,
) -> Mistakes:
    """Return the worst mistakes, at most ``count`` of each kind.

    ``matches`` has the garment of each detection or None, ``false`` the confident detections without a garment, by falling
    score, and ``missed`` the garments without a confident detection.
    """
    missed_in: defaultdict[int, list[_Garment]] = defaultdict(list)
    for truth in missed:
        missed_in[truth.photo.id].append(truth)
    confusions: dict[_Garment, _Garment] = {}
    for one in false:
        in_photo = missed_in[one.photo.id]
        if nearest := _nearest(one, [truth for truth in in_photo if truth.label != one.label], SAME_IOU):
            in_photo.remove(nearest)
            confusions[one] = nearest
    alarms = [one for one in false if one not in confusions]
    explained = {*matches.values(), *confusions.values()}
    misses = sorted((truth for truth in missed if truth not in explained), key=lambda truth: -truth.area)

    def mistake(detection: _Garment | None, truth: _Garment | None) -> Mistake:
        photo = (detection or truth).photo  # type: ignore[union-attr]  # one of them is given
        iou = float(_ious(detection, [truth])[0]) if detection and truth else 0.0
        detected, annotated = (None if one is None else _shown(one, names[one.label]) for one in (detection, truth))
        return Mistake(photo.file_name, photo.width, photo.height, detected, annotated, iou)

    return Mistakes(
        tuple(mistake(one, _near(one, truths, same_label=True) or _near(one, truths)) for one in alarms[:count]),
        tuple(mistake(_near(truth, list(matches), same_label=True), truth) for truth in misses[:count]),
        tuple(mistake(one, truth) for one, truth in list(confusions.items())[:count]),
    )


def _near(garment: _Garment, among: Sequence[_Garment], *, same_label: bool = False) -> _Garment | None:
    """Return the nearest garment in the same photo, optionally of the same label."""
    near = [one for one in among if one.photo.id == garment.photo.id and (not same_label or one.label == garment.label)]
    return _nearest(garment, near, NEAR_IOU)


def _nearest(garment: _Garment, among: Sequence[_Garment], min_iou: float) -> _Garment | None:
    """Return the garment with the highest IoU, or None if that is below ``min_iou``."""
    if not among:
        return None
    ious = _ious(garment, among)
    best = int(ious.argmax())
    return among[best] if ious[best] >= min_iou else None


def _ious(garment: _Garment, others: Sequence[_Garment]) -> NDArray[np.float64]:
    ious: NDArray[np.float64] = coco_mask.iou([garment.xywh], [other.xywh for other in others], [0] * len(others))[0]
    return ious


def _shown(garment: _Garment, name: str) -> Detection:
    photo, instance = garment.photo, garment.instance
    box = Box.clipped(*instance.box, width=photo.width, height=photo.height)
    if box is None:
        raise ValueError(f"{instance.box} is not a box of {photo.file_name}, {photo.width}x{photo.height} px")
    mask = mask_of(instance, photo.height, photo.width)[box.slices] > 0 if instance.has_mask else None
    return Detection(name, garment.score, box, mask)
