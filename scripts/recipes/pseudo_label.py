"""Annotate photos that have only tags with the findings of a detector: self-training with image-level labels.

    python scripts/recipes/pseudo_label.py runs/ccp/tags.csv DATA/ccp/photos runs/ccp/pseudo.json

The tags say which labels may appear, and that each of them does.
"""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

import click
import numpy as np
from pycocotools import mask as coco_mask

from pipeline.config import Config, build_detector
from stages.errors import ImageError
from stages.images import read_image
from stages.protocols import Detector
from stages.types import Box, Detection

SURE = 0.5
"""Score from which every detection of a tagged label is accepted."""

LIKELY = 0.15
"""Score from which the best detection of a tagged label is accepted where none is sure."""

_SAME = 0.7  # IoU of boxes above which two detections are one garment
_LARGE = 0.12  # least fraction of a photo that its only garment covers
_SEEN = 0.4  # score from which another garment in the photo counts
_WITHIN = 0.8  # fraction of a box inside another of its label above which it is a part of that garment


def accepted(detections: Collection[Detection], tags: Collection[str]) -> list[Detection]:
    """Return the detections to accept, given the labels of the photo, by falling score."""
    ranked = sorted((one for one in detections if one.label in tags), key=lambda one: -one.score)
    kept: list[Detection] = []
    for one in ranked:
        first = all(one.label != other.label for other in kept)
        if one.score >= (LIKELY if first else SURE) and not any(_one_garment(one, other) for other in kept):
            kept.append(one)
    return kept


def only_garment(detections: Collection[Detection], labels: Collection[str], area: int) -> Detection | None:
    """Return the garment of a photo that shows nothing else, whatever its label; None if it is not alone.

    Photos of one garment whose label is known teach most where the detector errs in the label but not in the place.

    Args:
        detections: in the photo.
        labels: that the garment may have been given.
        area: of the photo, in pixels.
    """
    candidates = [one for one in detections if one.label in labels and one.box.area >= _LARGE * area]
    if not candidates:
        return None
    first = max(candidates, key=lambda one: one.score * one.box.area**0.5)
    others = [one for one in detections if one.score >= _SEEN and one is not first]
    alone = all(one.label in labels and overlap(one.box, first.box) >= _SAME * one.box.area for one in others)
    return first if alone else None


def _one_garment(one: Detection, other: Detection) -> bool:
    shared = overlap(one.box, other.box)
    union = one.box.area + other.box.area - shared
    return shared > _SAME * union or (one.label == other.label and shared > _WITHIN * one.box.area)


def overlap(one: Box, other: Box) -> int:
    """Return the area that two boxes share, in pixels."""
    width = min(one.x2, other.x2) - max(one.x1, other.x1)
    height = min(one.y2, other.y2) - max(one.y1, other.y1)
    return max(0, width) * max(0, height)


def pseudo_label(detector: Detector, photos: Path, tags: Iterable[tuple[str, Collection[str]]]) -> dict[str, Any]:
    """Return COCO instances of photos that have only tags; those without an accepted garment are left out.

    Args:
        detector: with masks and a score threshold of :data:`LIKELY` or less.
        photos: folder of the photos.
        tags: file name and labels of each photo.
    """
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for name, labels in tags:
        try:
            image = read_image(photos / name)
        except ImageError:
            continue
        found = accepted(detector([image])[0], labels)
        if not found:
            continue
        height, width = image.shape[:2]
        images.append({"id": len(images) + 1, "file_name": name, "width": width, "height": height})
        for one in found:
            full = np.zeros((height, width), np.uint8, order="F")
            full[one.box.slices] = 1 if one.mask is None else one.mask
            rle = coco_mask.encode(full)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": len(images),
                    "category_id": detector.labels.index(one.label) + 1,
                    "bbox": [one.box.x1, one.box.y1, one.box.width, one.box.height],
                    "area": int(coco_mask.area(rle)),
                    "segmentation": {"size": [height, width], "counts": rle["counts"].decode("ascii")},
                    "iscrowd": 0,
                    "score": round(one.score, 3),
                }
            )
    categories = [{"id": number, "name": name} for number, name in enumerate(detector.labels, 1)]
    return {"images": images, "annotations": annotations, "categories": categories}


FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command()
@click.argument("tags", type=FILE)
@click.argument("photos", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("output", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--detector", default="maskrcnn_mobilenet_v2", show_default=True)
@click.option("--detector-weights", type=FILE, help="A checkpoint of your own.")
def main(tags: Path, photos: Path, output: Path, detector: str, detector_weights: Path | None) -> None:
    """Write COCO instances of the garments in PHOTOS that the detector finds and TAGS confirm into OUTPUT.

    TAGS is a CSV of ``file,labels`` with labels separated by spaces, as ccp.py writes it.
    """
    with tags.open(newline="", encoding="utf-8") as file:
        tagged = [(row["file"], row["labels"].split()) for row in csv.DictReader(file)]
    coco = pseudo_label(
        build_detector(Config(detector=detector, detector_weights=detector_weights, min_score=LIKELY)), photos, tagged
    )
    output.write_text(json.dumps(coco))
    names = {category["id"]: category["name"] for category in coco["categories"]}
    found = Counter(names[annotation["category_id"]] for annotation in coco["annotations"])
    wanted = Counter(label for _, labels in tagged for label in labels)
    click.echo(f"{len(coco['images'])} of {len(tagged)} photos, {len(coco['annotations'])} garments -> {output}")
    for label in coco["categories"]:
        click.echo(f"  {label['name']}: {found[label['name']]} garments, {wanted[label['name']]} photos tagged")


if __name__ == "__main__":
    main()
