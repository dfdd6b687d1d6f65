"""``outfinder import``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from pipeline.cli.common import FILE_IN, FOLDER, SOME_FAILED, config_options, friendly, printable


@click.group("import")
def import_() -> None:
    """Make a gallery of vectors that another program made, or another outfinder.

    \b
    Examples:
      outfinder import vectors shop shop.parquet
      outfinder import vectors shop clip.npz --embedder-name clip-vit-b-32
    """  # noqa: D301


@import_.command()
@click.argument("folder", metavar="GALLERY", type=FOLDER)
@click.argument("file", metavar="FILE", type=FILE_IN)
@click.option("--embedder-name", metavar="NAME", help="What made the vectors, if outfinder does not have it.")
@config_options("detector", "crop", "embedder", "index")
@click.option("--vectors", "storage", type=click.Choice(["float32", "float16", "int8"]),
              help="How vectors are stored: in 4, 2 or 1 bytes per number.  [default: float32]")  # fmt: skip
@friendly
def vectors(folder: Path, file: Path, embedder_name: str | None, settings: dict[str, Any], storage: str | None) -> None:
    """Add the vectors of FILE, an .npz or .parquet, to GALLERY, creating it if absent.

    FILE has columns item_id, photo (or image: a path relative to FILE) and vectors (in Parquet: vector), and if wanted
    label and box; all others are metadata. What `outfinder export vectors` wrote needs no option. Else --embedder names the
    embedder of outfinder that made the vectors, so that photos can be searched; or --embedder-name what else made them,
    and the gallery can be searched by item and by such vectors. Rows that cannot be used are left out and reported.
    """
    from pipeline.cli.index import removed_if_empty
    from pipeline.gallery import writing
    from pipeline.vector_tables import import_vectors, read_vectors

    if embedder_name is not None and "embedder" in settings:
        raise click.UsageError("Give --embedder or --embedder-name, not both.")
    if embedder_name is not None and not embedder_name.strip():
        raise click.UsageError("--embedder-name is empty.")
    table = read_vectors(file)
    for line in (*table.problems, *table.notes):
        click.echo(printable(line), err=True)
    with removed_if_empty(folder), writing(folder):
        gallery = import_vectors(folder, table, settings, embedder_name or "", storage)
    click.echo(
        f"gallery {folder}: {len(table.rows)} vectors of {gallery.manifest.dim} numbers imported;"
        f" {gallery.item_count} items in {len(gallery)} photos, made by {printable(gallery.manifest.embedder)}",
        err=True,
    )
    for note in gallery.notes():
        click.echo(printable(note), err=True)
    sys.exit(SOME_FAILED if table.problems else 0)
