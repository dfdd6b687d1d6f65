"""Photo sets as items: what an embedder is trained to know again, and is measured on.

Each reader knows one public set by its upstream layout, and keeps its photos in memory, made small.
"""

from __future__ import annotations

import csv
import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from stages.errors import CatalogueError
from stages.images import read_photo
from stages.types import Box, Image

KEPT_PX = 256
"""The long side that photos are kept in memory at."""

Split: TypeAlias = Literal["train", "val", "test"]

_LUMA_NAME = re.compile(r"(?P<sku>[^-]+)-(?P<colour>[a-z]+)[_-](?:\d|[a-z])[^-]*\.jpg")
_SHOE_NAME = re.compile(r"(?P<photographer>u\d+)_(?P<pair>\d+)_(?:left|right)_[mw]\.jpg")
_MIN_GARMENT_PX = 24
_CONTEXT = 0.05


@dataclass(frozen=True, slots=True, eq=False)
class Item:
    """One thing, in one colour: its photos are positives of each other.

    ``style`` is shared by all colours of the thing; ``source`` by items whose photos share a ground, so that
    the ground does not tell them apart.
    """

    kind: str
    style: str
    colour: str
    source: str
    photos: tuple[Image, ...]

    @property
    def identity(self) -> tuple[str, str]:
        """What makes it one item: the style and the colour."""
        return self.style, self.colour


def percentile_of(name: str) -> int:
    """A number in 0..99 that depends on the name alone; the splits are drawn by it."""
    return int(hashlib.sha256(name.encode()).hexdigest(), 16) % 100


def luma_split(sku: str) -> Split:
    """Test by the split that everyone uses; of the rest, 15 % validate.

    >>> luma_split("mh01") == luma_split("MH01")
    True
    """
    percentile = percentile_of(sku.lower())
    return "test" if percentile < 40 else "val" if percentile < 49 else "train"


def read_luma(folder: Path, splits: Iterable[Split]) -> list[Item]:
    """Luma shop photos, ``SKU-colour_view.jpg`` or ``SKU-colour-N.jpg``: an item for each SKU and colour.

    Photos that are named otherwise (gift cards, videos) are left out.

    Raises:
        CatalogueError: the folder holds no such photo.
    """
    wanted = set(splits)
    named = [(path, _LUMA_NAME.fullmatch(path.name)) for path in _photos(folder)]
    groups: dict[tuple[str, str], list[Path]] = defaultdict(list)
    for path, match in named:
        if match and luma_split(match["sku"]) in wanted:
            groups[match["sku"].lower(), match["colour"]].append(path)
    return _items("luma", {(sku, colour, ""): paths for (sku, colour), paths in groups.items()})


def read_shoes(folder: Path, splits: Iterable[Split] = ("train", "val")) -> list[Item]:
    """Shoe pairs, ``uNNN_k_{left,right}_{m,w}.jpg``: left and right are one item, a photographer one source.

    A tenth of the photographers validates; the set's test photos are folders of their own.

    Raises:
        CatalogueError: the folder holds no photo.
    """
    wanted = set(splits)
    groups: dict[tuple[str, str, str], list[Path]] = defaultdict(list)
    for path in _photos(folder):
        match = _SHOE_NAME.fullmatch(path.name)
        if match and ("val" if percentile_of(match["photographer"]) < 10 else "train") in wanted:
            groups[f"{match['photographer']}_{match['pair']}", "", match["photographer"]].append(path)
    return _items("shoes", groups)


def read_clothing(folder: Path, splits: Iterable[Split] = ("train",)) -> list[Item]:
    """Single-garment photos listed by ``images.csv``: an item for each photo, a sender one source.

    Photos that the list names and the folder lacks are left out.

    Raises:
        CatalogueError: the list cannot be read.
    """
    wanted = set(splits)
    groups: dict[tuple[str, str, str], list[Path]] = {}
    try:
        with (folder / "images.csv").open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                percentile = percentile_of(row["image"])
                split = "test" if percentile < 10 else "val" if percentile < 20 else "train"
                path = folder / "images" / f"{row['image']}.jpg"
                if split in wanted and path.exists():
                    groups[row["image"], "", row["sender_id"]] = [path]
    except (OSError, KeyError) as error:
        raise CatalogueError(f"{folder / 'images.csv'} is no list of clothing photos: {error!r}") from error
    return _items("clothing", groups)


def read_garments(annotations: Path, photos: Path) -> list[Item]:
    """Street photos with COCO instances: an item for each garment, cut by its box and by its mask.

    The box crop keeps 5 % context, the mask crop is on white: two domains of one garment. Shoes of one photo are
    one item, left and right.

    Args:
        annotations: a COCO file of instances, segmentations as compressed RLE.
        photos: the folder that its file names are relative to.

    Raises:
        CatalogueError: the file is not COCO instances.
    """
    try:
        coco = json.loads(annotations.read_text(encoding="utf-8"))
        names = {category["id"]: category["name"] for category in coco["categories"]}
        by_photo: dict[int, list[dict[str, Any]]] = defaultdict(list)
        for annotation in coco["annotations"]:
            by_photo[annotation["image_id"]].append(annotation)

        def read(photo: dict[str, Any]) -> list[Item]:
            return _garments(read_photo(photos / photo["file_name"]).image, by_photo[photo["id"]], names, photo["id"])

        return [item for items in _in_threads(read, coco["images"]) for item in items]
    except (ValueError, KeyError, TypeError) as error:
        raise CatalogueError(f"{annotations} is not a COCO instances file: {error!r}") from error


def _garments(image: Image, annotations: list[dict[str, Any]], names: dict[int, str], photo: int) -> list[Item]:
    crops: dict[str, list[Image]] = defaultdict(list)
    for annotation in annotations:
        label = names[annotation["category_id"]]
        mask = coco_mask.decode(annotation["segmentation"]).astype(np.bool_)
        x, y, width, height = annotation["bbox"]
        if min(width, height) >= _MIN_GARMENT_PX:
            piece = label if label == "shoes" else f"{label}-{annotation['id']}"
            crops[piece] += _two_crops(image, mask, (x, y, width, height))
    return [Item("garments", f"{photo}/{piece}", "", str(photo), tuple(found)) for piece, found in crops.items()]


def _two_crops(image: Image, mask: NDArray[np.bool_], bbox: tuple[float, float, float, float]) -> list[Image]:
    x, y, width, height = bbox
    margin_x, margin_y = _CONTEXT * width, _CONTEXT * height
    photo_h, photo_w = mask.shape
    box = Box.clipped(x - margin_x, y - margin_y, x + width + margin_x, y + height + margin_y, photo_w, photo_h)
    if box is None:
        return []
    on_white = np.where(mask[box.slices][..., None], image[box.slices], np.uint8(255))
    return [_small(image[box.slices]), _small(on_white)]


def _items(kind: str, groups: dict[tuple[str, str, str], list[Path]]) -> list[Item]:
    """Items of ``(name, colour, source)``; styles of different sets never meet."""
    paths = [path for group in groups.values() for path in sorted(group)]
    pixels = dict(zip(paths, _in_threads(_read_small, paths), strict=True))
    return [
        Item(kind, f"{kind}/{name}", colour, source, tuple(pixels[path] for path in sorted(group)))
        for (name, colour, source), group in sorted(groups.items())
    ]


def _photos(folder: Path) -> list[Path]:
    found = sorted(folder.glob("*.jpg"))
    if not found:
        raise CatalogueError(f"{folder} holds no .jpg photo")
    return found


def _read_small(path: Path) -> Image:
    return _small(read_photo(path, at_least_px=KEPT_PX).image)


def _small(image: Image) -> Image:
    height, width = image.shape[:2]
    scale = KEPT_PX / max(height, width)
    if scale >= 1:
        return np.ascontiguousarray(image)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)


def _in_threads(work: Callable[[Any], Any], inputs: Iterable[Any]) -> list[Any]:
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(work, inputs))
