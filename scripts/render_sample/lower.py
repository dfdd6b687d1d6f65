"""Skirts, pants and shorts, fitted to a figure."""

from __future__ import annotations

import numpy as np

from render_sample.canvas import Canvas, Patch
from render_sample.cuts import Pairs
from render_sample.figure import Figure
from render_sample.items import Item
from render_sample.person import LEG_HALF, bone, dim, limb_half
from render_sample.shapes import Points, smooth


def draw_skirt(canvas: Canvas, figure: Figure, item: Item, owner: int) -> None:
    """A skirt from the waist down."""
    hem, flare = {
        "pencil": (0.71, 0.0),
        "a-line": (0.67, 0.05),
        "pleated": (0.72, 0.06),
        "maxi": (0.92, 0.055),
        "mini": (0.61, 0.02),
    }[item.style]
    hem += item.vary("hem", -0.02, 0.025)
    flare += item.vary("flare", 0.0, 0.015)
    ys = np.linspace(0.385, hem, 7)
    side = [
        (figure.half(min(float(y), 0.53)) + 0.006 + flare * float((y - 0.385) / (hem - 0.385)), float(y)) for y in ys
    ]
    side.insert(0, side[0])
    side.append(side[-1])
    wave = 0.006 if flare > 0.04 else 0.002
    xs = np.linspace(side[-1][0], -side[-1][0], 9)[1:-1]
    bottom = [(float(x), hem + 0.008 + wave * float(np.sin(k * 2.4 + figure.sway * 90))) for k, x in enumerate(xs)]
    outline = smooth(figure.at([*side, *bottom, *[(-x, y) for x, y in reversed(side)]]))

    def details(patch: Patch) -> None:
        s, dark = figure.scale_px, dim(item.rgb, 0.7)
        patch.line(smooth(figure.at([(-0.09, 0.402), (0, 0.407), (0.09, 0.402)]), closed=False), dark, s * 0.0015)
        if item.style == "pleated":
            for k in np.linspace(-1, 1, 13):
                fan = [(k * side[0][0], 0.405), (k * side[-1][0] * 1.02, hem + 0.015)]
                patch.line(figure.at(fan), dim(item.rgb, 0.72), s * 0.003)
        elif figure.back:
            patch.line(figure.at([(0, 0.39), (0, 0.47)]), dark, s * 0.0015)

    canvas.panel(outline, item.cloth, owner, fold="drape", amount=0.07 + 1.6 * flare, details=details)


def draw_pants(canvas: Canvas, figure: Figure, item: Item, owner: int) -> None:
    """Pants or shorts: two legs, and the seat over them."""
    upto, wide = {
        "straight": (0.985, 0.010),
        "skinny": (0.97, 0.002),
        "wide": (1.0, 0.026),
        "jeans": (0.98, 0.006),
        "cropped": (0.86, 0.012),
        "tailored": (0.32, 0.014),
        "denim": (0.20, 0.012),
        "long": (0.45, 0.016),
    }[item.style]
    upto += item.vary("length", -0.03, 0.0)
    s, dark = figure.scale_px, dim(item.rgb, 0.68)
    for limb in sorted(figure.legs, key=lambda leg: not leg.behind):
        spine = bone(figure, limb, upto)
        half = limb_half(LEG_HALF, figure, upto, ease=0.004)
        half = [h + wide * s * (k / 6) ** (0.6 if wide > 0.02 else 0.9) for k, h in enumerate(half)]

        def details(patch: Patch, spine: Points = spine, half: list[float] = half) -> None:
            end, reach = spine[-1], half[-1] * 1.2
            for up in (0.010, 0.022) if item.style in ("jeans", "denim") else (0.010,):
                patch.line(end + np.array([(-reach, -up * s), (reach, -up * s)]), dark, s * 0.0015)
            if item.style in ("straight", "wide", "tailored"):
                patch.line(smooth(spine, closed=False), dim(item.rgb, 0.78), s * 0.002)

        canvas.tube(spine, half, item.cloth, owner, amount=0.15, details=details)
    _draw_seat(canvas, figure, item, owner)


def _draw_seat(canvas: Canvas, figure: Figure, item: Item, owner: int) -> None:
    s, dark = figure.scale_px, dim(item.rgb, 0.66)
    waist = figure.half(0.4) + 0.005
    hips = max(figure.half(0.5) + 0.006, 0.043 * figure.body.girth + 0.052 * figure.body.girth + 0.003)
    side: Pairs = [(waist, 0.395), (waist, 0.395), (hips - 0.006, 0.45), (hips, 0.5), (hips, 0.525)]
    outline = smooth(
        figure.at([*side, (0.05, 0.55), (0.0, 0.563), (-0.05, 0.55), *[(-x, y) for x, y in reversed(side)]])
    )

    def details(patch: Patch) -> None:
        def path(points: Pairs) -> Points:
            return smooth(figure.at(points), closed=False)

        patch.line(path([(-0.1, 0.414), (0, 0.419), (0.1, 0.414)]), dark, s * 0.0015)
        for x in (-0.045, 0.045):
            patch.line(figure.at([(x, 0.394), (x, 0.417)]), dark, s * 0.003)
        for side_x in (-1, 1):
            if figure.back:
                box = [
                    (side_x * 0.022, 0.455),
                    (side_x * 0.062, 0.452),
                    (side_x * 0.062, 0.495),
                    (side_x * 0.042, 0.507),
                    (side_x * 0.022, 0.497),
                ]
                patch.line(figure.at(box), dark, s * 0.0016, closed=True)
            else:
                patch.line(
                    path([(side_x * 0.05, 0.416), (side_x * 0.06, 0.445), (side_x * 0.095, 0.462)]), dark, s * 0.0018
                )
        patch.line(path([(figure.turn * 0.006, 0.417), (figure.turn * 0.006, 0.47), (0, 0.56)]), dark, s * 0.0016)
        if not figure.back:
            patch.dot(figure.at((figure.turn * 0.006, 0.406))[0], s * 0.0035, (0.7, 0.66, 0.55))

    canvas.panel(outline, item.cloth, owner, amount=0.1, joined=True, details=details)
