"""A detector of another package, adapted in a file that outfinder does not know: what a user of RF-DETR would write."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace

import numpy as np

from stages.types import Box, Detection, Image


class RFDETR:
    """Stands for the other package: ``predict`` returns arrays of corners, scores, classes and dense masks."""

    class_names = ("person", "handbag")
    resolution = 64

    def predict(self, image: Image, threshold: float) -> SimpleNamespace:
        height, width, _ = image.shape
        dark = image.mean(axis=2) < 128
        masks = np.stack([dark, np.ones_like(dark)])
        corners = np.array([[-2.5, 0, width / 2, height], [0, 0, width + 3.0, height + 3.0]])
        scores = np.array([0.4 + 0.5 * dark.mean(), 0.3])
        kept = scores >= threshold
        return SimpleNamespace(
            xyxy=corners[kept], confidence=scores[kept], class_id=np.array([1, 0])[kept], mask=masks[kept]
        )


class RfDetrDetector:
    """Adapts the network above to :class:`stages.protocols.Detector`."""

    labels: tuple[str, ...] = RFDETR.class_names
    input_px: int | None = RFDETR.resolution

    def __init__(self) -> None:
        self._network = RFDETR()

    def __call__(self, images: Sequence[Image]) -> list[list[Detection]]:
        return [self._detect(image) for image in images]

    def _detect(self, image: Image) -> list[Detection]:
        found = self._network.predict(image, threshold=0.2)
        height, width, _ = image.shape
        detections = []
        for corners, score, label, mask in zip(found.xyxy, found.confidence, found.class_id, found.mask, strict=True):
            box = Box.clipped(*map(float, corners), width=width, height=height)
            if box:
                detections.append(Detection(self.labels[label], float(score), box, mask[box.slices]))
        return sorted(detections, key=lambda detection: -detection.score)
