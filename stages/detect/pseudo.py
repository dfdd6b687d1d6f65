"""Pseudo-labels: a trained detector's own findings as annotations for photos that have only tags.

Self-training with image-level labels: the tags say which labels may appear, and that each of them does.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from stages.errors import ImageError
from stages.images import read_image
from stages.protocols import Detector
from stages.types import Box, Detection

SURE = 0.5
"""The score from which a tagged label's detections are all believed."""

LIKELY = 0.15
"""The score from which the best detection of a tagged label is believed where none is sure."""

_SAME = 0.7  # IoU of boxes from which two detections are one garment
_LARGE = 0.12  # share of a photo that its only garment covers at least
_SEEN = 0.4  # score from which something else in the photo counts
_WITHIN = 0.8  # share of a box inside another one of its label from which it is a part of that garment


def believed(detections: Collection[Detection], tags: Collection[str]) -> list[Detection]:
    """The detections to take for true, given the labels that the photo has, by falling score."""
    ranked = sorted((one for one in detections if one.label in tags), key=lambda one: -one.score)
    kept: list[Detection] = []
    for one in ranked:
        first = all(one.label != other.label for other in kept)
        if one.score >= (LIKELY if first else SURE) and not any(_one_garment(one, other) for other in kept):
            kept.append(one)
    return kept


def only_garment(detections: Collection[Detection], labels: Collection[str], area: int) -> Detection | None:
    """The garment of a photo that shows nothing else, whatever label it was given; None where it is not alone.

    Photos of one garment whose label is known teach most where the detector is mistaken: it knows where, not what.

    Args:
        detections: in the photo.
        labels: those that the garment may be taken for.
        area: of the photo, in pixels.
    """
    candidates = [one for one in detections if one.label in labels and one.box.area >= _LARGE * area]
    if not candidates:
        return None
    first = max(candidates, key=lambda one: one.score * one.box.area**0.5)
    others = [one for one in detections if one.score >= _SEEN and one is not first]
    alone = all(one.label in labels and _overlap(one.box, first.box) >= _SAME * one.box.area for one in others)
    return first if alone else None


def _one_garment(one: Detection, other: Detection) -> bool:
    shared = _overlap(one.box, other.box)
    union = one.box.area + other.box.area - shared
    return shared > _SAME * union or (one.label == other.label and shared > _WITHIN * one.box.area)


def _overlap(one: Box, other: Box) -> int:
    width = min(one.x2, other.x2) - max(one.x1, other.x1)
    height = min(one.y2, other.y2) - max(one.y1, other.y1)
    return max(0, width) * max(0, height)


def pseudo_label(detector: Detector, photos: Path, tags: Iterable[tuple[str, Collection[str]]]) -> dict[str, Any]:
    """COCO instances of photos of which only the tags are known; photos without a believed garment are left out.

    Args:
        detector: built with a score threshold of :data:`LIKELY` or less, and making masks.
        photos: the folder of the photos.
        tags: file name and labels of each photo.
    """
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for name, labels in tags:
        try:
            image = read_image(photos / name)
        except ImageError:
            continue
        found = believed(detector([image])[0], labels)
        if not found:
            continue
        height, width = image.shape[:2]
        images.append({"id": len(images) + 1, "file_name": name, "width": width, "height": height})
        for one in found:
            full = np.zeros((height, width), np.uint8, order="F")
            full[one.box.slices] = 1 if one.mask is None else one.mask
            rle = coco_mask.encode(full)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": len(images),
                    "category_id": detector.labels.index(one.label) + 1,
                    "bbox": [one.box.x1, one.box.y1, one.box.width, one.box.height],
                    "area": int(coco_mask.area(rle)),
                    "segmentation": {"size": [height, width], "counts": rle["counts"].decode("ascii")},
                    "iscrowd": 0,
                    "score": round(one.score, 3),
                }
            )
    categories = [{"id": number, "name": name} for number, name in enumerate(detector.labels, 1)]
    return {"images": images, "annotations": annotations, "categories": categories}
