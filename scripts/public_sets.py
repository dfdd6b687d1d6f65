"""Read public datasets in their upstream layouts, and convert them to the CSV that outfinder reads.

    python scripts/public_sets.py luma DATA/luma/product runs/luma-test.csv --split test
    python scripts/public_sets.py shoes DATA/shoe-pairs/test_m DATA/shoe-pairs/test_w runs/shoes-test.csv
    python scripts/public_sets.py garments runs/ccp/train.json DATA/ccp/photos runs/street.csv

Photos stay where they are, except garments, cutouts and products: their crops are written beside the CSV, in a folder
of its name.
"""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Callable, Iterable, Mapping
from itertools import chain
from pathlib import Path
from typing import Final, Literal, TypeAlias

import click
import cv2
import numpy as np
from pycocotools import mask as coco_mask

from stages.detect.annotations import AnnotatedPhoto
from stages.detect.coco import read_annotations
from stages.embed.data import Dataset, Sample, percentile_of
from stages.errors import CatalogueError
from stages.images import read_image, write_jpeg
from stages.types import LABELS, Box, Image

Split: TypeAlias = Literal["train", "val", "test"]

COLUMNS: Final = ("item_id", "image", "style", "label", "domain", "source")
SPLITS: Final[tuple[Split, ...]] = ("train", "val", "test")

MIN_GARMENT_PX: Final = 24
CONTEXT: Final = 0.05
"""What a crop keeps around a garment's box, as a share of each side, as the pipeline's box crop does."""

PRODUCT_SIZE: Final = 168, 224
"""Width and height of the products' photos before they were stretched to squares."""

_LUMA_NAME = re.compile(r"(?P<sku>(?P<group>[^-\d]+)[^-]*)-(?P<colour>[a-z]+)(?P<mark>[_-])(?:\d|[a-z])[^-]*\.jpg")
_SHOE_NAME = re.compile(r"(?P<photographer>u\d+)_(?P<pair>\d+)_(?:left|right)_(?P<wearer>[mw])\.jpg")
_LUMA_LABELS: Final = {"h": "outerwear", "j": "outerwear", "p": "pants", "sh": "shorts", "s": "top", "t": "top"}
"""Labels by the letters after the first one of a SKU, which is m, w or u."""


def luma(folder: Path, splits: Iterable[Split] = SPLITS) -> Dataset:
    """Read Luma's shop photos, ``SKU-colour_view.jpg`` or ``SKU-colour-N.jpg``; an item is a SKU in one colour.

    Photos with other names (gift cards, videos) are left out.
    """
    wanted = set(splits)
    samples = [
        Sample(path, f"{sku}-{match['colour']}", style=sku, label=_luma_label(match))
        for path, match in _named(folder, _LUMA_NAME)
        if luma_split(sku := match["sku"].lower()) in wanted
    ]
    return _ordered("luma", samples)


def luma_split(sku: str) -> Split:
    """Return the part of a SKU: test by the split that everyone uses; of the rest, 15 % are for validation.

    >>> luma_split("mh01") == luma_split("MH01")
    True
    """
    percentile = percentile_of(sku.lower())
    return "test" if percentile < 40 else "val" if percentile < 49 else "train"


def _luma_label(match: re.Match[str]) -> str:
    group = match["group"].lower()[1:]
    if group == "b":  # a bag where the view is a number, a bra where it is named
        return "bag" if match["mark"] == "-" else "top"
    return _LUMA_LABELS.get(group, "")


def shoes(folder: Path, splits: Iterable[Split] = SPLITS) -> Dataset:
    """Read shoe pairs, ``uNNN_k_{left,right}_{m,w}.jpg``; left and right are one item, a photographer is a source.

    A tenth of the photographers is for validation; the set's test photos are in other folders.
    """
    wanted = set(splits)
    samples = [
        Sample(path, "_".join(match.group("photographer", "pair", "wearer")), "", "shoes", "", match["photographer"])
        for path, match in _named(folder, _SHOE_NAME)
        if ("val" if percentile_of(match["photographer"]) < 10 else "train") in wanted
    ]
    return _ordered("shoes", samples)


def clothing(folder: Path, splits: Iterable[Split] = SPLITS) -> Dataset:
    """Read single-garment photos listed by ``images.csv``; a photo is an item, its class the label, a sender a source.

    Photos that are listed but missing are left out.
    """
    wanted, samples = set(splits), []
    for row in _listed(folder / "images.csv"):
        percentile = percentile_of(row["image"])
        part: Split = "test" if percentile < 10 else "val" if percentile < 20 else "train"
        path = folder / "images" / f"{row['image']}.jpg"
        if part in wanted and path.exists():
            samples.append(Sample(path, row["image"], label=row.get("label", ""), source=row["sender_id"]))
    return _ordered("clothing", samples)


def cifar10(folder: Path, splits: Iterable[Split] = SPLITS) -> Dataset:
    """Read small pictures of ten classes, ``{train,test}/CLASS/*``; a class is an item."""
    paths = (path for split in dict.fromkeys(splits) for path in (folder / split).glob("*/*"))
    return _ordered("cifar10", [Sample(path, path.parent.name) for path in paths if path.suffix in (".jpg", ".png")])


def products(folder: Path, splits: Iterable[Split], crops: Path) -> Dataset:
    """Read product photos listed by ``styles.csv``: a photo is an item, and its type of article the label.

    A tenth of the ids is for validation. The photos are written to ``crops`` in their own proportions.
    """
    wanted, samples = set(splits), []
    for row in _listed(folder / "styles.csv"):
        path = folder / "images" / f"{row['id']}.jpg"
        if path.exists() and ("val" if percentile_of(row["id"]) < 10 else "train") in wanted:
            image = cv2.resize(read_image(path), PRODUCT_SIZE, interpolation=cv2.INTER_AREA)
            crop = _written(crops / path.name, np.asarray(image, np.uint8))
            samples.append(Sample(crop, row["id"], label=row["articleType"], domain="shop"))
    return _ordered("products", samples)


def garments(annotations: Path, photos: Path, crops: Path) -> Dataset:
    """Cut annotated garments out of photos, each an item in two domains: its box is ``street``, on white ``shop``.

    The box keeps 5 % context. Shoes of one photo are one item. Garments without a mask, and tiny ones, are left out.

    Args:
        annotations: a COCO instances file.
        photos: the folder of its photos.
        crops: the folder to write the crops to.
    """
    return _cut("garments", annotations, photos, crops, ("street", "shop"))


def cutouts(annotations: Path, photos: Path, crops: Path) -> Dataset:
    """Cut garments out of photos, each an item in two domains: as photographed (``photo``), before another (``cutout``).

    The other background is from the photo after the next in the file. Arguments are those of :func:`garments`.
    """
    return _cut("cutouts", annotations, photos, crops, ("photo", "cutout"))


def _cut(name: str, annotations: Path, photos: Path, crops: Path, domains: tuple[str, str]) -> Dataset:
    annotated = read_annotations(annotations, photos).photos
    if len(annotated) < 3:
        raise CatalogueError(f"{annotations} has {len(annotated)} photos; setting garments before others needs 3")
    samples = []
    for place, photo in enumerate(annotated):
        image = read_image(photos / photo.file_name)
        other = annotated[(place + 2) % len(annotated)].file_name
        ground = read_image(photos / other) if name == "cutouts" else np.full((1, 1, 3), 255, np.uint8)
        for item, label, both in _crops_of(photo, image, ground):
            for domain, crop in zip(domains, both, strict=True):
                path = _written(crops / domain / f"{photo.id}-{len(samples)}.jpg", crop)
                samples.append(Sample(path, item, label=label, domain=domain, source=str(photo.id)))
    return Dataset(name, tuple(samples))


def _crops_of(photo: AnnotatedPhoto, image: Image, ground: Image) -> Iterable[tuple[str, str, tuple[Image, Image]]]:
    """Yield the item, the label and both crops of each garment of a photo."""
    height, width = image.shape[:2]
    for number, garment in enumerate(photo.instances):
        x1, y1, x2, y2 = garment.box
        across, down = CONTEXT * (x2 - x1), CONTEXT * (y2 - y1)
        box = Box.clipped(x1 - across, y1 - down, x2 + across, y2 + down, width, height)
        if garment.rle is None or box is None or min(x2 - x1, y2 - y1) < MIN_GARMENT_PX:
            continue
        mask = coco_mask.decode({"size": [height, width], "counts": garment.rle})[box.slices].astype(np.bool_)
        label = LABELS[garment.label - 1]
        item = f"{photo.id}/{label if label == 'shoes' else f'{label}-{number}'}"
        pixels = image[box.slices]
        yield item, label, (pixels, np.where(mask[..., None], pixels, _background(ground, *mask.shape)))


def _background(photo: Image, height: int, width: int) -> Image:
    """Return the top of the left third of a photo, where people seldom stand, in the given shape."""
    strip = photo[:, : max(1, photo.shape[1] // 3)]
    scale = min(strip.shape[0] / height, strip.shape[1] / width)
    window = strip[: max(1, int(height * scale)), : max(1, int(width * scale))]
    return np.asarray(cv2.resize(window, (width, height), interpolation=cv2.INTER_LINEAR), np.uint8)


def _written(path: Path, image: Image) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_jpeg(path, np.ascontiguousarray(image), quality=95)
    return path


def _named(folder: Path, pattern: re.Pattern[str]) -> Iterable[tuple[Path, re.Match[str]]]:
    """Yield the ``.jpg`` files of a folder whose names match."""
    return ((path, match) for path in folder.glob("*.jpg") if (match := pattern.fullmatch(path.name)))


def _listed(path: Path) -> Iterable[dict[str, str]]:
    """Yield the rows of a CSV."""
    with path.open(encoding="utf-8", newline="") as file:
        yield from csv.DictReader(file)


def _ordered(name: str, samples: Iterable[Sample]) -> Dataset:
    """Return a dataset sorted by item and file name."""
    ordered = sorted(samples, key=lambda sample: (sample.style_or_item, sample.item, sample.path.name))
    return Dataset(name, tuple(ordered))


FOLDERS: Final[Mapping[str, Callable[[Path, Iterable[Split]], Dataset]]] = {
    "luma": luma,
    "shoes": shoes,
    "clothing": clothing,
    "cifar10": cifar10,
}
"""Sets that are a folder of photos."""


@click.command()
@click.argument("name", type=click.Choice([*FOLDERS, "products", "garments", "cutouts"]))
@click.argument("paths", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.argument("output", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--split", "splits", multiple=True, type=click.Choice(SPLITS), help="Only this part; repeatable.")
def main(name: str, paths: tuple[Path, ...], output: Path, splits: tuple[Split, ...]) -> None:
    """Write OUTPUT, a CSV of the photos of the set NAME; PATHS are its folders, or a COCO file and its photos."""
    crops, wanted = output.with_suffix(""), splits or SPLITS
    if name in FOLDERS:
        samples = list(chain.from_iterable(FOLDERS[name](path, wanted).samples for path in paths))
    elif name == "products":
        samples = list(products(paths[0], wanted, crops).samples)
    else:
        samples = list((garments if name == "garments" else cutouts)(paths[0], paths[1], crops).samples)
    if not samples:
        raise click.ClickException(f"no photo in {' '.join(map(str, paths))} is of the set {name} and the wanted split")
    output.parent.mkdir(parents=True, exist_ok=True)
    with output.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(COLUMNS)
        for one in samples:
            image = os.path.relpath(one.path, output.parent)
            rows.writerow([one.item, image, one.style, one.label, one.domain, one.source])
    click.echo(f"{len(samples)} photos -> {output}")


if __name__ == "__main__":
    main()
