"""Scenes as COCO instance annotations."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from pipeline.sample.scene import Piece, Scene
from stages.types import LABELS


def coco_categories() -> list[dict[str, Any]]:
    """The groups, numbered from 1 in their order."""
    return [{"id": k, "name": label, "supercategory": "garment"} for k, label in enumerate(LABELS, start=1)]


def coco_image(scene: Scene, image_id: int, file_name: str) -> dict[str, Any]:
    """An entry of ``images``."""
    height, width = scene.image.shape[:2]
    return {
        "id": image_id,
        "file_name": file_name,
        "width": width,
        "height": height,
        "clutter": round(scene.clutter, 4),
    }


def coco_annotation(piece: Piece, annotation_id: int, image_id: int, size: tuple[int, int]) -> dict[str, Any]:
    """An entry of ``annotations``; ``size`` is the image's height and width."""
    full: NDArray[np.uint8] = np.zeros(size, np.uint8, order="F")
    full[piece.box.slices] = piece.mask
    rle = coco_mask.encode(full)
    return {
        "id": annotation_id,
        "image_id": image_id,
        "category_id": LABELS.index(piece.item.label) + 1,
        "bbox": [piece.box.x1, piece.box.y1, piece.box.width, piece.box.height],
        "area": int(piece.mask.sum()),
        "segmentation": {"size": list(size), "counts": rle["counts"].decode("ascii")},
        "iscrowd": 0,
        "item_id": piece.item.item_id,
    }
