"""A canvas that knows whose every pixel is: painting over a garment takes the pixels away from it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from render_sample.cloth import SWATCH_HEIGHTS, SWATCH_PX, Cloth, Colour, fold_noise
from render_sample.shapes import Points, Region, fixed, panel, tube

BODY = 1
"""The owner of skin and hair; garments count on from 2, and 0 is nobody."""

Details = Callable[["Patch"], None]
"""Draws seams, buttons and the like onto a garment; what falls beside it is cut off."""


@dataclass(frozen=True, slots=True)
class Light:
    """Where the light comes from (to the right, downwards, towards the viewer) and how hard it is, in [0, 1]."""

    x: float = -0.4
    y: float = -0.45
    hardness: float = 0.5


@dataclass(frozen=True, slots=True, eq=False)
class Patch:
    """The pixels of a garment being painted; coordinates are the canvas's."""

    rgb: NDArray[np.float32]
    origin: Points

    def line(self, points: Points, colour: Colour, width_px: float, *, closed: bool = False) -> None:
        """A seam, hem, strap or edge."""
        path = [fixed(np.asarray(points, np.float32) - self.origin)]
        cv2.polylines(self.rgb, path, closed, colour, max(1, round(width_px)), cv2.LINE_AA, 3)

    def fill(self, points: Points, colour: Colour) -> None:
        """A closed area of one colour."""
        cv2.fillPoly(self.rgb, [fixed(np.asarray(points, np.float32) - self.origin)], colour, cv2.LINE_AA, 3)

    def dot(self, point: Points, radius_px: float, colour: Colour) -> None:
        """A button or rivet."""
        x, y = fixed(np.asarray(point, np.float32) - self.origin).tolist()
        cv2.circle(self.rgb, (x, y), max(8, int(radius_px * 8)), colour, -1, cv2.LINE_AA, 3)


class Canvas:
    """Colours ``(h, w, 3)`` float32 in [0, 1] and owners ``(h, w)`` int16.

    Args:
        height: In pixels.
        width: In pixels.
        scale_px: The height of a whole figure: cloth is as fine as that makes it.
        light: One light for all that is painted.
        rng: Lays the folds.
    """

    def __init__(self, height: int, width: int, scale_px: float, light: Light, rng: np.random.Generator) -> None:
        self.rgb: NDArray[np.float32] = np.zeros((height, width, 3), np.float32)
        self.owner: NDArray[np.int16] = np.zeros((height, width), np.int16)
        self.scale_px = scale_px
        self.light = light
        self._rng = rng

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.owner.shape[0], self.owner.shape[1]

    def panel(
        self,
        outline: Points,
        cloth: Cloth,
        owner: int,
        *,
        fold: str = "crease",
        amount: float = 0.1,
        hull: Points | None = None,
        joined: bool = False,
        details: Details | None = None,
    ) -> None:
        """Paint a closed outline; ``joined`` to what the owner has there already, it has no edges of its own."""
        self._paint(panel(outline, self.size, hull), cloth, owner, fold, amount, details, joined=joined)

    def tube(
        self,
        spine: Points,
        half: list[float],
        cloth: Cloth,
        owner: int,
        *,
        fold: str = "crease",
        amount: float = 0.1,
        blunt: tuple[bool, bool] = (False, True),
        hole: Points | None = None,
        details: Details | None = None,
    ) -> None:
        """Paint a limb, sleeve or strap around a spine, but for a hole in it; see :func:`shapes.tube`."""
        region = tube(spine, half, self.size, blunt=blunt)
        if region is not None and hole is not None:
            cv2.fillPoly(region.mask, [fixed(hole - np.array([region.x, region.y], np.float32))], 0, shift=3)
        self._paint(region, cloth, owner, fold, amount, details)

    def _paint(
        self,
        region: Region | None,
        cloth: Cloth,
        owner: int,
        fold: str,
        amount: float,
        details: Details | None,
        *,
        joined: bool = False,
    ) -> None:
        if region is None:
            return
        rgb = self._colour(region, cloth)
        if details is not None:
            details(Patch(rgb, np.array([region.x, region.y], np.float32)))
        shade = self._shade(region, fold, amount * cloth.folds, joined=joined)
        rgb *= _grey(shade)
        if cloth.gloss:
            lit = np.clip(1 - np.abs(region.across + 0.9 * np.sign(-self.light.x) * 0.45), 0, 1) ** 5
            rgb += _grey(cloth.gloss * lit * np.clip(shade * 1.6 - 1.1, 0, 1))
        window = region.window
        under = self.rgb[window]
        if cloth.sheer:
            rgb = rgb + _grey(cloth.sheer * (self.owner[window] > 0)) * (under - rgb)
        reach = max(3, int(self.scale_px * 0.011)) | 1
        shadow = cv2.blur(region.mask, (reach, reach)).astype(np.float32) * (0.45 / 255)
        if joined:
            wide = max(3, int(self.scale_px * 0.05)) | 1
            same = (self.owner[window] == owner).astype(np.float32)
            cover = np.clip(cv2.blur(region.mask, (wide, wide)).astype(np.float32) / 127.5 - 1, 0, 1)
            rgb = under + (rgb - under) * _grey(np.maximum(cover, 1 - same))
        else:
            under *= _grey(1 - shadow)
        cv2.copyTo(rgb, region.mask, under)
        np.copyto(self.owner[window], np.int16(owner), where=region.mask > 0)

    def _colour(self, region: Region, cloth: Cloth) -> NDArray[np.float32]:
        if len(cloth.swatch) == 1:
            return np.full((*region.mask.shape, 3), cloth.swatch[0, 0], np.float32)
        zoom = SWATCH_PX / (SWATCH_HEIGHTS * self.scale_px)
        shape = region.mask.shape
        rgb = cv2.remap(
            cloth.swatch,
            np.broadcast_to(region.weft * zoom + SWATCH_PX / 2, shape).astype(np.float32),
            np.broadcast_to(region.warp * zoom, shape).astype(np.float32),
            cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_WRAP,
        )
        if cloth.block is not None:
            rgb[region.warp > 0.15 * self.scale_px] = cloth.block
        return np.asarray(rgb, np.float32)

    def _shade(self, region: Region, fold: str, amount: float, *, joined: bool) -> NDArray[np.float32]:
        """Brightness around 1: roundness under the light, folds, and darker edges."""
        light = self.light
        away = np.sqrt(np.clip(1 - (0.93 * region.across) ** 2, 0.02, 1))
        shade = 0.62 + 0.36 * away + (0.10 + 0.22 * light.hardness) * light.x * region.across
        zoom = 512 / (0.42 * self.scale_px)
        dx, dy = self._rng.uniform(0, 512, 2)
        folds = cv2.remap(
            fold_noise(fold),
            (region.weft * zoom + np.float32(dx)).astype(np.float32),
            (region.warp * zoom + np.float32(dy)).astype(np.float32),
            cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_WRAP,
        )
        shade += 1.1 * amount * folds
        reach = max(3, int(self.scale_px * 0.012)) | 1
        if not joined:
            shade *= 0.84 + 0.16 * np.clip(cv2.blur(region.mask, (reach, reach)).astype(np.float32) / 127.5 - 1, 0, 1)
        return np.asarray(np.clip(shade, 0.25, 1.4), np.float32)


def _grey(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """One number per pixel as three: far faster to multiply with than by broadcasting."""
    return np.asarray(cv2.cvtColor(np.ascontiguousarray(values, np.float32), cv2.COLOR_GRAY2RGB))
