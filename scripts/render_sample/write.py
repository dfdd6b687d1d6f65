"""Write a rendered shop and street to disk, with COCO annotations."""

from __future__ import annotations

import csv
import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as PilImage
from pycocotools import mask as coco_mask

from render_sample.items import RENDERED, Item, make_items
from render_sample.scene import Piece, Scene, choose_outfit, render_grounds, render_scene
from render_sample.shop import SIDE_PX, VIEWS, render_lone
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
    """Yield ``count`` scenes; scene k does not depend on the count.

    Any 13 scenes in a row show every group of garments; the clutter is spread evenly between bare and crowded.
    """
    for k in range(count):
        rng = np.random.default_rng([seed, 2, k])
        group = [item for item in items if item.label == RENDERED[k % len(RENDERED)]]
        wanted = group[k // len(RENDERED) % len(group)] if group else None
        outfits = [choose_outfit(rng, items, wanted)]
        if rng.random() < 0.15:
            outfits.insert(0, choose_outfit(rng, items))
        yield render_scene(rng, outfits, clutter=round((k * 0.618034) % 1.0, 4))


def render_graded(items: Sequence[Item], count: int, clutters: Sequence[float], seed: int = 0) -> Iterator[list[Scene]]:
    """Yield ``count`` scenes, each at every clutter; the second half wears the garments of the first.

    Raises:
        ValueError: the number of scenes is odd.
    """
    if count % 2:
        raise ValueError(f"half of the scenes are queries and half the gallery: want an even number, got {count}")
    for number, outfit in enumerate(paired_outfits(items, count // 2, seed)):
        yield render_grounds(np.random.default_rng([seed, 4, number]), [outfit], clutters)


def paired_outfits(items: Sequence[Item], people: int, seed: int) -> list[tuple[Item, ...]]:
    """Return outfits for ``people`` people, then for as many others who wear the same garments in other combinations.

    Among the others each kind of garment is passed on by some people, so that no outfit comes back and what is worn
    beside a garment does not give it away.
    """
    rng = np.random.default_rng([seed, 3])
    by_label = {label: [item for item in items if item.label == label] for label in RENDERED}
    wanted = [by_label[RENDERED[k % len(RENDERED)]] for k in range(people)]
    first = [choose_outfit(rng, items, group[int(rng.integers(len(group)))]) for group in wanted]
    worn: dict[str, list[Item]] = defaultdict(list)
    for outfit in first:
        for item in outfit:
            worn[item.label].append(item)
    passed_on: dict[str, list[Item]] = {}
    for label, group in worn.items():
        shift = 1 + int(rng.integers(max(1, len(group) - 1)))
        passed_on[label] = [*group[shift % len(group) :], *group[: shift % len(group)]]
    second = [tuple(passed_on[item.label].pop(0) for item in outfit) for outfit in first]
    return [*first, *second]


def render_sample(
    folder: Path,
    *,
    seed: int = 0,
    items: int = 60,
    scenes: int = 24,
    clutters: Sequence[float] = (),
    quality: int = 90,
    shop_px: int = SIDE_PX,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> SampleSummary:
    """Write a shop (``shop/``, ``shop.csv``, ``shop.json``) and street scenes (``street/``, ``street.json``).

    With clutters, scene k is in ``street/`` at clutter k modulo their number, and in ``clutter/`` with
    ``clutter.json`` at the others; their image entries have ``query``, which tells the two halves apart.
    ``street.json`` is written last: a folder without it is incomplete. The same seed gives the same bytes on the same
    machine.

    Args:
        folder: absent or empty.
        seed: decides everything.
        items: in the shop, at least 13.
        scenes: on the street, at least 1.
        clutters: of the backgrounds, in [0, 1]; none: each scene has one of its own.
        quality: of the JPEG files.
        shop_px: side of the photos of the shop.
        progress: called with the number of pictures done and the total.

    Raises:
        ValueError: the folder is not empty, or a number is too small.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"the sample needs an absent or empty folder, and {folder} is not; name another")
    if scenes < 1:
        raise ValueError(f"a sample has at least one scene, got scenes={scenes}")
    shop = make_items(seed, items)
    total = len(shop) * len(VIEWS) + scenes
    _write_shop(folder, shop, shop_px, quality, lambda done: progress(done, total))
    street, others = _Photos(folder / "street", quality), _Photos(folder / "clutter", quality)
    if clutters:
        for k, grades in enumerate(render_graded(shop, scenes, clutters, seed)):
            for place, scene in enumerate(grades):
                if place == k % len(clutters):
                    street.add(scene, f"{k + 1:04d}.jpg", query=k < scenes // 2)
                else:
                    others.add(scene, f"{k + 1:04d}-{scene.clutter:g}.jpg", query=k < scenes // 2)
            progress(len(shop) * len(VIEWS) + k + 1, total)
        if len(clutters) > 1:
            others.write()
    else:
        for k, scene in enumerate(render_scenes(shop, scenes, seed), start=1):
            street.add(scene, f"{k:04d}.jpg")
            progress(len(shop) * len(VIEWS) + k, total)
    written = street.write()
    return SampleSummary(len(shop), len(shop) * len(VIEWS), scenes, street.annotations, folder / "shop.csv", written)


def _write_shop(
    folder: Path, shop: Sequence[Item], side_px: int, quality: int, progress: Callable[[int], None]
) -> None:
    photos = _Photos(folder / "shop", quality, prefix="shop/")
    rows: list[tuple[str, ...]] = [("item_id", "image", "category", "colour", "pattern", "price")]
    for k, item in enumerate(shop):
        for v, view in enumerate(VIEWS, start=1):
            name = f"{item.item_id}/{view}.jpg"
            photos.add(render_lone(item, view, side_px), name)
            rows.append((item.item_id, f"shop/{name}", item.label, item.colour, item.pattern, f"{item.price:.2f}"))
            progress(k * len(VIEWS) + v)
    with (folder / "shop.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)
    photos.write()


class _Photos:
    """A folder of JPEG files, and their COCO instances in a file of the same name beside it.

    Args:
        folder: made when the first photo is written.
        quality: of the JPEG files.
        prefix: put before the file names in the annotations.
    """

    def __init__(self, folder: Path, quality: int, prefix: str = "") -> None:
        categories = [{"id": k, "name": label, "supercategory": "garment"} for k, label in enumerate(LABELS, start=1)]
        self._document: dict[str, Any] = {"images": [], "annotations": [], "categories": categories}
        self._folder, self._quality, self._prefix = folder, quality, prefix

    @property
    def annotations(self) -> int:
        """The number of annotations so far."""
        return len(self._document["annotations"])

    def add(self, scene: Scene, name: str, **more: object) -> None:
        """Write a photo and annotate its pieces; ``more`` goes into its image entry."""
        path = self._folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        _save(scene.image, path, self._quality)
        images, annotations = self._document["images"], self._document["annotations"]
        height, width = scene.image.shape[:2]
        image = {"id": len(images) + 1, "file_name": self._prefix + name, "width": width, "height": height}
        images.append(image | {"clutter": round(scene.clutter, 4)} | more)
        for piece in scene.pieces:
            annotations.append(_annotation(piece, len(annotations) + 1, len(images), (height, width)))

    def write(self) -> Path:
        """Write the annotations, whole or not at all."""
        path = self._folder.with_suffix(".json")
        part = path.with_name(path.name + ".part")
        part.write_text(json.dumps(self._document, separators=(",", ":")) + "\n", encoding="utf-8")
        return part.replace(path)


def _annotation(piece: Piece, annotation_id: int, image_id: int, size: tuple[int, int]) -> dict[str, Any]:
    """Return an entry of ``annotations``; ``size`` is the image's height and width."""
    full = np.zeros(size, np.uint8, order="F")
    full[piece.box.slices] = piece.mask
    return {
        "id": annotation_id,
        "image_id": image_id,
        "category_id": LABELS.index(piece.item.label) + 1,
        "bbox": [piece.box.x1, piece.box.y1, piece.box.width, piece.box.height],
        "area": int(piece.mask.sum()),
        "segmentation": {"size": list(size), "counts": coco_mask.encode(full)["counts"].decode("ascii")},
        "iscrowd": 0,
        "item_id": piece.item.item_id,
    }


def _save(image: Image, path: Path, quality: int) -> None:
    PilImage.fromarray(image).save(path, quality=quality)
