"""Cloth: patterns as seamless swatches, and the noise that its folds are made of."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

Colour = tuple[float, float, float]
"""Red, green and blue in [0, 1]."""

SWATCH_PX = 256
SWATCH_HEIGHTS = 0.17
"""A swatch is so much of its wearer's height wide."""

COLOURS: dict[str, Colour] = {
    "black": (0.09, 0.09, 0.10),
    "white": (0.93, 0.92, 0.90),
    "grey": (0.50, 0.51, 0.53),
    "navy": (0.11, 0.14, 0.27),
    "blue": (0.16, 0.33, 0.66),
    "light blue": (0.58, 0.73, 0.87),
    "red": (0.74, 0.12, 0.14),
    "burgundy": (0.38, 0.09, 0.14),
    "pink": (0.89, 0.60, 0.66),
    "green": (0.15, 0.42, 0.26),
    "olive": (0.36, 0.36, 0.21),
    "teal": (0.10, 0.45, 0.47),
    "yellow": (0.92, 0.77, 0.25),
    "orange": (0.86, 0.42, 0.14),
    "brown": (0.34, 0.21, 0.14),
    "camel": (0.70, 0.52, 0.34),
    "beige": (0.84, 0.77, 0.66),
    "purple": (0.40, 0.24, 0.50),
    "indigo": (0.20, 0.28, 0.44),
}

PATTERNS = ("plain", "stripes", "checks", "dots", "floral", "colour-block", "denim", "knit", "leopard", "leather")


@dataclass(frozen=True, slots=True, eq=False)
class Cloth:
    """What a garment is made of: a seamless ``(256, 256, 3)`` float32 swatch (``(1, 1, 3)`` if plain) and how it behaves in the light."""

    swatch: NDArray[np.float32]
    gloss: float = 0.0
    folds: float = 1.0
    block: Colour | None = None
    sheer: float = 0.0


@lru_cache(maxsize=8)
def fold_noise(kind: str) -> NDArray[np.float32]:
    """Seamless ``(512, 512)`` noise of unit spread: ``drape`` runs down, ``crease`` runs across, ``fine`` both."""
    down, across = {"drape": (2.0, 14.0), "crease": (11.0, 3.5), "fine": (40.0, 40.0)}[kind]
    rng = np.random.default_rng(sum(kind.encode()))
    fy, fx = np.meshgrid(np.fft.fftfreq(512) * 512, np.fft.fftfreq(512) * 512, indexing="ij")
    if kind == "crease":  # creases lie aslant
        fx, fy = fx + 0.35 * fy, fy - 0.35 * fx
    total = np.zeros((512, 512))
    for octave, part in ((1.0, 1.0), (2.3, 0.55)):
        weight = np.exp(-((fy / down / octave) ** 2) - (fx / across / octave) ** 2) * (fy**2 + fx**2 > 2)
        noise = np.fft.ifft2(np.fft.fft2(rng.standard_normal((512, 512))) * weight).real
        total += part * np.tanh(noise / noise.std() * 0.9)
    return total.astype(np.float32)


def plain_cloth(colour: Colour, *, gloss: float = 0.0, folds: float = 1.0, sheer: float = 0.0) -> Cloth:
    """Cloth of one colour, without a weave (skin, hair, metal, leather)."""
    return Cloth(np.full((1, 1, 3), colour, np.float32), gloss, folds, None, sheer)


def make_cloth(pattern: str, colour: Colour, accent: Colour, seed: int) -> Cloth:
    """The cloth of an item.

    Raises:
        ValueError: no such pattern.
    """
    if pattern not in PATTERNS:
        raise ValueError(f"a pattern is one of {', '.join(PATTERNS)}; got {pattern!r}")
    rng = np.random.default_rng(seed)
    ink = _INK[pattern](rng) if pattern in _INK else np.zeros((SWATCH_PX, SWATCH_PX), np.float32)
    base, other = np.array(colour, np.float32), np.array(accent, np.float32)
    swatch = base + (other - base) * ink[..., None]
    if pattern == "floral":
        third = np.clip(1.15 - other, 0.1, 0.9)
        swatch = swatch + (third - swatch) * _petals(rng, 9, 5.0)[..., None]
    swatch = swatch * (1 + _weave(pattern, rng))[..., None]
    gloss = {"leather": 0.55}.get(pattern, float(rng.choice([0.03, 0.05, 0.16], p=[0.5, 0.3, 0.2])))
    folds = {"leather": 0.9, "knit": 0.7, "denim": 0.85}.get(pattern, 1.0)
    block = accent if pattern == "colour-block" else None
    return Cloth(np.clip(swatch, 0, 1.1).astype(np.float32), gloss, folds, block)


def _grid() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    y, x = np.mgrid[0:SWATCH_PX, 0:SWATCH_PX].astype(np.float32) / SWATCH_PX
    return y, x


def _weave(pattern: str, rng: np.random.Generator) -> NDArray[np.float32]:
    """Small brightness changes of the thread itself."""
    y, x = _grid()
    grain = cv2.blur(rng.standard_normal((SWATCH_PX, SWATCH_PX)).astype(np.float32), (2, 2)) * 0.03
    if pattern == "denim":
        twill = 0.07 * np.sin(2 * np.pi * 64 * (x + y))
        slub = cv2.blur(rng.standard_normal((SWATCH_PX, SWATCH_PX)).astype(np.float32), (1, 25)) * 0.28
        return np.asarray(twill + slub + 1.5 * grain, np.float32)
    if pattern == "knit":
        rib = 0.13 * np.sin(2 * np.pi * 18 * x) + 0.05 * np.sin(2 * np.pi * (36 * y + 2 * np.abs(((18 * x) % 1) - 0.5)))
        return np.asarray(rib + grain, np.float32)
    if pattern == "leather":
        return np.asarray(0.8 * grain + 0.03 * cv2.resize(fold_noise("fine"), (SWATCH_PX, SWATCH_PX)), np.float32)
    return np.asarray(grain + 0.018 * np.sin(2 * np.pi * 80 * x) * np.sin(2 * np.pi * 80 * y), np.float32)


def _stripes(rng: np.random.Generator) -> NDArray[np.float32]:
    y, x = _grid()
    count, duty = int(rng.choice([4, 6, 8, 11])), float(rng.uniform(0.3, 0.55))
    run = x if rng.random() < 0.3 else y
    return np.asarray(((run * count) % 1) < duty, np.float32)


def _checks(rng: np.random.Generator) -> NDArray[np.float32]:
    y, x = _grid()
    count = int(rng.choice([3, 5, 7]))
    wide = 0.5 * (((x * count) % 1) < 0.5) + 0.5 * (((y * count) % 1) < 0.5)
    fine = 0.35 * ((((x * count) + 0.25) % 1) < 0.07) + 0.35 * ((((y * count) + 0.25) % 1) < 0.07)
    return np.asarray(np.clip(wide * float(rng.uniform(0.6, 1)) + fine, 0, 1), np.float32)


def _dots(rng: np.random.Generator) -> NDArray[np.float32]:
    y, x = _grid()
    count, radius = int(rng.choice([4, 6, 9])), float(rng.uniform(0.2, 0.34))
    u, v = x * count * 2, y * count
    odd = np.floor(u) % 2
    du, dv = (u % 1 - 0.5) * 0.5 * 2, (v + 0.5 * odd) % 1 - 0.5
    return np.asarray((du * 0.5) ** 2 + dv**2 < (radius * 0.6) ** 2, np.float32)


def _petals(rng: np.random.Generator, count: int, size: float) -> NDArray[np.float32]:
    ink = np.zeros((SWATCH_PX, SWATCH_PX), np.uint8)
    for _ in range(count):
        cx, cy = rng.integers(0, SWATCH_PX, 2)
        scale, spin = size * float(rng.uniform(0.7, 1.4)), float(rng.uniform(0, 72))
        for dx in (-SWATCH_PX, 0, SWATCH_PX):
            for dy in (-SWATCH_PX, 0, SWATCH_PX):
                for k in range(5):
                    a = np.deg2rad(spin + 72 * k)
                    at = (int(cx + dx + scale * np.cos(a)), int(cy + dy + scale * np.sin(a)))
                    cv2.ellipse(ink, at, (int(scale), max(1, int(scale * 0.6))), spin + 72 * k, 0, 360, 255, -1)
    return np.asarray(cv2.blur(ink, (3, 3)) / np.float32(255), np.float32)


def _floral(rng: np.random.Generator) -> NDArray[np.float32]:
    return _petals(rng, int(rng.integers(9, 18)), float(rng.uniform(9, 16)))


def _leopard(rng: np.random.Generator) -> NDArray[np.float32]:
    noise = cv2.resize(fold_noise("fine")[:384, :384], (SWATCH_PX, SWATCH_PX), interpolation=cv2.INTER_AREA)
    noise = np.roll(noise, int(rng.integers(0, 200)), axis=0)
    return np.asarray((np.abs(noise - 0.45) < 0.3) & (noise > 0), np.float32)


def _denim(rng: np.random.Generator) -> NDArray[np.float32]:
    return np.full((SWATCH_PX, SWATCH_PX), float(rng.uniform(0.0, 0.15)), np.float32)


_INK = {"stripes": _stripes, "checks": _checks, "dots": _dots, "floral": _floral, "leopard": _leopard, "denim": _denim}
