"""COCO average precision (Lin et al., ECCV 2014) of boxes or of masks, and its curves, by pycocotools."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from stages.detect.annotations import AnnotatedPhoto, Instance

MAX_PER_PHOTO = 100
"""So many detections of a label in a photo are judged, the best ones."""


@dataclass(frozen=True, slots=True)
class Placed:
    """A garment in a photo, annotated (with score 1) or detected."""

    photo: AnnotatedPhoto
    instance: Instance
    score: float = 1.0


@dataclass(frozen=True, slots=True)
class AveragePrecision:
    """COCO's figures, in [0, 1]: over IoU 0.50 to 0.95, at 0.50, at 0.75, and the recall of 100 detections per photo.

    ``recall`` is a mean over IoU 0.50 to 0.95 as ``ap`` is.
    """

    ap: float
    ap50: float
    ap75: float
    recall: float


@dataclass(frozen=True, slots=True)
class Curve:
    """Precision at IoU 0.50 for each recall of 0.00, 0.01, … 1.00, and the score that reaches it.

    Precision is COCO's, the best at this recall or a higher one; it and the score are 0 where none is reached.
    """

    recall: tuple[float, ...]
    precision: tuple[float, ...]
    score: tuple[float, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Judgement:
    """Detections judged against annotated garments: means over labels, and each label that has garments.

    ``truth_of`` says for the place of each detection that was judged which annotated garment, by its place, it
    found at IoU 0.50; None is a false one.
    """

    overall: AveragePrecision
    by_label: dict[int, AveragePrecision]
    curves: dict[int, Curve]
    truth_of: dict[int, int | None]


def judge(
    photos: Sequence[AnnotatedPhoto],
    truths: Sequence[Placed],
    found: Sequence[Placed],
    labels: Sequence[int],
    kind: Literal["bbox", "segm"],
) -> Judgement:
    """Judge the detections of photos as COCO does; ``segm`` wants a mask of each garment."""
    with _quiet():
        judged = COCOeval(_to_coco(photos, truths, labels, kind), _to_coco(photos, found, labels, kind), kind)
        judged.params.areaRng, judged.params.areaRngLbl = [[0, 1e10]], ["all"]
        judged.params.maxDets = [MAX_PER_PHOTO]
        judged.evaluate()
        judged.accumulate()
    precision: NDArray[np.float64] = judged.eval["precision"][..., 0, 0]  # (IoUs, recalls, labels); -1: no garments
    recall, score = judged.eval["recall"][..., 0, 0], judged.eval["scores"][0, ..., 0, 0]
    grid = tuple(np.linspace(0, 1, precision.shape[1]).round(2).tolist())
    there = [place for place in range(len(labels)) if recall[0, place] >= 0]
    return Judgement(
        overall=_means(precision[..., there], recall[:, there]),
        by_label={labels[k]: _means(precision[..., k], recall[:, k]) for k in there},
        curves={labels[k]: Curve(grid, tuple(precision[0, :, k].tolist()), tuple(score[:, k].tolist())) for k in there},
        truth_of={
            number - 1: int(truth) - 1 if truth else None
            for photo in judged.evalImgs
            if photo is not None
            for number, truth in zip(photo["dtIds"], photo["dtMatches"][0], strict=True)
        },
    )


def _means(precision: NDArray[np.float64], recall: NDArray[np.float64]) -> AveragePrecision:
    if not recall.size:
        return AveragePrecision(0.0, 0.0, 0.0, 0.0)
    return AveragePrecision(*(float(part.mean()) for part in (precision, precision[0], precision[5], recall)))


def _to_coco(photos: Sequence[AnnotatedPhoto], garments: Sequence[Placed], labels: Sequence[int], kind: str) -> COCO:
    """Ids count from 1 in the order of the garments: pycocotools takes 0 for no match."""
    coco = COCO()
    coco.dataset = {
        "images": [{"id": photo.id, "width": photo.width, "height": photo.height} for photo in photos],
        "categories": [{"id": label} for label in labels],
        "annotations": [_annotation(number, garment, kind) for number, garment in enumerate(garments, start=1)],
    }
    coco.createIndex()
    return coco


def _annotation(number: int, garment: Placed, kind: str) -> dict[str, Any]:
    x1, y1, x2, y2 = garment.instance.box
    annotation = {
        "id": number,
        "image_id": garment.photo.id,
        "category_id": garment.instance.label,
        "score": garment.score,
        "bbox": [x1, y1, x2 - x1, y2 - y1],
        "area": (x2 - x1) * (y2 - y1),
        "iscrowd": 0,
    }
    if kind == "segm":
        annotation["segmentation"] = {
            "size": [garment.photo.height, garment.photo.width],
            "counts": garment.instance.rle,
        }
    return annotation


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Pycocotools prints as it goes."""
    with contextlib.redirect_stdout(io.StringIO()):
        yield
