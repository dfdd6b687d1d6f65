"""``outfinder sample``."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.cli.common import FOLDER, friendly


@click.command()
@click.argument("folder", metavar="DIR", type=FOLDER)
@friendly
def sample(folder: Path) -> None:
    """Copy a small rendered shop and street scenes into DIR, which must be empty or absent.

    shop.csv and shop/ hold 40 items in two views each, street/ twelve scenes, street.json who wears what (COCO
    instances with item ids), clutter/ the same scenes in front of plainer and more crowded backgrounds.

    \b
    Example:
      outfinder sample demo
      outfinder index demo/gallery demo/shop.csv
      outfinder search demo/gallery demo/street --report demo/report
    """  # noqa: D301
    from pipeline.demo import copy_demo

    copy_demo(folder)
    click.echo(f"40 items in 80 photos ({folder / 'shop.csv'}), 12 street scenes ({folder / 'street'})", err=True)
