"""Turn Clothing Co-Parsing into COCO files: python scripts/prepare_ccp.py DATA/ccp runs/ccp."""

from __future__ import annotations

import json
from pathlib import Path

import click

from stages.detect.ccp import to_coco


@click.command()
@click.argument("source", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("target", type=click.Path(file_okay=False, path_type=Path))
def main(source: Path, target: Path) -> None:
    """Write TARGET/train.json and TARGET/val.json from the CCP folder SOURCE (validation: val_ids.txt)."""
    val = (source / "val_ids.txt").read_text().split()
    every = sorted(path.stem for path in (source / "annotations" / "pixel-level").glob("*.mat"))
    target.mkdir(parents=True, exist_ok=True)
    for name, ids in {"val": val, "train": sorted(set(every) - set(val))}.items():
        coco = to_coco(source, ids)
        (target / f"{name}.json").write_text(json.dumps(coco))
        click.echo(f"{name}: {len(ids)} photos, {len(coco['annotations'])} garments -> {target / f'{name}.json'}")


if __name__ == "__main__":
    main()
