"""Public photo sets as items in memory: what an embedder is trained to know again, and is measured on.

Each reader knows one set by its upstream layout, and keeps its photos in memory, made small.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from stages.embed import sources
from stages.embed.items import Cut, PhotoSet, Sample
from stages.embed.loading import KEPT_PX, Item, items_of, load
from stages.embed.splits import Split, luma_split, percentile_of
from stages.errors import CatalogueError, ImageError
from stages.types import Box

__all__ = [
    "KEPT_PX", "Item", "Split", "in_memory", "luma_split", "percentile_of",
    "read_clothing", "read_garments", "read_luma", "read_shoes",
]  # fmt: skip

MIN_GARMENT_PX: Final = 24
CONTEXT: Final = 0.05
"""What a box crop keeps around a garment, as a share of each side, as the pipeline's box crop does."""


def in_memory(photos: PhotoSet) -> list[Item]:
    """The items of a set.

    Raises:
        ImageError: a photo cannot be read.
    """
    loaded, images = load(photos)
    if bad := loaded.problems[len(photos.problems) :]:
        raise ImageError(str(bad[0]))
    return items_of(loaded, images)


def read_luma(folder: Path, splits: Iterable[Split]) -> list[Item]:
    """:func:`stages.embed.sources.luma`, in memory."""
    return in_memory(sources.luma(folder, splits))


def read_shoes(folder: Path, splits: Iterable[Split] = ("train", "val")) -> list[Item]:
    """:func:`stages.embed.sources.shoes`, in memory."""
    return in_memory(sources.shoes(folder, splits))


def read_clothing(folder: Path, splits: Iterable[Split] = ("train",)) -> list[Item]:
    """:func:`stages.embed.sources.clothing`, in memory."""
    return in_memory(sources.clothing(folder, splits))


def read_garments(annotations: Path, photos: Path) -> list[Item]:
    """Street photos with COCO instances: an item for each garment, cut by its box and by its mask.

    The box crop keeps 5 % context and is of domain ``street``, the mask crop is on white, of domain ``shop``. Shoes
    of one photo are one item, left and right.

    Args:
        annotations: a COCO file of instances, segmentations as compressed RLE.
        photos: the folder that its file names are relative to.

    Raises:
        CatalogueError: the file is not COCO instances.
        ImageError: a photo cannot be read.
    """
    try:
        coco = json.loads(annotations.read_text(encoding="utf-8"))
        names = {category["id"]: category["name"] for category in coco["categories"]}
        by_photo: dict[int, list[dict[str, Any]]] = defaultdict(list)
        for annotation in coco["annotations"]:
            by_photo[annotation["image_id"]].append(annotation)
        samples = [
            sample
            for photo in coco["images"]
            for annotation in by_photo[photo["id"]]
            for sample in _garment(photos / photo["file_name"], photo["id"], annotation, names)
        ]
    except (ValueError, KeyError, TypeError) as error:
        raise CatalogueError(f"{annotations} is not a COCO instances file: {error!r}") from error
    return in_memory(PhotoSet("garments", tuple(samples)))


def _garment(path: Path, photo: int, annotation: dict[str, Any], names: dict[int, str]) -> Iterable[Sample]:
    label = names[annotation["category_id"]]
    x, y, width, height = annotation["bbox"]
    if min(width, height) < MIN_GARMENT_PX:
        return
    photo_h, photo_w = annotation["segmentation"]["size"]
    counts = annotation["segmentation"]["counts"].encode()
    box = around((x, y, x + width, y + height), photo_w, photo_h)
    piece = label if label == "shoes" else f"{label}-{annotation['id']}"
    if box is not None:
        for domain, cut in (("street", Cut(box)), ("shop", Cut(box, "white", counts))):
            yield Sample(path, f"{photo}/{piece}", label=label, domain=domain, source=str(photo), cut=cut)


def around(corners: tuple[float, float, float, float], width: int, height: int) -> Box | None:
    """The box around a garment with its context, within a photo of this size."""
    x1, y1, x2, y2 = corners
    margin_x, margin_y = CONTEXT * (x2 - x1), CONTEXT * (y2 - y1)
    return Box.clipped(x1 - margin_x, y1 - margin_y, x2 + margin_x, y2 + margin_y, width, height)
