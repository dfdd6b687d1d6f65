"""What lies behind a figure: from a plain wall to a street full of windows, cars, trees and people."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.float32]
"""``(h, w, 3)`` float32 in [0, 1]."""

Rng = np.random.Generator

_WALLS = ((0.78, 0.75, 0.70), (0.60, 0.60, 0.60), (0.66, 0.55, 0.46), (0.52, 0.35, 0.29), (0.42, 0.46, 0.50), (0.83, 0.82, 0.80), (0.37, 0.36, 0.34), (0.72, 0.66, 0.50))
_VIVID = ((0.70, 0.14, 0.13), (0.13, 0.25, 0.52), (0.86, 0.70, 0.18), (0.15, 0.36, 0.25), (0.85, 0.85, 0.84), (0.10, 0.10, 0.11), (0.55, 0.56, 0.58), (0.80, 0.42, 0.16), (0.45, 0.30, 0.40))


def draw_background(rng: Rng, height: int, width: int, clutter: float) -> tuple[Pixels, int]:
    """A place to stand, and the row where its ground begins.

    Args:
        rng: The chance.
        height: In pixels.
        width: In pixels.
        clutter: From 0, a bare wall, to 1, a crowded street.
    """
    base = int(height * rng.uniform(0.50, 0.74))
    image = np.empty((height, width, 3), np.float32)
    wall, ground = _tone(rng, _WALLS), _grey(rng)
    image[:base] = wall + _cloudy(rng, base, width, 0.03 + 0.03 * clutter)
    image[base:] = ground + _cloudy(rng, height - base, width, 0.05)
    if clutter > 0.25:
        backdrop: Callable[..., None] = _BACKDROPS[int(rng.integers(len(_BACKDROPS)))]
        backdrop(image, rng, base, clutter)
    _pave(image, rng, base, clutter)
    things = (_draw_sign, _draw_tree, _draw_car, _draw_walker, _draw_walker, _draw_pole, _draw_window, _draw_door)
    for _ in range(int(round(clutter**1.2 * 16))):
        things[int(rng.integers(len(things)))](image, rng, base)
    # The lens is focused on the figure: what lies behind is soft.
    sigma = float(rng.uniform(1.2, 3.2)) * (1.15 - 0.6 * clutter)
    if rng.random() < 0.18 * (1 - clutter):
        sigma *= 3
    soft = cv2.GaussianBlur(image, (0, 0), sigma)
    depth = np.clip((np.arange(height, dtype=np.float32) - base) / max(1, height - base), 0, 1)[:, None, None]
    image = soft + (image - soft) * depth
    ground_grain = rng.standard_normal((height, width, 1)).astype(np.float32) * 0.035
    image[base:] += (ground_grain * (depth > 0) * (0.35 + depth))[base:]
    return np.clip(image, 0, 1), base


def _tone(rng: Rng, choices: tuple[tuple[float, float, float], ...]) -> NDArray[np.float32]:
    colour = np.array(choices[int(rng.integers(len(choices)))], np.float32)
    return np.clip(colour * rng.uniform(0.8, 1.15) + rng.uniform(-0.03, 0.03, 3), 0.02, 0.97).astype(np.float32)


def _grey(rng: Rng) -> NDArray[np.float32]:
    return (rng.uniform(0.34, 0.74) + rng.uniform(-0.03, 0.03, 3)).astype(np.float32)


def _cloudy(rng: Rng, height: int, width: int, amount: float) -> Pixels:
    """Stains and uneven light, as a wall or pavement has them."""
    total = np.zeros((height, width), np.float32)
    for cells in (3, 9, 30):
        coarse = rng.standard_normal((cells, cells)).astype(np.float32)
        total += cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC) / cells**0.5
    return total[..., None] * amount


def _rect(image: Pixels, x: float, y: float, w: float, h: float, colour: NDArray[np.float32]) -> None:
    a, b = (int(x), int(y)), (int(x + w), int(y + h))
    cv2.rectangle(image, a, b, tuple(map(float, colour)), -1)


def _brick(image: Pixels, rng: Rng, base: int, clutter: float) -> None:
    h = int(rng.integers(8, 15))
    w = int(h * rng.uniform(1.8, 2.6))
    wall = image[:base].mean(axis=(0, 1))
    mortar = np.clip(wall * rng.uniform(0.72, 1.3), 0, 1)
    for row, y in enumerate(range(base, -h, -h)):
        for x in range(-(row % 2) * w // 2, image.shape[1], w):
            brick = np.clip(wall * (1 + rng.normal(0, 0.05 + 0.07 * clutter)), 0, 1)
            _rect(image, x, y - h, w - 2, h - 2, brick.astype(np.float32))
        cv2.line(image, (0, y - 1), (image.shape[1], y - 1), tuple(map(float, mortar)), 1)


def _facade(image: Pixels, rng: Rng, base: int, clutter: float) -> None:
    """Rows of windows."""
    columns, rows = int(rng.integers(2, 4 + int(4 * clutter))), int(rng.integers(2, 4 + int(3 * clutter)))
    cw, ch = image.shape[1] / columns, base / rows
    frame = _tone(rng, _WALLS)
    for r in range(rows):
        for c in range(columns):
            _window(image, rng, (c + 0.2) * cw, (r + 0.15) * ch, cw * 0.6, ch * 0.66, frame)
        cv2.line(image, (0, int(r * ch)), (image.shape[1], int(r * ch)), tuple(map(float, frame * 0.8)), 3)


def _window(image: Pixels, rng: Rng, x: float, y: float, w: float, h: float, frame: NDArray[np.float32]) -> None:
    glass = np.array([0.2, 0.25, 0.3], np.float32) * rng.uniform(0.5, 2.2)
    _rect(image, x - 3, y - 3, w + 6, h + 6, frame)
    _rect(image, x, y, w, h, glass)
    cv2.fillPoly(image, [np.array([(x, y + h * 0.7), (x + w * 0.7, y), (x + w, y), (x, y + h)], np.int32)], tuple(map(float, np.clip(glass * 1.35, 0, 1))))
    for k in range(1, int(rng.integers(2, 4))):
        _rect(image, x + w * k / 3 - 1, y, 2, h, frame)
    _rect(image, x, y + h * 0.45, w, 2, frame)
    _rect(image, x - 5, y + h + 3, w + 10, 4, frame * 0.75)


def _street(image: Pixels, rng: Rng, base: int, clutter: float) -> None:
    """A street that runs away from the viewer between two rows of houses."""
    height, width = image.shape[:2]
    sky = np.linspace(1.0, 0.9, base, dtype=np.float32)[:, None, None] * np.array([0.83, 0.89, 0.95], np.float32)
    image[:base] = sky * np.float32(rng.uniform(0.85, 1.05))
    vanish = np.array([width * rng.uniform(0.25, 0.75), base - 8])
    for side in (0, width):
        edge, step = float(side), (vanish[0] - side) / 5
        top = -height * rng.uniform(0.1, 0.5)
        for k in range(4):
            near, far = edge + step * k, edge + step * (k + 1)
            t = (k / 5) ** 0.7
            y1 = top + (vanish[1] - top) * t
            y2 = top + (vanish[1] - top) * ((k + 1) / 5) ** 0.7 * 0.9
            tone = _tone(rng, _WALLS) * 0.75 + 0.18 * t
            outline = np.array([(near, y1), (far, y2), (far, base + 2), (near, base + 2 + (height - base) * 0.1 * (1 - t))], np.int32)
            cv2.fillPoly(image, [outline], tuple(map(float, tone)))
            for r in range(int(3 + 5 * clutter)):
                for c in (0.2, 0.6):
                    x = near + (far - near) * c
                    y = y1 + (base - y1) * (r + 0.3) / (4 + 5 * clutter)
                    _rect(image, min(x, x + step * 0.25), y, abs(step) * 0.25, (base - y1) * 0.06, tone * 0.55)
        _rect(image, 0, base - 2, width, 4, _grey(rng) * 0.8)


def _park(image: Pixels, rng: Rng, base: int, clutter: float) -> None:
    """Hedges and crowns of trees, with light falling through."""
    image[:base] = np.array([0.80, 0.86, 0.90], np.float32)
    for _ in range(int(90 + 380 * clutter)):
        x, y = rng.uniform(0, image.shape[1]), base * rng.beta(2, 1.6)
        green = np.array([0.22, 0.34, 0.13]) * rng.uniform(0.35, 1.9) + rng.uniform(0, 0.08)
        radius = int(rng.uniform(5, 34) * (1.2 - 0.6 * clutter))
        cv2.ellipse(image, (int(x), int(y)), (radius, int(radius * 0.7)), float(rng.uniform(0, 90)), 0, 360, tuple(map(float, np.clip(green, 0, 1))), -1)
    for _ in range(int(40 * rng.random())):
        at = (int(rng.uniform(0, image.shape[1])), int(base * rng.uniform(0, 0.7)))
        cv2.circle(image, at, int(rng.uniform(2, 8)), (0.95, 0.96, 0.85), -1, cv2.LINE_AA)
    image[base:] *= np.array([1.0, 0.98, 0.9], np.float32)


def _shutters(image: Pixels, rng: Rng, base: int, clutter: float) -> None:
    """Boards, slats or a roller shutter."""
    step, upright = int(rng.integers(9, 30)), rng.random() < 0.5
    wall = image[:base].mean(axis=(0, 1))
    for k in range(0, image.shape[1] if upright else base, step):
        tone = tuple(map(float, np.clip(wall * (1 + rng.normal(0, 0.1 + 0.1 * clutter)), 0, 1)))
        a, b = ((k, 0), (k + step - 2, base - 1)) if upright else ((0, k), (image.shape[1], min(base - 1, k + step - 2)))
        cv2.rectangle(image, a, b, tone, -1)


_BACKDROPS = (_brick, _facade, _street, _street, _park, _shutters)


def _pave(image: Pixels, rng: Rng, base: int, clutter: float) -> None:
    """Kerb, joints between the slabs, and lines on the road."""
    height, width = image.shape[:2]
    ground = image[base:].mean(axis=(0, 1))
    dark, light = tuple(map(float, ground * 0.8)), tuple(map(float, np.clip(ground * 1.35, 0, 1)))
    _rect(image, 0, base - 5, width, 5, ground * 0.7)
    centre = width * rng.uniform(0.2, 0.8)
    if rng.random() < 0.35 + 0.5 * clutter:
        for k in np.arange(-14, 15):
            cv2.line(image, (int(centre + k * 24), base), (int(centre + k * 150), height), dark, 1, cv2.LINE_AA)
        y, step = float(base), 5.0
        while y < height:
            cv2.line(image, (0, int(y)), (width, int(y)), dark, 1)
            y, step = y + step, step * 1.5
    if rng.random() < 0.4 * clutter + 0.1:
        shift = int(rng.uniform(-200, 200))
        slant = np.array([(centre, base), (centre + 8, base), (centre + shift + 40, height), (centre + shift, height)], np.int32)
        cv2.fillPoly(image, [slant], light, cv2.LINE_AA)


def _draw_window(image: Pixels, rng: Rng, base: int) -> None:
    w, h = rng.uniform(40, 100), rng.uniform(60, 130)
    _window(image, rng, rng.uniform(-20, image.shape[1] - 30), rng.uniform(0, max(1, base - h - 40)), w, h, _tone(rng, _WALLS))


def _draw_door(image: Pixels, rng: Rng, base: int) -> None:
    w, h = rng.uniform(55, 85), rng.uniform(150, 210)
    x, tone = rng.uniform(-20, image.shape[1] - 30), _tone(rng, _VIVID)
    _rect(image, x - 6, base - h - 6, w + 12, h + 4, tone * 0.5)
    _rect(image, x, base - h, w, h - 2, tone)
    for k in (0.08, 0.54):
        _rect(image, x + w * 0.12, base - h + h * k, w * 0.76, h * 0.36, tone * 0.8)
    cv2.circle(image, (int(x + w * 0.88), int(base - h * 0.45)), 3, (0.8, 0.75, 0.5), -1, cv2.LINE_AA)


def _draw_sign(image: Pixels, rng: Rng, base: int) -> None:
    w, h = rng.uniform(30, 130), rng.uniform(18, 50)
    x, y = rng.uniform(-20, image.shape[1] - 20), rng.uniform(0, base * 0.6)
    back, ink = _tone(rng, _VIVID), _tone(rng, _VIVID)
    _rect(image, x, y, w, h, back)
    letter = x + 6
    while letter < x + w - 8:
        wide = rng.uniform(3, 9)
        _rect(image, letter, y + h * rng.uniform(0.25, 0.45), wide, h * rng.uniform(0.2, 0.4), ink)
        letter += wide + 3


def _draw_pole(image: Pixels, rng: Rng, base: int) -> None:
    x, w = rng.uniform(0, image.shape[1]), rng.uniform(3, 9)
    top = 0.0 if rng.random() < 0.6 else base - rng.uniform(40, 90)
    tone = _grey(rng) * 0.5
    _rect(image, x, top, w, base + rng.uniform(5, 40) - top, tone)
    _rect(image, x, top, w * 0.3, base - top, tone * 1.7)


def _draw_tree(image: Pixels, rng: Rng, base: int) -> None:
    x = rng.uniform(0, image.shape[1])
    _rect(image, x, base * 0.3, rng.uniform(8, 22), base * 0.72, np.array([0.25, 0.2, 0.16], np.float32) * np.float32(rng.uniform(0.6, 1.4)))
    hue = np.array([0.2, 0.29, 0.12]) + rng.uniform(-0.04, 0.06, 3)
    for k in range(260):
        at = (int(x + rng.normal(0, 46)), int(base * 0.2 + rng.normal(0, 50)))
        green = hue * (rng.uniform(0.3, 0.8) if k < 130 else rng.uniform(0.6, 1.7))
        size = rng.uniform(8, 20) if k < 130 else rng.uniform(2, 8)
        cv2.ellipse(image, at, (int(size), int(size * 0.6)), float(rng.uniform(0, 180)), 0, 360, tuple(map(float, np.clip(green, 0, 1))), -1)


def _draw_car(image: Pixels, rng: Rng, base: int) -> None:
    w = rng.uniform(150, 300)
    h, x = w * 0.33, rng.uniform(-w * 0.6, image.shape[1] - w * 0.3)
    y, tone = base + rng.uniform(2, 26) - h, _tone(rng, _VIVID)

    def poly(points: list[tuple[float, float]], colour: NDArray[np.float32]) -> None:
        cv2.fillPoly(image, [np.array([(x + u * w, y + v * h) for u, v in points], np.int32)], tuple(map(float, np.clip(colour, 0, 1))), cv2.LINE_AA)

    poly([(0.02, 1.02), (0.98, 1.02), (1.0, 1.1), (0.0, 1.1)], tone * 0.15)
    poly([(0, 0.5), (0.18, 0.42), (0.3, 0.03), (0.68, 0.0), (0.84, 0.4), (0.99, 0.52), (1, 0.92), (0, 0.92)], tone)
    poly([(0.22, 0.42), (0.32, 0.09), (0.49, 0.08), (0.49, 0.42)], np.array([0.14, 0.18, 0.22], np.float32))
    poly([(0.52, 0.42), (0.52, 0.08), (0.66, 0.08), (0.78, 0.42)], np.array([0.2, 0.25, 0.3], np.float32))
    poly([(0, 0.72), (1, 0.72), (1, 0.92), (0, 0.92)], tone * 0.7)
    poly([(0.94, 0.54), (0.995, 0.56), (0.995, 0.66), (0.95, 0.64)], np.array([0.95, 0.9, 0.75], np.float32))
    for u in (0.2, 0.8):
        at = (int(x + u * w), int(y + 0.9 * h))
        cv2.circle(image, at, int(h * 0.24), (0.07, 0.07, 0.07), -1, cv2.LINE_AA)
        cv2.circle(image, at, int(h * 0.13), (0.55, 0.55, 0.56), -1, cv2.LINE_AA)


def _draw_walker(image: Pixels, rng: Rng, base: int) -> None:
    """Somebody far off, without a label."""
    s, x = rng.uniform(90, 230), rng.uniform(0, image.shape[1])
    y = base + s * 0.16 - s
    skin = np.array([0.72, 0.53, 0.43], np.float32) * np.float32(rng.uniform(0.5, 1.15))
    upper, lower = _tone(rng, _VIVID), _tone(rng, _WALLS) * 0.55

    def blob(u: float, v: float, a: float, b: float, colour: NDArray[np.float32], spin: float = 0.0) -> None:
        cv2.ellipse(image, (int(x + u * s), int(y + v * s)), (max(1, int(a * s)), max(1, int(b * s))), spin, 0, 360, tuple(map(float, colour)), -1, cv2.LINE_AA)

    stride = rng.uniform(0.01, 0.07)
    for k in (-1, 1):
        blob(k * stride, 0.72, 0.04, 0.25, lower * (0.9 + 0.1 * k), -k * stride * 130)
        blob(k * stride * 1.9, 0.975, 0.035, 0.018, lower * 0.3)
        blob(k * 0.105, 0.33, 0.03, 0.17, upper * 0.85, -k * 8)
        blob(k * 0.125, 0.5, 0.02, 0.03, skin)
    blob(0, 0.33, 0.09, 0.2, upper)
    blob(0, 0.07, 0.052, 0.072, skin * 0.35)
    blob(0, 0.085, 0.042, 0.055, skin)
