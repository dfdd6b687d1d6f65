"""What the croppers share: pairing photos with detections, and cutting a box with context."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from stages.types import Box, Crop, Detection, Image


def check_margin(margin: float) -> None:
    """Refuse a margin that is negative or not finite with a ValueError."""
    if not (math.isfinite(margin) and margin >= 0):
        raise ValueError(f"a crop's margin is a fraction of the box's longer side, 0 or more, got {margin}")


def cut(image: Image, box: Box, margin: float) -> Crop:
    """The box and ``margin`` times its longer side around it, clipped to the photo, as a fresh array."""
    context_px = round(margin * max(box.width, box.height))
    height, width = image.shape[:2]
    around = Box(
        max(0, box.x1 - context_px),
        max(0, box.y1 - context_px),
        min(width, box.x2 + context_px),
        min(height, box.y2 + context_px),
    )
    return Crop(image[around.slices].copy(), around)


def cut_each(
    images: Sequence[Image],
    detections: Sequence[Sequence[Detection]],
    one: Callable[[Image, Detection], Crop],
) -> list[list[Crop]]:
    """``one(image, detection)`` for each detection of each photo.

    Raises:
        ValueError: photos and lists of detections differ in number, or a box leaves its photo.
    """
    if len(images) != len(detections):
        raise ValueError(f"a cropper wants one list of detections per photo: {len(images)} != {len(detections)}")
    for image, found in zip(images, detections, strict=True):
        height, width = image.shape[:2]
        for detection in found:
            if detection.box.x2 > width or detection.box.y2 > height:
                raise ValueError(f"{detection.box} leaves its photo of {width}x{height}; clip it with Box.clipped")
    return [[one(image, detection) for detection in found] for image, found in zip(images, detections, strict=True)]
