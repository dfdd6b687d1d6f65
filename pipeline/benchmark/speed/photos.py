"""Photos as a camera makes them: of 12 megapixels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import cv2
import numpy as np

from stages.images import read_image, write_jpeg
from stages.types import Image

PIXELS: Final = 12_000_000


def enlarged(photos: Sequence[Path], folder: Path) -> list[Path]:
    """Write each photo, scaled to 12 megapixels, as a JPEG into a new folder; one that comes again is written once."""
    folder.mkdir()
    names: dict[Path, Path] = {}
    for photo in photos:
        if photo not in names:
            names[photo] = folder / f"{len(names):05}.jpg"
            write_jpeg(names[photo], _scaled(read_image(photo)))
    return [names[photo] for photo in photos]


def _scaled(image: Image) -> Image:
    height, width = image.shape[:2]
    scale = (PIXELS / (height * width)) ** 0.5
    size = round(width * scale), round(height * scale)
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_CUBIC), np.uint8)
