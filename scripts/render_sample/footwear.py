"""Shoes and hosiery, fitted to a figure's legs."""

from __future__ import annotations

import numpy as np

from render_sample.canvas import Canvas, Patch
from render_sample.cloth import Cloth, plain_cloth
from render_sample.figure import Figure, Limb
from render_sample.items import Item
from render_sample.person import LEG_HALF, bone, dim, limb_half
from render_sample.shapes import Points, smooth


def draw_hosiery(canvas: Canvas, figure: Figure, item: Item, owner: int) -> None:
    """Tights or socks, from where they begin down to the toes."""
    start = {"tights": 0.0, "knee socks": 0.5, "ankle socks": 0.8}[item.style]
    sheer = item.vary("sheer", 0.0, 0.3) if item.style == "tights" else 0.0
    cloth = Cloth(item.cloth.swatch, item.cloth.gloss, 0.4, None, sheer)
    s = figure.scale_px
    for limb in sorted(figure.legs, key=lambda leg: not leg.behind):
        spine = bone(figure, limb, 1.0, start)

        def details(patch: Patch, spine: Points = spine) -> None:
            for k in (0.008, 0.014) if item.style != "tights" else ():
                patch.line(spine[0] + np.array([(-0.06 * s, k * s), (0.06 * s, k * s)]), item.accent_rgb, s * 0.002)

        half = limb_half(LEG_HALF, figure, 1.0, ease=0.0015, start=start)
        canvas.tube(spine, half, cloth, owner, amount=0.07, blunt=(True, True), details=details)
        ankle, toe = figure.place(limb.joints[2:])
        canvas.tube(
            np.stack([ankle, (ankle + toe) / 2, toe]),
            [w * s for w in (0.016, 0.020, 0.014)],
            cloth,
            owner,
            blunt=(False, False),
        )


def draw_shoes(canvas: Canvas, figure: Figure, item: Item, owner: int) -> None:
    """A pair of shoes, the farther first."""
    for limb in sorted(figure.legs, key=lambda leg: not leg.behind):
        _draw_shoe(canvas, figure, limb, item, owner)


def _draw_shoe(canvas: Canvas, figure: Figure, limb: Limb, item: Item, owner: int) -> None:
    s = figure.scale_px
    ankle, toe = figure.place(limb.joints[2:])
    aim = toe - ankle
    heel = ankle + np.array([0.0, 0.016 * s]) - aim * 0.12
    front = ankle + aim * 1.05 + np.array([0.0, 0.002 * s])
    spine = np.stack([heel, heel + (front - heel) * 0.25, heel + (front - heel) * 0.55, front]).astype(np.float32)
    spread = [w * s for w in (0.0185, 0.0215, 0.0235, 0.016)]
    sole = (0.9, 0.9, 0.88) if item.style == "sneaker" else dim(item.rgb, 0.35)
    drop = np.array([0.0, (0.009 if item.style in ("sneaker", "ankle boot") else 0.005) * s], np.float32)
    if item.style == "pump" or (item.style.endswith("boot") and item.vary("heel", 0, 1) > 0.4):
        stilt = heel + np.array([(-0.007, 0), (0.007, 0), (0.005, 0.032), (-0.005, 0.032)], np.float32) * s
        canvas.panel(stilt.astype(np.float32), plain_cloth(dim(item.rgb, 0.5)), owner, amount=0)
    mouth = _mouth(spine, s) if item.style in ("pump", "flat", "loafer") else None
    canvas.tube(
        spine + drop,
        [w * 1.03 for w in spread],
        plain_cloth(sole, gloss=0.05),
        owner,
        amount=0.02,
        blunt=(False, False),
        hole=mouth,
    )
    shaft = {"ankle boot": 0.86, "knee boot": 0.54}.get(item.style)
    if shaft is not None:
        half = limb_half(LEG_HALF, figure, 1.0, ease=0.005, start=shaft)
        canvas.tube(bone(figure, limb, 1.0, shaft), half, item.cloth, owner, amount=0.1, blunt=(True, True))
    canvas.tube(
        spine,
        spread,
        item.cloth,
        owner,
        amount=0.06,
        blunt=(False, False),
        hole=mouth,
        details=lambda p: _shoe_details(p, figure, item, spine),
    )


def _mouth(spine: Points, s: float) -> Points:
    """Where the foot goes in."""
    heel, aim = spine[0], spine[-1] - spine[0]
    across = np.array([-aim[1], aim[0]]) / max(1e-6, float(np.hypot(*aim))) * s
    at = heel + aim * 0.14 + np.array([0, -0.006 * s])
    return smooth(np.array([at + across * 0.0145, at + aim * 0.36, at - across * 0.0145, at - aim * 0.35], np.float32))


def draw_linings(canvas: Canvas, figure: Figure, item: Item, owner: int) -> None:
    """The insides of a pair of shoes, as they show when nobody wears it; drawn before the shoes."""
    for limb in figure.legs:
        ankle, toe = figure.place(limb.joints[2:])
        ends = np.stack([ankle + np.array([0.0, 0.012 * figure.scale_px]), ankle + (toe - ankle) * 0.6]).astype(
            np.float32
        )
        canvas.tube(ends, [0.016 * figure.scale_px] * 2, plain_cloth(dim(item.accent_rgb, 0.6)), owner, amount=0)


def _shoe_details(patch: Patch, figure: Figure, item: Item, spine: Points) -> None:
    """The mouth, laces and toe cap."""
    s, heel = figure.scale_px, spine[0]
    aim = spine[-1] - heel
    across = np.array([-aim[1], aim[0]]) / max(1e-6, float(np.hypot(*aim))) * s

    def bar(along: float, reach: float) -> Points:
        at = heel + aim * along
        return np.stack([at - across * reach, at + across * reach])

    if item.style == "loafer":
        patch.line(bar(0.66, 0.02), dim(item.rgb, 0.5), s * 0.006)
    if item.style in ("sneaker", "ankle boot"):
        for along in (0.3, 0.45, 0.6):
            patch.line(
                bar(along, 0.009), (0.9, 0.9, 0.88) if item.style == "sneaker" else dim(item.rgb, 0.5), s * 0.0025
            )
        patch.line(bar(0.82, 0.03), dim(item.rgb, 0.6), s * 0.0016)
