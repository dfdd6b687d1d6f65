"""``outfinder gallery``."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path

import click

from pipeline.cli.common import FOLDER, SOME_FAILED, friendly, printable


@click.group()
def gallery() -> None:
    """What a gallery holds; remove items; check its integrity.

    \b
    Examples:
      outfinder gallery info shop
      outfinder gallery remove shop 24-WB04
      outfinder gallery verify shop
    """  # noqa: D301


@gallery.command()
@click.argument("folder", metavar="GALLERY", type=FOLDER)
@friendly
def info(folder: Path) -> None:
    """Print what GALLERY holds and what made it, as a JSON line."""
    from pipeline.gallery import Gallery

    opened = Gallery.open(folder)
    about = opened.manifest
    click.echo(
        json.dumps(
            {
                "gallery": str(folder),
                "items": len(opened.items),
                "photos": len(opened),
                "labels": dict(Counter(row.group for row in opened.rows).most_common()),
                "dim": about.dim,
                "embedder": about.embedder,
                "crop": about.crop,
                "index": about.index,
                "generation": about.generation,
            }
        )
    )


@gallery.command()
@click.argument("folder", metavar="GALLERY", type=FOLDER)
@click.argument("items", metavar="ITEM...", nargs=-1, required=True)
@friendly
def remove(folder: Path, items: tuple[str, ...]) -> None:
    """Remove each ITEM with all its photos from GALLERY; the photo files stay."""
    from pipeline.gallery import Gallery
    from pipeline.storage import read_manifest, writing

    read_manifest(folder)
    with writing(folder):
        opened = Gallery.open(folder)
        gone = opened.remove(items)
        opened.save()
    count = len(set(items))
    click.echo(
        f"removed {count} item{'s' * (count != 1)} in {gone} photos; {len(opened.items)} items are left", err=True
    )


@gallery.command()
@click.argument("folder", metavar="GALLERY", type=FOLDER)
@friendly
def verify(folder: Path) -> None:
    """Check every file of GALLERY against its checksum, and its rows against each other; exit 1 if unsound."""
    from pipeline.gallery import Gallery
    from pipeline.integrity import moved_photos
    from pipeline.integrity import verify as problems_of

    problems = problems_of(folder)
    for problem in problems:
        click.echo(problem)
    moved = [] if problems else moved_photos(Gallery.open(folder))
    if moved:
        click.echo(f"{len(moved)} photos are no longer where they were, such as {printable(moved[0])}", err=True)
    click.echo(f"gallery {folder} is {'unsound' if problems else 'sound'}", err=True)
    sys.exit(SOME_FAILED if problems else 0)
