"""Outerwear, worn open or closed."""

from __future__ import annotations

import numpy as np

from render_sample.canvas import Canvas, Patch
from render_sample.cloth import plain_cloth
from render_sample.cuts import CUTS, Pairs, side_edge
from render_sample.figure import Figure
from render_sample.items import Item
from render_sample.person import dim
from render_sample.shapes import smooth
from render_sample.tops import draw_pockets, draw_trunk_garment


def draw_open_coat(canvas: Canvas, figure: Figure, item: Item, owner: int, gap: float) -> None:
    """Outerwear worn open: two halves that leave ``gap`` (half width at the hem) free."""
    cut = CUTS[item.style]
    hem = cut.hem + item.vary("hem", -0.012, 0.02)
    edge = side_edge(figure, cut, hem)
    hull = smooth(figure.at(edge + [(-x, y) for x, y in reversed(edge)]))
    for side in (-1, 1):
        wide = gap * (1.15 if side * figure.turn > 0 else 0.8)
        inner = [(wide * 1.1, hem + 0.012), (wide * 0.9, (hem + 0.3) / 2), (wide * 0.75, 0.3), (0.03, 0.2)]
        points = [(side * x, y) for x, y in [*edge, *inner]]

        def details(patch: Patch, side: int = side, inner: Pairs = inner, wide: float = wide) -> None:
            s = figure.scale_px
            front = figure.at([(side * x, y) for x, y in inner])
            patch.line(
                smooth(front, closed=False),
                (0.66, 0.65, 0.62) if cut.closure == "zip" else dim(item.rgb, 0.66),
                s * 0.004,
            )
            patch.line(
                smooth(figure.at([(side * (x + 0.012), y) for x, y in inner]), closed=False),
                dim(item.rgb, 0.7),
                s * 0.0014,
            )
            patch.line(
                smooth(figure.at([(-0.13, hem - 0.008), (0, hem), (0.13, hem - 0.008)]), closed=False),
                dim(item.rgb, 0.65),
                s * 0.0014,
            )
            draw_pockets(patch, figure, item, hem)
            if cut.closure in ("buttons", "two", "double") and side > 0:
                for y in np.arange(0.3 if cut.collar == "lapel" else 0.22, hem - 0.03, 0.055):
                    x = float(np.interp(y, [0.2, 0.3, hem], [0.03, wide * 0.75, wide * 1.1]))
                    patch.dot(figure.at((x + 0.009, y))[0], s * 0.0042, dim(item.accent_rgb, 0.9))

        canvas.panel(
            smooth(figure.at(points)), item.cloth, owner, fold="drape", amount=0.12, hull=hull, details=details
        )
    draw_collar(canvas, figure, item, owner, gap)


def draw_closed_coat(canvas: Canvas, figure: Figure, item: Item, owner: int) -> None:
    """Outerwear worn closed."""
    draw_trunk_garment(canvas, figure, item, owner)
    cut = CUTS[item.style]
    hem = cut.hem + item.vary("hem", -0.012, 0.02)
    if not figure.back and cut.closure in ("two", "double"):
        s, shift = figure.scale_px, figure.turn * 0.008
        columns = (-0.018, 0.024) if cut.closure == "double" else (0.006,)
        size = s * 0.005
        for y in np.arange(0.345, min(hem - 0.06, 0.56), 0.055):
            for x in columns:
                at = figure.at((x + shift, y))[0]
                ring = smooth(at + np.array([(-size, 0), (0, -size), (size, 0), (0, size)], np.float32))
                canvas.panel(ring, plain_cloth(dim(item.accent_rgb, 0.8), gloss=0.2), owner, amount=0)
    draw_collar(canvas, figure, item, owner, 0.0)


def draw_collar(canvas: Canvas, figure: Figure, item: Item, owner: int, gap: float) -> None:
    """Lapels, a hood, or a ribbed band."""
    cut = CUTS[item.style]
    shift = figure.turn * 0.008
    if figure.back:
        band = [(-0.036, 0.142), (0, 0.148), (0.036, 0.142), (0.042, 0.17), (0, 0.18), (-0.042, 0.17)]
        canvas.panel(smooth(figure.at(band)), item.cloth, owner, amount=0.06)
        return
    low = 0.33 if cut.collar == "lapel" else 0.21
    for side in (-1, 1):
        if cut.collar == "lapel":
            wing = [
                (0.027, 0.143),
                (0.027, 0.143),
                (gap * 0.7 + 0.001, low),
                (gap * 0.7 + 0.001, low),
                (0.048, 0.25),
                (0.064, 0.222),
                (0.064, 0.222),
                (0.05, 0.214),
                (0.05, 0.214),
                (0.058, 0.2),
                (0.058, 0.2),
                (0.042, 0.165),
            ]
        elif cut.collar == "hood":
            wing = [
                (0.022, 0.13),
                (0.05, 0.138),
                (0.075, 0.165),
                (0.062, 0.2),
                (0.03, 0.222),
                (0.014, 0.215),
                (0.03, 0.18),
            ]
        elif cut.collar == "shirt":
            wing = [
                (0.026, 0.146),
                (0.026, 0.146),
                (max(gap * 0.6, 0.012), 0.215),
                (max(gap * 0.6, 0.012), 0.215),
                (0.052, 0.218),
                (0.052, 0.218),
                (0.042, 0.165),
            ]
        else:
            wing = [
                (0.026, 0.148),
                (0.037, 0.15),
                (0.043, 0.18),
                (0.03, 0.215),
                (max(gap * 0.6, 0.004), 0.222),
                (0.024, 0.185),
            ]
        outline = smooth(figure.at([(side * x + (shift if y > 0.2 else 0), y) for x, y in wing]))
        canvas.panel(outline, item.cloth, owner, amount=0.06)
