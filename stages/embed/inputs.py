"""Images as an embedder's network looks at them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stages.images import letterbox
from stages.types import Image

WHITE = (255, 255, 255)
"""What letterboxing fills with: the ground of shop photos and of mask crops."""

WHITE_LEVEL = 236
"""Ground of shop photos: every channel at least this."""

_MARGIN = 0.02
"""What is left of the white around a thing, over its longer side."""

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


def trimmed(image: Image) -> Image:
    """An image without the white around what it shows, but for a margin; as it is where that reaches all four sides.

    How much white there is differs from shop to shop, and what is left has more of the pixels that a network looks at.
    """
    if not any(_is_white(side) for side in (image[0], image[-1], image[:, 0], image[:, -1])):
        return image
    thing = image.min(axis=2) < WHITE_LEVEL
    rows, columns = np.flatnonzero(thing.any(axis=1)), np.flatnonzero(thing.any(axis=0))
    if len(rows) == 0:
        return image
    margin = round(_MARGIN * max(rows[-1] - rows[0], columns[-1] - columns[0]))
    return np.ascontiguousarray(
        image[max(0, rows[0] - margin) : rows[-1] + margin + 1, max(0, columns[0] - margin) : columns[-1] + margin + 1]
    )


def letterboxed(images: Sequence[Image], side: int, normalise: Normalise, *, trim: bool = False) -> Tensor:
    """Images of any size, each whole in a white square, as a network looks at them: ``(n, 3, side, side)``.

    With ``trim`` each without the white around what it shows, see :func:`trimmed`.
    """
    return normalise([letterbox(trimmed(image) if trim else image, side, WHITE) for image in images])


def _is_white(pixels: NDArray[np.uint8]) -> bool:
    return bool(pixels.min() >= WHITE_LEVEL)
