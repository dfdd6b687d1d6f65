"""Shop photos: one item on a plain ground, from the front and from the back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import cv2
import numpy as np
from numpy.typing import NDArray

from render_sample import accessories, bags, coats, footwear, lower, tops
from render_sample.canvas import Canvas, Light
from render_sample.figure import Figure, Limb, still_figure
from render_sample.items import Item
from render_sample.scene import Scene, pieces_of
from stages.types import Image

VIEWS = ("front", "back")
SIDE_PX = 400

_OVER = 2
_SCALES = {"shoes": 3.6, "hosiery": 1.6, "bag": 3.2, "hat": 3.8, "eyewear": 4.4, "scarf": 2.4, "belt": 3.2}


def render_item(item: Item, view: str = "front", side_px: int = SIDE_PX) -> Image:
    """The photo of an item, ``(side_px, side_px, 3)``, as if worn by nobody.

    Raises:
        ValueError: no such view.
    """
    return render_lone(item, view, side_px).image


def render_lone(item: Item, view: str = "front", side_px: int = SIDE_PX) -> Scene:
    """The photo of an item with the pieces that are seen of it; raises as :func:`render_item` does."""
    if view not in VIEWS:
        raise ValueError(f"a view is one of {', '.join(VIEWS)}; got {view!r}")
    rng = np.random.default_rng([item.seed, *view.encode()])
    back = view == "back"
    side = side_px * _OVER
    zoom = _SCALES.get(item.label, 1.35)
    roomy = 2 if item.label in ("dress", "pants", "outerwear", "skirt") else 1
    canvas = Canvas(side * roomy, side * roomy, side * zoom, Light(0.35 if back else -0.4, -0.45, 0.35), rng)
    figure = _mannequin(item, back=back).placed(side * roomy / 2, 0, side * zoom)
    figure = figure.placed(side * roomy / 2, side * roomy / 2 - _MIDDLES[item.label] * figure.scale_px, figure.scale_px)
    if item.label == "bag":
        x = bags.bag_at(figure, item)[0]
        figure = figure.placed(side * roomy - x, figure.y_px, figure.scale_px)
    _draw(canvas, figure, item)
    image, cover = _on_ground(canvas, side_px, rng)
    return Scene(image, tuple(pieces_of(item, cover > 0.5)), clutter=0.0)


_MIDDLES = {
    "outerwear": 0.4,
    "top": 0.33,
    "dress": 0.47,
    "skirt": 0.56,
    "pants": 0.67,
    "shorts": 0.5,
    "shoes": 0.92,
    "bag": 0.52,
    "hat": 0.01,
    "eyewear": 0.066,
    "scarf": 0.25,
    "belt": 0.404,
    "hosiery": 0.74,
}


def _mannequin(item: Item, *, back: bool) -> Figure:
    figure = still_figure(back=back)
    figure = replace(figure, turn=0.5 if back else -0.3)
    if item.label == "shoes":
        # Two shoes side by side, seen aslant.
        aim = 0.05 if back else -0.055
        legs = tuple(Limb(((x, 0.5), (x, 0.73), (x, 0.94), (x + aim, 0.965))) for x in (-0.045, 0.05))
        return replace(figure, legs=(legs[0], legs[1]))
    return figure


def _draw(canvas: Canvas, figure: Figure, item: Item) -> None:
    """Only the item; the body stays invisible."""
    if item.label in ("outerwear", "top", "dress"):
        if not figure.back:
            tops.draw_inside(canvas, figure, item, 2)
        draw = coats.draw_closed_coat if item.label == "outerwear" else tops.draw_trunk_garment
        draw(canvas, figure, item, 2)
        for limb in figure.arms:
            tops.draw_sleeve(canvas, figure, limb, item, 2)
    elif item.label == "shoes":
        if item.style in ("pump", "flat", "loafer"):
            footwear.draw_linings(canvas, figure, item, 2)
        footwear.draw_shoes(canvas, figure, item, 2)
    elif item.label == "bag":
        bags.draw_strap(canvas, figure, item, 2)
        bags.draw_bag(canvas, figure, item, 2)
    else:
        _DRAWERS[item.label](canvas, figure, item, 2)


_DRAWERS: dict[str, Callable[[Canvas, Figure, Item, int], None]] = {
    "skirt": lower.draw_skirt,
    "pants": lower.draw_pants,
    "shorts": lower.draw_pants,
    "hosiery": footwear.draw_hosiery,
    "hat": accessories.draw_hat,
    "eyewear": accessories.draw_eyewear,
    "scarf": accessories.draw_scarf,
    "belt": accessories.draw_belt,
}


def _on_ground(canvas: Canvas, side_px: int, rng: np.random.Generator) -> tuple[Image, NDArray[np.float32]]:
    """The item centred on a light ground with a soft shadow, and how much of each pixel it covers."""
    alpha = (canvas.owner > 0).astype(np.float32)
    ys, xs = np.flatnonzero(alpha.any(axis=1)), np.flatnonzero(alpha.any(axis=0))
    cut = slice(ys[0], ys[-1] + 1), slice(xs[0], xs[-1] + 1)
    rgb, alpha = canvas.rgb[cut] * alpha[cut][..., None], alpha[cut]
    scale = side_px * 0.86 / max(alpha.shape)
    shape = (max(1, round(alpha.shape[1] * scale)), max(1, round(alpha.shape[0] * scale)))
    rgb, alpha = (
        np.asarray(cv2.resize(a, shape, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC), np.float32)
        for a in (rgb, alpha)
    )
    alpha = np.clip(alpha, 0, 1)
    tone = np.array([1.0, 1.0, 1.0], np.float32) * np.float32(rng.uniform(0.9, 0.97))
    image = np.empty((side_px, side_px, 3), np.float32)
    image[:] = tone * np.linspace(1.02, 0.95, side_px, dtype=np.float32)[:, None, None]
    y, x = (side_px - shape[1]) // 2, (side_px - shape[0]) // 2
    cover = np.zeros((side_px, side_px), np.float32)
    cover[y : y + shape[1], x : x + shape[0]] = alpha
    image *= 1 - 0.22 * cv2.GaussianBlur(np.roll(cover, 6, axis=0), (0, 0), 9)[..., None]
    image *= 1 - cover[..., None]
    image[y : y + shape[1], x : x + shape[0]] += rgb
    image += rng.standard_normal((side_px, side_px, 1)).astype(np.float32) * 0.006
    return np.asarray(np.round(np.clip(image, 0, 1) * 255), np.uint8), cover
