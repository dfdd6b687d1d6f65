"""The shop's items: what each is, before any is drawn."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from render_sample.cloth import COLOURS, Cloth, Colour, make_cloth

STYLES: dict[str, tuple[str, ...]] = {
    "outerwear": ("blazer", "coat", "bomber", "jacket", "parka", "cardigan", "biker"),
    "top": ("tee", "shirt", "sweater", "blouse", "tank", "turtleneck", "vneck"),
    "dress": ("sheath", "a-line", "maxi", "shirt-dress", "slip"),
    "skirt": ("pencil", "a-line", "pleated", "maxi", "mini"),
    "pants": ("straight", "skinny", "wide", "jeans", "cropped"),
    "shorts": ("tailored", "denim", "long"),
    "shoes": ("sneaker", "ankle boot", "pump", "loafer", "knee boot", "flat"),
    "bag": ("handbag", "tote", "crossbody", "clutch", "shoulder"),
    "hat": ("fedora", "beanie", "cap", "wide-brim"),
    "eyewear": ("wayfarer", "round", "cat-eye"),
    "scarf": ("loop", "long", "neckerchief"),
    "belt": ("wide", "narrow"),
    "hosiery": ("tights", "knee socks", "ankle socks"),
}
_SHARES_AND_PRICES = {
    "outerwear": (8, 149), "top": (8, 39), "dress": (6, 89), "skirt": (5, 59), "pants": (6, 69), "shorts": (4, 45),
    "shoes": (7, 99), "bag": (6, 119), "hat": (3, 35), "eyewear": (2, 89), "scarf": (3, 29), "belt": (2, 25),
    "hosiery": (3, 15),
}  # fmt: skip
RENDERED = tuple(_SHARES_AND_PRICES)
"""The labels of the items that can be drawn."""


_CLOTHS = ("plain", "stripes", "checks", "dots", "floral", "colour-block", "knit", "leopard")
_MATERIALS: dict[str, tuple[str, ...]] = {
    "biker": ("leather",),
    "jacket": ("denim", "plain"),
    "jeans": ("denim",),
    "denim": ("denim",),
    "sweater": ("knit", "stripes", "knit", "colour-block"),
    "cardigan": ("knit", "plain"),
    "turtleneck": ("knit", "plain"),
    "beanie": ("knit",),
    "sneaker": ("plain", "colour-block"),
    "outerwear": ("plain", "plain", "checks", "plain", "leopard"),
    "pants": ("plain", "plain", "plain", "checks", "floral", "stripes"),
    "shoes": ("leather", "leather", "plain", "leopard"),
    "bag": ("leather", "leather", "plain", "checks"),
    "hat": ("plain",),
    "eyewear": ("plain", "leopard"),
    "belt": ("leather",),
    "hosiery": ("plain", "plain", "dots", "stripes"),
    "scarf": ("checks", "plain", "knit", "floral", "stripes"),
}


@dataclass(frozen=True, slots=True)
class Item:
    """One article of the shop; ``seed`` fixes everything about it that its fields do not tell."""

    item_id: str
    label: str
    style: str
    colour: str
    accent: str
    pattern: str
    price: float
    seed: int

    @property
    def rgb(self) -> Colour:
        """Its main colour."""
        return _shade_of(self.colour, self.seed)

    @property
    def accent_rgb(self) -> Colour:
        """Its second colour."""
        return _shade_of(self.accent, self.seed + 1)

    @property
    def cloth(self) -> Cloth:
        """What it is made of."""
        return _cloth_of(self)

    def vary(self, name: str, low: float, high: float) -> float:
        """A number of this item's own between two bounds, the same whenever asked for by that name."""
        rng = np.random.default_rng([self.seed, *name.encode()])
        return float(rng.uniform(low, high))


@lru_cache(maxsize=256)
def _cloth_of(item: Item) -> Cloth:
    return make_cloth(item.pattern, item.rgb, item.accent_rgb, item.seed)


def _shade_of(name: str, seed: int) -> Colour:
    rng = np.random.default_rng(seed)
    red, green, blue = np.clip(
        np.array(COLOURS[name]) * rng.uniform(0.86, 1.12) + rng.uniform(-0.03, 0.03, 3), 0.03, 0.97
    )
    return float(red), float(green), float(blue)


def make_items(seed: int = 0, count: int = 60) -> tuple[Item, ...]:
    """So many items over all groups, in the order of the groups.

    Raises:
        ValueError: fewer items than groups.
    """
    if count < len(RENDERED):
        raise ValueError(f"a shop needs an item of each of its {len(RENDERED)} groups, got items={count}")
    rng = np.random.default_rng([seed, 1])
    total = sum(share for share, _ in _SHARES_AND_PRICES.values())
    counts = {label: max(1, count * share // total) for label, (share, _) in _SHARES_AND_PRICES.items()}
    order = sorted(RENDERED, key=lambda label: -_SHARES_AND_PRICES[label][0])
    for k in range(count - sum(counts.values())):
        counts[order[k % len(order)]] += 1
    while sum(counts.values()) > count:
        counts[max(counts, key=lambda label: counts[label])] -= 1
    return tuple(_make_item(rng, label, k) for label in RENDERED for k in range(counts[label]))


def _make_item(rng: np.random.Generator, label: str, number: int) -> Item:
    styles = STYLES[label]
    style = styles[number % len(styles)]
    choices = _MATERIALS.get(style) or _MATERIALS.get(label) or _CLOTHS
    pattern = str(rng.choice(choices if label in ("outerwear", "pants") else sorted(choices)))
    if number and label in ("top", "dress", "skirt") and style not in _MATERIALS:
        pattern = _CLOTHS[(number * 3 + int(rng.integers(3))) % len(_CLOTHS)]
    quiet = ("black", "black", "white", "white", "grey", "navy", "beige", "black")
    names = [name for name in COLOURS if name != "indigo"] + list(quiet)
    if pattern == "denim":
        names = ["indigo", "navy", "light blue", "black"]
    elif label in ("shoes", "bag", "belt", "eyewear", "outerwear", "hosiery"):
        names = ["black", "black", "brown", "camel", "navy", "burgundy", "grey", "beige", "red", "olive", "white"]
    colour = str(rng.choice(names))
    far = [n for n in COLOURS if abs(sum(COLOURS[n]) - sum(COLOURS[colour])) > 0.7]
    price = round(_SHARES_AND_PRICES[label][1] * float(rng.uniform(0.6, 1.8))) - 0.05
    return Item(
        f"{label}-{number + 1:02d}",
        label,
        style,
        colour,
        str(rng.choice(far)),
        pattern,
        price,
        int(rng.integers(1 << 30)),
    )
