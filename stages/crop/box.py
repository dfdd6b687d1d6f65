"""The plain crop: the box and some context around it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from stages.crop.cutting import check_margin, cut, cut_each
from stages.types import Crop, Detection, Image


@dataclass(frozen=True, slots=True)
class BoxCrop:
    """Cuts the box with context of ``margin`` times its longer side, clipped to the photo.

    Every crop is a fresh array.

    Raises:
        ValueError: the margin is negative or not finite.

    >>> BoxCrop().fingerprint
    'box margin=0.05'
    """

    margin: float = 0.05

    def __post_init__(self) -> None:
        check_margin(self.margin)

    @property
    def fingerprint(self) -> str:
        """Equal where the same crops come out."""
        return f"box margin={self.margin:g}"

    def __call__(self, images: Sequence[Image], detections: Sequence[Sequence[Detection]]) -> list[list[Crop]]:
        """One list of crops per photo, one crop per detection."""
        return cut_each(images, detections, lambda image, detection: cut(image, detection.box, self.margin))
