"""Images as an embedder's network looks at them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from stages.embed.trimming import trimmed
from stages.images import letterbox
from stages.types import Image

WHITE = (255, 255, 255)
"""What letterboxing fills with: the ground of shop photos and of mask crops."""

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Normalise:
    """``(n, side, side, 3)`` uint8 RGB → ``(n, 3, side, side)`` float32 channels-last of mean 0 and deviation 1.

    Args:
        mean: of each channel, in [0, 1].
        std: of each channel, in [0, 1].
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        self._scale = torch.tensor(std).mul(255).reciprocal()
        self._shift = torch.tensor(mean) / torch.tensor(std)

    def __call__(self, pixels: Sequence[Image]) -> Tensor:
        """Stack images of one size."""
        stacked = torch.from_numpy(np.stack(pixels))
        rows = stacked.flatten(2).float()  # a row of pixels at once, not three numbers
        width = stacked.shape[2]
        rows.mul_(self._scale.repeat(width)).sub_(self._shift.repeat(width))
        return rows.view(stacked.shape).permute(0, 3, 1, 2)


def letterboxed(images: Sequence[Image], side: int, normalise: Normalise, *, trim: bool = False) -> Tensor:
    """Images of any size, each whole in a white square, as a network looks at them: ``(n, 3, side, side)``.

    With ``trim`` each without the white around what it shows, see :func:`~stages.embed.trimming.trimmed`.
    """
    return normalise([letterbox(trimmed(image) if trim else image, side, WHITE) for image in images])
