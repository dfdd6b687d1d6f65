"""Turn Clothing Co-Parsing into COCO files: python scripts/prepare_ccp.py DATA/ccp runs/ccp."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import click

from stages.detect.ccp import labelled_ids, tagged_labels, to_coco


@click.command()
@click.argument("source", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("target", type=click.Path(file_okay=False, path_type=Path))
def main(source: Path, target: Path) -> None:
    """From the CCP folder SOURCE, write train.json and val.json (val_ids.txt), and tags.csv, into TARGET."""
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
