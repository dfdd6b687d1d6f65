"""Rendered scenes: the same people in the same clothes before backgrounds from plain to crowded."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Final

import numpy as np

from pipeline.benchmark.crops.data import MIN_PX, CropSet, Garment, Shot
from pipeline.sample import Item, Scene, choose_outfit, make_items, render_grounds
from stages.types import LABELS, Detection

NAME: Final = "scenes"
CLUTTERS: Final = (0.0, 0.25, 0.5, 0.75, 1.0)
ITEMS: Final = 65

_ABOUT: Final = (
    "rendered street scenes: a garment finds itself on somebody else, elsewhere, in another outfit; people, light and"
    " camera are the same at every clutter"
)


def rendered(scenes: int = 40, clutters: Sequence[float] = CLUTTERS, seed: int = 0) -> list[CropSet]:
    """A set for each clutter; half of the scenes ask, the other half are the gallery, both at that clutter.

    Args:
        scenes: at each clutter, an even number; they are kept in memory, a megabyte each.
        clutters: of the backgrounds, in [0, 1].
        seed: of everything.

    Raises:
        ValueError: the number of scenes is odd or none, or there is no clutter.
    """
    if scenes < 2 or scenes % 2:
        raise ValueError(f"half of the scenes ask and half are the gallery: wanted an even number, got {scenes}")
    if not clutters:
        raise ValueError("wanted at least one clutter to render scenes at, got none")
    outfits = dressed(scenes // 2, seed)
    levels: list[list[Shot]] = [[] for _ in clutters]
    for number, outfit in enumerate(outfits):
        drawn = render_grounds(np.random.default_rng([seed, 4, number]), [outfit], clutters)
        for shots, scene in zip(levels, drawn, strict=True):
            shots.append(shot_of(scene, f"scene {number + 1}", asks=number < scenes // 2))
    return [CropSet(NAME, _ABOUT, shots, clutter) for shots, clutter in zip(levels, clutters, strict=True)]


def dressed(people: int, seed: int) -> list[tuple[Item, ...]]:
    """What people wear who ask; then the same wardrobe, changed about among others.

    The second half wears exactly what the first does, but each kind of garment has gone round, so that an outfit
    does not come back and what is worn beside a garment does not give it away.
    """
    rng = np.random.default_rng([seed, 3])
    items = make_items(seed, ITEMS)
    by_label = {label: [item for item in items if item.label == label] for label in LABELS}
    wanted = [by_label[LABELS[k % len(LABELS)]] for k in range(people)]
    asking = [choose_outfit(rng, items, own[int(rng.integers(len(own)))]) for own in wanted]
    worn: dict[str, list[Item]] = defaultdict(list)
    for outfit in asking:
        for item in outfit:
            worn[item.label].append(item)
    turned: dict[str, list[Item]] = {}
    for label, own in worn.items():
        shift = 1 + int(rng.integers(max(1, len(own) - 1)))
        turned[label] = [*own[shift % len(own) :], *own[: shift % len(own)]]
    others = [tuple(turned[item.label].pop(0) for item in outfit) for outfit in asking]
    return [*asking, *others]


def shot_of(scene: Scene, name: str, *, asks: bool) -> Shot:
    """A scene as a photo, with the largest piece of each item, if it is not tiny."""
    pieces: dict[str, Garment] = {}
    for piece in sorted(scene.pieces, key=lambda piece: int(piece.mask.sum())):
        if min(piece.box.width, piece.box.height) >= MIN_PX:
            truth = Detection(piece.item.label, 1.0, piece.box, piece.mask)
            item = piece.item.item_id
            pieces[item] = Garment(item, piece.item.label, truth, asks=asks, found=not asks)
    image = scene.image
    garments = tuple(pieces[item] for item in sorted(pieces))
    return Shot(name, lambda: image, garments)
