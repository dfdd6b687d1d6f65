"""Croppers: they cut detections out of their photos, as a box, along the mask, or as the whole photo."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias, get_args

import cv2
import numpy as np
from numpy.typing import NDArray

from stages.types import Box, Crop, Detection, Image, check_batch

Background: TypeAlias = Literal["mean", "white", "blur"]

BACKGROUND_COLORS: Final = {"mean": (124, 116, 104), "white": (255, 255, 255)}
"""RGB; ``mean`` is ImageNet's mean, which a network normalizes to about zero."""

_EDGE_PX: Final = 5
"""The side of the kernel that blurs a mask's edge by two pixels on either side."""


@dataclass(frozen=True, slots=True)
class BoxCrop:
    """Cuts the box with ``margin`` times its longer side around it, clipped to the photo, as a new array.

    Raises:
        ValueError: the margin is negative or not finite.

    >>> BoxCrop().fingerprint
    'box margin=0.05'
    """

    margin: float = 0.05

    def __post_init__(self) -> None:
        _check_margin(self.margin)

    @property
    def fingerprint(self) -> str:
        """The kind and its options: equal where crops are equal."""
        return f"box margin={self.margin:g}"

    def __call__(self, images: Sequence[Image], detections: Sequence[Sequence[Detection]]) -> list[list[Crop]]:
        """Cut one crop per detection of each photo."""
        return _cut_each(images, detections, lambda image, detection: cut_box(image, detection.box, self.margin))


@dataclass(frozen=True, slots=True)
class MaskCrop:
    """Cuts like :class:`BoxCrop` and replaces the pixels outside the mask, whose edge is blurred by two pixels.

    The background is ImageNet's ``mean`` color, ``white``, or a strong ``blur`` of the crop itself. A detection whose mask
    is missing or empty is cut as a box.

    Raises:
        ValueError: the background is unknown, or the margin is negative or not finite.

    >>> MaskCrop("mean").fingerprint
    'mask background=mean margin=0.05'
    """

    background: Background = "white"
    margin: float = 0.05

    def __post_init__(self) -> None:
        _check_margin(self.margin)
        if self.background not in get_args(Background):
            raise ValueError(f"a background is one of {', '.join(get_args(Background))}, got {self.background!r}")

    @property
    def fingerprint(self) -> str:
        """The kind and its options: equal where crops are equal."""
        return f"mask background={self.background} margin={self.margin:g}"

    def __call__(self, images: Sequence[Image], detections: Sequence[Sequence[Detection]]) -> list[list[Crop]]:
        """Cut one crop per detection of each photo."""
        return _cut_each(images, detections, self._cut)

    def _cut(self, image: Image, detection: Detection) -> Crop:
        crop = cut_box(image, detection.box, self.margin)
        if detection.mask is None or not detection.mask.any():
            return crop
        if self.background == "blur":
            background = _blurred(crop.image)
        else:
            background = np.full_like(crop.image, BACKGROUND_COLORS[self.background])
        opacity = _soft_mask(detection, crop)
        blended = cv2.blendLinear(crop.image, background, opacity, 1 - opacity)
        return Crop(np.asarray(blended, np.uint8), crop.box)


@dataclass(frozen=True, slots=True)
class WholeCrop:
    """Returns a copy of the whole photo for each of its detections.

    >>> WholeCrop().fingerprint
    'whole'
    """

    @property
    def fingerprint(self) -> str:
        """The kind: equal where crops are equal."""
        return "whole"

    def __call__(self, images: Sequence[Image], detections: Sequence[Sequence[Detection]]) -> list[list[Crop]]:
        """Copy the photo once per detection."""
        return _cut_each(
            images, detections, lambda image, _: Crop(image.copy(), Box(0, 0, image.shape[1], image.shape[0]))
        )


def cut_box(image: Image, box: Box, margin: float) -> Crop:
    """Cut a box with ``margin`` times its longer side around it, clipped to the photo, as a new array."""
    context_px = round(margin * max(box.width, box.height))
    height, width = image.shape[:2]
    around = Box(
        max(0, box.x1 - context_px),
        max(0, box.y1 - context_px),
        min(width, box.x2 + context_px),
        min(height, box.y2 + context_px),
    )
    return Crop(image[around.slices].copy(), around)


def _check_margin(margin: float) -> None:
    if not (math.isfinite(margin) and margin >= 0):
        raise ValueError(f"a crop's margin is a fraction of the box's longer side, 0 or more, got {margin}")


def _cut_each(
    images: Sequence[Image], detections: Sequence[Sequence[Detection]], cut: Callable[[Image, Detection], Crop]
) -> list[list[Crop]]:
    """Apply ``cut`` to each detection of each photo.

    Raises:
        ValueError: the numbers of photos and of lists of detections differ, or a box exceeds its photo.
    """
    check_batch(images)
    if len(images) != len(detections):
        raise ValueError(f"a cropper needs one list of detections per photo: {len(images)} != {len(detections)}")
    for image, of_image in zip(images, detections, strict=True):
        height, width = image.shape[:2]
        for detection in of_image:
            if detection.box.x2 > width or detection.box.y2 > height:
                raise ValueError(f"{detection.box} exceeds its photo of {width}x{height}; clip it with Box.clipped")
    return [
        [cut(image, detection) for detection in of_image] for image, of_image in zip(images, detections, strict=True)
    ]


def _soft_mask(detection: Detection, crop: Crop) -> NDArray[np.float32]:
    """Return the mask in the crop's pixels, ``(h, w)`` in [0, 1], with a blurred edge."""
    mask = np.zeros(crop.image.shape[:2], np.float32)
    top, left = detection.box.y1 - crop.box.y1, detection.box.x1 - crop.box.x1
    mask[top : top + detection.box.height, left : left + detection.box.width] = detection.mask
    soft = cv2.GaussianBlur(mask, (_EDGE_PX, _EDGE_PX), 0, borderType=cv2.BORDER_REPLICATE)
    return np.asarray(soft, np.float32)


def _blurred(image: Image) -> Image:
    """Blur an image to large patches of color: average twice over a quarter of its longer side."""
    side = max(image.shape[:2]) // 4 | 1
    return np.asarray(cv2.blur(cv2.blur(image, (side, side)), (side, side)), np.uint8)
