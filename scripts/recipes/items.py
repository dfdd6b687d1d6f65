"""Convert a public dataset to the CSV that `outfinder train embedder` reads.

Usage:

    python scripts/recipes/items.py omniglot DATA/omniglot runs/omniglot.csv --split train
    python scripts/recipes/items.py garments runs/ccp/train.json DATA/ccp/photos runs/street.csv

Photos stay where they are. Garments that are cut out of photos (garments, cutouts), and products, whose photos are
stretched, are written beside the CSV, in a folder of its name.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import cv2
import numpy as np

from pipeline.photosets import LAYOUTS, open_set
from stages.embed.data import Dataset, Sample, percentile_of, read_sample
from stages.errors import ImageError
from stages.images import read_image, write_jpeg

COLUMNS = ("item_id", "image", "style", "label", "domain", "source")
PRODUCT_SIZE = 168, 224
"""Width and height of the products' photos before they were stretched to squares."""


@click.command()
@click.argument("layout", type=click.Choice([*(name for name in LAYOUTS if name != "items"), "products"]))
@click.argument("paths", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.argument("output", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--split", "splits", multiple=True, type=click.Choice(["train", "val", "test"]), help="Repeatable.")
def main(layout: str, paths: tuple[Path, ...], output: Path, splits: tuple[Any, ...]) -> None:
    """Write OUTPUT, a CSV of the photos of a dataset in LAYOUT; PATHS are its folders, or a COCO file and its photos."""
    data = products(paths[0], splits) if layout == "products" else open_set(paths, layout, None, splits or None)
    click.echo(data.describe())
    output.parent.mkdir(parents=True, exist_ok=True)
    written = 0
    with output.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(COLUMNS)
        for number, sample in enumerate(data.samples):
            try:
                path = kept(sample, layout, output.with_suffix("") / f"{number:05}.jpg")
            except ImageError as error:
                click.echo(f"{sample.path}: {error}")
                continue
            image = os.path.relpath(path, output.parent)
            rows.writerow([sample.item, image, sample.style, sample.label, sample.domain, sample.source])
            written += 1
    click.echo(f"{written} photos -> {output}")


def kept(sample: Sample, layout: str, path: Path) -> Path:
    """Return the path of a sample's photo; one that has to be cut out or resized is written first."""
    if sample.cut is None and layout != "products":
        return sample.path
    path.parent.mkdir(parents=True, exist_ok=True)
    image = read_image(sample.path) if sample.cut is None else read_sample(sample)
    if layout == "products":
        image = np.asarray(cv2.resize(image, PRODUCT_SIZE, interpolation=cv2.INTER_AREA), np.uint8)
    write_jpeg(path, image, quality=95)
    return path


def products(folder: Path, splits: Sequence[str]) -> Dataset:
    """Read product photos listed by ``styles.csv``: a photo is an item, and its type of article the label.

    A tenth of the ids is for validation.
    """
    samples = []
    with (folder / "styles.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            path = folder / "images" / f"{row['id']}.jpg"
            part = "val" if percentile_of(row["id"]) < 10 else "train"
            if path.exists() and (not splits or part in splits):
                samples.append(Sample(path, row["id"], label=row["articleType"], domain="shop"))
    return Dataset("products", tuple(samples))


if __name__ == "__main__":
    main()
