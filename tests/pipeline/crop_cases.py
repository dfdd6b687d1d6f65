"""Photos whose answer is known: garments of a colour before a ground that is plain, or tells lies."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from pipeline.benchmark.crops import CropSet, Garment, Shot, Subject
from stages.images import write_jpeg
from stages.protocols import Detector
from stages.testing import FakeDetector, FakeEmbedder
from stages.types import Box, Detection, Image

BOX = Box(16, 16, 48, 48)


def disc() -> NDArray[np.bool_]:
    """A round garment: a quarter of its box is ground."""
    y, x = np.mgrid[:32, :32] - 15.5
    return np.asarray(y * y + x * x < 15 * 15)


def photo(color: Image | tuple[int, ...], ground: tuple[int, ...]) -> Image:
    """A garment of a colour before a ground."""
    image = np.empty((64, 64, 3), np.uint8)
    image[:] = ground
    image[BOX.slices][disc()] = color
    return image


def colours(count: int, seed: int) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 200, (count, 3)).astype(np.uint8)


def items(count: int = 24, *, lying: bool, seed: int = 0, name: str = "discs", clutter: float | None = None) -> CropSet:
    """Two photos of each item. A lying ground is that of another item on the other side; else all grounds are white."""
    own = colours(count, seed)
    grounds = colours(count, seed + 1)
    shots = []
    for side in range(2):
        for number in range(count):
            ground = tuple(map(int, grounds[(number + side) % count])) if lying else (255, 255, 255)
            image = photo(tuple(map(int, own[number])), ground)
            truth = Detection("top", 1.0, BOX, disc())
            garment = Garment(f"item {number}", "top", truth, asks=side == 0, found=side == 1)
            shots.append(Shot(f"{number}-{side}", lambda image=image: image, (garment,)))
    return CropSet(name, "discs find discs", shots, clutter)


def subject(*detectors: Detector, trained: dict[str, str] | None = None) -> Subject:
    """Fake stages; embedders by the crop that they say they were trained on."""
    trained = trained or {"fake": "not said"}
    named = {f"detector {number}": one for number, one in enumerate(detectors)}
    spec = "stages.testing:FakeEmbedder"
    return Subject(named, {name: FakeEmbedder() for name in trained}, dict.fromkeys(trained, spec), trained)


class BoxesOnly:
    """Finds what :class:`FakeDetector` finds, without masks, and never the blue."""

    labels = FakeDetector.labels
    input_px: int | None = None

    def __call__(self, images: list[Image]) -> list[list[Detection]]:
        found = FakeDetector()(images)
        return [
            [Detection(one.label, one.score, one.box) for one in some if not _blue(image, one.box)]
            for image, some in zip(images, found, strict=True)
        ]


def _blue(image: Image, box: Box) -> bool:
    red, _, blue = image[(box.y1 + box.y2) // 2, (box.x1 + box.x2) // 2].tolist()
    return blue > 120 > red


def write_table(folder: Path, *, lying: bool = True, label: str = "top", count: int = 8) -> Path:
    """The same as files: photos, masks, and a CSV of them."""
    folder.mkdir(parents=True, exist_ok=True)
    own, grounds = colours(count, 0), colours(count, 1)
    mask = np.zeros((64, 64, 3), np.uint8)
    mask[BOX.slices][disc()] = 255
    write_jpeg(folder / "mask.jpg", mask)
    rows = [("photo", "box", "mask", "item_id", "label")]
    for side in range(2):
        for number in range(count):
            ground = tuple(map(int, grounds[(number + side) % count])) if lying else (255, 255, 255)
            write_jpeg(folder / f"{number}-{side}.jpg", photo(tuple(map(int, own[number])), ground), 98)
            rows.append((f"{number}-{side}.jpg", "16 16 48 48", "mask.jpg", f"item {number}", label))
    with (folder / "garments.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    return folder / "garments.csv"


def write_coco(folder: Path, photos: int = 4) -> tuple[Path, Path]:
    """Street photos: a top, a pair of shoes, and in the last one three pieces of shoes."""
    folder.mkdir(parents=True, exist_ok=True)
    own = colours(photos, 5)
    images, annotations = [], []
    for number in range(photos):
        image = np.full((120, 100, 3), 40 * number, np.uint8)
        places = [(2, Box(20, 8, 60, 48)), (7, Box(4, 70, 34, 100)), (7, Box(50, 70, 80, 100))]
        if number == photos - 1:
            places.append((7, Box(50, 20, 90, 60)))
        for category, box in places:
            image[box.slices] = own[number]
            dense = np.zeros(image.shape[:2], np.uint8, order="F")
            dense[box.slices] = 1
            rle = coco_mask.encode(dense)
            annotations.append({
                "id": len(annotations) + 1, "image_id": number + 1, "category_id": category, "iscrowd": 0,
                "bbox": [box.x1, box.y1, box.width, box.height], "area": int(dense.sum()),
                "segmentation": {"size": [120, 100], "counts": rle["counts"].decode("ascii")},
            })  # fmt: skip
        write_jpeg(folder / f"{number}.jpg", image)
        images.append({"id": number + 1, "file_name": f"{number}.jpg", "width": 100, "height": 120})
    categories = [{"id": 2, "name": "top"}, {"id": 7, "name": "shoes"}]
    path = folder.parent / "coco.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return path, folder
