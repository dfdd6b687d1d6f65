"""Cut the shoes of six styles out of Clothing Co-Parsing: python scripts/recipes/styles.py DATA/ccp DATA/styles.

Both shoes of a wearer are one crop. A third of each style's photos tests, CCP's own validation photos first, then
those with the least hash, so that every style is among the test photos; a photo stands for a person.
"""

from __future__ import annotations

import csv
import hashlib
from collections import defaultdict
from pathlib import Path

import click

from ccp import labelled_ids, read_label_map, read_names, regions
from stages.images import read_image, write_jpeg
from stages.types import Box

STYLES = {
    "boots": ("boots",),
    "flats": ("flats",),
    "heels": ("heels", "pumps"),
    "loafers": ("loafers",),
    "sandals": ("sandals",),
    "sneakers": ("sneakers",),
}
MIN_PX = 40
"""Crops with a shorter side are left out."""


@click.command()
@click.argument("source", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("target", type=click.Path(file_okay=False, path_type=Path))
def main(source: Path, target: Path) -> None:
    """From the CCP folder SOURCE, write TARGET/{train,test}/STYLE/PHOTO.jpg, and train.csv and test.csv of them.

    In the lists a photo is an item, and its style the label.
    """
    names = read_names(source)
    crops: dict[str, dict[str, Box]] = defaultdict(dict)
    for photo_id in labelled_ids(source):
        for style, box in regions(read_label_map(source, photo_id), names, STYLES).items():
            if min(box.width, box.height) >= MIN_PX:
                crops[style][photo_id] = box
    first = set((source / "val_ids.txt").read_text().split())
    test = {photo_id for found in crops.values() for photo_id in third(found, first)}
    for part in ("train", "test"):
        target.mkdir(parents=True, exist_ok=True)
        with (target / f"{part}.csv").open("w", newline="", encoding="utf-8") as file:
            rows = csv.writer(file)
            rows.writerow(["item_id", "image", "label"])
            for style, found in crops.items():
                ids = [photo_id for photo_id in found if (photo_id in test) == (part == "test")]
                (target / part / style).mkdir(parents=True, exist_ok=True)
                for photo_id in ids:
                    crop = read_image(source / "photos" / f"{photo_id}.jpg")[found[photo_id].slices]
                    write_jpeg(target / part / style / f"{photo_id}.jpg", crop, quality=95)
                    rows.writerow([photo_id, f"{part}/{style}/{photo_id}.jpg", style])
                click.echo(f"{part}: {len(ids)} {style}")


def third(ids: dict[str, Box], first: set[str]) -> list[str]:
    """Return a third of some photos, rounded up: those that come first, then by hash."""

    def order(photo_id: str) -> tuple[bool, str]:
        return photo_id not in first, hashlib.sha256(photo_id.encode()).hexdigest()

    return sorted(ids, key=order)[: -(-len(ids) // 3)]


if __name__ == "__main__":
    main()
