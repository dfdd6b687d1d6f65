"""Photos whose answer is known: garments of a colour in front of a background that is plain, or misleads."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.crop_benchmark import CropStages
from pipeline.crop_benchmark_data import CropSet, Example, ExamplePhoto
from stages.images import write_jpeg
from stages.protocols import Detector
from stages.testing import FakeDetector, FakeEmbedder
from stages.types import Box, Detection, Image

BOX = Box(16, 16, 48, 48)


def disc() -> NDArray[np.bool_]:
    """A round garment: a quarter of its box is background."""
    y, x = np.mgrid[:32, :32] - 15.5
    return np.asarray(y * y + x * x < 15 * 15)


def photo(color: tuple[int, ...], background: tuple[int, ...]) -> Image:
    image = np.empty((64, 64, 3), np.uint8)
    image[:] = background
    image[BOX.slices][disc()] = color
    return image


def colours(count: int, seed: int) -> list[tuple[int, ...]]:
    return [tuple(row) for row in np.random.default_rng(seed).integers(0, 200, (count, 3)).tolist()]


def backgrounds(count: int, side: int, *, misleading: bool) -> list[tuple[int, ...]]:
    """White; or of the color that another item's background has on the other side."""
    if not misleading:
        return [(255, 255, 255)] * count
    found = colours(count, 1)
    return found[side:] + found[:side]


def items(*, misleading: bool, name: str = "discs", clutter: float | None = None, count: int = 24) -> CropSet:
    """Two photos of each item: the first asks, the second answers."""
    photos = []
    for side in range(2):
        pairs = zip(colours(count, 0), backgrounds(count, side, misleading=misleading), strict=True)
        for number, (color, background) in enumerate(pairs):
            truth = Detection("top", 1.0, BOX, disc())
            example = Example(f"item {number}", "top", truth, is_query=side == 0, in_gallery=side == 1)
            image = photo(color, background)
            photos.append(ExamplePhoto(f"{number}-{side}", lambda image=image: image, (example,)))
    return CropSet(name, "discs find discs", photos, clutter)


def fake_stages(*detectors: Detector, trained: dict[str, str] | None = None) -> CropStages:
    """Fake stages; embedders by the crop that they say they were trained on."""
    trained = trained or {"fake": "unknown"}
    named = {f"detector {number}": one for number, one in enumerate(detectors)}
    return CropStages(named, {name: FakeEmbedder() for name in trained}, trained)


class BoxesOnly:
    """Finds what :class:`FakeDetector` finds, without masks, and never the blue."""

    labels = FakeDetector.labels
    input_px: int | None = None

    def __call__(self, images: list[Image]) -> list[list[Detection]]:
        return [
            [Detection(one.label, one.score, one.box) for one in some if not _blue(image, one.box)]
            for image, some in zip(images, FakeDetector()(images), strict=True)
        ]


def _blue(image: Image, box: Box) -> bool:
    red, _, blue = image[(box.y1 + box.y2) // 2, (box.x1 + box.x2) // 2].tolist()
    return blue > 120 > red


def write_table(folder: Path, *, misleading: bool = True, label: str = "top", count: int = 8) -> Path:
    """Write the same as files: photos, a mask, and a CSV of them."""
    folder.mkdir(parents=True, exist_ok=True)
    mask = np.zeros((64, 64, 3), np.uint8)
    mask[BOX.slices][disc()] = 255
    write_jpeg(folder / "mask.jpg", mask)
    rows = [("photo", "box", "mask", "item_id", "label")]
    for side in range(2):
        pairs = zip(colours(count, 0), backgrounds(count, side, misleading=misleading), strict=True)
        for number, (color, background) in enumerate(pairs):
            write_jpeg(folder / f"{number}-{side}.jpg", photo(color, background), 98)
            rows.append((f"{number}-{side}.jpg", "16 16 48 48", "mask.jpg", f"item {number}", label))
    with (folder / "garments.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    return folder / "garments.csv"
