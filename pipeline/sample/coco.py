"""Scenes as COCO instance annotations."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from pipeline.sample.scene import Piece, Scene
from stages.types import LABELS


class CocoDocument:
    """Scenes gathered as COCO instances."""

    def __init__(self) -> None:
        self._document: dict[str, Any] = {"images": [], "annotations": [], "categories": _categories()}

    @property
    def annotations(self) -> int:
        """How many there are so far."""
        return len(self._document["annotations"])

    def add(self, scene: Scene, file_name: str) -> None:
        """One more photo and its pieces."""
        images, annotations = self._document["images"], self._document["annotations"]
        images.append(_image(scene, len(images) + 1, file_name))
        for piece in scene.pieces:
            annotations.append(_annotation(piece, len(annotations) + 1, len(images), scene.image.shape[:2]))

    def write(self, path: Path) -> None:
        """The file, whole or not at all."""
        part = path.with_name(path.name + ".part")
        part.write_text(json.dumps(self._document, separators=(",", ":")) + "\n", encoding="utf-8")
        part.replace(path)


def _categories() -> list[dict[str, Any]]:
    """The groups, numbered from 1 in their order."""
    return [{"id": k, "name": label, "supercategory": "garment"} for k, label in enumerate(LABELS, start=1)]


def _image(scene: Scene, image_id: int, file_name: str) -> dict[str, Any]:
    """An entry of ``images``."""
    height, width = scene.image.shape[:2]
    return {
        "id": image_id,
        "file_name": file_name,
        "width": width,
        "height": height,
        "clutter": round(scene.clutter, 4),
    }


def _annotation(piece: Piece, annotation_id: int, image_id: int, size: tuple[int, int]) -> dict[str, Any]:
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
