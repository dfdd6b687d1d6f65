"""``outfinder index``."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pipeline.cli.common import ANYWHERE_OR_LIST, FOLDER, PACE, config_options, friendly, listed, printable
from pipeline.cli.progress import Progress
from stages.types import WHOLE

if TYPE_CHECKING:
    from pipeline.catalogue import CatalogueEntry, Tally
    from pipeline.pipeline import Analysis


def _pattern(_ctx: click.Context, _parameter: click.Parameter, value: str | None) -> re.Pattern[str] | None:
    try:
        return None if value is None else re.compile(value)
    except re.error as error:
        raise click.BadParameter(f"not a regular expression: {error}") from error


@click.command()
@click.argument("folder", metavar="GALLERY", type=FOLDER)
@click.argument("sources", metavar="SOURCE...", nargs=-1, required=True, type=ANYWHERE_OR_LIST, callback=listed)
@click.option("--item-pattern", metavar="REGEX", callback=_pattern,
              help="Finds the item id in a file name (its group 1).")  # fmt: skip
@click.option("--kind-column", metavar="NAME",
              help="The column that says what kind of garment an item is.  [default: kind, label, category, type ...]")  # fmt: skip
@click.option("--as-is", is_flag=True, help="Take every photo whole, without looking for a garment in it.")
@click.option("--prune", is_flag=True, help="Remove photos from the gallery that are not in the SOURCEs.")
@config_options("detector", "crop", "embedder", "index", "pace")
@click.option("--vectors", type=click.Choice(["float32", "float16", "int8"]),
              help="How vectors are stored: in 4, 2 or 1 bytes per number.  [default: float32]")  # fmt: skip
@click.option("--engine", type=click.Choice(["local", "ray"]), default="local", show_default=True,
              help="Where photos are analysed: in this process, or by workers of a Ray cluster.")  # fmt: skip
@click.option("--ray-address", metavar="ADDRESS", help="The Ray cluster.  [default: one of this machine's cores]")
@friendly
def index(
    folder: Path,
    sources: tuple[Path, ...],
    settings: dict[str, Any],
    item_pattern: re.Pattern[str] | None,
    kind_column: str | None,
    as_is: bool,
    prune: bool,
    vectors: str | None,
    engine: str,
    ray_address: str | None,
) -> None:
    """Add a catalogue to GALLERY, creating it if absent.

    A SOURCE is a CSV with columns item_id and image (further columns are kept: category, price, url), a photo, or a
    folder of photos, whose item ids are --item-pattern's, else the sub-folder's, else the file's stem. Each photo's main
    garment is cut out of it; a photo without one is taken whole. Photos in the gallery that have not changed cost
    nothing, so an interrupted run loses no more than its last minute: give the same command again.

    With --engine ray the workers of a cluster analyse the photos, each with its own models and on its own GPU if there
    is one; photos and weights must lie under the same paths for all of them. The gallery is written by this process
    alone. A worker that dies is replaced, and its photos are analysed again.

    \b
    Examples:
      outfinder index shop catalogue.csv
      outfinder index shop product-photos/ --item-pattern '^([^_]+)_'
      outfinder index shop packshots/ --as-is
      outfinder index shop catalogue.csv --prune
      outfinder index shop catalogue.csv --engine ray --ray-address auto
    """  # noqa: D301
    from pipeline.catalogue import Indexing, read_catalogue
    from pipeline.gallery import writing
    from pipeline.ray import ClusterPipeline
    from pipeline.search import open_or_create
    from stages.embed.attributes import attribute_part

    given = {name: value for name, value in settings.items() if name not in PACE}
    if as_is:
        given["detector"] = "whole"
    if ray_address and engine != "ray":
        raise click.UsageError("--ray-address goes with --engine ray.")
    for source in sources:
        if not source.exists():
            raise ValueError(f"there is no {printable(str(source))} to index")
    total = _count_photos(
        read_catalogue(sources, item_pattern, lambda note: click.echo(printable(note), err=True)), kind_column
    )
    with _removed_if_empty(folder), writing(folder):
        gallery, pipeline, config = open_or_create(folder, settings | given, vectors)
        progress = Progress("indexed", total)
        report = _reporter(progress)
        analyse: Callable[[Iterable[Path]], Iterator[Analysis]] = (
            ClusterPipeline(config, ray_address) if engine == "ray" else pipeline
        )
        with progress.interruptible(f"they are in {folder}; the same command continues"):
            indexing = Indexing(gallery, analyse, config.detector, report, prune=prune,
                                kinds=attribute_part(pipeline.embedder), kind_column=kind_column)  # fmt: skip
            tally = indexing(read_catalogue(sources, item_pattern, lambda _: None))
        report(tally)
    progress.finish()
    click.echo(
        f"gallery {folder}: {gallery.item_count} items in {len(gallery)} photos ({tally.added} added,"
        f" {tally.replaced} replaced, {tally.redescribed} redescribed, {tally.unchanged} unchanged,"
        f" {len(tally.failed)} failed); {_labels(gallery.labels)}",
        err=True,
    )
    _echo_absent(tally, prune=prune)
    for note in gallery.notes():
        click.echo(printable(note), err=True)
    sys.exit(progress.status())


def _count_photos(catalogue: Iterable[CatalogueEntry], kind_column: str | None) -> int:
    """Count the catalogue's photos.

    Raises:
        ValueError: the column of kinds does not exist.
    """
    from pipeline.config import suggestion

    count, columns = 0, dict[str, None]()
    for photo in catalogue:
        count += 1
        columns.update(dict.fromkeys(name for name, _ in photo.metadata))
    if kind_column and _plain(kind_column) not in map(_plain, columns):
        known, meant = ", ".join(columns) or "no further columns", suggestion(kind_column, columns)
        raise ValueError(f"no item has a value in a column {kind_column!r}{meant}; there are {known}")
    return count


def _plain(column: str) -> str:
    return column.casefold().replace(" ", "_")


def _reporter(progress: Progress) -> Callable[[Tally], None]:
    reported = 0

    def report(tally: Tally) -> None:
        nonlocal reported
        for path, reason in tally.failed[reported:]:
            progress.count(reason, str(path))
        reported = len(tally.failed)
        while progress.done < tally.seen:
            progress.count()

    return report


def _labels(counts: Mapping[str, int]) -> str:
    """Return how many photos have each label, the most frequent first."""
    ranked = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
    return "kinds: " + ", ".join(
        f"{'unknown' if label == WHOLE else printable(label)} {count}" for label, count in ranked
    )


def _echo_absent(tally: Tally, *, prune: bool) -> None:
    from stages.problems import plural

    if tally.pruned:
        click.echo(f"removed because no longer in the catalogue: {plural(tally.pruned, 'photo')}", err=True)
    if tally.absent:
        kept = "none was removed, because the catalogue has no photos, or a line or folder of it could not be read"
        hint = kept if prune else "--prune removes what is not in it"
        click.echo(f"no longer in the catalogue: {plural(tally.absent, 'photo')}; {hint}", err=True)


@contextmanager
def _removed_if_empty(folder: Path) -> Iterator[None]:
    """Remove a gallery that a run has created but added nothing to, so that the next try may choose other options."""
    from pipeline.gallery import Gallery, is_gallery

    existed = folder.exists()
    before = set(folder.iterdir()) if existed else set()
    gallery_existed = is_gallery(folder)
    try:
        yield
    finally:
        with suppress(Exception):
            if not gallery_existed and (not is_gallery(folder) or not len(Gallery.open(folder))):
                for path in set(folder.iterdir()) - before:
                    path.unlink()
                if not existed:
                    folder.rmdir()
