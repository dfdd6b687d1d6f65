"""Images back out: fitted into a square, and to JPEG; public in :mod:`stages.images`."""

from __future__ import annotations

import os
from io import BytesIO
from pathlib import Path
from typing import Final

import cv2
import numpy as np
from PIL import Image as PillowImage

from stages.errors import ImageError
from stages.files import replacing
from stages.types import Image

MAX_SIDE: Final = 65_500
"""In pixels: what a JPEG can hold, so that whatever is read can be written."""


def letterbox(image: Image, side: int, fill: tuple[int, int, int] = (255, 255, 255)) -> Image:
    """Fit an image into the middle of a square of ``side`` pixels without distorting it.

    Raises:
        ValueError: ``side`` is less than 1 or the image is not one.

    >>> letterbox(np.zeros((10, 20, 3), np.uint8), side=4)[..., 0].tolist()
    [[255, 255, 255, 255], [0, 0, 0, 0], [0, 0, 0, 0], [255, 255, 255, 255]]
    """
    if side < 1:
        raise ValueError(f"a square has a side of at least 1 pixel, got {side}")
    fitted = _fit(image, side)
    height, width, _ = fitted.shape
    top, left = (side - height) // 2, (side - width) // 2
    below, right = side - height - top, side - width - left
    square = cv2.copyMakeBorder(fitted, top, below, left, right, cv2.BORDER_CONSTANT, value=fill)
    return np.asarray(square, np.uint8)


def encode_jpeg(image: Image, quality: int = 90, max_side: int | None = None) -> bytes:
    """The bytes of a JPEG of an image, its long side reduced to ``max_side`` pixels if it is longer.

    Raises:
        ValueError: the image is not one, or has a side of more than :data:`MAX_SIDE`.
    """
    if max_side is not None and max_side < max(image.shape[:2]):
        image = _fit(image, max_side)
    _check_image(image)
    if max(image.shape) > MAX_SIDE:
        raise ValueError(f"a JPEG has sides of at most {MAX_SIDE} pixels, got {image.shape}; pass max_side")
    data = BytesIO()
    PillowImage.fromarray(np.ascontiguousarray(image)).save(data, "JPEG", quality=quality)
    return data.getvalue()


def write_jpeg(path: str | os.PathLike[str], image: Image, quality: int = 90) -> None:
    """Write an image to a JPEG file.

    Raises:
        ImageError: the file cannot be written.
        ValueError: the image is not one, or has a side of more than :data:`MAX_SIDE`.
    """
    data = encode_jpeg(image, quality)
    try:
        with replacing(Path(path)) as part:
            part.write_bytes(data)
    except OSError as error:
        raise ImageError(f"cannot be written: {reason(error)}") from error


def reason(error: OSError) -> str:
    """What the file system says, as the end of a line."""
    return (error.strerror or type(error).__name__).lower()


def _check_image(image: Image) -> None:
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or image.size == 0:
        raise ValueError(f"an image is (h, w, 3) uint8 RGB of at least one pixel, got {image.dtype} {image.shape}")


def _fit(image: Image, side: int) -> Image:
    """Resize to a long side of ``side`` pixels, both sides at least 1."""
    _check_image(image)
    height, width, _ = image.shape
    longest = max(height, width)
    size = max(1, round(width * side / longest)), max(1, round(height * side / longest))
    if size == (width, height):
        return image
    resized = cv2.resize(image, size, interpolation=cv2.INTER_AREA if side < longest else cv2.INTER_LINEAR)
    return np.asarray(resized, np.uint8)
