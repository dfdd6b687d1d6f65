"""Write CSVs for ``outfinder benchmark crops --data`` from public data sets.

    python scripts/crop_sets.py shoes val.json photos/ OUT     # the shoes of a pair find each other
    python scripts/crop_sets.py cutouts val.json photos/ OUT   # garments on another background find themselves
    python scripts/crop_sets.py luma luma/product OUT          # fronts of Luma's test articles find their backs

``val.json`` are COCO instances with masks, such as of Clothing Co-Parsing. Each writes OUT/NAME.csv.
"""

from __future__ import annotations

import csv
import os
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import cv2
import numpy as np
from pycocotools import mask as coco_mask

from public_sets import luma as read_luma
from public_sets import luma_split
from stages.detect.annotations import AnnotatedPhoto
from stages.detect.coco import read_annotations
from stages.embed.data import Sample
from stages.errors import CatalogueError
from stages.images import read_image, write_jpeg
from stages.types import LABELS, Box, Detection, Image

MIN_PX = 24
"""Annotated garments with a shorter side are left out."""

PAIR_RATIO = 1 / 3
"""The smaller shoe of a pair has at least this share of the larger one's area."""

COLUMNS = ("photo", "item_id", "label", "box", "mask", "role", "unit")
FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
OUT = click.Path(file_okay=False, path_type=Path)


@dataclass
class _Table:
    """A CSV, its masks beside it."""

    folder: Path
    name: str

    def __post_init__(self) -> None:
        self.rows: list[tuple[str, ...]] = []
        (self.folder / self.name).mkdir(parents=True, exist_ok=True)

    def add(self, photo: Path, item: str, label: str, truth: Detection | None, role: str, unit: str) -> None:
        """Add a row; a mask is written as a picture."""
        box = mask = ""
        if truth is not None and truth.mask is not None:
            box, mask = " ".join(map(str, truth.box.corners)), f"{self.name}/mask-{len(self.rows)}.png"
            height, width = read_image(photo).shape[:2]
            dense = np.zeros((height, width), np.uint8)
            dense[truth.box.slices][truth.mask] = 255
            cv2.imwrite(str(self.folder / mask), dense)
        self.rows.append((os.path.relpath(photo, self.folder), item, label, box, mask, role, unit))

    def write(self) -> None:
        """Write the CSV."""
        with (self.folder / f"{self.name}.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([COLUMNS, *self.rows])
        click.echo(f"{self.folder / self.name}.csv: {len(self.rows)} garments")


def garments(photo: AnnotatedPhoto) -> Iterator[Detection]:
    """Yield the garments of a photo that have a mask and are large enough."""
    for instance in photo.instances:
        box = Box.clipped(*instance.box, photo.width, photo.height)
        if instance.rle is None or box is None or min(box.width, box.height) < MIN_PX:
            continue
        dense = coco_mask.decode({"size": [photo.height, photo.width], "counts": instance.rle})
        mask = dense[box.slices].astype(np.bool_)
        if mask.any():
            yield Detection(LABELS[instance.label - 1], 1.0, box, mask)


def paste(image: Image, garment: Detection, background: Image) -> Image:
    """Return a photo of the same size that shows the garment alone, in its place, on another photo's background.

    The background is the outer quarters of the other photo, where people are rare, mirrored until they fill the photo.
    """
    height, width = image.shape[:2]
    quarter = max(1, background.shape[1] // 4)
    sides = np.concatenate([background[:, :quarter], background[:, -quarter:]], axis=1)
    missing = max(0, height - sides.shape[0]), max(0, width - sides.shape[1])
    pasted = np.pad(sides, ((0, missing[0]), (0, missing[1]), (0, 0)), mode="symmetric")[:height, :width].copy()
    pasted[garment.box.slices][garment.mask] = image[garment.box.slices][garment.mask]
    return pasted


@click.group()
def main() -> None:
    """Write a CSV of photos that `outfinder benchmark crops --data` reads."""


@main.command()
@click.argument("annotations", type=FILE)
@click.argument("photos", type=FOLDER)
@click.argument("out", type=OUT)
@click.option("--most", default=100, show_default=True, help="Photos that are drawn.")
@click.option("--seed", default=0, show_default=True)
def shoes(annotations: Path, photos: Path, out: Path, most: int, seed: int) -> None:
    """Write pairs of shoes: the left one finds the right one among all shoes, and the other way round."""
    table = _Table(out, "shoes")
    for photo in _annotated(annotations, photos, most, seed):
        found = [garment for garment in garments(photo) if garment.label == "shoes"]
        areas = sorted(int(shoe.mask.sum()) for shoe in found if shoe.mask is not None)
        pair = len(found) == 2 and areas[0] >= PAIR_RATIO * areas[1]
        for place, shoe in enumerate(found):
            item, role = (f"{photo.id}", "") if pair else (f"{photo.id}/{place}", "gallery")
            table.add(photos / photo.file_name, item, "shoes", shoe, role, str(photo.id))
    table.write()


@main.command()
@click.argument("annotations", type=FILE)
@click.argument("photos", type=FOLDER)
@click.argument("out", type=OUT)
@click.option("--most", default=120, show_default=True, help="Garments that are drawn.")
@click.option("--seed", default=0, show_default=True)
def cutouts(annotations: Path, photos: Path, out: Path, most: int, seed: int) -> None:
    """Write garments on another photo's background, which find themselves in their own photos."""
    table = _Table(out, "cutouts")
    annotated = _annotated(annotations, photos, 1 << 30, seed)
    every = [
        (place, number, one) for place, photo in enumerate(annotated) for number, one in enumerate(garments(photo))
    ]
    for drawn in sorted(np.random.default_rng([seed, 12]).permutation(len(every))[:most].tolist()):
        place, number, garment = every[drawn]
        photo, other = annotated[place], annotated[(place + 2) % len(annotated)]
        item, unit = f"{photo.id}/{garment.label}-{number}", str(photo.id)
        source, query = photos / photo.file_name, out / "cutouts" / f"{photo.id}-{garment.label}-{number}.jpg"
        write_jpeg(query, paste(read_image(source), garment, read_image(photos / other.file_name)), 95)
        table.add(query, item, garment.label, garment, "query", unit)
        table.add(source, item, garment.label, garment, "gallery", unit)
    table.write()


@main.command()
@click.argument("photos", type=FOLDER)
@click.argument("out", type=OUT)
@click.option("--others", default=150, show_default=True, help="Articles in the gallery that are never searched for.")
@click.option("--seed", default=0, show_default=True)
def luma(photos: Path, out: Path, others: int, seed: int) -> None:
    """Write Luma's articles: fronts of the test articles find their backs, among one photo of each article."""
    table = _Table(out, "luma")
    views: defaultdict[str, dict[str, Sample]] = defaultdict(dict)
    for sample in read_luma(photos).samples:
        if match := re.search(r"[_-](main|0|back|alt1|alternate)\.jpg$", sample.path.name):
            views[sample.item].setdefault(match[1], sample)
    rest = []
    for item, view in sorted(views.items()):
        front, back = view.get("main", view.get("0")), view.get("back")
        if front and back and luma_split(front.style_or_item) == "test":
            table.add(front.path, item, front.label, None, "query", front.style_or_item)
            table.add(back.path, item, back.label, None, "gallery", back.style_or_item)
        elif other := back or front:
            rest.append(other)
    for place in sorted(np.random.default_rng([seed, 21]).permutation(len(rest))[:others].tolist()):
        table.add(rest[place].path, rest[place].item, rest[place].label, None, "gallery", rest[place].style_or_item)
    table.write()


def _annotated(annotations: Path, photos: Path, most: int, seed: int) -> list[AnnotatedPhoto]:
    """Return some photos of a COCO file that have masks."""
    found = [
        photo for photo in read_annotations(annotations, photos).photos if any(one.has_mask for one in photo.instances)
    ]
    if len(found) < 3:
        raise CatalogueError(f"{annotations} has {len(found)} photos with masks; comparing crops needs at least 3")
    drawn = np.random.default_rng([seed, 11]).permutation(len(found))[:most]
    return [found[place] for place in sorted(drawn.tolist())]


if __name__ == "__main__":
    main()
