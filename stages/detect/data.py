"""COCO instance data for training detectors: photos with boxes and masks, augmented on the way."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from pycocotools import mask as coco_mask
from torch import Tensor
from torch.utils.data import Dataset

from stages.errors import CatalogueError
from stages.images import read_image
from stages.types import LABELS, Image

_MIN_SIDE_PX = 4  # an instance smaller than this after augmentation teaches nothing


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """A photo and its garments: masks ``(n, h, w)`` uint8 of 0 and 1, labels ``(n,)`` int64 from 1."""

    image: Image
    masks: NDArray[np.uint8]
    labels: NDArray[np.int64]


class CocoScenes:
    """The photos of one COCO file, read when asked for.

    Args:
        annotations: a COCO instances file whose category names are garment groups (others are left out).
        photos: the folder that its file names are relative to.

    Raises:
        CatalogueError: the file is not COCO instances.
    """

    def __init__(self, annotations: Path, photos: Path) -> None:
        try:
            coco = json.loads(annotations.read_text())
            known = {category["id"]: category["name"] for category in coco["categories"]}
            self.images: list[dict[str, Any]] = sorted(coco["images"], key=lambda image: int(image["id"]))
            self._garments: dict[int, list[tuple[int, Any]]] = defaultdict(list)
            for garment in coco["annotations"]:
                if known[garment["category_id"]] in LABELS and not garment.get("iscrowd"):
                    label = 1 + LABELS.index(known[garment["category_id"]])
                    self._garments[garment["image_id"]].append((label, garment["segmentation"]))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CatalogueError(f"{annotations} is not a COCO instances file: {error!r}") from error
        self.photos = photos

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, place: int) -> Scene:
        record = self.images[place]
        size = record["height"], record["width"]
        garments = self._garments[record["id"]]
        masks = [_decode(segmentation, *size) for _, segmentation in garments]
        return Scene(
            image=read_image(self.photos / record["file_name"]),
            masks=np.stack(masks) if masks else np.zeros((0, *size), np.uint8),
            labels=np.array([label for label, _ in garments], np.int64),
        )


def _decode(segmentation: Any, height: int, width: int) -> NDArray[np.uint8]:
    if isinstance(segmentation, list):  # polygons
        segmentation = coco_mask.merge(coco_mask.frPyObjects(segmentation, height, width))
    elif isinstance(segmentation["counts"], list):  # uncompressed runs
        segmentation = coco_mask.frPyObjects(segmentation, height, width)
    mask: NDArray[np.uint8] = coco_mask.decode(segmentation)
    return mask


def augment(scene: Scene, input_px: int, rng: np.random.Generator) -> Scene:
    """Another camera's view of the scene: scale, crop, slight turn, flip, colour, blur.

    The result's long side is at most ``input_px``; masks follow the pixels.
    """
    height, width = scene.image.shape[:2]
    scale = input_px / max(height, width) * float(np.exp(rng.uniform(np.log(0.6), np.log(1.7))))
    out_h, out_w = (min(input_px, max(64, round(side * scale))) for side in (height, width))
    turn = np.deg2rad(rng.normal(0, 4))
    cos, sin = scale * np.cos(turn), scale * np.sin(turn)
    flip = -1.0 if rng.random() < 0.5 else 1.0
    linear = np.array([[flip * cos, -sin], [flip * sin, cos]])
    spare = np.array([width * scale - out_w, height * scale - out_h])
    centre = np.array([out_w, out_h]) / 2 - spare * rng.uniform(-0.5, 0.5, 2)
    offset = centre - linear @ (np.array([width, height]) / 2)
    warp = np.hstack([linear, offset[:, None]])
    ground = tuple(map(float, scene.image.reshape(-1, 3)[:: max(1, height * width // 1000)].mean(0)))
    shrunk: Image = scene.image
    warp_image = warp
    if scale < 0.75:  # warpAffine does not average: shrink first
        shrunk = np.asarray(cv2.resize(scene.image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA), np.uint8)
        back = np.array([width / shrunk.shape[1], height / shrunk.shape[0]])
        warp_image = np.hstack([linear * back, offset[:, None]])
    size = (out_w, out_h)
    image = np.asarray(cv2.warpAffine(shrunk, warp_image, size, flags=cv2.INTER_LINEAR, borderValue=ground), np.uint8)
    masks = np.zeros((len(scene.masks), out_h, out_w), np.uint8)
    for mask, into in zip(scene.masks, masks, strict=True):
        cv2.warpAffine(mask, warp, size, dst=into, flags=cv2.INTER_NEAREST)
    return Scene(_recolour(image, rng), masks, scene.labels)


def _recolour(image: Image, rng: np.random.Generator) -> Image:
    """Another exposure, white balance, saturation and contrast; sometimes blur, noise or no colour at all."""
    values = image.astype(np.float32) / 255
    values = np.clip(values, 0, 1) ** float(np.exp(rng.normal(0, 0.2)))
    values *= np.exp(rng.normal(0, 0.07, 3)).astype(np.float32) * np.float32(np.exp(rng.normal(0, 0.15)))
    grey = values.mean(2, keepdims=True)
    saturation = 0.0 if rng.random() < 0.05 else float(np.exp(rng.normal(0, 0.25)))
    values = grey + (values - grey) * saturation
    values = (values - values.mean()) * float(np.exp(rng.normal(0, 0.15))) + values.mean()
    if rng.random() < 0.15:
        values = np.asarray(cv2.GaussianBlur(values, (0, 0), rng.uniform(0.5, 1.5)), np.float32)
    if rng.random() < 0.15:
        values += rng.normal(0, rng.uniform(0.01, 0.05), values.shape).astype(np.float32)
    recoloured: Image = np.clip(values * 255, 0, 255).astype(np.uint8)
    return recoloured


Target = dict[str, Tensor]


def to_target(scene: Scene) -> tuple[Tensor, Target]:
    """What torchvision's detectors train on: image ``(3, h, w)`` in [0, 1], and boxes, labels, masks."""
    boxes, kept = [], []
    for place, mask in enumerate(scene.masks):
        x, y, w, h = cv2.boundingRect(mask)
        if min(w, h) >= _MIN_SIDE_PX:
            boxes.append([x, y, x + w, y + h])
            kept.append(place)
    image = torch.from_numpy(scene.image.transpose(2, 0, 1).astype(np.float32) / 255)
    return image, {
        "boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        "labels": torch.from_numpy(scene.labels[kept]),
        "masks": torch.from_numpy(scene.masks[kept]),
    }


class TrainingSet(Dataset[tuple[Tensor, Target]]):
    """Augmented scenes from several COCO files; the augmentation follows from seed, epoch and place."""

    def __init__(self, sources: list[CocoScenes], input_px: int, seed: int) -> None:
        self._places = [(source, place) for source in sources for place in range(len(source))]
        self._input_px, self._seed, self.epoch = input_px, seed, 0

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, place: int) -> tuple[Tensor, Target]:
        source, within = self._places[place]
        rng = np.random.default_rng((self._seed, self.epoch, place))
        return to_target(augment(source[within], self._input_px, rng))
