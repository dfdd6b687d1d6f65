"""COCO average precision of a detector (Lin et al., ECCV 2014), by pycocotools."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from stages.images import read_image
from stages.protocols import Detector
from stages.types import Detection


@dataclass(frozen=True, slots=True)
class AveragePrecision:
    """Over IoU 0.50 to 0.95, at 0.50, at 0.75, and at 0.50 for each label; all in [0, 1]."""

    ap: float
    ap50: float
    ap75: float
    ap50_by_label: dict[str, float]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The precision of boxes, of masks where the detector makes them, and its seconds per photo."""

    photos: int
    box: AveragePrecision
    mask: AveragePrecision | None
    seconds_per_photo: float


def evaluate(
    detector: Detector, annotations: Path, photos: Path, progress: Callable[[int, int], None] | None = None
) -> Evaluation:
    """Judge a detector on the photos of a COCO instances file, one photo at a time.

    Category names of the file are matched with the detector's labels. The detector's own score threshold
    holds: build it with a low one, since AP needs the doubtful detections too.
    """
    with _quiet():
        truth = COCO(str(annotations))
    category_of = {category["name"]: category["id"] for category in truth.loadCats(truth.getCatIds())}
    results: list[dict[str, Any]] = []
    spent, records = 0.0, truth.loadImgs(truth.getImgIds())
    for done, record in enumerate(records, 1):
        image = read_image(photos / record["file_name"])
        start = perf_counter()
        (detections,) = detector([image])
        spent += perf_counter() - start
        results += [
            _to_coco(detection, record, category_of[detection.label])
            for detection in detections
            if detection.label in category_of
        ]
        if progress:
            progress(done, len(records))
    has_masks = bool(results) and all("segmentation" in result for result in results)
    return Evaluation(
        photos=len(records),
        box=_judge(truth, results, "bbox"),
        mask=_judge(truth, results, "segm") if has_masks else None,
        seconds_per_photo=spent / max(1, len(records)),
    )


def _to_coco(detection: Detection, record: dict[str, Any], category_id: int) -> dict[str, Any]:
    box = detection.box
    result = {
        "image_id": record["id"],
        "category_id": category_id,
        "bbox": [box.x1, box.y1, box.width, box.height],
        "score": detection.score,
    }
    if detection.mask is not None:
        full = np.zeros((record["height"], record["width"]), np.uint8, order="F")
        full[box.slices] = detection.mask
        result["segmentation"] = coco_mask.encode(full)
    return result


def _judge(truth: COCO, results: list[dict[str, Any]], kind: str) -> AveragePrecision:
    names = [category["name"] for category in truth.loadCats(truth.getCatIds())]
    if not results:
        return AveragePrecision(0.0, 0.0, 0.0, dict.fromkeys(names, 0.0))
    # loadRes writes an area and an id into what it is given
    boxes = [
        {key: value for key, value in result.items() if kind == "segm" or key != "segmentation"} for result in results
    ]
    with _quiet():
        judge = COCOeval(truth, truth.loadRes(boxes), kind)
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    precision = judge.eval["precision"][0, :, :, 0, 2]  # at IoU 0.50, all areas, 100 detections: (recalls, labels)
    by_label = {
        name: round(float(values[values >= 0].mean()), 4)
        for name, values in zip(names, precision.T, strict=True)
        if (values >= 0).any()
    }
    ap, ap50, ap75 = (round(float(value), 4) for value in judge.stats[:3])
    return AveragePrecision(ap, ap50, ap75, by_label)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Pycocotools prints as it goes."""
    with contextlib.redirect_stdout(io.StringIO()):
        yield
