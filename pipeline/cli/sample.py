"""``outfinder sample``."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.cli.common import FOLDER, friendly, overwrite_option
from pipeline.demo import copy_demo


@click.command()
@click.argument("folder", metavar="DIR", type=FOLDER)
@overwrite_option
@friendly
def sample(folder: Path, overwrite: bool) -> None:
    """Copy a small rendered shop and street scenes into DIR.

    shop.csv and shop/ hold 40 items in two views each, street/ twelve scenes, street.json who wears what (COCO
    instances with item ids), clutter/ the same scenes in front of plainer and more crowded backgrounds. --overwrite
    replaces these files; others in DIR stay.

    \b
    Example:
      outfinder sample demo
      outfinder index demo/gallery demo/shop.csv
      outfinder search demo/gallery demo/street --report demo/report
    """  # noqa: D301
    copy_demo(folder, overwrite=overwrite)
    click.echo(f"40 items in 80 photos ({folder / 'shop.csv'}), 12 street scenes ({folder / 'street'})", err=True)
