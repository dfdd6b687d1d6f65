"""Dressing a figure: which piece lies over which."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from render_sample import accessories, bags, coats, footwear, lower, person, tops
from render_sample.canvas import Canvas
from render_sample.figure import Figure, Limb
from render_sample.items import Item

Worn = Mapping[str, tuple[Item, int]]
"""By group, the item worn and the owner number of its pixels."""

HELD = ("handbag", "tote", "clutch")
"""Bags that hang from a hand."""


def draw_person(
    canvas: Canvas, figure: Figure, outfit: Sequence[Item], owners: Mapping[str, int], rng: np.random.Generator
) -> None:
    """Paint somebody wearing an outfit, from the farthest piece to the nearest.

    Args:
        canvas: To be painted on.
        figure: The body in its pose.
        outfit: At most one item of a group.
        owners: By item id, the owner number of its pixels.
        rng: Decides how things are worn: open or closed, tucked in or not.
    """
    worn = {item.label: (item, owners[item.item_id]) for item in outfit}
    gap = float(rng.uniform(0.03, 0.06)) if rng.random() < 0.72 else 0.0
    person.draw_back_hair(canvas, figure)
    for arm in figure.arms:
        if arm.behind:
            _draw_arm(canvas, figure, arm, worn, hand=True)
    person.draw_legs(canvas, figure)
    _draw_lower(canvas, figure, worn, tucked=rng.random() < 0.6)
    _draw_upper(canvas, figure, worn, gap)
    _draw_near(canvas, figure, worn)


def _draw_lower(canvas: Canvas, figure: Figure, worn: Worn, *, tucked: bool) -> None:
    """Everything below the waist, the trunk, and the top tucked in or hanging over."""
    boots = "shoes" in worn and worn["shoes"][0].style == "knee boot"
    if "hosiery" in worn:
        footwear.draw_hosiery(canvas, figure, *worn["hosiery"])
    over = boots and not ("pants" in worn and worn["pants"][0].style == "wide")
    if "shoes" in worn and not over:
        footwear.draw_shoes(canvas, figure, *worn["shoes"])
    person.draw_trunk(canvas, figure)
    tucked = tucked or "belt" in worn or "skirt" in worn
    if "top" in worn and tucked:
        tops.draw_trunk_garment(canvas, figure, *worn["top"], hem=0.47)
    for label in ("pants", "shorts"):
        if label in worn:
            lower.draw_pants(canvas, figure, *worn[label])
    if "shoes" in worn and over:
        footwear.draw_shoes(canvas, figure, *worn["shoes"])
    if "skirt" in worn:
        lower.draw_skirt(canvas, figure, *worn["skirt"])
    if "top" in worn and not tucked:
        tops.draw_trunk_garment(canvas, figure, *worn["top"])


def _draw_upper(canvas: Canvas, figure: Figure, worn: Worn, gap: float) -> None:
    if "dress" in worn:
        tops.draw_trunk_garment(canvas, figure, *worn["dress"])
    if "belt" in worn:
        accessories.draw_belt(canvas, figure, *worn["belt"])
    if "outerwear" not in worn:
        return
    if gap or "belt" in worn:
        coats.draw_open_coat(canvas, figure, *worn["outerwear"], max(gap, 0.035))
    else:
        coats.draw_closed_coat(canvas, figure, *worn["outerwear"])


def _draw_near(canvas: Canvas, figure: Figure, worn: Worn) -> None:
    """Straps, arms and the bag, then all about the head."""
    bag = worn["bag"][0].style if "bag" in worn else None
    if bag == "crossbody":
        bags.draw_strap(canvas, figure, *worn["bag"])
    for arm in figure.arms:
        if not arm.behind:
            _draw_arm(canvas, figure, arm, worn, hand=False)
    if bag == "shoulder":
        bags.draw_strap(canvas, figure, *worn["bag"])
    if bag:
        bags.draw_bag(canvas, figure, *worn["bag"])
    for arm in figure.arms:
        if not arm.behind:
            person.draw_hand(canvas, figure, arm)
    _draw_top(canvas, figure, worn)


def _draw_top(canvas: Canvas, figure: Figure, worn: Worn) -> None:
    """Scarf, head, and what the head wears."""
    if "scarf" in worn:
        accessories.draw_scarf(canvas, figure, *worn["scarf"])
    person.draw_head(canvas, figure)
    if "eyewear" in worn:
        accessories.draw_eyewear(canvas, figure, *worn["eyewear"])
    if "hat" in worn:
        accessories.draw_hat(canvas, figure, *worn["hat"])


def _draw_arm(canvas: Canvas, figure: Figure, arm: Limb, worn: Worn, *, hand: bool) -> None:
    """An arm with its sleeves; the hand here only if something will lie over it."""
    person.draw_arm(canvas, figure, arm)
    if hand:
        person.draw_hand(canvas, figure, arm)
    for label in ("top", "dress", "outerwear"):
        if label in worn and not (label != "outerwear" and "outerwear" in worn):
            tops.draw_sleeve(canvas, figure, arm, *worn[label])
