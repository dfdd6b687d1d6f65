"""``outfinder dedupe``."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from pipeline.cli.common import FILE_OUT, SOME_FAILED, chosen, device_option, friendly, isolate_option, stage_options
from pipeline.cli.sets import EXISTING, open_told, set_options, tell_problems


@click.command()
@set_options
@click.option("--against", multiple=True, type=EXISTING,
              help="Only duplicates between DATA and these photos, in the same layout; may be repeated.")  # fmt: skip
@click.option("--bits", default=4, show_default=True, type=click.IntRange(0, 63),
              help="Of 64 that perceptual hashes may differ in.")  # fmt: skip
@click.option("--similarity", default=0.98, show_default=True, type=click.FloatRange(-1, 1),
              help="From which on photos are duplicates for the embedder.")  # fmt: skip
@click.option("--hash-only", is_flag=True, help="Do not ask the embedder.")
@click.option("--within-items", is_flag=True, help="Tell duplicates of one item too.")
@stage_options("embedder")
@device_option
@click.option("-o", "--output", type=FILE_OUT, help="Write the photos as a CSV catalogue, duplicates merged.")
@isolate_option
@friendly
def dedupe(
    data: tuple[Path, ...],
    layout: str,
    item_pattern: str | None,
    splits: tuple[str, ...],
    against: tuple[Path, ...],
    bits: int,
    similarity: float,
    hash_only: bool,
    within_items: bool,
    embedder: str | None,
    embedder_weights: Path | None,
    device: str,
    output: Path | None,
) -> None:
    """Find photos of DATA that stand under two items: one picture twice, by perceptual hash and by the embedder.

    Such items would be on both sides of a split, or be called different where they are the same. A JSON line for
    each group: the photos, their items, what found them. -o writes a catalogue in which such items are one, by
    the name of the first, and the picture they share is there once; split by item, no near-duplicate crosses it. With
    --against, a group has photos of both sides, and the catalogue is DATA without them. DATA and --layout are as
    for `evaluate embedder`.

    \b
    Examples:
      outfinder dedupe shop/ -o clean.csv
      outfinder dedupe train/ --against test/ -o train.csv
      outfinder dedupe luma/product --layout luma --hash-only
    """  # noqa: D301
    from pipeline.dedupe import clean, find, line_of, write_catalogue
    from stages.problems import plural

    photos = open_told(data, layout, item_pattern, splits)
    others = open_told(against, layout, item_pattern, splits) if against else None
    stage = None
    if not hash_only:
        from pipeline.config import Config, build_embedder

        config = Config(**chosen(embedder=embedder, embedder_weights=embedder_weights), device=device)
        stage = build_embedder(config)
    found = find(photos, others, stage, bits=bits, similarity=similarity, within_items=within_items)
    tell_problems(found.photos)
    for group in found.groups:
        click.echo(json.dumps(line_of(found, group)))
    crossing = sum(len(found.items_of(group)) > 1 for group in found.groups)
    click.echo(
        f"{plural(len(found.groups), 'group')} of near-duplicates in {plural(len(found.photos.samples), 'photo')},"
        f" {crossing} of them across items",
        err=True,
    )
    if output:
        write_catalogue(clean(found), output)
        click.echo(f"catalogue: {output}", err=True)
    sys.exit(SOME_FAILED if found.photos.problems else 0)
