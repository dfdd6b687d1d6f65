"""The white ground of shop photos, and photos without the white around what they show."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from stages.types import Image

WHITE_LEVEL = 236
"""Ground of shop photos: every channel at least this."""

_MARGIN = 0.02
"""What is left of the white around a thing, over its longer side."""


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


def _is_white(pixels: NDArray[np.uint8]) -> bool:
    return bool(pixels.min() >= WHITE_LEVEL)
