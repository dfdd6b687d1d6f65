"""A sample shop and street on disk."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image as PilImage

from pipeline.sample.coco import CocoDocument
from pipeline.sample.items import Item, make_items
from pipeline.sample.scene import Scene, choose_outfit, render_scene
from pipeline.sample.shop import VIEWS, render_lone
from stages.types import LABELS, Image


@dataclass(frozen=True, slots=True)
class SampleSummary:
    """What :func:`render_sample` wrote, and where."""

    items: int
    photos: int
    scenes: int
    annotations: int
    shop_csv: Path
    street_json: Path


def render_scenes(items: Sequence[Item], count: int, seed: int = 0) -> Iterator[Scene]:
    """So many scenes, one by one; scene k is the same however many are asked for.

    Every group is worn in each 13 scenes in a row; the clutter runs evenly from bare to crowded.
    """
    for k in range(count):
        rng = np.random.default_rng([seed, 2, k])
        group = [item for item in items if item.label == LABELS[k % len(LABELS)]]
        wanted = group[k // len(LABELS) % len(group)] if group else None
        outfits = [choose_outfit(rng, items, wanted)]
        if rng.random() < 0.15:
            outfits.insert(0, choose_outfit(rng, items))
        yield render_scene(rng, outfits, clutter=round((k * 0.618034) % 1.0, 4))


def render_sample(
    folder: Path,
    *,
    seed: int = 0,
    items: int = 60,
    scenes: int = 24,
    progress: Callable[[int, int], None] | None = None,
) -> SampleSummary:
    """Write a shop (``shop/``, ``shop.csv``, ``shop.json``) and street scenes (``street/``, ``street.json``).

    ``street.json`` comes last: a folder without it is not complete. The same seed gives the same bytes on
    the same machine.

    Args:
        folder: Absent or empty.
        seed: Decides everything.
        items: In the shop, at least 13.
        scenes: On the street, at least 1.
        progress: Called with pictures done and pictures in all.

    Raises:
        ValueError: the folder holds something, or a number is too small.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"the sample needs an absent or empty folder, and {folder} is not; name another")
    if scenes < 1:
        raise ValueError(f"a sample has at least one scene, got scenes={scenes}")
    shop = make_items(seed, items)
    total = len(shop) * len(VIEWS) + scenes
    tell = progress or (lambda _done, _total: None)
    _write_shop(folder, shop, lambda done: tell(done, total))
    document = CocoDocument()
    (folder / "street").mkdir(parents=True)
    for k, scene in enumerate(render_scenes(shop, scenes, seed), start=1):
        name = f"{k:04d}.jpg"
        _save(scene.image, folder / "street" / name)
        document.add(scene, name)
        tell(len(shop) * len(VIEWS) + k, total)
    written = folder / "street.json"
    document.write(written)
    return SampleSummary(len(shop), len(shop) * len(VIEWS), scenes, document.annotations, folder / "shop.csv", written)


def _write_shop(folder: Path, shop: Sequence[Item], tell: Callable[[int], None]) -> None:
    document = CocoDocument()
    rows: list[tuple[str, ...]] = [("item_id", "image", "category", "colour", "pattern", "price")]
    for k, item in enumerate(shop):
        place = folder / "shop" / item.item_id
        place.mkdir(parents=True)
        for v, view in enumerate(VIEWS, start=1):
            photo = render_lone(item, view)
            image = f"shop/{item.item_id}/{view}.jpg"
            _save(photo.image, place / f"{view}.jpg")
            document.add(photo, image)
            rows.append((item.item_id, image, item.label, item.colour, item.pattern, f"{item.price:.2f}"))
            tell(k * len(VIEWS) + v)
    with (folder / "shop.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)
    document.write(folder / "shop.json")


def _save(image: Image, path: Path) -> None:
    PilImage.fromarray(image).save(path, quality=90)
