"""Annotate photos that have only tags by a detector of your own or the shipped one.

Usage:

    python scripts/pseudo_label.py runs/ccp/tags.csv DATA/ccp/photos runs/ccp/pseudo.json

TAGS is a CSV of ``file,labels`` with labels apart by spaces, as prepare_ccp.py and prepare_clothing.py write it.
"""

from __future__ import annotations

import csv
import json
from collections import Counter
from pathlib import Path

import click

from pipeline.config import Config, build_detector
from stages.detect.pseudo import LIKELY, pseudo_label

FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command()
@click.argument("tags", type=FILE)
@click.argument("photos", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("output", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--detector", default="maskrcnn_mobilenet_v2", show_default=True)
@click.option("--detector-weights", type=FILE, help="A checkpoint of your own.")
def main(tags: Path, photos: Path, output: Path, detector: str, detector_weights: Path | None) -> None:
    """Write OUTPUT, COCO instances of what the detector finds of the TAGS of PHOTOS."""
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
