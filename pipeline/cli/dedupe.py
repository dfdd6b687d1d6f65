"""``outfinder dedupe``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from pipeline.catalogue import open_set
from pipeline.cli.common import (
    EXISTING,
    FILE_OUT,
    SOME_FAILED,
    config_options,
    friendly,
    overwrite_option,
    print_problems,
    set_options,
)
from pipeline.config import Config, build_embedder
from pipeline.outputs import check_file
from stages.problems import plural


@click.command()
@set_options
@click.option("--against", multiple=True, type=EXISTING,
              help="Only duplicates between DATA and these photos; may be repeated.")  # fmt: skip
@click.option("--bits", default=4, show_default=True, type=click.IntRange(0, 63),
              help="How many of 64 bits of two perceptual hashes may differ.")  # fmt: skip
@click.option("--similarity", default=0.98, show_default=True, type=click.FloatRange(-1, 1),
              help="The least similarity of duplicates by the embedder.")  # fmt: skip
@click.option("--hash-only", is_flag=True, help="Do not compare by the embedder.")
@click.option("--within-items", is_flag=True, help="Report duplicates of one item too.")
@config_options("embedder")
@click.option("-o", "--output", type=FILE_OUT, help="Write the photos as a CSV catalogue, duplicates merged.")
@overwrite_option
@friendly
def dedupe(
    data: tuple[Path, ...],
    item_pattern: str,
    against: tuple[Path, ...],
    settings: dict[str, Any],
    bits: int,
    similarity: float,
    hash_only: bool,
    within_items: bool,
    output: Path | None,
    overwrite: bool,
) -> None:
    """Find pictures of DATA that are listed under two items, by perceptual hash and by the embedder.

    Such items would fall on both sides of a split, or be called different though they are the same. Prints a JSON line
    per group: the photos, their items, and how they were found. -o writes a catalogue with all columns of DATA in which
    such items are one, named as the first, and have the picture they share once, so that no near-duplicate crosses a
    split by item. With --against, each group has photos of both sets, and the catalogue is DATA without them. DATA is
    as for `evaluate embedder`.

    \b
    Examples:
      outfinder dedupe shop/ -o clean.csv
      outfinder dedupe train/ --against test/ -o train.csv
      outfinder dedupe shop.csv --hash-only
    """  # noqa: D301
    from pipeline.dedupe import catalogue_rows, find_duplicates, group_record, without, write_catalogue

    if output:
        check_file(output, overwrite=overwrite)
    photos = open_set(data, item_pattern)
    others = open_set(against, item_pattern) if against else None
    embedder = None if hash_only else build_embedder(Config(**settings))
    found = find_duplicates(photos, others, embedder, bits=bits, similarity=similarity, within_items=within_items)
    print_problems(found.photos)
    for group in found.groups:
        click.echo(json.dumps(group_record(found, group)))
    crossing = sum(len(found.items_of(group)) > 1 for group in found.groups)
    click.echo(
        f"{plural(len(found.groups), 'group')} of near-duplicates in {plural(len(found.photos.samples), 'photo')},"
        f" {crossing} of them across items",
        err=True,
    )
    if output:
        write_catalogue(without(found), output, catalogue_rows(data, item_pattern))
        click.echo(f"catalogue: {output}", err=True)
    sys.exit(SOME_FAILED if found.photos.problems else 0)
