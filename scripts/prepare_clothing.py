"""Single-garment photos of clothing-dataset (Alexey Grigorev, CC0) as COCO instances, outlined by GrabCut.

Usage:

    python scripts/prepare_clothing.py DATA/clothing runs/clothing.json

Photos whose outline is not to be believed are left out, shoes too: they lie in pairs.
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import Any

import click
import numpy as np
from pycocotools import mask as coco_mask

from stages.detect.outline import outline
from stages.images import read_image
from stages.types import LABELS

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
    """What the split and the order follow from."""
    return int(hashlib.sha256(image.encode()).hexdigest(), 16)


@click.command()
@click.argument("source", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("output", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--per-label", default=32, show_default=True, help="Photos of each garment group.")
@click.option("--val", is_flag=True, help="The validation photos (10 to 19 of 100) instead of the others.")
def main(source: Path, output: Path, per_label: int, val: bool) -> None:
    """Write OUTPUT, COCO instances of the first PER-LABEL photos of each group, in the order of their hashes."""
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
        mask = outline(read_image(path))
        if mask is not None:
            taken[group] += 1
            add(coco, path.name, group, mask)
    output.write_text(json.dumps(coco))
    click.echo(f"{len(coco['images'])} photos -> {output}")


def add(coco: dict[str, list[dict[str, Any]]], file_name: str, group: str, mask: np.ndarray) -> None:
    """One photo and its garment."""
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
