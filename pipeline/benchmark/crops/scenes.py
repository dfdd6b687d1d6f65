"""Rendered scenes: the same people in the same clothes in front of backgrounds from plain to crowded."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
from pycocotools import mask as coco_mask

from pipeline.benchmark.crops.data import MIN_PX, CropSet, Garment, Shot, reader
from pipeline.demo import FOLDER
from stages.detect.segmentation import to_rle
from stages.errors import CatalogueError
from stages.types import Box, Detection

NAME: Final = "scenes"

_ABOUT: Final = (
    "rendered street scenes: a garment finds itself on somebody else, elsewhere, in another outfit; people, light and"
    " camera are the same at every clutter"
)


def rendered(folder: Path = FOLDER) -> list[CropSet]:
    """Return a set for each grade of clutter; half of the scenes are queries, the other half the gallery.

    Args:
        folder: with ``street.json`` and ``street/``, perhaps ``clutter.json`` and ``clutter/``, as
            ``scripts/render_sample --clutter`` writes them; the packaged ones by default.

    Raises:
        CatalogueError: they cannot be read.
    """
    shots: defaultdict[float, list[Shot]] = defaultdict(list)
    for name in ("street", "clutter"):
        path = folder / f"{name}.json"
        if name == "clutter" and not path.exists():
            continue
        try:
            coco = json.loads(path.read_text(encoding="utf-8"))
            for clutter, shot in _shots(coco, folder / name):
                shots[clutter].append(shot)
        except (OSError, ValueError, KeyError, TypeError, CatalogueError) as error:
            raise CatalogueError(f"{path} is no rendered street ({error}); scripts/render_sample makes one") from error
    by_name = {clutter: sorted(own, key=lambda shot: shot.name) for clutter, own in sorted(shots.items())}
    return [CropSet(NAME, _ABOUT, own, clutter) for clutter, own in by_name.items()]


def _shots(coco: dict[str, Any], folder: Path) -> Iterator[tuple[float, Shot]]:
    """Yield the clutter of each photo, and the photo with the largest piece of each item, if it is not tiny."""
    labels = {one["id"]: one["name"] for one in coco["categories"]}
    pieces: defaultdict[int, list[dict[str, Any]]] = defaultdict(list)
    for one in sorted(coco["annotations"], key=lambda one: float(one["area"])):
        pieces[one["image_id"]].append(one)
    for image in coco["images"]:
        is_query = bool(image.get("query", True))
        largest: dict[str, Garment] = {}
        for one in pieces[image["id"]]:
            truth = _truth(one, labels[one["category_id"]], image["height"], image["width"])
            if truth is not None:
                item = str(one["item_id"])
                largest[item] = Garment(item, truth.label, truth, asks=is_query, found=not is_query)
        name = str(image["file_name"])
        garments = tuple(largest[item] for item in sorted(largest))
        yield float(image["clutter"]), Shot(name, reader(str(folder / name)), garments)


def _truth(piece: dict[str, Any], label: str, height: int, width: int) -> Detection | None:
    x, y, w, h = map(float, piece["bbox"])
    box = Box.clipped(x, y, x + w, y + h, width=width, height=height)
    if box is None or min(box.width, box.height) < MIN_PX:
        return None
    rle = {"size": [height, width], "counts": to_rle(piece["segmentation"], height, width)}
    mask = np.asarray(coco_mask.decode(rle)[box.slices], np.bool_)
    return Detection(label, 1.0, box, mask)
