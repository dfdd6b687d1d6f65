"""Unpack Omniglot and list it as CSV files: python scripts/recipes/omniglot.py DATA/omniglot runs/omniglot.

DATA/omniglot holds images_background.zip and images_evaluation.zip. The target gets the pictures, ``train.csv`` of the
background alphabets and ``test.csv`` of the evaluation alphabets. A character is an item, its alphabet the label and
the style, and its drawer the source.
"""

from __future__ import annotations

import csv
from pathlib import Path, PurePosixPath
from zipfile import ZipFile

import click

ARCHIVES = {"train": "images_background", "test": "images_evaluation"}


@click.command()
@click.argument("source", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("target", type=click.Path(file_okay=False, path_type=Path))
def main(source: Path, target: Path) -> None:
    """Unpack the archives in SOURCE to TARGET, with TARGET/train.csv and TARGET/test.csv."""
    for part, name in ARCHIVES.items():
        with ZipFile(source / f"{name}.zip") as archive:
            pictures = sorted(one for one in archive.namelist() if one.startswith(f"{name}/") and one.endswith(".png"))
            archive.extractall(target, pictures)
        with (target / f"{part}.csv").open("w", newline="", encoding="utf-8") as file:
            rows = csv.writer(file)
            rows.writerow(["item_id", "image", "style", "label", "source"])
            for picture in pictures:  # images_background/ALPHABET/CHARACTER/NNNN_DRAWER.png
                *_, alphabet, character, drawing = PurePosixPath(picture).with_suffix("").parts
                rows.writerow([f"{alphabet}/{character}", picture, alphabet, alphabet, drawing.rpartition("_")[2]])
        click.echo(f"{len(pictures)} pictures -> {target / part}.csv")


if __name__ == "__main__":
    main()
