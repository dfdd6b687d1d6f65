"""``outfinder index``."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pipeline.cli.common import (
    ANYWHERE,
    FOLDER,
    chosen,
    device_option,
    friendly,
    isolate_option,
    pace_options,
    printable,
    stage_options,
)
from pipeline.cli.progress import Progress

if TYPE_CHECKING:
    from pipeline.pipeline import Analysis


def _pattern(_ctx: click.Context, _parameter: click.Parameter, value: str | None) -> re.Pattern[str] | None:
    try:
        return None if value is None else re.compile(value)
    except re.error as error:
        raise click.BadParameter(f"not a regular expression: {error}") from error


@click.command()
@click.argument("folder", metavar="GALLERY", type=FOLDER)
@click.argument("sources", metavar="SOURCE...", nargs=-1, type=ANYWHERE)
@click.option(
    "--item-pattern", metavar="REGEX", callback=_pattern, help="Finds the item id in a file name (its group 1)."
)
@click.option("--as-is", is_flag=True, help="Take every photo whole, without looking for a garment in it.")
@click.option("--resume", is_flag=True, help="Go on with the run that was cut short: same sources, same options.")
@stage_options("detector", "crop", "embedder", "index")
@click.option(
    "--vectors",
    type=click.Choice(["float32", "float16", "int8"]),
    help="How vectors are kept: 4, 2 or 1 bytes for each number.  [default: float32]",
)
@device_option
@click.option(
    "--engine",
    type=click.Choice(["local", "ray"]),
    default="local",
    show_default=True,
    help="Where photos are looked at: in this process, or by workers of a Ray cluster.",
)
@click.option("--ray-address", metavar="ADDRESS", help="The Ray cluster.  [default: one of this machine's cores]")
@pace_options
@isolate_option
@friendly
def index(
    folder: Path,
    sources: tuple[Path, ...],
    item_pattern: re.Pattern[str] | None,
    as_is: bool,
    resume: bool,
    detector: str | None,
    detector_weights: Path | None,
    min_score: float | None,
    crop: str | None,
    embedder: str | None,
    embedder_weights: Path | None,
    index: str | None,
    vectors: str | None,
    device: str,
    engine: str,
    ray_address: str | None,
    batch_size: int,
    workers: int | None,
) -> None:
    """Add a catalogue to GALLERY, making it if absent.

    A SOURCE is a CSV with columns item_id and image (further columns are kept: category, price, url), a photo,
    or a folder of them, whose item ids are --item-pattern's, else the sub-folder's, else the file's stem. What
    a photo chiefly shows is cut out of it; where no garment is found the photo is taken whole. Photos that are
    there and have not changed cost nothing, so a run that was cut short loses no more than its last minute:
    give the same command again, or --resume.

    With --engine ray the workers of a cluster look at the photos, each with its own models and on its own GPU if
    there is one; photos and weights lie where all of them find them under the same path. The gallery is written
    here alone. A worker that dies is replaced, and what it had is done again.

    \b
    Examples:
      outfinder index shop catalogue.csv
      outfinder index shop product-photos/ --item-pattern '^([^_]+)_'
      outfinder index shop packshots/ --as-is
      outfinder index shop --resume
      outfinder index shop catalogue.csv --engine ray --ray-address auto
    """  # noqa: D301
    from pipeline.catalogue import Indexing, Run, Tally, finish, note, read_catalogue, unfinished
    from pipeline.gallery import writing
    from pipeline.ray import ClusterPipeline
    from pipeline.search import open_or_create

    given = chosen(detector=detector, detector_weights=detector_weights, min_score=min_score, crop=crop,
                   embedder=embedder, embedder_weights=embedder_weights, index=index)  # fmt: skip
    if as_is:
        given["detector"] = "whole"
    if ray_address and engine != "ray":
        raise click.UsageError("--ray-address goes with --engine ray.")
    if resume and (sources or given or item_pattern):
        raise ValueError("--resume goes on with the sources and options of the run that was cut short: give no others")
    run = unfinished(folder) if resume else Run(sources, item_pattern and item_pattern.pattern, given)
    if not run.sources:
        raise click.UsageError("Missing argument 'SOURCE...'.")
    for source in run.sources:
        if not source.exists():
            raise ValueError(f"there is no {printable(str(source))} to index")
    pace = chosen(device=device, batch_size=batch_size, workers=workers)
    with writing(folder):
        gallery, pipeline, config = open_or_create(folder, run.given | pace, vectors)
        note(folder, run)
        progress = Progress("indexed", sum(1 for _ in read_catalogue(run.sources, run.pattern)))
        told = 0

        def tell(tally: Tally) -> None:
            nonlocal told
            for path, reason in tally.failed[told:]:
                progress.count(reason, str(path))
            told = len(tally.failed)
            while progress.done < tally.seen:
                progress.count()

        looking: Callable[[Iterable[Path]], Iterator[Analysis]] = (
            ClusterPipeline(config, ray_address) if engine == "ray" else pipeline
        )
        with progress.interruptible(f"they are in {folder}; the same command again, or --resume, goes on"):
            tally = Indexing(gallery, looking, config.detector, tell)(read_catalogue(run.sources, run.pattern))
        tell(tally)
        finish(folder)
    progress.finish()
    click.echo(
        f"gallery {folder}: {len(gallery.items)} items in {len(gallery)} photos ({tally.added} added,"
        f" {tally.replaced} replaced, {tally.redescribed} redescribed, {tally.unchanged} unchanged, {len(tally.failed)} failed)",
        err=True,
    )
    sys.exit(progress.status())
