"""``outfinder sample``."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from pipeline.cli.common import FOLDER, friendly


@click.command()
@click.argument("folder", metavar="DIR", type=FOLDER)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Another seed, another shop.")
@click.option("--items", type=click.IntRange(13), default=60, show_default=True, help="Items in the shop.")
@click.option("--scenes", type=click.IntRange(0), default=24, show_default=True, help="Street scenes.")
@friendly
def sample(folder: Path, seed: int, items: int, scenes: int) -> None:
    """Render a small shop and street scenes into DIR, which must be empty or absent.

    shop.csv and shop/ hold the items in two views each, street/ the scenes, street.json who wears what (COCO
    instances with item ids, and each scene's clutter from 0 to 1). The same seed gives the same pictures.

    \b
    Example:
      outfinder sample demo --scenes 12
    """  # noqa: D301
    from pipeline.sample.write import render_sample

    with click.progressbar(length=1000, label="rendering", file=sys.stderr) as bar:
        summary = render_sample(
            folder,
            seed=seed,
            items=items,
            scenes=scenes,
            progress=lambda done, of: bar.update(done * 1000 // of - bar.pos),
        )
    click.echo(
        f"{summary.items} items in {summary.photos} photos ({summary.shop_csv}),"
        f" {summary.scenes} scenes with {summary.annotations} garments ({summary.street_json})",
        err=True,
    )
