"""Preprocessing of images for an embedder's network: trim, letterbox, normalise."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from stages.background import WHITE, trimmed
from stages.images import letterbox
from stages.types import Image

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Normalise:
    """Maps ``(n, side, side, 3)`` uint8 RGB to ``(n, 3, side, side)`` float32, channels-last, with mean 0 and deviation 1.

    ``mean`` and ``std`` of each channel are in [0, 1].
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        self._scale = torch.tensor(std).mul(255).reciprocal()
        self._shift = torch.tensor(mean) / torch.tensor(std)

    def __call__(self, pixels: Sequence[Image]) -> Tensor:
        """Stack and normalise images of one size."""
        stacked = torch.from_numpy(np.stack(pixels))
        rows = stacked.flatten(2).float()  # whole rows at once are faster than pixels
        width = stacked.shape[2]
        rows.mul_(self._scale.repeat(width)).sub_(self._shift.repeat(width))
        return rows.view(stacked.shape).permute(0, 3, 1, 2)


def letterboxed(images: Sequence[Image], side: int, normalise: Normalise, *, trim: bool = False) -> Tensor:
    """Letterbox images of any size on white, trimmed first if asked to, and normalise them, ``(n, 3, side, side)``."""
    return normalise([letterbox(trimmed(image) if trim else image, side, WHITE) for image in images])
