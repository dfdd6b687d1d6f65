"""``outfinder index``."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import Any

import click

from pipeline.catalogue import CatalogueEntry, Indexing, Tally, fetched, read_catalogue
from pipeline.cli.common import FOLDER, PACE, Terminated, config_options, friendly, photos_argument, printable
from pipeline.cli.progress import Progress
from pipeline.config import suggestion
from pipeline.gallery import Gallery, is_gallery, writing
from pipeline.gallery.filters import ATTRIBUTE
from pipeline.pipeline import Analysis, Pipeline
from pipeline.ray import ClusterPipeline
from pipeline.remote import Fetcher, reduce_cache
from pipeline.watch import Follower, Watch
from stages.embed.attributes import attribute_part
from stages.problems import plural
from stages.types import WHOLE


def _read_columns(_ctx: click.Context, _parameter: click.Parameter, texts: tuple[str, ...]) -> dict[str, str]:
    """Return columns by our names; a comma separates two where a name and ``=`` follow it."""
    pairs = [pair.partition("=") for text in texts for pair in re.split(r",\s*(?=\w+\s*=)", text)]
    if bad := next(
        (ours + sign + theirs for ours, sign, theirs in pairs if not (ours.strip() and theirs.strip())), None
    ):
        raise click.BadParameter(f"{bad!r} is not OURS=THEIRS, such as item_id=sku")
    return {ours.strip(): theirs.strip() for ours, _, theirs in pairs}


@click.command()
@click.argument("folder", metavar="GALLERY", type=FOLDER)
@photos_argument("sources", "SOURCE...")
@click.option("--item-pattern", metavar="REGEX", default="", help="Finds the item id in a file name (its group 1).")
@click.option("--kind-column", metavar="NAME",
              help="The column that says what kind of garment an item is.  [default: kind, label, category, type ...]")  # fmt: skip
@click.option("--columns", metavar="OURS=THEIRS,...", multiple=True, callback=_read_columns,
              help="A table's columns where they are named otherwise: item_id=sku,image=photo_url.")  # fmt: skip
@click.option("--as-is", is_flag=True, help="Take every photo whole, without looking for a garment in it.")
@click.option("--prune", is_flag=True, help="Remove photos from the gallery that are not in the SOURCEs.")
@click.option("--watch", is_flag=True, help="Then wait for changes of the SOURCEs, and index them.")
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
    item_pattern: str,
    kind_column: str | None,
    columns: dict[str, str],
    as_is: bool,
    prune: bool,
    watch: bool,
    vectors: str | None,
    engine: str,
    ray_address: str | None,
) -> None:
    """Add a catalogue to GALLERY, creating it if absent.

    A SOURCE is a table with columns item_id and image (further columns are kept: category, price, url), a product export
    of Shopify or Google Merchant Center, a photo, or a folder of photos, whose item ids are --item-pattern's, else the
    sub-folder's, else the file's stem. Tables are CSV, TSV, JSON lines, Parquet, Excel or XML; images are files or
    addresses (https, s3, gs). Each photo's main garment is cut out of it; a photo without one is taken whole. Photos in
    the gallery that have not changed cost nothing, so an interrupted run loses no more than its last minute: give the
    same command again.

    With --watch the command then waits for changes until Ctrl-C. It indexes a new or changed photo or table once its file
    has stayed the same for a moment, and reports each in a line. Other commands can write the gallery in between.

    With --engine ray the workers of a cluster analyse the photos, each with its own models and on its own GPU if there
    is one; photos and weights must lie under the same paths for all of them. The gallery is written by this process
    alone. A worker that dies is replaced, and its photos are analysed again.

    \b
    Examples:
      outfinder index shop catalogue.csv
      outfinder index shop products.xlsx --columns item_id=sku,image=photo_url
      outfinder index shop merchant-feed.xml
      outfinder index shop product-photos/ --item-pattern '^([^_]+)_'
      outfinder index shop packshots/ --as-is
      outfinder index shop catalogue.csv --prune
      outfinder index shop catalogue.csv --watch
      outfinder index shop catalogue.csv --engine ray --ray-address auto
    """  # noqa: D301
    from pipeline.search import open_or_create

    given = {name: value for name, value in settings.items() if name not in PACE}
    if as_is:
        given["detector"] = "whole"
    if ray_address and engine != "ray":
        raise click.UsageError("--ray-address goes with --engine ray.")
    if watch and engine == "ray":
        raise click.UsageError("--watch goes with --engine local.")
    for source in sources:
        if not source.exists():
            raise ValueError(f"there is no {printable(str(source))} to index")
    catalogue = read_catalogue(sources, item_pattern, lambda note: click.echo(printable(note), err=True), columns)
    progress = Progress("indexed", _count_photos(catalogue, kind_column))
    watched = (
        Watch(sources, lambda source: read_catalogue([source], item_pattern, lambda _: None, columns))
        if watch
        else None
    )
    with nullcontext() if watch else removed_if_empty(folder), writing(folder):
        gallery, pipeline, config = open_or_create(folder, settings | given, vectors)
        analyse: Callable[[Iterable[Path]], Iterator[Analysis]] = (
            ClusterPipeline(config, ray_address) if engine == "ray" else pipeline
        )
        with progress.interruptible(f"they are in {folder}; the same command continues"):
            make_indexing = partial(Indexing, pipeline=analyse, detector=config.detector,
                                    kinds=attribute_part(pipeline.embedder), kind_column=kind_column)  # fmt: skip
            indexing = make_indexing(gallery, progress=progress.count, prune=prune)
            with Fetcher() as fetch:
                tally = indexing(fetched(read_catalogue(sources, item_pattern, lambda _: None, columns), fetch))
    progress.finish()
    _print_summary(folder, tally, gallery.labels, f"{gallery.item_count} items in {len(gallery)} photos", prune=prune)
    if fetch.unchecked:
        click.echo(
            f"used as fetched before, because they cannot be reached: {plural(fetch.unchecked, 'photo')}", err=True
        )
    if removed := reduce_cache():
        click.echo(f"removed from the cache of fetched photos, which is full: {plural(removed, 'photo')}", err=True)
    for note in gallery.notes():
        click.echo(printable(note), err=True)
    if watched:
        gallery.close()
        _follow(folder, watched, pipeline, make_indexing, prune=prune)
        return
    sys.exit(progress.status())


def _follow(
    folder: Path, watched: Watch, pipeline: Pipeline, make_indexing: Callable[..., Indexing], *, prune: bool
) -> None:
    """Take up changes until Ctrl-C."""

    def indexing(gallery: Gallery, progress: Callable[[str | None, str], None]) -> Indexing:
        assert pipeline.embedder is not None and pipeline.cropper is not None  # noqa: PT018
        gallery.check_made_with(pipeline.embedder, pipeline.cropper)
        return make_indexing(gallery, progress=progress, prune=None)

    def report(line: str) -> None:
        click.echo(printable(line), err=True)

    report("watching for changes (Ctrl-C stops it)")
    try:
        Follower(folder, indexing, report, prune).follow(watched)
    except Terminated:
        raise
    except KeyboardInterrupt:
        report("stopped; everything reported is saved")


def _count_photos(catalogue: Iterable[CatalogueEntry], kind_column: str | None) -> int:
    """Return the number of photos and unusable lines of a catalogue.

    Raises:
        ValueError: the column of kinds does not exist.
    """
    count, columns, rows, repeated = 0, dict[str, None](), dict[int, int](), list[str]()
    for photo in catalogue:
        count += 1
        columns.update(dict.fromkeys(name for name, _ in photo.metadata))
        about = hash(photo.metadata)
        if not photo.error and rows.setdefault(hash((photo.item, photo.path)), about) != about:
            repeated.append(photo.item)
    if repeated:
        click.echo(f"rows that give a photo of an item other values than before, such as of item {printable(repeated[0])}:"
                   f" {len(repeated)}; the last row counts", err=True)  # fmt: skip
    for name in columns:
        if name.startswith(ATTRIBUTE):
            click.echo(f"the catalogue's column {printable(name)!r} is left out: columns of such names hold what the"
                       " embedder sees; rename it", err=True)  # fmt: skip
    if kind_column and _plain(kind_column) not in map(_plain, columns):
        known, meant = ", ".join(columns) or "no further columns", suggestion(kind_column, columns)
        raise ValueError(f"no item has a value in a column {kind_column!r}{meant}; there are {known}")
    return count


def _plain(column: str) -> str:
    return column.casefold().replace(" ", "_")


def _print_summary(folder: Path, tally: Tally, labels: Mapping[str, int], size: str, *, prune: bool) -> None:
    ranked = sorted(labels.items(), key=lambda pair: (-pair[1], pair[0]))
    kinds = ", ".join(f"{'unknown' if label == WHOLE else printable(label)} {count}" for label, count in ranked)
    click.echo(
        f"gallery {folder}: {size} ({tally.added} added, {tally.replaced} replaced, {tally.redescribed} redescribed,"
        f" {tally.unchanged} unchanged, {len(tally.failed)} failed); kinds: {kinds}",
        err=True,
    )
    if tally.pruned:
        click.echo(f"removed because no longer in the catalogue: {plural(tally.pruned, 'photo')}", err=True)
    if tally.absent:
        kept = "none was removed, because the catalogue has no photos, or a line or folder of it could not be read"
        hint = kept if prune else "--prune removes what is not in it"
        click.echo(f"no longer in the catalogue: {plural(tally.absent, 'photo')}; {hint}", err=True)


@contextmanager
def removed_if_empty(folder: Path) -> Iterator[None]:
    """Remove a gallery that a run has created but added nothing to, so that the next run may choose other options."""
    existed, was_gallery = folder.exists(), is_gallery(folder)
    before = set(folder.iterdir()) if existed else set()
    try:
        yield
    finally:
        with suppress(Exception):
            if not was_gallery and (not is_gallery(folder) or not len(Gallery.open(folder))):
                for path in set(folder.iterdir()) - before:
                    path.unlink()
                if not existed:
                    folder.rmdir()
