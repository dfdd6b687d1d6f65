"""``outfinder index``."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import click

from pipeline.cli.common import ANYWHERE, FOLDER, Progress, chosen, friendly, printable, stage_options


def _pattern(_ctx: click.Context, _parameter: click.Parameter, value: str | None) -> re.Pattern[str] | None:
    try:
        return None if value is None else re.compile(value)
    except re.error as error:
        raise click.BadParameter(f"not a regular expression: {error}") from error


@click.command()
@click.argument("folder", metavar="GALLERY", type=FOLDER)
@click.argument("sources", metavar="SOURCE...", nargs=-1, required=True, type=ANYWHERE)
@click.option(
    "--item-pattern", metavar="REGEX", callback=_pattern, help="Finds the item id in a file name (its group 1)."
)
@click.option("--as-is", is_flag=True, help="Take every photo whole, without looking for a garment in it.")
@stage_options("detector", "crop", "embedder", "index")
@click.option("--device", default="cpu", show_default=True, help="Where to compute, as torch names it.")
@friendly
def index(
    folder: Path,
    sources: tuple[Path, ...],
    item_pattern: re.Pattern[str] | None,
    as_is: bool,
    detector: str | None,
    detector_weights: Path | None,
    min_score: float | None,
    crop: str | None,
    embedder: str | None,
    embedder_weights: Path | None,
    index: str | None,
    device: str,
) -> None:
    """Add a catalogue to GALLERY, making it if absent.

    A SOURCE is a CSV with columns item_id and image (further columns are kept: category, price, url), a photo,
    or a folder of them, whose item ids are --item-pattern's, else the sub-folder's, else the file's stem. What
    a photo chiefly shows is cut out of it; where no garment is found the photo is taken whole. Photos that are
    there and have not changed cost nothing.

    \b
    Examples:
      outfinder index shop catalogue.csv
      outfinder index shop product-photos/ --item-pattern '^([^_]+)_'
      outfinder index shop packshots/ --as-is
    """  # noqa: D301
    from pipeline.catalogue import read_catalogue
    from pipeline.indexing import Indexing, Tally
    from pipeline.opening import open_or_create
    from pipeline.storage import writing

    for source in sources:
        if not source.exists():
            raise ValueError(f"there is no {printable(str(source))} to index")
    given = chosen(detector=detector, detector_weights=detector_weights, min_score=min_score, crop=crop,
                   embedder=embedder, embedder_weights=embedder_weights, index=index) | {"device": device}  # fmt: skip
    if as_is:
        given["detector"] = "whole"
    with writing(folder):
        gallery, pipeline, config = open_or_create(folder, given)
        if index and index != gallery.manifest.index:
            raise ValueError(
                f"gallery {folder} has the index {gallery.manifest.index!r}; make another gallery for {index!r}"
            )
        progress = Progress("indexed")
        told = 0

        def tell(tally: Tally) -> None:
            nonlocal told
            for path, reason in tally.failed[told:]:
                progress.count(reason, str(path))
            told = len(tally.failed)
            while progress.done < tally.seen:
                progress.count()

        tally = Indexing(gallery, pipeline, config.detector, tell)(read_catalogue(sources, item_pattern))
        tell(tally)
    progress.finish()
    click.echo(
        f"gallery {folder}: {len(gallery.items)} items in {len(gallery)} photos ({tally.added} added,"
        f" {tally.replaced} replaced, {tally.redescribed} redescribed, {tally.unchanged} unchanged, {len(tally.failed)} failed)",
        err=True,
    )
    sys.exit(progress.status())
