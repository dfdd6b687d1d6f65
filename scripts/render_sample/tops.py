"""Tops, dresses and the trunk of coats, fitted to a figure, and their sleeves."""

from __future__ import annotations

import numpy as np

from render_sample.canvas import Canvas, Patch
from render_sample.cloth import Cloth, plain_cloth
from render_sample.cuts import CUTS, Pairs, side_edge
from render_sample.figure import Figure, Limb
from render_sample.items import Item
from render_sample.person import ARM_HALF, bone, dim, limb_half
from render_sample.shapes import Points, smooth


def draw_trunk_garment(canvas: Canvas, figure: Figure, item: Item, owner: int, *, hem: float | None = None) -> None:
    """The body of a top, dress or closed coat (its sleeves come later, over it)."""
    cut = CUTS[item.style]
    low = (cut.hem + item.vary("hem", -0.012, 0.02)) if hem is None else hem
    side = side_edge(figure, cut, low)
    drop = 0.166 if figure.back else cut.neck[1] + item.vary("neck", -0.006, 0.01)
    width = cut.neck[0]
    shift = figure.turn * 0.008
    dip: Pairs = [
        (-width, 0.16),
        (-width * 0.72, (0.16 + drop) / 2 + 0.008),
        (shift, drop),
        (width * 0.72, (0.16 + drop) / 2 + 0.008),
    ]
    if cut.vee and not figure.back:
        dip = [(-width, 0.16), (shift, drop), (shift, drop)]
    bottom: Pairs = [(side[-1][0] * 0.5, low + 0.008), (0.0, low + 0.006), (-side[-1][0] * 0.5, low + 0.008)]
    outline = smooth(figure.at([*side, *bottom, *[(-x, y) for x, y in reversed(side)], *dip]))
    fold = "drape" if low > 0.6 else "crease"

    def details(patch: Patch) -> None:
        _trunk_details(patch, figure, item, low, drop)

    canvas.panel(outline, item.cloth, owner, fold=fold, amount=0.11, details=details)
    if cut.collar == "turtle":
        neck = [(-0.034, 0.128), (0, 0.138), (0.034, 0.128), (0.037, 0.168), (0, 0.178), (-0.037, 0.168)]
        canvas.panel(smooth(figure.at(neck)), item.cloth, owner, amount=0.12)
    if cut.collar == "shirt":
        _shirt_collar(canvas, figure, item.cloth, owner, drop)


def draw_inside(canvas: Canvas, figure: Figure, item: Item, owner: int) -> None:
    """The inside of the back, as it shows in the neck opening when nobody wears the garment."""
    width, drop = CUTS[item.style].neck
    lining = [(-width, 0.158), (0, 0.166), (width, 0.158), (width * 1.1, drop), (0, drop + 0.03), (-width * 1.1, drop)]
    dark = plain_cloth(dim(item.rgb, 0.5))
    canvas.panel(smooth(figure.at(lining)), dark, owner, amount=0.05)


def _shirt_collar(canvas: Canvas, figure: Figure, cloth: Cloth, owner: int, drop: float) -> None:
    shift = figure.turn * 0.008
    for side in (-1, 1):
        if figure.back:
            wing = [(0, 0.15), (side * 0.03, 0.152), (side * 0.036, 0.172), (0, 0.175)]
        else:
            wing = [
                (side * 0.026, 0.146),
                (side * 0.026, 0.146),
                (shift + side * 0.003, drop),
                (shift + side * 0.003, drop),
                (side * 0.03 + shift, drop + 0.016),
                (side * 0.03 + shift, drop + 0.016),
                (side * 0.037, 0.163),
            ]
        canvas.panel(smooth(figure.at(wing)), cloth, owner, amount=0.05)


def _trunk_details(patch: Patch, figure: Figure, item: Item, hem: float, drop: float) -> None:
    """Seams, ribs, rim, buttons or zip, and pockets."""
    cut = CUTS[item.style]
    s = figure.scale_px
    dark = dim(item.rgb, 0.72)
    shift = figure.turn * 0.008

    def path(points: Pairs) -> Points:
        return smooth(figure.at(points), closed=False)

    patch.line(path([(-0.13, hem - 0.007), (0, hem + 0.001), (0.13, hem - 0.007)]), dark, s * 0.0013)
    if cut.collar == "rib":
        for k in (-0.010, 0.010):
            y = hem - 0.014 + k
            patch.line(path([(-0.13, y), (0, y + 0.008), (0.13, y)]), dark, s * 0.0016)
    if cut.fit > 0.85:
        patch.line(path([(-0.1, 0.385), (0, 0.39), (0.1, 0.385)]), dark, s * 0.0018)
    if figure.back:
        patch.line(path([(-0.09, 0.215), (0, 0.222), (0.09, 0.215)]), dark, s * 0.0013)
        return
    if not cut.vee and cut.closure == "none":
        w = cut.neck[0] + 0.006
        rim = [
            (-w, 0.16),
            (-w * 0.74, (0.16 + drop) / 2 + 0.014),
            (shift, drop + 0.007),
            (w * 0.74, (0.16 + drop) / 2 + 0.014),
            (w, 0.16),
        ]
        patch.line(path(rim), dark, s * 0.0014)
    _draw_closure(patch, figure, item, hem, drop)
    if item.label == "outerwear" or item.style in ("shirt", "shirt-dress"):
        draw_pockets(patch, figure, item, hem)


def _draw_closure(patch: Patch, figure: Figure, item: Item, hem: float, drop: float) -> None:
    cut, s, shift = CUTS[item.style], figure.scale_px, figure.turn * 0.008
    dark, light = dim(item.rgb, 0.72), item.accent_rgb

    def path(points: Pairs) -> Points:
        return smooth(figure.at(points), closed=False)

    if cut.closure == "buttons":
        patch.line(path([(shift + 0.007, drop), (shift + 0.007, hem + 0.01)]), dark, s * 0.0013)
        patch.line(path([(shift - 0.007, drop), (shift - 0.007, hem + 0.01)]), dim(item.rgb, 0.8), s * 0.001)
        for y in np.arange(drop + 0.012, hem - 0.01, 0.042):
            patch.dot(figure.at((shift, y))[0], s * 0.0034, light)
    if cut.closure == "zip":
        patch.line(path([(shift, drop), (shift, hem + 0.01)]), (0.66, 0.65, 0.62), s * 0.003)
        patch.line(path([(shift + 0.006, drop), (shift + 0.006, hem + 0.01)]), dark, s * 0.0013)


def draw_pockets(patch: Patch, figure: Figure, item: Item, hem: float) -> None:
    """Pockets on the chest, or flaps at the hips."""
    s, dark = figure.scale_px, dim(item.rgb, 0.66)
    if item.style in ("shirt", "shirt-dress", "jacket"):
        sides = (-1, 1) if item.style == "jacket" else (1,)
        for side in sides:
            box = [
                (side * 0.022, 0.25),
                (side * 0.06, 0.25),
                (side * 0.06, 0.29),
                (side * 0.041, 0.298),
                (side * 0.022, 0.29),
            ]
            patch.line(figure.at(box), dark, s * 0.0014, closed=True)
            patch.line(figure.at([(side * 0.022, 0.26), (side * 0.06, 0.26)]), dark, s * 0.0012)
        return
    y = min(hem - 0.06, 0.475)
    for side in (-1, 1):
        flap = [(side * 0.035, y), (side * 0.08, y - 0.006), (side * 0.081, y + 0.012), (side * 0.035, y + 0.018)]
        patch.line(figure.at(flap), dark, s * 0.0018, closed=True)


def draw_sleeve(canvas: Canvas, figure: Figure, limb: Limb, item: Item, owner: int) -> None:
    """One sleeve of a top, dress or coat, if it has any."""
    cut = CUTS[item.style]
    upto = cut.sleeve * item.vary("sleeve", 0.94, 1.0)
    if upto < 0.05:
        return
    snug, loose = (limb_half(ARM_HALF, figure, upto, ease=e) for e in (0.003, 0.003 + 0.42 * cut.ease))
    half = [a + (b - a) * min(1.0, k / 2) for k, (a, b) in enumerate(zip(snug, loose, strict=True))]
    if cut.collar in ("rib", "band"):
        half[-1] *= 0.8
    s = figure.scale_px

    def details(patch: Patch) -> None:
        spine = bone(figure, limb, upto)
        for back in (0.010, 0.016) if upto > 0.6 else (0.008,):
            along = spine[-1] - spine[-2]
            along /= max(1e-6, float(np.linalg.norm(along)))
            across = np.array([-along[1], along[0]]) * s * 0.05
            at = spine[-1] - along * s * back
            patch.line(np.stack([at - across, at + across]), dim(item.rgb, 0.7), s * 0.0014)

    canvas.tube(bone(figure, limb, upto), half, item.cloth, owner, amount=0.15, details=details)
