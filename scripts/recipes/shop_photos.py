"""Convert photos that are labelled as a whole, of products and of single garments, to COCO instances.

    python scripts/recipes/shop_photos.py products DATA/products runs/products
    python scripts/recipes/shop_photos.py clothing DATA/clothing runs/clothing-all

The label comes from the set, the outline from the white ground or from a detector. A worn product shows more than itself:
what the detector finds beside it is labelled too, so that a model's jeans are pants and not background. OUTPUT gets
instances.json and, for products, their photos without the stretching of the set.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click
import cv2
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from pipeline.config import Config, build_detector
from pipeline.kinds import FAMILIES
from pseudo_label import overlap
from stages.embed.data import percentile_of
from stages.images import read_image, write_jpeg
from stages.labels import OTHER, kind_of
from stages.types import LABELS, Detection, Image

Mask = NDArray[np.uint8]
Instance = tuple[str, Mask]

SIZE = 168, 224
"""Width and height of a product photo before it was stretched to 60 by 80."""

VALIDATION = range(10)
CLOTHING_VALIDATION = range(10, 20)
SETS_OF_SEVERAL = ("Tracksuits", "Kurta Sets", "Accessory Gift Set")
_WHITE = 240
_LEAST_SCORE = 0.12


@click.command()
@click.argument("dataset", type=click.Choice(["products", "clothing"]))
@click.argument("source", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("output", type=click.Path(file_okay=False, path_type=Path))
@click.option("--detector", default="maskrcnn_mobilenet_v2", show_default=True)
@click.option("--detector-weights", type=click.Path(exists=True, dir_okay=False, path_type=Path))
def main(dataset: str, source: Path, output: Path, detector: str, detector_weights: Path | None) -> None:
    """Write the training photos of a DATASET in SOURCE with their garments to OUTPUT/instances.json."""
    find = build_detector(Config(detector=detector, detector_weights=detector_weights, min_score=_LEAST_SCORE))
    output.mkdir(parents=True, exist_ok=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for path, article, image in (products if dataset == "products" else clothing)(source):
        (detections,) = find([image])
        instances = (product_instances if dataset == "products" else garment_instances)(article, image, detections)
        if instances is None:
            continue
        if dataset == "products":
            write_jpeg(output / path.name, image)
        height, width = image.shape[:2]
        images.append({"id": len(images) + 1, "file_name": path.name, "width": width, "height": height})
        annotations += (annotation(len(annotations) + n, len(images), *one) for n, one in enumerate(instances, 1))
    categories = [{"id": number, "name": name} for number, name in enumerate(LABELS, 1)]
    coco = {"images": images, "annotations": annotations, "categories": categories}
    (output / "instances.json").write_text(json.dumps(coco))
    click.echo(f"{len(images)} photos, {len(annotations)} garments -> {output / 'instances.json'}")


def products(source: Path) -> Iterator[tuple[Path, str, Image]]:
    """Yield the training products: path, article type, and the photo in its true proportions."""
    with (source / "styles.csv").open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if percentile_of(row["id"]) not in VALIDATION]
    for row in rows:
        if kind_of(row["articleType"]) is not None and row["articleType"] not in SETS_OF_SEVERAL:
            path = source / "images" / f"{row['id']}.jpg"
            image = cv2.resize(read_image(path), SIZE, interpolation=cv2.INTER_AREA)
            yield path, row["articleType"], np.asarray(image, np.uint8)


def clothing(source: Path) -> Iterator[tuple[Path, str, Image]]:
    """Yield the training photos of clothing-dataset: path, label and photo."""
    with (source / "images.csv").open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if percentile_of(row["image"]) not in CLOTHING_VALIDATION]
    for row in rows:
        path = source / "images" / f"{row['image']}.jpg"
        if kind_of(row["label"]) not in (None, OTHER) and path.exists():
            yield path, row["label"], read_image(path)


def product_instances(article: str, image: Image, detections: Sequence[Detection]) -> list[Instance] | None:
    """Return the garments of a product photo; none for a product of no kind, and None where it cannot be told."""
    kind = kind_of(article)
    assert kind is not None
    shape, shown = image.shape[:2], foreground(image)
    family = next((family for family in FAMILIES if kind in family), None)
    if kind == OTHER:
        return []
    if family is None or kind == "hosiery":
        return apart(kind, shown)
    fitting = [one for one in detections if one.label in family and one.box.area > 0.08 * shown.size]
    if not fitting:
        return None
    main_one = max(fitting, key=lambda one: (one.score + 0.3 * (one.label == kind)) * one.box.area**0.5)
    mask = full(main_one, shape)
    if mask.sum() > 0.8 * shown.sum():  # a flat photo: the ground is a better outline
        return [(kind, shown)]
    garments = [(kind, mask)]
    for one in detections:
        other = full(one, shape)
        covered = max(float((other & known).sum()) for _, known in garments)
        if one is not main_one and one.score >= 0.45 and covered <= 0.4 * other.sum():
            cut_off = one.label == "shorts" and kind in FAMILIES[0] and one.box.y2 >= shape[0] - 2
            garments.append(("pants" if cut_off else one.label, other))
    return garments


def garment_instances(article: str, image: Image, detections: Sequence[Detection]) -> list[Instance] | None:
    """Return the garments of a photo of one garment, or None where its outline or what else is there is unclear."""
    kind, shape = kind_of(article), image.shape[:2]
    assert kind is not None
    area = shape[0] * shape[1]
    if kind == "shoes":
        shoes = [one for one in detections if one.label == kind and one.score >= 0.5 and one.box.area > 0.04 * area]
        others = any(one.label != kind and one.score > 0.4 for one in detections)
        return None if others or not shoes else [(kind, full(one, shape)) for one in shoes]
    family = next((family for family in FAMILIES if kind in family), {kind})
    large = [one for one in detections if one.box.area >= 0.12 * area and one.label in {kind}.union(*FAMILIES)]
    if not large:
        return None
    main_one = max(
        large,
        key=lambda one: (one.score + 0.25 * (one.label == kind) + 0.1 * (one.label in family)) * one.box.area**0.5,
    )
    mask = full(main_one, shape)
    others = [
        one
        for one in detections
        if one is not main_one and one.score >= 0.4 and overlap(one.box, main_one.box) < 0.7 * one.box.area
    ]
    clothes = frozenset().union(*FAMILIES)
    if any(one.label in clothes and one.box.area > 0.05 * area for one in others) or mask.sum() < 0.1 * area:
        return None
    return [(kind, mask), *((one.label, full(one, shape)) for one in others if one.score >= 0.6)]


def foreground(image: Image) -> Mask:
    """Return everything but the white that is connected to the photo's border, as 0 and 1."""
    _, pieces = cv2.connectedComponents((image.min(2) >= _WHITE).astype(np.uint8), connectivity=4)
    border = np.unique(np.concatenate([pieces[0], pieces[-1], pieces[:, 0], pieces[:, -1]]))
    shown = (~np.isin(pieces, border[border > 0])).astype(np.uint8)
    return np.asarray(cv2.morphologyEx(shown, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8)), np.uint8)


def apart(kind: str, shown: Mask) -> list[Instance] | None:
    """Return the large pieces of a photo: each shoe of a pair by itself, anything else as one."""
    count, pieces, stats, _ = cv2.connectedComponentsWithStats(shown)
    large = [n for n in range(1, count) if stats[n, cv2.CC_STAT_AREA] > 0.04 * shown.size]
    if kind == "shoes" and len(large) == 2:
        return [(kind, (pieces == n).astype(np.uint8)) for n in large]
    return [(kind, np.isin(pieces, large).astype(np.uint8))] if large else None


def full(detection: Detection, shape: tuple[int, ...]) -> Mask:
    """Return a detection's mask in its photo."""
    mask = np.zeros(shape, np.uint8)
    mask[detection.box.slices] = 1 if detection.mask is None else detection.mask
    return mask


def annotation(number: int, image: int, label: str, mask: Mask) -> dict[str, Any]:
    """Return a COCO annotation of an instance."""
    rle = coco_mask.encode(np.asfortranarray(mask))
    return {
        "id": number,
        "image_id": image,
        "category_id": LABELS.index(label) + 1,
        "bbox": [float(value) for value in coco_mask.toBbox(rle)],
        "area": int(mask.sum()),
        "segmentation": {"size": list(mask.shape), "counts": rle["counts"].decode("ascii")},
        "iscrowd": 0,
    }


if __name__ == "__main__":
    main()
