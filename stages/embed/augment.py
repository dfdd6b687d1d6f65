"""Augmentation of garment photos, on uint8 RGB with OpenCV: about a millisecond or two a view.

Colour is identity here: a view keeps its hue, and photometric changes stay within what light and white balance do.
A :class:`Tint`, in contrast, moves the garment's colour on purpose: the result is another item of the same style.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from stages.embed.trimming import WHITE_LEVEL
from stages.types import Image

_TINT_REACH = 22.0
"""How far from the garment's colour a pixel's may be to move with it: a standard deviation, in 8-bit Lab units."""

_LIGHTNESS_WEIGHT = 0.35
"""Folds and shadows differ in lightness, and still are the garment."""


@dataclass(frozen=True, slots=True)
class Tint:
    """A garment's colour and another one for it, both ``(L, a, b)`` in OpenCV's 8-bit Lab."""

    source: tuple[float, float, float]
    target: tuple[float, float, float]

    @classmethod
    def draw(cls, image: Image, rng: Generator) -> Tint:
        """Another colour for the garment in the middle of a photo, clearly not its own."""
        source = garment_colour(image)
        for _ in range(20):
            angle, chroma = rng.uniform(0, 2 * math.pi), rng.choice([0.0, rng.uniform(15, 60)], p=[0.25, 0.75])
            lightness = float(np.clip(source[0] + rng.uniform(-90, 90), 30, 230))
            target = (lightness, 128 + chroma * math.cos(angle), 128 + chroma * math.sin(angle))
            if math.dist((source[0] / 2, *source[1:]), (target[0] / 2, *target[1:])) > 28:
                break
        return cls(source, target)

    def apply(self, image: Image) -> Image:
        """The photo with pixels near the source colour moved towards the target; a white ground stays."""
        lab = cv2.cvtColor(image, cv2.COLOR_RGB2LAB).astype(np.float32)
        source, target = np.array([self.source, self.target], np.float32)
        away = (lab - source) * np.array([_LIGHTNESS_WEIGHT, 1, 1], np.float32)
        share = np.exp(-(away**2).sum(axis=2) / (2 * _TINT_REACH**2))
        share[white_ground(image)] = 0
        lab += share[..., None] * (target - source)
        moved = cv2.cvtColor(lab.clip(0, 255).astype(np.uint8), cv2.COLOR_LAB2RGB)
        return np.asarray(moved, np.uint8)


def garment_colour(image: Image) -> tuple[float, float, float]:
    """The median ``(L, a, b)``, 8-bit Lab, of the middle ninth of a photo, its white ground left out."""
    height, width = image.shape[:2]
    middle = (slice(height // 3, height - height // 3), slice(width // 3, width - width // 3))
    lab = cv2.cvtColor(image, cv2.COLOR_RGB2LAB)[middle]
    garment = lab[~white_ground(image)[middle]]
    lightness, a, b = np.median(garment if len(garment) else lab.reshape(-1, 3), axis=0)
    return float(lightness), float(a), float(b)


def white_ground(image: Image) -> NDArray[np.bool_]:
    """The near-white pixels that are connected with the border, ``(h, w)``."""
    near_white = image.min(axis=2) >= WHITE_LEVEL
    _, pieces = cv2.connectedComponents(near_white.astype(np.uint8), connectivity=4)
    border = np.concatenate([pieces[0], pieces[-1], pieces[:, 0], pieces[:, -1]])
    touching = np.zeros(int(pieces.max()) + 1, np.bool_)
    touching[border] = True
    touching[0] = False
    return np.asarray(touching[pieces], np.bool_)


def view(
    image: Image,
    side: int,
    rng: Generator,
    scenery: Image | None = None,
    other_ground: float = 0.35,
    detail: float = 0.0,
) -> Image:
    """One random view of a photo, ``(side, side, 3)``.

    Args:
        image: the photo, of any size.
        side: of the square that comes out, pixels.
        rng: every choice is drawn from it.
        scenery: a photo whose pixels may stand in for a white ground.
        other_ground: how often something else stands in for a white ground.
        detail: how often it is a close-up of a third to two thirds of each side, as shops show of a seam or a logo.
    """
    part = _close_up(image, rng) if detail and rng.random() < detail else None
    if rng.random() < other_ground:
        image = _other_ground(image, rng, scenery)
    if part is not None:
        image = np.ascontiguousarray(image[part])
    pixels = _light(_placed(image, side, rng), rng)
    if rng.random() < 0.25:
        pixels = _degraded(pixels, rng)
    if rng.random() < 0.25:
        _erase(pixels, rng)
    return pixels


def _close_up(image: Image, rng: Generator) -> tuple[slice, slice] | None:
    """A part of a photo near its middle, of its own shape; None where that would be white ground for the most part."""
    share = rng.uniform(0.3, 0.65)

    def part(side: int, spread: float) -> slice:
        start = int(np.clip(rng.normal(0.5, spread) * side - share * side / 2, 0, (1 - share) * side))
        return slice(start, start + max(1, round(share * side)))

    both = part(image.shape[0], 0.2), part(image.shape[1], 0.15)
    return both if white_ground(image)[both].mean() < 0.5 else None


def _other_ground(image: Image, rng: Generator, scenery: Image | None) -> Image:
    ground = white_ground(image)
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
    """A letterbox with a random zoom, shift, turn, mirror and perspective, in one resampling."""
    height, width = image.shape[:2]
    zoom = rng.uniform(0.8, 1.0) if rng.random() < 0.4 else rng.uniform(1.0, 1.5)
    half_w, half_h = width / max(width, height) * zoom / 2, height / max(width, height) * zoom / 2
    corners = np.array([[-half_w, -half_h], [half_w, -half_h], [half_w, half_h], [-half_w, half_h]])
    turn = math.radians(rng.normal(0, 6))
    corners = corners @ np.array([[math.cos(turn), math.sin(turn)], [-math.sin(turn), math.cos(turn)]])
    corners += rng.normal(0, 0.02, (4, 2))  # perspective
    play = 0.05 + max(0.0, zoom - 1) / 2  # the closer, the further from the middle
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
    """Brightness, contrast, saturation and white balance, as one table or matrix each."""
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
    """Blur, or the marks of a strong JPEG."""
    if rng.random() < 0.5:
        return np.asarray(cv2.GaussianBlur(pixels, (0, 0), rng.uniform(0.4, 1.4)), np.uint8)
    quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(30, 80))]
    _, data = cv2.imencode(".jpg", pixels, quality)
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)


def _erase(pixels: Image, rng: Generator) -> None:
    """Random erasing (Zhong et al. 2020), in place: one box of one colour over 2 to 12 % of the view."""
    side = pixels.shape[0]
    area, ratio = rng.uniform(0.02, 0.12), math.exp(rng.uniform(-1, 1))
    width, height = (min(side - 1, round(side * math.sqrt(area * r))) for r in (ratio, 1 / ratio))
    x, y = int(rng.integers(0, side - width)), int(rng.integers(0, side - height))
    pixels[y : y + height, x : x + width] = rng.integers(0, 256, 3)
