"""Sort photos into classes to train and to test on: python scripts/recipes/classes.py runs/clothing.csv DATA/ccp DATA/classes.

The nine classes of clothing-dataset whose names have the least hashes test. All others train, and so do the crops of
Clothing Co-Parsing's classes, without those that a class of the nine may be called there.
"""

from __future__ import annotations

import csv
import shutil
from collections import Counter
from pathlib import Path

import click

from ccp import GROUPS, labelled_ids, read_label_map, read_names, regions
from stages.embed.data import percentile_of
from stages.images import read_image, write_jpeg

HELD_OUT = 9
TRAIN_FROM = 20
"""The percentile of clothing-dataset's ids from which on photos are for training."""

NO_CLASS = ("Not sure", "Other", "Skip")
CALLED = {
    "Blazer": ("blazer", "suit"),
    "Blouse": ("blouse",),
    "Hat": GROUPS["hat"],
    "Longsleeve": ("sweater", "sweatshirt", "jumper", "top"),
    "Pants": GROUPS["pants"],
    "Polo": ("t-shirt",),
    "Shirt": ("shirt",),
    "Shoes": GROUPS["shoes"],
    "Skirt": GROUPS["skirt"],
}
"""What Clothing Co-Parsing may call a class of clothing-dataset."""

JOINED = {
    "bag": ("bag", "purse", "wallet"),
    "eyewear": ("glasses", "sunglasses"),
    "hosiery": ("stockings", "tights"),
    "jumper": ("sweater", "sweatshirt", "jumper"),
}
"""Names of Clothing Co-Parsing that are one class here."""

MIN_PX, MIN_PHOTOS = 24, 10


@click.command()
@click.argument("garments", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("worn", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("target", type=click.Path(file_okay=False, path_type=Path))
def main(garments: Path, worn: Path, target: Path) -> None:
    """From the CSV of clothing-dataset GARMENTS and CCP in WORN, write TARGET/{train,test}/CLASS/PHOTO.jpg.

    Only photos that train in these sets' own splits train; of the classes that test, all photos do.
    """
    with garments.open(encoding="utf-8", newline="") as file:
        photos = [row for row in csv.DictReader(file) if row["label"] not in NO_CLASS]
    labels = sorted({row["label"] for row in photos}, key=lambda label: (percentile_of(label), label))
    held_out = labels[:HELD_OUT]
    if unknown := set(held_out) - set(CALLED):
        raise click.ClickException(f"say in CALLED what CCP calls {', '.join(sorted(unknown))}")
    for row in photos:
        is_test = row["label"] in held_out
        if is_test or percentile_of(row["item_id"]) >= TRAIN_FROM:
            source = garments.parent / row["image"]
            path = target / ("test" if is_test else "train") / row["label"].lower() / source.name
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, path)
    cut_worn(worn, target / "train", {name for label in held_out for name in CALLED[label]})
    for part in ("train", "test"):
        counts = {folder.name: len(list(folder.iterdir())) for folder in sorted((target / part).iterdir())}
        click.echo(f"{part}: {len(counts)} classes, " + ", ".join(f"{count} {name}" for name, count in counts.items()))


def cut_worn(source: Path, target: Path, without: set[str]) -> None:
    """Write the crops of CCP's training photos by class; classes of few crops are left out."""
    names, val = read_names(source), set((source / "val_ids.txt").read_text().split())
    joined = {name: label for label, members in JOINED.items() for name in members}
    kinds = {joined.get(name, name) for members in (*GROUPS.values(), ("tie", "gloves")) for name in members}
    classes = {kind: JOINED.get(kind, (kind,)) for kind in sorted(kinds) if not without & {*JOINED.get(kind, (kind,))}}
    found = {
        photo_id: regions(read_label_map(source, photo_id), names, classes)
        for photo_id in labelled_ids(source)
        if photo_id not in val
    }
    large = {
        photo_id: {kind: box for kind, box in boxes.items() if min(box.width, box.height) >= MIN_PX}
        for photo_id, boxes in found.items()
    }
    counts = Counter(kind for boxes in large.values() for kind in boxes)
    for photo_id, boxes in large.items():
        image = read_image(source / "photos" / f"{photo_id}.jpg")
        for kind, box in boxes.items():
            if counts[kind] >= MIN_PHOTOS:
                path = target / kind / f"{photo_id}.jpg"
                path.parent.mkdir(parents=True, exist_ok=True)
                write_jpeg(path, image[box.slices], quality=95)


if __name__ == "__main__":
    main()
