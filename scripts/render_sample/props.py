"""What stands about in a street: windows, doors, signs, poles, trees, cars, and people far off."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

Rng = np.random.Generator

Pixels = NDArray[np.float32]
"""``(h, w, 3)`` float32 in [0, 1]."""


WALLS = (
    (0.78, 0.75, 0.70),
    (0.60, 0.60, 0.60),
    (0.66, 0.55, 0.46),
    (0.52, 0.35, 0.29),
    (0.42, 0.46, 0.50),
    (0.83, 0.82, 0.80),
    (0.37, 0.36, 0.34),
    (0.72, 0.66, 0.50),
)


VIVID = (
    (0.70, 0.14, 0.13),
    (0.13, 0.25, 0.52),
    (0.86, 0.70, 0.18),
    (0.15, 0.36, 0.25),
    (0.85, 0.85, 0.84),
    (0.10, 0.10, 0.11),
    (0.55, 0.56, 0.58),
    (0.80, 0.42, 0.16),
    (0.45, 0.30, 0.40),
)


def random_tone(rng: Rng, choices: tuple[tuple[float, float, float], ...]) -> NDArray[np.float32]:
    """A colour near one of the choices, often duller."""
    colour = np.array(choices[int(rng.integers(len(choices)))], np.float32)
    colour += (colour.mean() - colour) * np.float32(rng.uniform(0.1, 0.6))
    return np.clip(colour * rng.uniform(0.8, 1.15) + rng.uniform(-0.03, 0.03, 3), 0.02, 0.97).astype(np.float32)


def random_grey(rng: Rng) -> NDArray[np.float32]:
    """The colour of some pavement."""
    return (rng.uniform(0.34, 0.74) + rng.uniform(-0.03, 0.03, 3)).astype(np.float32)


def fill_rect(image: Pixels, x: float, y: float, w: float, h: float, colour: NDArray[np.float32]) -> None:
    """An upright rectangle, ``w`` by ``h`` pixels from ``x``, ``y``."""
    a, b = (int(x), int(y)), (int(x + w), int(y + h))
    cv2.rectangle(image, a, b, tuple(map(float, colour)), -1)


def fill_window(image: Pixels, rng: Rng, x: float, y: float, w: float, h: float, frame: NDArray[np.float32]) -> None:
    """A window with its frame, glass, bars and sill."""
    glass = np.array([0.2, 0.25, 0.3], np.float32) * rng.uniform(0.5, 2.2)
    fill_rect(image, x - 3, y - 3, w + 6, h + 6, frame)
    fill_rect(image, x, y, w, h, glass)
    cv2.fillPoly(
        image,
        [np.array([(x, y + h * 0.7), (x + w * 0.7, y), (x + w, y), (x, y + h)], np.int32)],
        tuple(map(float, np.clip(glass * 1.35, 0, 1))),
    )
    for k in range(1, int(rng.integers(2, 4))):
        fill_rect(image, x + w * k / 3 - 1, y, 2, h, frame)
    fill_rect(image, x, y + h * 0.45, w, 2, frame)
    fill_rect(image, x - 5, y + h + 3, w + 10, 4, frame * 0.75)


def draw_window(image: Pixels, rng: Rng, base: int) -> None:
    """A window somewhere in the wall."""
    w, h = rng.uniform(40, 100), rng.uniform(60, 130)
    fill_window(
        image,
        rng,
        rng.uniform(-20, image.shape[1] - 30),
        rng.uniform(0, max(1, base - h - 40)),
        w,
        h,
        random_tone(rng, WALLS),
    )


def draw_door(image: Pixels, rng: Rng, base: int) -> None:
    """A door that stands on the ground."""
    w, h = rng.uniform(55, 85), rng.uniform(150, 210)
    x, tone = rng.uniform(-20, image.shape[1] - 30), random_tone(rng, VIVID)
    fill_rect(image, x - 6, base - h - 6, w + 12, h + 4, tone * 0.5)
    fill_rect(image, x, base - h, w, h - 2, tone)
    for k in (0.08, 0.54):
        fill_rect(image, x + w * 0.12, base - h + h * k, w * 0.76, h * 0.36, tone * 0.8)
    cv2.circle(image, (int(x + w * 0.88), int(base - h * 0.45)), 3, (0.8, 0.75, 0.5), -1, cv2.LINE_AA)


def draw_sign(image: Pixels, rng: Rng, base: int) -> None:
    """A sign with letters that say nothing."""
    w, h = rng.uniform(30, 130), rng.uniform(18, 50)
    x, y = rng.uniform(-20, image.shape[1] - 20), rng.uniform(0, base * 0.6)
    back, ink = random_tone(rng, VIVID), random_tone(rng, VIVID)
    fill_rect(image, x, y, w, h, back)
    letter = x + 6
    while letter < x + w - 8:
        wide = rng.uniform(3, 9)
        fill_rect(image, letter, y + h * rng.uniform(0.25, 0.45), wide, h * rng.uniform(0.2, 0.4), ink)
        letter += wide + 3


def draw_pole(image: Pixels, rng: Rng, base: int) -> None:
    """A pole or a bollard."""
    x, w = rng.uniform(0, image.shape[1]), rng.uniform(3, 9)
    top = 0.0 if rng.random() < 0.6 else base - rng.uniform(40, 90)
    tone = random_grey(rng) * 0.5
    fill_rect(image, x, top, w, base + rng.uniform(5, 40) - top, tone)
    fill_rect(image, x, top, w * 0.3, base - top, tone * 1.7)


def draw_tree(image: Pixels, rng: Rng, base: int) -> None:
    """A tree."""
    x = rng.uniform(0, image.shape[1])
    fill_rect(
        image,
        x,
        base * 0.3,
        rng.uniform(8, 22),
        base * 0.72,
        np.array([0.25, 0.2, 0.16], np.float32) * np.float32(rng.uniform(0.6, 1.4)),
    )
    hue = np.array([0.2, 0.29, 0.12]) + rng.uniform(-0.04, 0.06, 3)
    for k in range(260):
        at = (int(x + rng.normal(0, 46)), int(base * 0.2 + rng.normal(0, 50)))
        green = hue * (rng.uniform(0.3, 0.8) if k < 130 else rng.uniform(0.6, 1.7))
        size = rng.uniform(8, 20) if k < 130 else rng.uniform(2, 8)
        cv2.ellipse(
            image,
            at,
            (int(size), int(size * 0.6)),
            float(rng.uniform(0, 180)),
            0,
            360,
            tuple(map(float, np.clip(green, 0, 1))),
            -1,
        )


def draw_car(image: Pixels, rng: Rng, base: int) -> None:
    """A parked car, from its side."""
    w = rng.uniform(150, 300)
    h, x = w * 0.33, rng.uniform(-w * 0.6, image.shape[1] - w * 0.3)
    y, tone = base + rng.uniform(2, 26) - h, random_tone(rng, VIVID)

    def poly(points: list[tuple[float, float]], colour: NDArray[np.float32]) -> None:
        cv2.fillPoly(
            image,
            [np.array([(x + u * w, y + v * h) for u, v in points], np.int32)],
            tuple(map(float, np.clip(colour, 0, 1))),
            cv2.LINE_AA,
        )

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


def draw_walker(image: Pixels, rng: Rng, base: int) -> None:
    """Somebody far off, without a label."""
    s, x = rng.uniform(90, 230), rng.uniform(0, image.shape[1])
    y = base + s * 0.16 - s
    skin = np.array([0.72, 0.53, 0.43], np.float32) * np.float32(rng.uniform(0.5, 1.15))
    upper, lower = random_tone(rng, VIVID), random_tone(rng, WALLS) * 0.55

    def blob(u: float, v: float, a: float, b: float, colour: NDArray[np.float32], spin: float = 0.0) -> None:
        cv2.ellipse(
            image,
            (int(x + u * s), int(y + v * s)),
            (max(1, int(a * s)), max(1, int(b * s))),
            spin,
            0,
            360,
            tuple(map(float, colour)),
            -1,
            cv2.LINE_AA,
        )

    stride = rng.uniform(0.01, 0.07)
    for k in (-1, 1):
        blob(k * stride, 0.72, 0.04, 0.25, lower * (0.9 + 0.1 * k), -k * stride * 130)
        blob(k * stride * 1.9, 0.975, 0.035, 0.018, lower * 0.3)
        blob(k * 0.105, 0.33, 0.03, 0.17, upper * 0.85, -k * 8)
        blob(k * 0.125, 0.5, 0.02, 0.03, skin)
    blob(0, 0.33, 0.09, 0.2, upper)
    blob(0, 0.07, 0.052, 0.072, skin * 0.35)
    blob(0, 0.085, 0.042, 0.055, skin)
