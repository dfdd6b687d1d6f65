"""The names of a garment's colours, counted over its pixels."""

from __future__ import annotations

from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from stages.background import white_background
from stages.types import Image, Mask

# OKLab (Ottosson 2020): from linear sRGB to cone responses, and from their cube roots to the colour space
TO_CONES: Final = (
    (0.4122214708, 0.5363325363, 0.0514459929),
    (0.2119034982, 0.6806995451, 0.1073969566),
    (0.0883024619, 0.2817188376, 0.6299787005),
)
TO_LAB: Final = (
    (0.2104542553, 0.7936177850, -0.0040720468),
    (1.9779984951, -2.4285922050, 0.4505937099),
    (0.0259040371, 0.7827717662, -0.8086757660),
)

CENTRES: Final[dict[str, tuple[str, ...]]] = {
    "black": ("#0b0b0c", "#26272a"),
    "white": ("#ffffff", "#eff0f1"),
    "grey": ("#55575a", "#808285", "#b1b3b5"),
    "navy": ("#14193a", "#232c52"),
    "blue": ("#1f4fb5", "#3c6bb0", "#4a7fa8", "#2a7f9e"),
    "light blue": ("#a3c6e6", "#7fb2d9"),
    "red": ("#c31e27", "#dc3c37"),
    "maroon": ("#5c1320", "#6f2431"),
    "pink": ("#e986a8", "#f3b9c8", "#d53f7f"),
    "purple": ("#5d3a86", "#8461a8", "#b79fd0"),
    "green": ("#1f7a3d", "#4fa65b", "#0f4f37", "#9ad08c"),
    "olive": ("#5a5a2c", "#77753f"),
    "yellow": ("#f0d033", "#e8dc7c"),
    "orange": ("#e8762a", "#f09a4e"),
    "brown": ("#4d3020", "#7a5335", "#a27650"),
    "beige": ("#d8c6a5", "#e8dcc5", "#bfa988"),
}
"""Examples of each colour in sRGB; a pixel has the name of the nearest example in OKLab (Ottosson 2020)."""

MOST: Final = 3
LEAST_SHARE: Final = 0.12
_SIDE_PX: Final = 32
_LIGHTNESS_WEIGHT: Final = 0.7  # below 1, because folds and shadows change lightness more than hue


def named_colours(image: Image, mask: Mask | None = None) -> tuple[tuple[str, float], ...]:
    """Return the names of up to three colours and their shares of a garment's pixels, the largest first.

    Args:
        image: the garment in its box.
        mask: its pixels, ``(h, w)``; None for all but a white background.

    >>> named_colours(np.full((8, 8, 3), (200, 30, 40), np.uint8))
    (('red', 1.0),)
    """
    height, width = image.shape[:2]
    scale = min(1.0, _SIDE_PX / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    small = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
    if mask is None:
        shown = ~white_background(small)
    else:
        shown = cv2.resize(mask.astype(np.uint8), size, interpolation=cv2.INTER_AREA) > 0
    pixels = small[shown] if shown.any() else small.reshape(-1, 3)
    counts = np.bincount(_NAMES[_nearest(oklab(pixels))], minlength=len(CENTRES)) / len(pixels)
    names = list(CENTRES)
    first = [place for place in np.argsort(-counts, kind="stable")[:MOST].tolist() if counts[place] >= LEAST_SHARE]
    return tuple((names[place], round(float(counts[place]), 3)) for place in first)


def oklab(srgb: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Convert 8-bit sRGB, ``(n, 3)``, to OKLab."""
    values = srgb / 255
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    lab: NDArray[np.float64] = np.cbrt(linear @ np.array(TO_CONES).T) @ np.array(TO_LAB).T
    return lab


def _nearest(lab: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the number of the example nearest to each pixel."""
    weights = np.array([_LIGHTNESS_WEIGHT, 1, 1])
    away = ((lab[:, None] - _EXAMPLES[None]) * weights) ** 2
    return np.asarray(away.sum(axis=2).argmin(axis=1))


_EXAMPLES: Final = oklab(
    np.array([list(bytes.fromhex(one[1:])) for examples in CENTRES.values() for one in examples], np.uint8)
)
_NAMES: Final = np.array([place for place, examples in enumerate(CENTRES.values()) for _ in examples])
