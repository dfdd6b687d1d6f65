"""No cut at all: for photos that show one garment, or for a search by the whole look."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from stages.crop.cutting import cut_each
from stages.types import Box, Crop, Detection, Image


@dataclass(frozen=True, slots=True)
class WholeCrop:
    """Gives the whole photo, as a fresh array, for each of its detections.

    >>> WholeCrop().fingerprint
    'whole'
    """

    @property
    def fingerprint(self) -> str:
        """Equal where the same crops come out."""
        return "whole"

    def __call__(self, images: Sequence[Image], detections: Sequence[Sequence[Detection]]) -> list[list[Crop]]:
        """One list of crops per photo, one crop per detection."""
        return cut_each(images, detections, _whole)


def _whole(image: Image, _detection: Detection) -> Crop:
    height, width = image.shape[:2]
    return Crop(image.copy(), Box(0, 0, width, height))
