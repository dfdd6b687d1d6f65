"""``outfinder gallery``."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from pipeline.catalogue import changed_photos
from pipeline.cli.common import FOLDER, SOME_FAILED, friendly, printable
from pipeline.config import trust
from pipeline.gallery import Gallery, Row, read_manifest, writing
from pipeline.gallery import verify as verify_gallery
from stages.embed.text import words_for

_folder = click.argument("folder", metavar="GALLERY", type=FOLDER)
_where = click.option("--where", metavar="FILTER", help="Only photos that fulfil it, by label or any column.")


@click.group()
@click.option(
    "--index", metavar="NAME", help="The gallery's index, if it is not built in: package.module:Name or milvus+URI."
)
def gallery(index: str | None) -> None:
    """What a gallery holds; remove items; check, compact and repair it.

    \b
    Examples:
      outfinder gallery info shop
      outfinder gallery list shop --where "category = boots and price < 200"
      outfinder gallery remove shop 24-WB04
      outfinder gallery duplicates shop --similarity 0.97
      outfinder gallery verify shop
    """  # noqa: D301
    if index:
        trust(index)


@gallery.command()
@_folder
@friendly
def info(folder: Path) -> None:
    """Print what GALLERY holds and what made it, as a JSON line."""
    opened = Gallery.open(folder)
    manifest = opened.manifest
    has_words = words_for(manifest.embedder) is not None
    about = {
        "gallery": str(folder),
        "items": opened.item_count,
        "photos": len(opened),
        "labels": opened.labels,
        "columns": opened.columns,
        "dim": manifest.dim,
        "vectors": manifest.storage,
        "embedder": manifest.embedder,
        "reads_text": has_words or manifest.settings.get("embedder", "").startswith("open_clip:"),
        "crop": manifest.crop,
        "index": manifest.index,
        "generation": manifest.generation,
        "removed": opened.removed,
        "bytes": opened.size,
    }
    click.echo(json.dumps(about))


@gallery.command("list")
@_folder
@_where
@friendly
def list_(folder: Path, where: str | None) -> None:
    """Print the photos of GALLERY, a JSON line each."""
    opened = Gallery.open(folder)
    for row in opened.rows if where is None else opened.select(where):
        _echo_row(row)


@gallery.command()
@_folder
@click.argument("item")
@friendly
def show(folder: Path, item: str) -> None:
    """Print the photos of one ITEM, a JSON line each."""
    rows = Gallery.open(folder).of_item(item)
    if not rows:
        raise ValueError(f"gallery {folder} has no item {item}")
    for row in rows:
        _echo_row(row)


@gallery.command()
@_folder
@click.argument("items", metavar="[ITEM]...", nargs=-1)
@click.option("--where", metavar="FILTER", help="Items with a photo that fulfils it.")
@friendly
def remove(folder: Path, items: tuple[str, ...], where: str | None) -> None:
    """Remove each ITEM with all its photos from GALLERY; the photo files stay."""
    if not items and where is None:
        raise click.UsageError("Give an ITEM or --where.")
    with _opened_to_write(folder) as opened:
        removed = {*items, *(row.item for row in (opened.select(where) if where else ()))}
        photos = opened.remove(removed)
        opened.save()
    count = f"{len(removed)} item{'s' * (len(removed) != 1)} in {photos} photos"
    click.echo(f"removed {count}; {opened.item_count} items are left", err=True)


@gallery.command()
@_folder
@click.option("--similarity", default=0.97, show_default=True, type=click.FloatRange(-1, 1), help="At least this.")
@_where
@friendly
def duplicates(folder: Path, similarity: float, where: str | None) -> None:
    """Print groups of near-duplicate photos in GALLERY, a JSON line each, the largest first."""
    for group in Gallery.open(folder).duplicates(similarity, where):
        photos = [{"item": row.item, "photo": row.photo, "similarity": round(near, 4)} for row, near in group]
        click.echo(json.dumps({"photos": photos}))


@gallery.command()
@_folder
@friendly
def compact(folder: Path) -> None:
    """Rewrite the vectors of GALLERY without those that were removed, to free their space."""
    with _opened_to_write(folder) as opened:
        before = opened.size
        opened.compact()
    click.echo(f"gallery {folder}: {before} bytes before, {opened.size} bytes now", err=True)


@gallery.command()
@_folder
@friendly
def rebuild(folder: Path) -> None:
    """Rebuild the index of GALLERY from its vectors, and keep it in the user's cache folder."""
    with _opened_to_write(folder) as opened:
        indexed = opened.rebuild()
    done = "its index is rebuilt" if indexed else "it needs no index: its vectors are searched directly"
    click.echo(f"gallery {folder}: {done}", err=True)


@gallery.command()
@_folder
@click.option("--photos", is_flag=True, help="Check that no photo has changed since it was indexed, too.")
@friendly
def verify(folder: Path, photos: bool) -> None:
    """Check every row and vector of GALLERY against its checksum, and against each other; exit 1 if unsound."""
    problems = verify_gallery(folder)
    for problem in problems:
        click.echo(printable(problem))
    if problems:
        click.echo(f"gallery {folder} is unsound", err=True)
        sys.exit(SOME_FAILED)
    opened = Gallery.open(folder)
    moved = [row.photo for row in opened.rows if not Path(row.photo).exists()]  # their matches have no picture
    if moved:
        click.echo(f"{len(moved)} photos are no longer where they were, such as {printable(moved[0])}", err=True)
    changed = changed_photos(opened) if photos else []
    for photo in changed:
        click.echo(f"{printable(photo)} has changed since it was indexed; index the catalogue again")
    click.echo(f"gallery {folder} is sound: generation {opened.manifest.generation}", err=True)
    sys.exit(SOME_FAILED if changed else 0)


@contextmanager
def _opened_to_write(folder: Path) -> Iterator[Gallery]:
    read_manifest(folder)  # a folder without a gallery is refused before it is locked
    with writing(folder):
        yield Gallery.open(folder)


def _echo_row(row: Row) -> None:
    values = {"item": row.item, "photo": row.photo, "label": row.group, "score": row.score, "box": row.box.corners}
    click.echo(json.dumps(values | {"detector": row.detector, "metadata": dict(row.metadata)}))
