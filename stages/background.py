"""The white background of shop photos."""

from __future__ import annotations

from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from stages.types import Image

WHITE: Final = (255, 255, 255)
"""The fill colour of letterboxing, and the background of mask crops."""

WHITE_LEVEL: Final = 236
"""Pixels with all channels at least this bright count as white background."""

MARGIN: Final = 0.02
"""The share of the longer side that trimming leaves around the garment."""


def white_background(image: Image) -> NDArray[np.bool_]:
    """Return the pixels that are near white and connected to the border, ``(h, w)``."""
    near_white = image.min(axis=2) >= WHITE_LEVEL
    _, pieces = cv2.connectedComponents(near_white.astype(np.uint8), connectivity=4)
    border = np.concatenate([pieces[0], pieces[-1], pieces[:, 0], pieces[:, -1]])
    touching = np.zeros(int(pieces.max()) + 1, np.bool_)
    touching[border] = True
    touching[0] = False
    return np.asarray(touching[pieces], np.bool_)


def trimmed(image: Image) -> Image:
    """Cut white borders off an image, except for a margin; return it unchanged if no border is all white.

    Shops leave different amounts of white around garments; without it, a garment gets more of the input's pixels.
    """
    if all(side.min() < WHITE_LEVEL for side in (image[0], image[-1], image[:, 0], image[:, -1])):
        return image
    inked = image.min(axis=2) < WHITE_LEVEL
    rows, columns = np.flatnonzero(inked.any(axis=1)), np.flatnonzero(inked.any(axis=0))
    if len(rows) == 0:
        return image
    margin = round(MARGIN * max(rows[-1] - rows[0], columns[-1] - columns[0]))
    return np.ascontiguousarray(
        image[max(0, rows[0] - margin) : rows[-1] + margin + 1, max(0, columns[0] - margin) : columns[-1] + margin + 1]
    )
