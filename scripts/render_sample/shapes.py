"""Smooth shapes with cloth coordinates: where a garment lies on the canvas and how its cloth runs over it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float32]
"""``(n, 2)`` x, y in canvas pixels."""

PAD_PX = 14
"""Room around a shape for the shadow that it casts on what lies beneath."""

_SHIFT = 3  # fractional bits of OpenCV's drawing coordinates


@dataclass(frozen=True, slots=True, eq=False)
class Region:
    """A shape within its own window of the canvas, all arrays ``(h, w)``.

    ``mask`` is uint8, 255 inside. ``across`` runs from -1 to 1 between the silhouette's edges; ``weft`` and
    ``warp`` are distances along the cloth in pixels, sideways and downwards.
    """

    x: int
    y: int
    mask: NDArray[np.uint8]
    across: NDArray[np.float32]
    weft: NDArray[np.float32]
    warp: NDArray[np.float32]

    @property
    def window(self) -> tuple[slice, slice]:
        """Index the canvas with it."""
        height, width = self.mask.shape
        return slice(self.y, self.y + height), slice(self.x, self.x + width)


def smooth(points: Sequence[Sequence[float]] | Points, *, closed: bool = True, steps: int = 6) -> Points:
    """A Catmull-Rom curve through the points; a point given twice stays a corner.

    >>> smooth([(0, 0), (1, 0), (1, 1)], steps=4).shape
    (12, 2)
    """
    p = np.asarray(points, dtype=np.float32)
    q = np.concatenate([p[-1:], p, p[:2]]) if closed else np.concatenate([p[:1], p, p[-1:]])
    t = np.linspace(0.0, 1.0, steps, endpoint=False, dtype=np.float32)[:, None]
    a, b, c, d = q[:-3], q[1:-2], q[2:-1], q[3:]
    # A tangent longer than its piece of the curve would make it overshoot.
    reach = np.linalg.norm(c - b, axis=1, keepdims=True)
    leave, arrive = (
        (v * np.minimum(1, reach / np.maximum(np.linalg.norm(v, axis=1, keepdims=True), 1e-6)))[:, None]
        for v in ((c - a) / 2, (d - b) / 2)
    )
    b, c = b[:, None], c[:, None]
    gap = c - b
    curve = b + leave * t + (3 * gap - 2 * leave - arrive) * t**2 + (leave + arrive - 2 * gap) * t**3
    flat = curve.reshape(-1, 2)
    return flat if closed else np.concatenate([flat, p[-1:]])


def fixed(points: Points) -> NDArray[np.int32]:
    """Points as OpenCV's fixed-point drawing coordinates (draw with ``shift=3``)."""
    return np.asarray(np.round(points * (1 << _SHIFT)), dtype=np.int32)


def _window(points: Points, reach: float, size: tuple[int, int]) -> tuple[int, int, int, int] | None:
    """``(x1, y1, x2, y2)`` around the points, within ``size`` (height, width); None where nothing is left."""
    low, high = points.min(axis=0) - reach, points.max(axis=0) + reach
    x1, y1 = max(0, int(low[0])), max(0, int(low[1]))
    x2, y2 = min(size[1], int(high[0]) + 1), min(size[0], int(high[1]) + 1)
    return (x1, y1, x2, y2) if x2 - x1 > 1 and y2 - y1 > 1 else None


def panel(outline: Points, size: tuple[int, int], hull: Points | None = None) -> Region | None:
    """The inside of a closed outline; the cloth hangs straight down.

    Args:
        outline: A closed curve, see :func:`smooth`.
        size: Height and width of the canvas.
        hull: Take the roundness from this larger outline (an open coat's halves lie on one body).
    """
    window = _window(outline, PAD_PX, size)
    if window is None:
        return None
    x1, y1, x2, y2 = window
    offset = np.array([x1, y1], np.float32)
    mask = np.zeros((y2 - y1, x2 - x1), np.uint8)
    cv2.fillPoly(mask, [fixed(outline - offset)], 255, shift=_SHIFT)
    left, right = _extents((outline if hull is None else hull) - offset, y2 - y1)
    x = np.arange(x2 - x1, dtype=np.float32)[None, :]
    centre, half = (left + right) / 2, np.maximum((right - left) / 2, 1)
    across = np.clip((x - centre[:, None]) / half[:, None], -1, 1)
    top = outline[:, 1].min() - y1
    warp = np.repeat((np.arange(y2 - y1, dtype=np.float32) - top)[:, None], x2 - x1, axis=1)
    # The axis of the cloth is the straight line that fits the row centres best.
    rows = np.arange(y2 - y1)
    inside = (rows >= top) & (rows <= outline[:, 1].max() - y1)
    slope, base = np.polyfit(rows[inside], centre[inside], 1) if inside.sum() > 2 else (0.0, float(centre.mean()))
    weft = x - (base + slope * rows)[:, None].astype(np.float32)
    return Region(x1, y1, mask, across.astype(np.float32), weft.astype(np.float32), warp)


def _extents(outline: Points, height: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Left and right edge of an outline at each row, smoothed."""
    closed = np.concatenate([outline, outline[:1]])
    dense = (closed[:-1, None] + (closed[1:] - closed[:-1])[:, None] * np.linspace(0, 1, 8)[:, None]).reshape(-1, 2)
    bins = 64
    low, high = float(dense[:, 1].min()), float(dense[:, 1].max()) + 1e-3
    row = ((dense[:, 1] - low) / (high - low) * bins).astype(int)
    left, right = np.full(bins, np.inf), np.full(bins, -np.inf)
    np.minimum.at(left, row, dense[:, 0])
    np.maximum.at(right, row, dense[:, 0])
    known = np.flatnonzero(right - left > 1)
    if not len(known):
        known, left, right = np.array([0]), dense[:1, 0] - 1, dense[:1, 0] + 1
    y = low + (known + 0.5) * (high - low) / bins
    rows = np.arange(height)
    kernel = (1, max(3, height // 40 * 2 + 1))
    edges = [cv2.blur(np.interp(rows, y, e[known]).astype(np.float32)[:, None], kernel)[:, 0] for e in (left, right)]
    return edges[0], edges[1]


def tube(
    spine: Sequence[Sequence[float]] | Points,
    half: Sequence[float],
    size: tuple[int, int],
    *,
    blunt: tuple[bool, bool] = (False, True),
) -> Region | None:
    """A limb or sleeve around a curved spine; the cloth follows it.

    Args:
        spine: Points along the middle, from the top.
        half: Half of the width at each of them, in pixels.
        size: Height and width of the canvas.
        blunt: Whether the start and the end are cut straight, as a hem is, and not round, as a toe is.
    """
    centre = smooth(spine, closed=False, steps=max(3, 24 // (len(spine) - 1)))
    radius = np.interp(np.linspace(0, 1, len(centre)), np.linspace(0, 1, len(half)), half).astype(np.float32)
    window = _window(centre, float(radius.max()) + PAD_PX, size)
    if window is None:
        return None
    x1, y1, x2, y2 = window
    centre = centre - np.array([x1, y1], np.float32)
    tangent = np.gradient(centre, axis=0)
    tangent /= np.maximum(np.linalg.norm(tangent, axis=1, keepdims=True), 1e-6)
    normal = np.stack([-tangent[:, 1], tangent[:, 0]], axis=1)
    mask = np.zeros((y2 - y1, x2 - x1), np.uint8)
    a, b = centre + normal * radius[:, None], centre - normal * radius[:, None]
    for i in range(len(centre) - 1):
        cv2.fillConvexPoly(mask, fixed(np.stack([a[i], a[i + 1], b[i + 1], b[i]])), 255, shift=_SHIFT)
        ends = [end for end, flat in zip((centre[0], centre[-1]), blunt, strict=True) if flat]
        if i and all(np.linalg.norm(centre[i] - end) >= radius[i] for end in ends):
            cv2.circle(mask, tuple(fixed(centre[i]).tolist()), int(radius[i] * 8), 255, -1, shift=_SHIFT)
    weft, warp, across = _along(centre, tangent, normal, radius, mask.shape)
    return Region(x1, y1, mask, across, weft, warp)


def _along(
    centre: Points, tangent: Points, normal: Points, radius: NDArray[np.float32], shape: tuple[int, ...]
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Cloth coordinates around a spine, found on a coarse grid: they are smooth."""
    height, width = shape
    step = 5
    ys, xs = np.arange(0, height + step, step), np.arange(0, width + step, step)
    grid = np.stack(np.meshgrid(xs, ys), axis=-1).astype(np.float32)
    flat = grid.reshape(-1, 2)
    far = (flat[:, :1] - centre[None, :, 0]) ** 2 + (flat[:, 1:] - centre[None, :, 1]) ** 2
    near = far.argmin(axis=1)
    delta = flat - centre[near]
    length = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(centre, axis=0), axis=1))]).astype(np.float32)
    weft = (delta * -normal[near]).sum(axis=1)
    warp = length[near] + (delta * tangent[near]).sum(axis=1)
    fields = np.stack([weft, warp, weft / radius[near]], axis=1).reshape(*grid.shape[:2], 3).astype(np.float32)
    x, y = np.meshgrid(np.arange(width, dtype=np.float32) / step, np.arange(height, dtype=np.float32) / step)
    full = cv2.remap(fields, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    weft, warp, across = (np.array(full[..., k], np.float32) for k in range(3))
    return weft, warp, np.clip(across, -1, 1)
