"""Dressing a figure: which piece lies over which."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from pipeline.sample import accessories, footwear, garments, person
from pipeline.sample.canvas import Canvas
from pipeline.sample.figure import Figure, Limb
from pipeline.sample.items import Item

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
    worn = {item.label: item for item in outfit}
    own = {item.label: owners[item.item_id] for item in outfit}
    gap = float(rng.uniform(0.03, 0.06)) if rng.random() < 0.72 else 0.0
    person.draw_back_hair(canvas, figure)
    for arm in figure.arms:
        if arm.behind:
            _draw_arm(canvas, figure, arm, worn, own, hand=True)
    person.draw_legs(canvas, figure)
    _draw_lower(canvas, figure, worn, own, tucked=rng.random() < 0.6)
    _draw_upper(canvas, figure, worn, own, gap)
    _draw_near(canvas, figure, worn, own)


def _draw_lower(canvas: Canvas, figure: Figure, worn: dict[str, Item], own: dict[str, int], *, tucked: bool) -> None:
    """Everything below the waist, the trunk, and the top tucked in or hanging over."""
    boots = "shoes" in worn and worn["shoes"].style == "knee boot"
    if "hosiery" in worn:
        footwear.draw_hosiery(canvas, figure, worn["hosiery"], own["hosiery"])
    over = boots and not ("pants" in worn and worn["pants"].style == "wide")
    if "shoes" in worn and not over:
        footwear.draw_shoes(canvas, figure, worn["shoes"], own["shoes"])
    person.draw_trunk(canvas, figure)
    top = worn.get("top")
    tucked = tucked or "belt" in worn or "skirt" in worn
    if top and tucked:
        garments.draw_trunk_garment(canvas, figure, top, own["top"], hem=0.47)
    for label in ("pants", "shorts"):
        if label in worn:
            garments.draw_pants(canvas, figure, worn[label], own[label])
    if "shoes" in worn and over:
        footwear.draw_shoes(canvas, figure, worn["shoes"], own["shoes"])
    if "skirt" in worn:
        garments.draw_skirt(canvas, figure, worn["skirt"], own["skirt"])
    if top and not tucked:
        garments.draw_trunk_garment(canvas, figure, top, own["top"])


def _draw_upper(canvas: Canvas, figure: Figure, worn: dict[str, Item], own: dict[str, int], gap: float) -> None:
    if "dress" in worn:
        garments.draw_trunk_garment(canvas, figure, worn["dress"], own["dress"])
    if "belt" in worn:
        accessories.draw_belt(canvas, figure, worn["belt"], own["belt"])
    if "outerwear" not in worn:
        return
    for arm in figure.arms:
        if not arm.behind:
            _draw_arm(canvas, figure, arm, {k: v for k, v in worn.items() if k != "outerwear"}, own, hand=False)
    if gap or "belt" in worn:
        garments.draw_open_coat(canvas, figure, worn["outerwear"], own["outerwear"], max(gap, 0.035))
    else:
        garments.draw_closed_coat(canvas, figure, worn["outerwear"], own["outerwear"])


def _draw_near(canvas: Canvas, figure: Figure, worn: dict[str, Item], own: dict[str, int]) -> None:
    """Straps, arms, scarf, bag, and the head with what it wears."""
    bag = worn.get("bag")
    if bag and bag.style == "crossbody":
        accessories.draw_strap(canvas, figure, bag, own["bag"])
    for arm in figure.arms:
        if not arm.behind:
            _draw_arm(canvas, figure, arm, worn, own, hand=False)
    if bag and bag.style == "shoulder":
        accessories.draw_strap(canvas, figure, bag, own["bag"])
    if bag:
        accessories.draw_bag(canvas, figure, bag, own["bag"])
    for arm in figure.arms:
        if not arm.behind:
            person.draw_hand(canvas, figure, arm)
    if "scarf" in worn:
        accessories.draw_scarf(canvas, figure, worn["scarf"], own["scarf"])
    person.draw_head(canvas, figure)
    if "eyewear" in worn:
        accessories.draw_eyewear(canvas, figure, worn["eyewear"], own["eyewear"])
    if "hat" in worn:
        accessories.draw_hat(canvas, figure, worn["hat"], own["hat"])


def _draw_arm(
    canvas: Canvas, figure: Figure, arm: Limb, worn: dict[str, Item], own: dict[str, int], *, hand: bool
) -> None:
    """An arm with its sleeves; the hand here only if something will lie over it."""
    person.draw_arm(canvas, figure, arm)
    if hand:
        person.draw_hand(canvas, figure, arm)
    for label in ("top", "dress", "outerwear"):
        if label in worn and not (label != "outerwear" and "outerwear" in worn):
            garments.draw_sleeve(canvas, figure, arm, worn[label], own[label])
