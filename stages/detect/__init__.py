"""Detectors find the garments of a photo: torchvision's networks, their training and evaluation, and the whole photo."""

from __future__ import annotations

from collections.abc import Sequence

from stages.types import WHOLE, Box, Detection, Image, check_batch


class WholeDetector:
    """Detects one thing in every photo: all of it. For catalogue photos of one item, and searches by a cut-out."""

    labels = (WHOLE,)
    input_px = 1  # any size will do

    def __call__(self, images: Sequence[Image]) -> list[list[Detection]]:
        """Return one detection per image, with score 1."""
        check_batch(images)
        return [[Detection(WHOLE, 1.0, Box(0, 0, image.shape[1], image.shape[0]))] for image in images]
