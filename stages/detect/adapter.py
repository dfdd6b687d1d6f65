"""The adapter of torchvision's detection networks, which uses only their public interface."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from stages.cpu import parallel_map
from stages.timing import timed
from stages.types import Box, Detection, Image, Mask, check_batch

_MAX_ASPECT = 32  # torchvision would resize the shorter side of a longer strip to less than a pixel


class TorchvisionDetector:
    """Adapts a torchvision detection network, such as RetinaNet, FCOS or SSD: images in, boxes, labels and scores out.

    Args:
        network: with its weights loaded; it computes in float32.
        labels: the label of each class index from 1; None for a class to ignore.
        min_score: detections with lower scores are dropped.
        device: to run on.
        thresholds: for each label the network's score that becomes 0.5, in (0, 1); other scores are scaled by their odds.
            None keeps the network's scores.
    """

    def __init__(
        self,
        network: nn.Module,
        labels: Sequence[str | None],
        min_score: float = 0.5,
        device: str = "cpu",
        thresholds: Sequence[float] | None = None,
    ) -> None:
        if not 0 <= min_score <= 1:
            raise ValueError(f"min_score lies in [0, 1], got {min_score}")
        self._names = tuple(labels)
        self._thresholds = np.asarray(thresholds or [0.5] * len(self._names), np.float64)
        if self._thresholds.shape != (len(self._names),) or not ((self._thresholds > 0) & (self._thresholds < 1)).all():
            raise ValueError(f"thresholds are one number in (0, 1) for each of {len(self._names)} labels")
        self._min_score, self._device = min_score, device
        self._network: Any = network.eval().to(device).to(memory_format=torch.channels_last)
        self._set_score_threshold(float(scale_odds(min_score, 1 - self._thresholds).min()))

    def _set_score_threshold(self, least: float) -> None:
        """Set the score below which the network itself drops detections."""
        self._network.score_thresh = least

    @property
    def labels(self) -> tuple[str, ...]:
        """All labels that a detection can have."""
        return tuple(name for name in self._names if name is not None)

    @property
    def input_px(self) -> int:
        """The long side that the network resizes photos to."""
        return int(self._network.transform.max_size)

    def __call__(self, images: Sequence[Image]) -> list[list[Detection]]:
        """Detect the garments of each photo, by falling score.

        Photos are computed one at a time, so that detections cannot depend on the batch.
        """
        check_batch(images)
        return list(parallel_map(self._detect, images, self._device))

    @torch.inference_mode()
    def _detect(self, image: Image) -> list[Detection]:
        height, width = image.shape[:2]
        raw = {key: value.cpu().numpy() for key, value in self._predict(image).items()}
        scores = scale_odds(raw["scores"], self._thresholds[raw["labels"].astype(int) - 1])
        detections = []
        for place, corners in enumerate(raw["boxes"].astype(np.float32)):
            label, score = self._names[int(raw["labels"][place]) - 1], float(scores[place])
            x1, y1, x2, y2 = map(float, corners)
            box = Box.clipped(x1, y1, x2, y2, width=width, height=height)
            if label is None or box is None or score < self._min_score:
                continue
            with timed("mask"):
                mask = mask_in_box(raw["masks"][place, 0], corners, box) if "masks" in raw else None
            detections.append(Detection(label, score, box, mask))
        return sorted(detections, key=lambda detection: -detection.score)

    def _predict(self, image: Image) -> Mapping[str, Tensor]:
        """Return ``boxes`` in the photo's pixels, ``labels``, ``scores``, and with a mask head ``masks`` ``(n, 1, m, m)``."""
        height, width = image.shape[:2]
        least = -(-max(height, width) // _MAX_ASPECT)
        padding = ((0, max(0, least - height)), (0, max(0, least - width)), (0, 0))
        pixels = torch.from_numpy(np.pad(image, padding)).to(self._device).permute(2, 0, 1).float().div(255)
        raw: dict[str, Tensor] = self._network([pixels])[0]
        return {key: raw[key] for key in ("boxes", "labels", "scores")}


def scale_odds(scores: ArrayLike, threshold: ArrayLike) -> NDArray[np.float64]:
    """Divide the odds of scores in [0, 1] by the odds of a threshold, so that the threshold becomes 0.5.

    >>> scale_odds([0.0, 0.8, 0.9, 1.0], 0.8).round(3).tolist()
    [0.0, 0.5, 0.692, 1.0]
    """
    score, middle = np.asarray(scores, np.float64), np.asarray(threshold, np.float64)
    scaled: NDArray[np.float64] = score * (1 - middle) / np.maximum(score * (1 - middle) + (1 - score) * middle, 1e-12)
    return scaled


def mask_in_box(probabilities: NDArray[np.float32], corners: NDArray[np.float32], box: Box) -> Mask:
    """Sample a mask head's ``(m, m)`` output, which spans the real-valued corners, at the pixels of a box.

    If no pixel exceeds one half, the mask is the whole box.
    """
    x1, y1, x2, y2 = map(float, corners)
    step_x, step_y = (probabilities.shape[0] / max(side, 1e-3) for side in (x2 - x1, y2 - y1))
    to_grid = np.array(
        [[step_x, 0, (box.x1 + 0.5 - x1) * step_x - 0.5], [0, step_y, (box.y1 + 0.5 - y1) * step_y - 0.5]]
    )
    flags, size = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, (box.width, box.height)
    mask: Mask = cv2.warpAffine(probabilities, to_grid, size, flags=flags, borderMode=cv2.BORDER_REPLICATE) > 0.5
    return mask if mask.any() else np.ones_like(mask)
