"""Detectors: torchvision's networks, their training and evaluation, and the whole photo as one detection."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from stages.types import WHOLE, Box, Detection, Image, check_batch

OURS: Final = ("maskrcnn_mobilenet_v2", "fasterrcnn_mobilenet_v2")
"""The R-CNNs that :mod:`stages.detect.networks` defines."""

TORCHVISION: Final = (
    "maskrcnn_resnet50_fpn",
    "maskrcnn_resnet50_fpn_v2",
    "fasterrcnn_resnet50_fpn",
    "fasterrcnn_resnet50_fpn_v2",
    "fasterrcnn_mobilenet_v3_large_fpn",
    "fasterrcnn_mobilenet_v3_large_320_fpn",
)
"""torchvision's R-CNNs."""

ONE_STAGE: Final = ("retinanet_resnet50_fpn", "retinanet_resnet50_fpn_v2", "fcos_resnet50_fpn")
"""torchvision's networks without proposals, which can be used but not trained."""


class WholeDetector:
    """Returns every photo as one detection, for catalogue photos of one item and for searches by a cut-out."""

    labels = (WHOLE,)
    input_px = 1  # pixels are not used

    def __call__(self, images: Sequence[Image]) -> list[list[Detection]]:
        """Return one detection per image, with score 1."""
        check_batch(images)
        return [[Detection(WHOLE, 1.0, Box(0, 0, image.shape[1], image.shape[0]))] for image in images]
