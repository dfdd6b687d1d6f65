"""Hats, eyewear, scarves and belts, fitted to a figure."""

from __future__ import annotations

from functools import partial

import numpy as np

from render_sample.canvas import Canvas, Patch
from render_sample.cloth import plain_cloth
from render_sample.figure import Figure
from render_sample.items import Item
from render_sample.person import dim
from render_sample.shapes import Points, smooth

METAL = (0.78, 0.68, 0.42)


def draw_belt(canvas: Canvas, figure: Figure, item: Item, owner: int) -> None:
    """A belt around the waist, its buckle in front."""
    s, half = figure.scale_px, 0.011 if item.style == "wide" else 0.0065
    y = 0.404
    w = figure.half(y) + 0.0085
    outline = figure.at(
        [(-w, y - half), (0, y - half + 0.004), (w, y - half), (w, y + half), (0, y + half + 0.004), (-w, y + half)]
    )

    def details(patch: Patch) -> None:
        for edge in (-0.75, 0.75):
            stitch = figure.at([(-w, y + half * edge), (0, y + half * edge + 0.004), (w, y + half * edge)])
            patch.line(smooth(stitch, closed=False), dim(item.rgb, 0.7), s * 0.001)
        if not figure.back:
            x, top, low = figure.turn * 0.006, y - half * 0.75 + 0.004, y + half * 0.75 + 0.004
            buckle = figure.at([(x - 0.012, top), (x + 0.012, top), (x + 0.012, low), (x - 0.012, low)])
            patch.line(buckle, METAL, s * 0.0035, closed=True)
            patch.line(figure.at([(x, y + 0.004), (x + 0.012, y + 0.004)]), METAL, s * 0.0025)

    canvas.panel(outline, item.cloth, owner, amount=0.04, details=details)


def draw_scarf(canvas: Canvas, figure: Figure, item: Item, owner: int) -> None:
    """A scarf wound around the neck."""
    s, big = figure.scale_px, 0.62 if item.style == "neckerchief" else 1.0
    side = 1 if figure.turn > 0 else -1
    if item.style == "long" and not figure.back:
        for k, low in ((-side, 0.40), (side, 0.47)):
            tail = figure.at([(k * 0.026, 0.17), (k * 0.03, 0.25), (k * 0.034, 0.33), (k * 0.036, low)])
            canvas.tube(
                tail,
                [w * s for w in (0.018, 0.024, 0.027, 0.029)],
                item.cloth,
                owner,
                fold="drape",
                amount=0.16,
                details=partial(_fringe, tail=tail, item=item, s=s),
            )
    if item.style == "neckerchief" and not figure.back:
        point = [(-0.042, 0.165), (0.042, 0.165), (0.004, 0.215), (-0.004, 0.215)]
        canvas.panel(smooth(figure.at(point)), item.cloth, owner, fold="drape", amount=0.15)
    for drop, width, y in ((0.045, 0.019 * big, 0.150), (0.022, 0.017 * big, 0.142)):
        reach = 0.040 + 0.012 * big
        loop = [
            (-reach, y),
            (-reach * 0.72, y + drop * 0.75 * big),
            (0, y + drop * big),
            (reach * 0.72, y + drop * 0.75 * big),
            (reach, y),
        ]
        canvas.tube(
            figure.at(loop),
            [w * s for w in (width * 0.75, width, width * 1.1, width, width * 0.75)],
            item.cloth,
            owner,
            fold="drape",
            amount=0.2,
        )


def _fringe(patch: Patch, tail: Points, item: Item, s: float) -> None:
    end = tail[-1]
    for k in np.linspace(-0.03, 0.03, 13):
        patch.line(end + np.array([(k * s, -0.014 * s), (k * s, 0.01 * s)]), dim(item.rgb, 0.55), s * 0.0012)


def draw_hat(canvas: Canvas, figure: Figure, item: Item, owner: int) -> None:
    """A hat on the head."""
    band, s, c = plain_cloth(dim(item.accent_rgb, 0.8)), figure.scale_px, figure.turn * 0.006
    if item.style == "beanie":
        dome = [
            (-0.05, 0.038),
            (-0.048, 0.0),
            (-0.028, -0.025),
            (0, -0.034),
            (0.028, -0.025),
            (0.048, 0.0),
            (0.05, 0.038),
            (0, 0.046),
        ]
        canvas.panel(smooth(figure.at(dome)), item.cloth, owner, fold="drape", amount=0.08)
        cuff = [(-0.052, 0.014), (0, 0.022), (0.052, 0.014), (0.052, 0.04), (0, 0.049), (-0.052, 0.04)]
        canvas.panel(smooth(figure.at(cuff)), item.cloth, owner, fold="drape", amount=0.08)
        return
    if item.style == "cap":
        dome = [
            (-0.049, 0.035),
            (-0.047, 0.002),
            (-0.025, -0.02),
            (0, -0.025),
            (0.025, -0.02),
            (0.047, 0.002),
            (0.049, 0.035),
            (0, 0.04),
        ]

        def seams(patch: Patch) -> None:
            for x in (-0.02, 0.0, 0.02):
                patch.line(
                    smooth(figure.at([(x * 0.3 + c, -0.025), (x + c, 0.0), (x * 1.5 + c, 0.04)]), closed=False),
                    dim(item.rgb, 0.6),
                    s * 0.0013,
                )

        canvas.panel(smooth(figure.at(dome)), item.cloth, owner, amount=0.04, details=seams)
        if not figure.back:
            visor = [
                (-0.044 + c, 0.03),
                (0 + c, 0.022),
                (0.044 + c, 0.03),
                (0.05 + 3 * c, 0.047),
                (0 + 3 * c, 0.053),
                (-0.05 + 3 * c, 0.047),
            ]
            canvas.panel(smooth(figure.at(visor)), plain_cloth(dim(item.rgb, 0.8)), owner, amount=0.03)
        return
    wide = 0.105 if item.style == "wide-brim" else 0.078
    brim = [
        (-wide, 0.026),
        (-wide * 0.5, 0.010),
        (0, 0.007),
        (wide * 0.5, 0.010),
        (wide, 0.026),
        (wide * 0.55, 0.043),
        (0, 0.05),
        (-wide * 0.55, 0.043),
    ]
    canvas.panel(smooth(figure.at(brim)), plain_cloth(dim(item.rgb, 0.85), folds=0.5), owner, amount=0.06)
    crown = [
        (-0.048, 0.03),
        (-0.045, -0.005),
        (-0.034, -0.036),
        (-0.012, -0.043),
        (0, -0.036),
        (0.012, -0.043),
        (0.034, -0.036),
        (0.045, -0.005),
        (0.048, 0.03),
        (0, 0.038),
    ]
    canvas.panel(smooth(figure.at(crown)), item.cloth, owner, amount=0.05)
    ribbon = [(-0.0475, 0.008), (0, 0.016), (0.0475, 0.008), (0.049, 0.028), (0, 0.036), (-0.049, 0.028)]
    canvas.panel(smooth(figure.at(ribbon)), band, owner, amount=0.02)


def draw_eyewear(canvas: Canvas, figure: Figure, item: Item, owner: int) -> None:
    """Sunglasses: two lenses, a bridge and the temples."""
    s, c, y = figure.scale_px, figure.turn * 0.007, 0.066
    lens = plain_cloth(dim(item.accent_rgb, 0.16), gloss=0.45)
    bridge = figure.at(
        [(-0.045, y - 0.006), (c - 0.02, y - 0.007), (c, y - 0.006), (c + 0.02, y - 0.007), (0.045, y - 0.006)]
    )
    canvas.tube(bridge, [0.0022 * s] * 5, item.cloth, owner, amount=0)
    shape = {
        "wayfarer": [(-1, -0.8), (0.2, -0.95), (1, -0.8), (0.95, 0.35), (0.3, 0.95), (-0.5, 0.9), (-0.95, 0.2)],
        "round": [(-1, 0), (-0.7, -0.75), (0, -1.05), (0.7, -0.75), (1, 0), (0.7, 0.75), (0, 1.05), (-0.7, 0.75)],
        "cat-eye": [(-0.9, -0.55), (0.2, -0.8), (1.2, -1.15), (1.0, 0.1), (0.3, 0.85), (-0.5, 0.75), (-0.95, 0.1)],
    }[item.style]
    for side in (-1, 1):
        rim = smooth(figure.at([(side * (0.021 + 0.0165 * u) + c, y + 0.0125 * v) for u, v in shape]))
        glass = smooth(figure.at([(side * (0.021 + 0.0138 * u) + c, y + 0.0098 * v) for u, v in shape]))

        def shine(patch: Patch, side: int = side) -> None:
            gleam = figure.at(
                [
                    (side * 0.021 + c - 0.006, y - 0.01),
                    (side * 0.021 + c + 0.001, y - 0.01),
                    (side * 0.021 + c - 0.006, y + 0.004),
                ]
            )
            patch.fill(gleam, dim(item.accent_rgb, 0.4))

        canvas.panel(rim, item.cloth, owner, amount=0)
        canvas.panel(glass, lens, owner, amount=0, details=shine)
