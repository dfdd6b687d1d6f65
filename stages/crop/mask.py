"""The crop along the mask: what is not the garment gives way to a plain background."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias, get_args

import cv2
import numpy as np
from numpy.typing import NDArray

from stages.crop.cutting import check_margin, cut, cut_each
from stages.types import Crop, Detection, Image

Background: TypeAlias = Literal["mean", "white", "blur"]

PLAIN: Final = {"mean": (124, 116, 104), "white": (255, 255, 255)}
"""Background colours, RGB; ``mean`` is ImageNet's mean, which a network normalises to nearly zero."""

SOFT_PX: Final = 5
"""The kernel that softens a mask's edge: two pixels to either side."""


@dataclass(frozen=True, slots=True)
class MaskCrop:
    """Cuts like :class:`~stages.crop.box.BoxCrop` and replaces the pixels outside the mask.

    The background is ImageNet's ``mean`` colour, ``white``, or a strong ``blur`` of the crop itself. The
    mask's edge is softened by two pixels, so that no staircase is embedded. A detection without a mask, or
    with an empty one, is cut as a box. Every crop is a fresh array.

    Raises:
        ValueError: the background is none of these, or the margin is negative or not finite.

    >>> MaskCrop("mean").fingerprint
    'mask background=mean margin=0.05'
    """

    background: Background = "white"
    margin: float = 0.05

    def __post_init__(self) -> None:
        check_margin(self.margin)
        if self.background not in get_args(Background):
            raise ValueError(f"a background is one of {', '.join(get_args(Background))}, got {self.background!r}")

    @property
    def fingerprint(self) -> str:
        """Equal where the same crops come out."""
        return f"mask background={self.background} margin={self.margin:g}"

    def __call__(self, images: Sequence[Image], detections: Sequence[Sequence[Detection]]) -> list[list[Crop]]:
        """One list of crops per photo, one crop per detection."""
        return cut_each(images, detections, self._cut)

    def _cut(self, image: Image, detection: Detection) -> Crop:
        crop = cut(image, detection.box, self.margin)
        if detection.mask is None or not detection.mask.any():
            return crop
        keep = _soft_mask(detection, crop)
        behind = _blurred(crop.image) if self.background == "blur" else np.full_like(crop.image, PLAIN[self.background])
        blended = cv2.blendLinear(crop.image, behind, keep, 1 - keep)
        return Crop(np.asarray(blended, dtype=np.uint8), crop.box)


def _soft_mask(detection: Detection, crop: Crop) -> NDArray[np.float32]:
    """The mask in the crop's pixels, ``(h, w)`` in [0, 1], its edge softened."""
    keep = np.zeros(crop.image.shape[:2], dtype=np.float32)
    top, left = detection.box.y1 - crop.box.y1, detection.box.x1 - crop.box.x1
    keep[top : top + detection.box.height, left : left + detection.box.width] = detection.mask
    soft = cv2.GaussianBlur(keep, (SOFT_PX, SOFT_PX), 0, borderType=cv2.BORDER_REPLICATE)
    return np.asarray(soft, dtype=np.float32)


def _blurred(image: Image) -> Image:
    """Only the large patches of colour are left: twice a mean over a quarter of the longer side."""
    side = max(image.shape[:2]) // 4 | 1
    return np.asarray(cv2.blur(cv2.blur(image, (side, side)), (side, side)), dtype=np.uint8)
