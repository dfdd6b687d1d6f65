"""Clothes: each is an outline in body coordinates, fitted to a figure and painted on a canvas."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from pipeline.sample.canvas import Canvas, Patch
from pipeline.sample.cloth import Cloth, plain_cloth
from pipeline.sample.figure import Figure, Limb
from pipeline.sample.items import Item
from pipeline.sample.person import ARM_HALF, LEG_HALF, bone, dim, limb_half
from pipeline.sample.shapes import Points, smooth

Pairs = list[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Cut:
    """How a garment of the trunk is cut, in body heights: ``ease`` of cloth, ``neck`` half width and drop,
    ``sleeve`` as a share of the arm, ``hem`` height, ``flare`` of the hem, ``fit`` at the waist (1: tight).
    """

    ease: float
    neck: tuple[float, float]
    sleeve: float
    hem: float
    flare: float = 0.0
    fit: float = 0.5
    vee: bool = False
    collar: str = "none"
    closure: str = "none"


CUTS: dict[str, Cut] = {
    "tee": Cut(0.012, (0.036, 0.182), 0.36, 0.515, fit=0.25),
    "shirt": Cut(0.014, (0.03, 0.187), 0.97, 0.53, fit=0.2, vee=True, collar="shirt", closure="buttons"),
    "sweater": Cut(0.02, (0.034, 0.178), 0.98, 0.51, fit=0.1, collar="rib"),
    "blouse": Cut(0.02, (0.032, 0.2), 0.7, 0.5, 0.01, 0.2, vee=True),
    "tank": Cut(0.004, (0.05, 0.215), 0.0, 0.5, fit=0.6),
    "turtleneck": Cut(0.008, (0.03, 0.16), 0.98, 0.5, fit=0.6, collar="turtle"),
    "vneck": Cut(0.012, (0.036, 0.235), 0.5, 0.51, fit=0.4, vee=True, collar="rib"),
    "sheath": Cut(0.006, (0.042, 0.195), 0.3, 0.71, -0.004, 0.9),
    "a-line": Cut(0.006, (0.045, 0.2), 0.0, 0.69, 0.07, 0.95),
    "maxi": Cut(0.006, (0.04, 0.23), 0.0, 0.93, 0.06, 0.8, vee=True),
    "shirt-dress": Cut(0.014, (0.03, 0.19), 0.75, 0.67, 0.02, 0.4, vee=True, collar="shirt", closure="buttons"),
    "slip": Cut(0.008, (0.056, 0.235), 0.0, 0.74, 0.02, 0.5, vee=True),
    "blazer": Cut(0.02, (0.034, 0.33), 1.0, 0.56, 0.01, 0.45, collar="lapel", closure="two"),
    "coat": Cut(0.026, (0.034, 0.30), 1.0, 0.76, 0.025, 0.25, collar="lapel", closure="double"),
    "bomber": Cut(0.03, (0.034, 0.2), 1.0, 0.50, -0.012, 0.0, collar="band", closure="zip"),
    "jacket": Cut(0.022, (0.034, 0.2), 1.0, 0.49, 0.0, 0.2, collar="shirt", closure="buttons"),
    "parka": Cut(0.036, (0.036, 0.2), 1.0, 0.66, 0.01, 0.1, collar="hood", closure="zip"),
    "cardigan": Cut(0.02, (0.034, 0.3), 1.0, 0.56, 0.0, 0.1, collar="rib", closure="buttons"),
    "biker": Cut(0.014, (0.034, 0.24), 1.0, 0.475, 0.0, 0.5, collar="lapel", closure="zip"),
}


def _side(figure: Figure, cut: Cut, hem: float) -> Pairs:
    """The right-hand edge of a garment from the neck to the hem."""
    e, broad = cut.ease, figure.body.shoulders * figure.body.girth
    width, _ = cut.neck
    tip = 0.094 * broad + 0.55 * e if cut.sleeve > 0 else 0.074 * broad
    edge: Pairs = [(width, 0.160), (width, 0.160), (tip * 0.8, 0.174 - 0.15 * e), (tip, 0.184 - 0.2 * e), (tip, 0.205)]
    loose = max(figure.half(0.27), figure.half(0.47)) + e
    levels = [y for y in (0.255, 0.30, 0.34, 0.385, 0.43, 0.47, 0.53, 0.6, 0.7, 0.8) if y < hem - 0.02] + [hem]
    for y in levels:
        tight = figure.half(y) + 0.3 * e + 0.003
        share = cut.fit if y > 0.28 else 0.7
        below = np.clip((y - 0.42) / max(0.05, hem - 0.42), 0, 1)
        edge.append((share * tight + (1 - share) * loose + cut.flare * float(below), y))
    edge.append((edge[-1][0] - 0.001, hem))
    return edge


def draw_trunk_garment(canvas: Canvas, figure: Figure, item: Item, owner: int, *, hem: float | None = None) -> None:
    """The body of a top, dress or closed coat (its sleeves come later, over it)."""
    cut = CUTS[item.style]
    low = (cut.hem + item.vary("hem", -0.012, 0.02)) if hem is None else hem
    side = _side(figure, cut, low)
    drop = 0.166 if figure.back else cut.neck[1] + item.vary("neck", -0.006, 0.01)
    width = cut.neck[0]
    shift = figure.turn * 0.008
    dip: Pairs = [(-width, 0.16), (-width * 0.72, (0.16 + drop) / 2 + 0.008), (shift, drop), (width * 0.72, (0.16 + drop) / 2 + 0.008)]
    if cut.vee and not figure.back:
        dip = [(-width, 0.16), (shift, drop), (shift, drop)]
    bottom: Pairs = [(side[-1][0] * 0.5, low + 0.008), (0.0, low + 0.006), (-side[-1][0] * 0.5, low + 0.008)]
    outline = smooth(figure.at([*side, *bottom, *[(-x, y) for x, y in reversed(side)], *dip]))
    fold = "drape" if low > 0.6 else "crease"

    def details(patch: Patch) -> None:
        _trunk_details(patch, figure, item, cut, low, drop)

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
            wing = [(side * 0.026, 0.146), (side * 0.026, 0.146), (shift + side * 0.003, drop), (shift + side * 0.003, drop), (side * 0.03 + shift, drop + 0.016), (side * 0.03 + shift, drop + 0.016), (side * 0.037, 0.163)]
        canvas.panel(smooth(figure.at(wing)), cloth, owner, amount=0.05)


def _trunk_details(patch: Patch, figure: Figure, item: Item, cut: Cut, hem: float, drop: float) -> None:
    s = figure.scale_px
    dark, light = dim(item.rgb, 0.72), dim(item.accent_rgb, 1.0)
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
        rim = [(-w, 0.16), (-w * 0.74, (0.16 + drop) / 2 + 0.014), (shift, drop + 0.007), (w * 0.74, (0.16 + drop) / 2 + 0.014), (w, 0.16)]
        patch.line(path(rim), dark, s * 0.0014)
    if cut.closure == "buttons":
        patch.line(path([(shift + 0.007, drop), (shift + 0.007, hem + 0.01)]), dark, s * 0.0013)
        patch.line(path([(shift - 0.007, drop), (shift - 0.007, hem + 0.01)]), dim(item.rgb, 0.8), s * 0.001)
        for y in np.arange(drop + 0.012, hem - 0.01, 0.042):
            patch.dot(figure.at((shift, y))[0], s * 0.0034, light)
    if cut.closure == "zip":
        patch.line(path([(shift, drop), (shift, hem + 0.01)]), (0.66, 0.65, 0.62), s * 0.003)
        patch.line(path([(shift + 0.006, drop), (shift + 0.006, hem + 0.01)]), dark, s * 0.0013)
    if item.label == "outerwear" or item.style in ("shirt", "shirt-dress"):
        _pockets(patch, figure, item, hem)


def _pockets(patch: Patch, figure: Figure, item: Item, hem: float) -> None:
    s, dark = figure.scale_px, dim(item.rgb, 0.66)
    if item.style in ("shirt", "shirt-dress", "jacket"):
        sides = (-1, 1) if item.style == "jacket" else (1,)
        for side in sides:
            box = [(side * 0.022, 0.25), (side * 0.06, 0.25), (side * 0.06, 0.29), (side * 0.041, 0.298), (side * 0.022, 0.29)]
            patch.line(figure.at(box), dark, s * 0.0014, closed=True)
            patch.line(figure.at([(side * 0.022, 0.26), (side * 0.06, 0.26)]), dark, s * 0.0012)
        return
    y = min(hem - 0.06, 0.475)
    for side in (-1, 1):
        flap = [(side * 0.035, y), (side * 0.08, y - 0.006), (side * 0.081, y + 0.012), (side * 0.035, y + 0.018)]
        patch.line(figure.at(flap), dark, s * 0.0018, closed=True)


def draw_open_coat(canvas: Canvas, figure: Figure, item: Item, owner: int, gap: float) -> None:
    """Outerwear worn open: two halves that leave ``gap`` (half width at the hem) free."""
    cut = CUTS[item.style]
    hem = cut.hem + item.vary("hem", -0.012, 0.02)
    edge = _side(figure, cut, hem)
    hull = smooth(figure.at(edge + [(-x, y) for x, y in reversed(edge)]))
    for side in (-1, 1):
        wide = gap * (1.15 if side * figure.turn > 0 else 0.8)
        inner = [(wide * 1.1, hem + 0.012), (wide * 0.9, (hem + 0.3) / 2), (wide * 0.75, 0.3), (0.03, 0.2)]
        points = [(side * x, y) for x, y in [*edge, *inner]]

        def details(patch: Patch, side: int = side, inner: Pairs = inner) -> None:
            s = figure.scale_px
            front = figure.at([(side * x, y) for x, y in inner])
            patch.line(smooth(front, closed=False), (0.66, 0.65, 0.62) if cut.closure == "zip" else dim(item.rgb, 0.66), s * 0.004)
            patch.line(smooth(figure.at([(side * (x + 0.012), y) for x, y in inner]), closed=False), dim(item.rgb, 0.7), s * 0.0014)
            patch.line(smooth(figure.at([(-0.13, hem - 0.008), (0, hem), (0.13, hem - 0.008)]), closed=False), dim(item.rgb, 0.65), s * 0.0014)
            _pockets(patch, figure, item, hem)
            if cut.closure in ("buttons", "two", "double") and side > 0:
                for y in np.arange(0.3 if cut.collar == "lapel" else 0.22, hem - 0.03, 0.055):
                    x = float(np.interp(y, [0.2, 0.3, hem], [0.03, wide * 0.75, wide * 1.1]))
                    patch.dot(figure.at((x + 0.009, y))[0], s * 0.0042, dim(item.accent_rgb, 0.9))

        canvas.panel(smooth(figure.at(points)), item.cloth, owner, fold="drape", amount=0.12, hull=hull, details=details)
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
            wing = [(0.027, 0.143), (0.027, 0.143), (gap * 0.7 + 0.001, low), (gap * 0.7 + 0.001, low), (0.048, 0.25), (0.064, 0.222), (0.064, 0.222), (0.05, 0.214), (0.05, 0.214), (0.058, 0.2), (0.058, 0.2), (0.042, 0.165)]
        elif cut.collar == "hood":
            wing = [(0.022, 0.13), (0.05, 0.138), (0.075, 0.165), (0.062, 0.2), (0.03, 0.222), (0.014, 0.215), (0.03, 0.18)]
        elif cut.collar == "shirt":
            wing = [(0.026, 0.146), (0.026, 0.146), (max(gap * 0.6, 0.012), 0.215), (max(gap * 0.6, 0.012), 0.215), (0.052, 0.218), (0.052, 0.218), (0.042, 0.165)]
        else:
            wing = [(0.026, 0.148), (0.037, 0.15), (0.043, 0.18), (0.03, 0.215), (max(gap * 0.6, 0.004), 0.222), (0.024, 0.185)]
        outline = smooth(figure.at([(side * x + (shift if y > 0.2 else 0), y) for x, y in wing]))
        canvas.panel(outline, item.cloth, owner, amount=0.06)


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


def draw_skirt(canvas: Canvas, figure: Figure, item: Item, owner: int) -> None:
    """A skirt from the waist down."""
    hem, flare = {"pencil": (0.71, 0.0), "a-line": (0.67, 0.05), "pleated": (0.72, 0.06), "maxi": (0.92, 0.055), "mini": (0.61, 0.02)}[item.style]
    hem += item.vary("hem", -0.02, 0.025)
    flare += item.vary("flare", 0.0, 0.015)
    ys = np.linspace(0.385, hem, 7)
    side = [(figure.half(min(float(y), 0.53)) + 0.006 + flare * float((y - 0.385) / (hem - 0.385)), float(y)) for y in ys]
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
    outline = smooth(figure.at([*side, (0.05, 0.55), (0.0, 0.563), (-0.05, 0.55), *[(-x, y) for x, y in reversed(side)]]))

    def details(patch: Patch) -> None:
        def path(points: Pairs) -> Points:
            return smooth(figure.at(points), closed=False)

        patch.line(path([(-0.1, 0.414), (0, 0.419), (0.1, 0.414)]), dark, s * 0.0015)
        for x in (-0.045, 0.045):
            patch.line(figure.at([(x, 0.394), (x, 0.417)]), dark, s * 0.003)
        for side_x in (-1, 1):
            if figure.back:
                box = [(side_x * 0.022, 0.455), (side_x * 0.062, 0.452), (side_x * 0.062, 0.495), (side_x * 0.042, 0.507), (side_x * 0.022, 0.497)]
                patch.line(figure.at(box), dark, s * 0.0016, closed=True)
            else:
                patch.line(path([(side_x * 0.05, 0.416), (side_x * 0.06, 0.445), (side_x * 0.095, 0.462)]), dark, s * 0.0018)
        patch.line(path([(figure.turn * 0.006, 0.417), (figure.turn * 0.006, 0.47), (0, 0.56)]), dark, s * 0.0016)
        if not figure.back:
            patch.dot(figure.at((figure.turn * 0.006, 0.406))[0], s * 0.0035, (0.7, 0.66, 0.55))

    canvas.panel(outline, item.cloth, owner, amount=0.1, joined=True, details=details)


Drawer = Callable[[Canvas, Figure, Item, int], None]
