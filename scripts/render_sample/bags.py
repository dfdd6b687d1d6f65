"""Bags, in the hand or on a strap."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from render_sample.canvas import Canvas, Patch
from render_sample.cloth import plain_cloth
from render_sample.figure import Figure
from render_sample.items import Item
from render_sample.person import dim
from render_sample.shapes import Points, smooth

METAL = (0.78, 0.68, 0.42)


def bag_side(figure: Figure) -> int:
    """The side on which a bag is worn."""
    return 1 if figure.turn >= 0 else -1


def draw_strap(canvas: Canvas, figure: Figure, item: Item, owner: int) -> None:
    """The strap of a bag that hangs from a shoulder."""
    side, s = bag_side(figure), figure.scale_px
    if item.style == "crossbody":
        strap = [(-side * 0.055, 0.168), (-side * 0.02, 0.26), (side * 0.05, 0.40), (side * 0.105, 0.475)]
    elif item.style == "shoulder":
        strap = [(side * 0.066, 0.172), (side * 0.082, 0.25), (side * 0.10, 0.33), (side * 0.112, 0.40)]
    else:
        return
    canvas.tube(figure.at(strap), [0.0052 * s] * 4, plain_cloth(dim(item.rgb, 0.85), gloss=0.1), owner, amount=0.02)


def _bag_size(item: Item) -> tuple[float, float, float]:
    """Half width, height, and how far the bag hangs below the hand, in body heights."""
    wide, high, hang = {
        "handbag": (0.082, 0.115, 0.05),
        "tote": (0.090, 0.17, 0.075),
        "crossbody": (0.056, 0.078, 0.0),
        "clutch": (0.075, 0.075, -0.03),
        "shoulder": (0.072, 0.115, 0.0),
    }[item.style]
    return wide * item.vary("wide", 0.88, 1.15), high * item.vary("high", 0.9, 1.12), hang


def bag_at(figure: Figure, item: Item) -> tuple[float, float]:
    """The middle of the bag's upper edge, in pixels."""
    side = bag_side(figure)
    if item.style in ("crossbody", "shoulder"):
        at = figure.at([(side * 0.108, 0.47 if item.style == "crossbody" else 0.395)])[0]
    else:
        at = figure.place(figure.arms[(side + 1) // 2].joints[3:])[0] + (0, _bag_size(item)[2] * figure.scale_px)
    return float(at[0]), float(at[1])


def draw_bag(canvas: Canvas, figure: Figure, item: Item, owner: int) -> None:
    """The bag: at the hand, or at the hip where it has a strap."""
    s = figure.scale_px
    wide, high, hang = _bag_size(item)
    x, y = bag_at(figure, item)
    top, base = (0.86, 1.0) if item.style in ("handbag", "shoulder") else (1.0, 0.97)

    def at(points: list[tuple[float, float]]) -> Points:
        return np.array([(x + u * wide * s, y + v * high * s) for u, v in points], np.float32)

    if hang > 0:
        for k, tone in ((0.0, 0.7), (0.06, 0.9)):
            arc = at(
                [
                    (-0.5 + k, 0.04),
                    (-0.4 + k, -hang / high * 0.75),
                    (0 + k, -hang / high - 0.06),
                    (0.4 + k, -hang / high * 0.75),
                    (0.5 + k, 0.04),
                ]
            )
            canvas.tube(arc, [0.0042 * s] * 5, plain_cloth(dim(item.rgb, tone), gloss=0.1), owner, amount=0)
    body = [
        (-top, 0),
        (-top, 0),
        (0, 0.015),
        (top, 0),
        (top, 0),
        (base * 0.98, 0.5),
        (base, 0.96),
        (base, 0.96),
        (0, 1.0),
        (-base, 0.96),
        (-base, 0.96),
        (-base * 0.98, 0.5),
    ]
    canvas.panel(
        smooth(at(body)),
        item.cloth,
        owner,
        amount=0.07,
        details=lambda p: _bag_details(p, item, at, s, back=figure.back),
    )


def _bag_details(
    patch: Patch, item: Item, at: Callable[[list[tuple[float, float]]], Points], s: float, *, back: bool
) -> None:
    dark = dim(item.rgb, 0.55)
    patch.line(smooth(at([(-0.92, 0.93), (0, 0.965), (0.92, 0.93)]), closed=False), dark, s * 0.0014)
    if back:
        patch.line(at([(-0.7, 0.3), (0.7, 0.3)]), (0.6, 0.6, 0.6), s * 0.002)
        return
    if item.style == "tote":
        patch.line(at([(-0.9, 0.1), (0.9, 0.1)]), dark, s * 0.002)
        patch.fill(at([(-0.3, 0.42), (0.3, 0.42), (0.3, 0.6), (-0.3, 0.6)]), item.accent_rgb)
        return
    flap = smooth(at([(-1, 0.02), (-0.9, 0.42), (0, 0.56), (0.9, 0.42), (1, 0.02)]), closed=False)
    patch.line(flap, dark, s * 0.0028)
    patch.fill(smooth(at([(-0.09, 0.48), (0.09, 0.48), (0.09, 0.62), (-0.09, 0.62)])), METAL)
