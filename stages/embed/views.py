"""Views of a photo to train on: each a random function from an image of any size to a square one."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Final, TypeAlias

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from stages.embed.augment import view
from stages.embed.inputs import WHITE
from stages.images import letterbox
from stages.types import Image

View: TypeAlias = Callable[[Image, int, Generator, Image], Image]
"""The photo, the side in pixels, what every choice is drawn from, and a photo that may stand in for a white ground."""


def plain(image: Image, side: int, _rng: Generator, _scenery: Image) -> Image:
    """The photo as an embedder looks at it."""
    return letterbox(image, side, WHITE)


def flipped(image: Image, side: int, rng: Generator, _scenery: Image) -> Image:
    """Shifted by an eighth at most, and mirrored every other time."""
    square = letterbox(image, side, WHITE)
    across, down = rng.uniform(-side / 8, side / 8, 2)
    mirror = rng.random() < 0.5
    matrix = np.array([[-1 if mirror else 1, 0, across + (side - 1 if mirror else 0)], [0, 1, down]])
    return _warped(square, matrix)


def distorted(image: Image, side: int, rng: Generator, _scenery: Image) -> Image:
    """The affine distortions of Koch, Zemel, Salakhutdinov 2015, section 3.3: each of four takes place every other time.

    Turns up to 10°, shears up to 0.3, scales from 0.8 to 1.2, shifts up to 2 of 105 pixels.
    """
    square = letterbox(image, side, WHITE)
    turn = math.radians(rng.uniform(-10, 10)) * (rng.random() < 0.5)
    shear_x, shear_y = rng.uniform(-0.3, 0.3, 2) * (rng.random(2) < 0.5)
    scale_x, scale_y = 1 + rng.uniform(-0.2, 0.2, 2) * (rng.random(2) < 0.5)
    shift = rng.uniform(-2, 2, 2) * (rng.random(2) < 0.5) * side / 105
    turned = np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    linear = turned @ np.array([[1, shear_x], [shear_y, 1]]) @ np.diag([scale_x, scale_y])
    middle = np.full(2, (side - 1) / 2)
    return _warped(square, np.column_stack([linear, middle - linear @ middle + shift]))


VIEWS: Final[Mapping[str, View]] = {
    "plain": plain,
    "flip": flipped,
    "affine": distorted,
    "garment": view,  # place, light, ground, blur, and a part erased; colour stays
}
"""Every kind of view by its name."""


def _warped(square: Image, matrix: NDArray[np.float64]) -> Image:
    side = square.shape[0]
    moved = cv2.warpAffine(square, matrix, (side, side), flags=cv2.INTER_LINEAR, borderValue=WHITE)
    return np.asarray(moved, np.uint8)
