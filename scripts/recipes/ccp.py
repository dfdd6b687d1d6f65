"""Convert Clothing Co-Parsing (Yang, Luo, Lin, CVPR 2014) to COCO files of the thirteen garment groups.

    python scripts/recipes/ccp.py DATA/ccp runs/ccp

Its labels are semantic, one class per pixel. Each group becomes one instance, except that shoes and hosiery are split
into connected pieces: left and right. Needs scipy (extra ``train``).
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import cv2
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask
from scipy.io import loadmat

from stages.types import LABELS, Box

GROUPS: dict[str, tuple[str, ...]] = {
    "outerwear": ("coat", "jacket", "blazer", "cape", "cardigan", "suit"),
    "top": (
        "blouse",
        "shirt",
        "t-shirt",
        "top",
        "sweater",
        "sweatshirt",
        "hoodie",
        "jumper",
        "vest",
        "bodysuit",
    ),
    "dress": ("dress", "romper"),
    "skirt": ("skirt",),
    "pants": ("pants", "jeans", "leggings"),
    "shorts": ("shorts",),
    "shoes": (
        "shoes",
        "boots",
        "heels",
        "pumps",
        "flats",
        "sandals",
        "sneakers",
        "loafers",
        "wedges",
        "clogs",
    ),
    "bag": ("bag", "purse", "wallet"),
    "hat": ("hat",),
    "eyewear": ("sunglasses", "glasses"),
    "scarf": ("scarf",),
    "belt": ("belt",),
    "hosiery": ("socks", "stockings", "tights"),
}
"""CCP's class names by garment group."""

SPLIT = ("shoes", "hosiery")
"""Groups whose connected pieces are separate instances."""

MIN_PIECE_PX = 64
"""Smaller pieces are noise of the labelling and left out."""


def instances(label_map: NDArray[np.uint8], groups: NDArray[np.uint8]) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Yield the garments of one photo, each as its group and its mask ``(h, w)`` uint8 of 0 and 1.

    Args:
        label_map: ``(h, w)``, a CCP class per pixel.
        groups: ``(classes,)``, the group of each class: 0 for none, else 1 + its position in ``LABELS``.
    """
    by_group = groups[label_map]
    for group in map(int, np.unique(by_group)):
        if group == 0:
            continue
        mask = (by_group == group).astype(np.uint8)
        pieces = [mask]
        if LABELS[group - 1] in SPLIT:
            count, pieced = cv2.connectedComponents(mask, connectivity=8)
            pieces = [(pieced == piece).astype(np.uint8) for piece in range(1, count)]
        yield from ((group, piece) for piece in pieces if int(piece.sum()) >= MIN_PIECE_PX)


def regions(
    label_map: NDArray[np.uint8], names: Sequence[str], classes: Mapping[str, Sequence[str]], margin: float = 0.15
) -> dict[str, Box]:
    """Return a box around all pieces of each class in a photo, such as both shoes of a person.

    Args:
        label_map: ``(h, w)``, a CCP class per pixel.
        names: of CCP's classes, by number.
        classes: the CCP names that each class consists of.
        margin: around the box, as a fraction of each side.
    """
    height, width = label_map.shape
    found: dict[str, Box] = {}
    for name, members in classes.items():
        numbers = [number for number, known in enumerate(names) if known in members]
        _, _, pieces, _ = cv2.connectedComponentsWithStats(np.isin(label_map, numbers).astype(np.uint8), connectivity=8)
        whole = pieces[1:][pieces[1:, cv2.CC_STAT_AREA] >= MIN_PIECE_PX].astype(np.float64)  # the first is the ground
        if not len(whole):
            continue
        (x1, y1), (x2, y2) = whole[:, :2].min(axis=0), (whole[:, :2] + whole[:, 2:4]).max(axis=0)
        across, down = margin * (x2 - x1), margin * (y2 - y1)
        box = Box.clipped(x1 - across, y1 - down, x2 + across, y2 + down, width, height)
        if box is not None:
            found[name] = box
    return found


def read_names(folder: Path) -> list[str]:
    """Return the names of CCP's classes, by number."""
    return [str(entry[0]) for entry in loadmat(folder / "label_list.mat")["label_list"][0]]


def read_label_map(folder: Path, photo_id: str) -> NDArray[np.uint8]:
    """Return the CCP class of each pixel of a photo, ``(h, w)``."""
    found: NDArray[np.uint8] = loadmat(folder / "annotations" / "pixel-level" / f"{photo_id}.mat")["groundtruth"]
    return found


def labelled_ids(folder: Path) -> list[str]:
    """Return the ids of the photos whose pixels are labelled."""
    return sorted(path.stem for path in (folder / "annotations" / "pixel-level").glob("*.mat"))


def to_coco(folder: Path, photo_ids: list[str]) -> dict[str, Any]:
    """Return COCO instances of some photos of CCP's upstream layout, with file names relative to ``folder/photos``."""
    names = read_names(folder)
    group_of = {name: 1 + LABELS.index(group) for group, members in GROUPS.items() for name in members}
    groups = np.array([group_of.get(name, 0) for name in names], dtype=np.uint8)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for photo_id in photo_ids:
        label_map = read_label_map(folder, photo_id)
        height, width = label_map.shape
        image_id = int(photo_id)
        images.append({"id": image_id, "file_name": f"{photo_id}.jpg", "width": width, "height": height})
        for group, mask in instances(label_map, groups):
            rle = coco_mask.encode(np.asfortranarray(mask))
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": group,
                    "bbox": [float(v) for v in coco_mask.toBbox(rle)],
                    "area": int(coco_mask.area(rle)),
                    "segmentation": {"size": rle["size"], "counts": rle["counts"].decode("ascii")},
                    "iscrowd": 0,
                }
            )
    return {
        "info": {"description": "Clothing Co-Parsing, thirteen garment groups"},
        "images": images,
        "annotations": annotations,
        "categories": [{"id": i, "name": name} for i, name in enumerate(LABELS, 1)],
    }


def tagged_labels(folder: Path) -> dict[str, list[str]]:
    """Return the garment groups of each photo that has only tags, by photo id; CCP's upstream layout."""
    names = read_names(folder)
    group_of = {name: group for group, members in GROUPS.items() for name in members}
    tags = {}
    for path in sorted((folder / "annotations" / "image-level").glob("*.mat")):
        named = {names[int(tag)] for tag in loadmat(path)["tags"].ravel()}
        groups = {group_of[name] for name in named if name in group_of}
        tags[path.stem] = [label for label in LABELS if label in groups]
    return tags


@click.command()
@click.argument("source", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("target", type=click.Path(file_okay=False, path_type=Path))
def main(source: Path, target: Path) -> None:
    """Write train.json and val.json (val_ids.txt) and tags.csv from the CCP folder SOURCE into TARGET."""
    val = (source / "val_ids.txt").read_text().split()
    target.mkdir(parents=True, exist_ok=True)
    for name, ids in {"val": val, "train": sorted(set(labelled_ids(source)) - set(val))}.items():
        coco = to_coco(source, ids)
        (target / f"{name}.json").write_text(json.dumps(coco))
        click.echo(f"{name}: {len(ids)} photos, {len(coco['annotations'])} garments -> {target / f'{name}.json'}")
    tags = tagged_labels(source)
    with (target / "tags.csv").open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["file", "labels"])
        rows.writerows([f"{photo_id}.jpg", " ".join(labels)] for photo_id, labels in tags.items())
    click.echo(f"tags: {len(tags)} photos -> {target / 'tags.csv'}")


if __name__ == "__main__":
    main()
