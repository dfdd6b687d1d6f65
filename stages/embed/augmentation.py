"""Augmentation of garment photos, on uint8 RGB with OpenCV: a millisecond or two per view.

Colour is part of an item's identity, so photometric changes keep the hue and stay within the range of light and white
balance.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Final, TypeAlias

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from stages.background import WHITE, white_background
from stages.images import letterbox
from stages.types import Image


def view(image: Image, side: int, rng: Generator, scenery: Image | None = None, other_ground: float = 0.35) -> Image:
    """Return a random view of a photo, ``(side, side, 3)``.

    Args:
        image: of any size.
        side: in pixels.
        rng: the source of randomness.
        scenery: a photo that may replace a white background.
        other_ground: the probability that a white background is replaced.
    """
    if rng.random() < other_ground:
        image = _other_ground(image, rng, scenery)
    pixels = _light(_placed(image, side, rng), rng)
    if rng.random() < 0.25:
        pixels = _degraded(pixels, rng)
    if rng.random() < 0.25:
        _erase(pixels, rng)
    return pixels


def _other_ground(image: Image, rng: Generator, scenery: Image | None) -> Image:
    ground = white_background(image)
    if ground.mean() < 0.1:
        return image
    height, width = ground.shape
    if scenery is not None and rng.random() < 0.5:
        other = cv2.resize(scenery, (width, height), interpolation=cv2.INTER_LINEAR)
    else:
        grain = rng.normal(0, rng.uniform(0, 12), (height, width, 1))
        other = np.clip(rng.uniform(40, 250, 3) * 0.4 + rng.uniform(40, 250) * 0.6 + grain, 0, 255).astype(np.uint8)
    edge = cv2.GaussianBlur(ground.astype(np.float32), (3, 3), 0)[..., None]
    return np.asarray(image * (1 - edge) + other * edge, np.uint8)


def _placed(image: Image, side: int, rng: Generator) -> Image:
    """Letterbox with a random zoom, shift, rotation, mirroring and perspective, in one resampling."""
    height, width = image.shape[:2]
    zoom = rng.uniform(0.8, 1.0) if rng.random() < 0.4 else rng.uniform(1.0, 1.5)
    half_w, half_h = width / max(width, height) * zoom / 2, height / max(width, height) * zoom / 2
    corners = np.array([[-half_w, -half_h], [half_w, -half_h], [half_w, half_h], [-half_w, half_h]])
    turn = math.radians(rng.normal(0, 6))
    corners = corners @ np.array([[math.cos(turn), math.sin(turn)], [-math.sin(turn), math.cos(turn)]])
    corners += rng.normal(0, 0.02, (4, 2))  # perspective
    play = 0.05 + max(0.0, zoom - 1) / 2  # the closer, the further off centre
    corners += 0.5 + rng.uniform(-play, play, 2) * (half_w / zoom * 2, half_h / zoom * 2)
    if rng.random() < 0.5:
        corners[:, 0] = 1 - corners[:, 0]
    start = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float32) - np.float32(0.5)
    matrix = cv2.getPerspectiveTransform(start, (corners * side - 0.5).astype(np.float32))
    shrunk = zoom * side / max(width, height) < 0.6
    if shrunk:
        image = np.asarray(cv2.blur(image, (2, 2)), np.uint8)
    fill = (255, 255, 255) if rng.random() < 0.7 else tuple(rng.integers(0, 256, 3).tolist())
    placed = cv2.warpPerspective(image, matrix, (side, side), flags=cv2.INTER_LINEAR, borderValue=fill)
    return np.asarray(placed, np.uint8)


def _light(pixels: Image, rng: Generator) -> Image:
    """Change brightness, contrast, saturation and white balance, by a table and a matrix."""
    gains = rng.uniform(0.8, 1.2) * rng.uniform(0.95, 1.05, 3)
    offset = 128 * (1 - rng.uniform(0.85, 1.15)) * 0.5
    levels = np.arange(256, dtype=np.float32)[:, None]
    gamma = rng.uniform(0.85, 1.18)
    table = np.clip(255 * (levels / 255) ** gamma * gains + offset, 0, 255).astype(np.uint8)
    lit = cv2.LUT(pixels, table.reshape(1, 256, 3))
    saturation = rng.uniform(0.8, 1.2)
    luma = np.array([0.299, 0.587, 0.114])
    matrix = saturation * np.eye(3) + (1 - saturation) * np.ones((3, 1)) * luma
    return np.asarray(cv2.transform(lit, matrix.astype(np.float32)), np.uint8)


def _degraded(pixels: Image, rng: Generator) -> Image:
    """Blur, or compress strongly as JPEG."""
    if rng.random() < 0.5:
        return np.asarray(cv2.GaussianBlur(pixels, (0, 0), rng.uniform(0.4, 1.4)), np.uint8)
    quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(30, 80))]
    _, data = cv2.imencode(".jpg", pixels, quality)
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)


def _erase(pixels: Image, rng: Generator) -> None:
    """Fill a box of 2 to 12 % of the view with a colour, in place (random erasing, Zhong et al. 2020)."""
    side = pixels.shape[0]
    area, ratio = rng.uniform(0.02, 0.12), math.exp(rng.uniform(-1, 1))
    width, height = (min(side - 1, round(side * math.sqrt(area * r))) for r in (ratio, 1 / ratio))
    x, y = int(rng.integers(0, side - width)), int(rng.integers(0, side - height))
    pixels[y : y + height, x : x + width] = rng.integers(0, 256, 3)


View: TypeAlias = Callable[[Image, int, Generator, Image], Image]
"""Makes a view of a photo, from its side in pixels, a random generator, and a photo that may replace a white background."""


def plain(image: Image, side: int, _rng: Generator, _scenery: Image) -> Image:
    """Return the photo letterboxed on white, as for inference."""
    return letterbox(image, side, WHITE)


def flipped(image: Image, side: int, rng: Generator, _scenery: Image) -> Image:
    """Return the photo shifted by at most an eighth, and mirrored half of the time."""
    square = letterbox(image, side, WHITE)
    across, down = rng.uniform(-side / 8, side / 8, 2)
    mirror = rng.random() < 0.5
    matrix = np.array([[-1 if mirror else 1, 0, across + (side - 1 if mirror else 0)], [0, 1, down]])
    return _warped(square, matrix)


def affine(
    image: Image, side: int, rng: Generator, _scenery: Image, *, chance: float = 0.5, reach: float = 1.0
) -> Image:
    """Return the photo with the affine distortions of Koch, Zemel, Salakhutdinov 2015, section 3.3.

    Rotation up to 10°, shear up to 0.3, scale from 0.8 to 1.2, shift up to 2 of 105 pixels; each with probability
    ``chance``, and all ranges multiplied by ``reach``.
    """
    square = letterbox(image, side, WHITE)
    turn = math.radians(rng.uniform(-10, 10)) * reach * (rng.random() < chance)
    shear_x, shear_y = rng.uniform(-0.3, 0.3, 2) * reach * (rng.random(2) < chance)
    scale_x, scale_y = 1 + rng.uniform(-0.2, 0.2, 2) * reach * (rng.random(2) < chance)
    shift = rng.uniform(-2, 2, 2) * reach * (rng.random(2) < chance) * side / 105
    turned = np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    linear = turned @ np.array([[1, shear_x], [shear_y, 1]]) @ np.diag([scale_x, scale_y])
    middle = np.full(2, (side - 1) / 2)
    return _warped(square, np.column_stack([linear, middle - linear @ middle + shift]))


VIEWS: Final[Mapping[str, View]] = {
    "plain": plain,
    "flip": flipped,
    "affine": affine,
    "affine-wide": partial(affine, chance=0.9, reach=1.6),
    "garment": view,  # changes position, light, background and sharpness, erases a part, keeps the colour
}


def _warped(square: Image, matrix: NDArray[np.float64]) -> Image:
    side = square.shape[0]
    moved = cv2.warpAffine(square, matrix, (side, side), flags=cv2.INTER_LINEAR, borderValue=WHITE)
    return np.asarray(moved, np.uint8)
