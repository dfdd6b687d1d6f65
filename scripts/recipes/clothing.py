"""Convert single-garment photos of clothing-dataset (Alexey Grigorev, CC0) to COCO, outlined by GrabCut or a detector.

    python scripts/recipes/clothing.py DATA/clothing runs/clothing.json
    python scripts/recipes/clothing.py DATA/clothing runs/more.json --per-label 130 --detector maskrcnn_mobilenet_v2+flip \
        --besides runs/clothing.json

Photos whose outline is implausible are left out, and so are shoes, which lie in pairs.
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
from pycocotools import mask as coco_mask

from outline import outline
from pipeline.config import Config, build_detector
from pseudo_label import LIKELY, only_garment
from stages.images import read_image
from stages.protocols import Detector
from stages.types import LABELS, Image

GROUPS = {
    "outerwear": ("Blazer", "Outwear"),
    "top": ("Blouse", "Body", "Hoodie", "Longsleeve", "Polo", "Shirt", "T-Shirt", "Top", "Undershirt"),
    "dress": ("Dress",),
    "skirt": ("Skirt",),
    "pants": ("Pants",),
    "shorts": ("Shorts",),
    "hat": ("Hat",),
}


def digest(image: str) -> int:
    """Return the hash that decides the split and the order."""
    return int(hashlib.sha256(image.encode()).hexdigest(), 16)


@click.command()
@click.argument("source", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("output", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--per-label", default=32, show_default=True, help="Photos of each garment group.")
@click.option("--val", is_flag=True, help="The validation photos (10 to 19 of 100) instead of the others.")
@click.option(
    "--detector", help="Outline by it where it finds one garment alone, under whatever label.  [default: GrabCut]"
)
@click.option("--detector-weights", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--besides", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Leave out its photos.")
def main(
    source: Path,
    output: Path,
    per_label: int,
    val: bool,
    detector: str | None,
    detector_weights: Path | None,
    besides: Path | None,
) -> None:
    """Write OUTPUT, COCO instances of the first PER-LABEL photos of each group, in the order of their hashes."""
    config = Config(detector=detector or "whole", detector_weights=detector_weights, min_score=LIKELY)
    outlining = partial(outlined, build_detector(config)) if detector else outline
    known = {image["file_name"] for image in json.loads(besides.read_text())["images"]} if besides else set()
    group_of = {label: group for group, labels in GROUPS.items() for label in labels}
    with (source / "images.csv").open(newline="", encoding="utf-8") as file:
        labels = {row["image"]: group_of[row["label"]] for row in csv.DictReader(file) if row["label"] in group_of}
    taken: Counter[str] = Counter()
    coco: dict[str, list[dict[str, Any]]] = {
        "images": [],
        "annotations": [],
        "categories": [{"id": number, "name": name} for number, name in enumerate(LABELS, 1)],
    }
    for path in sorted((source / "images").iterdir(), key=lambda path: f"{digest(path.stem):064x}"):
        group = labels.get(path.stem)
        if group is None or (10 <= digest(path.stem) % 100 < 20) != val or taken[group] == per_label:
            continue
        mask = None if path.name in known else outlining(read_image(path))
        if mask is not None:
            taken[group] += 1
            add(coco, path.name, group, mask)
    output.write_text(json.dumps(coco))
    click.echo(f"{len(coco['images'])} photos -> {output}")


def outlined(detector: Detector, image: Image) -> np.ndarray | None:
    """Return the mask of the only garment, ``(h, w)`` of 0 and 1, or None if there is no such garment."""
    height, width = image.shape[:2]
    found = only_garment(detector([image])[0], GROUPS, height * width)
    if found is None or found.mask is None:
        return None
    mask = np.zeros((height, width), np.uint8)
    mask[found.box.slices] = found.mask
    return mask


def add(coco: dict[str, list[dict[str, Any]]], file_name: str, group: str, mask: np.ndarray) -> None:
    """Add one photo and its garment."""
    number, (height, width) = len(coco["images"]) + 1, mask.shape
    rle = coco_mask.encode(np.asfortranarray(mask))
    segmentation = {"size": [height, width], "counts": rle["counts"].decode("ascii")}
    coco["images"].append({"id": number, "file_name": file_name, "width": width, "height": height})
    coco["annotations"].append(
        {
            "id": number,
            "image_id": number,
            "category_id": LABELS.index(group) + 1,
            "bbox": [float(v) for v in coco_mask.toBbox(rle)],
            "area": int(mask.sum()),
            "segmentation": segmentation,
            "iscrowd": 0,
        }
    )


if __name__ == "__main__":
    main()
