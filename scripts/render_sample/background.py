"""What lies behind a figure: from a plain wall to a street full of windows, cars, trees and people."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from render_sample.props import (
    WALLS,
    Pixels,
    Rng,
    draw_car,
    draw_door,
    draw_pole,
    draw_sign,
    draw_tree,
    draw_walker,
    draw_window,
    fill_rect,
    fill_window,
    random_grey,
    random_tone,
)


def draw_background(rng: Rng, height: int, width: int, clutter: float) -> Pixels:
    """A place to stand.

    Args:
        rng: The chance.
        height: In pixels.
        width: In pixels.
        clutter: From 0, a bare wall, to 1, a crowded street.
    """
    base = int(height * rng.uniform(0.50, 0.74))
    image = np.empty((height, width, 3), np.float32)
    wall, ground = random_tone(rng, WALLS), random_grey(rng)
    image[:base] = wall + _cloudy(rng, base, width, 0.03 + 0.03 * clutter)
    image[base:] = ground + _cloudy(rng, height - base, width, 0.05)
    if clutter > 0.25:
        backdrop: Callable[..., None] = _BACKDROPS[int(rng.integers(len(_BACKDROPS)))]
        backdrop(image, rng, base, clutter)
    _pave(image, rng, base, clutter)
    things = (draw_sign, draw_tree, draw_car, draw_walker, draw_walker, draw_pole, draw_window, draw_door)
    for _ in range(round(clutter**1.2 * 16)):
        things[int(rng.integers(len(things)))](image, rng, base)
    # The lens is focused on the figure: what lies behind is soft.
    sigma = float(rng.uniform(1.2, 3.2)) * (1.15 - 0.6 * clutter)
    if rng.random() < 0.18 * (1 - clutter):
        sigma *= 3
    soft: Pixels = np.asarray(cv2.GaussianBlur(image, (0, 0), sigma), np.float32)
    rows = np.arange(height, dtype=np.float32)[:, None, None]
    depth = np.clip((rows - base) / max(1, height - base), 0, 1).astype(np.float32)
    image = soft + (image - soft) * depth
    ground_grain = rng.standard_normal((height, width, 1)).astype(np.float32) * 0.035
    image[base:] += (ground_grain * (depth > 0) * (0.35 + depth))[base:]
    return np.clip(image, 0, 1)


def _cloudy(rng: Rng, height: int, width: int, amount: float) -> Pixels:
    """Stains and uneven light, as a wall or pavement has them."""
    total = np.zeros((height, width), np.float32)
    for cells in (3, 9, 30):
        coarse = rng.standard_normal((cells, cells)).astype(np.float32)
        total += np.asarray(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC), np.float32) / cells**0.5
    return total[..., None] * amount


def _brick(image: Pixels, rng: Rng, base: int, clutter: float) -> None:
    h = int(rng.integers(8, 15))
    w = int(h * rng.uniform(1.8, 2.6))
    wall = image[:base].mean(axis=(0, 1))
    mortar = np.clip(wall * rng.uniform(0.72, 1.3), 0, 1)
    for row, y in enumerate(range(base, -h, -h)):
        for x in range(-(row % 2) * w // 2, image.shape[1], w):
            brick = np.clip(wall * (1 + rng.normal(0, 0.05 + 0.07 * clutter)), 0, 1)
            fill_rect(image, x, y - h, w - 2, h - 2, brick.astype(np.float32))
        cv2.line(image, (0, y - 1), (image.shape[1], y - 1), tuple(map(float, mortar)), 1)


def _facade(image: Pixels, rng: Rng, base: int, clutter: float) -> None:
    """Rows of windows."""
    columns, rows = int(rng.integers(2, 4 + int(4 * clutter))), int(rng.integers(2, 4 + int(3 * clutter)))
    cw, ch = image.shape[1] / columns, base / rows
    frame = random_tone(rng, WALLS)
    for r in range(rows):
        for c in range(columns):
            fill_window(image, rng, (c + 0.2) * cw, (r + 0.15) * ch, cw * 0.6, ch * 0.66, frame)
        cv2.line(image, (0, int(r * ch)), (image.shape[1], int(r * ch)), tuple(map(float, frame * 0.8)), 3)


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
            tone = random_tone(rng, WALLS) * 0.75 + 0.18 * t
            outline = np.array(
                [(near, y1), (far, y2), (far, base + 2), (near, base + 2 + (height - base) * 0.1 * (1 - t))], np.int32
            )
            cv2.fillPoly(image, [outline], tuple(map(float, tone)))
            for r in range(int(3 + 5 * clutter)):
                for c in (0.2, 0.6):
                    x = near + (far - near) * c
                    y = y1 + (base - y1) * (r + 0.3) / (4 + 5 * clutter)
                    fill_rect(image, min(x, x + step * 0.25), y, abs(step) * 0.25, (base - y1) * 0.06, tone * 0.55)
        fill_rect(image, 0, base - 2, width, 4, random_grey(rng) * 0.8)


def _park(image: Pixels, rng: Rng, base: int, clutter: float) -> None:
    """Hedges and crowns of trees, with light falling through."""
    image[:base] = np.array([0.80, 0.86, 0.90], np.float32)
    for _ in range(int(90 + 380 * clutter)):
        x, y = rng.uniform(0, image.shape[1]), base * rng.beta(2, 1.6)
        green = np.array([0.22, 0.34, 0.13]) * rng.uniform(0.35, 1.9) + rng.uniform(0, 0.08)
        radius = int(rng.uniform(5, 34) * (1.2 - 0.6 * clutter))
        cv2.ellipse(
            image,
            (int(x), int(y)),
            (radius, int(radius * 0.7)),
            float(rng.uniform(0, 90)),
            0,
            360,
            tuple(map(float, np.clip(green, 0, 1))),
            -1,
        )
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
        a, b = (
            ((k, 0), (k + step - 2, base - 1)) if upright else ((0, k), (image.shape[1], min(base - 1, k + step - 2)))
        )
        cv2.rectangle(image, a, b, tone, -1)


_BACKDROPS = (_brick, _facade, _street, _street, _park, _shutters)


def _pave(image: Pixels, rng: Rng, base: int, clutter: float) -> None:
    """Kerb, joints between the slabs, and lines on the road."""
    height, width = image.shape[:2]
    ground = image[base:].mean(axis=(0, 1))
    dark, light = tuple(map(float, ground * 0.8)), tuple(map(float, np.clip(ground * 1.35, 0, 1)))
    fill_rect(image, 0, base - 5, width, 5, ground * 0.7)
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
        slant = np.array(
            [(centre, base), (centre + 8, base), (centre + shift + 40, height), (centre + shift, height)], np.int32
        )
        cv2.fillPoly(image, [slant], light, cv2.LINE_AA)
