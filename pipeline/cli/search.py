"""``outfinder search``."""

from __future__ import annotations

import sys
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pipeline.cli.common import (
    FOLDER,
    calibration_option,
    config_options,
    friendly,
    given_options,
    photos_argument,
    result_options,
)
from pipeline.cli.progress import Progress, resume_hint
from pipeline.kinds import Words
from pipeline.outputs import Options, clear_folder, mark_folder
from stages.embed.attributes import attribute_part
from stages.embed.calibration import Calibration, add_verdicts, find_calibration
from stages.embed.text import text_embedder
from stages.errors import OutfinderError
from stages.images import walk

if TYPE_CHECKING:
    from pipeline.gallery import Gallery
    from pipeline.search import PhotoResult


@click.command()
@click.argument("folder", metavar="GALLERY", type=FOLDER)
@photos_argument(metavar="[PHOTO]...", required=False)
@click.option("-k", default=5, show_default=True, type=click.IntRange(1), help="Items per garment.")
@click.option("--same-label", is_flag=True, help="Only items with the garment's label.")
@click.option("--any-kind", is_flag=True, help="Rank by looks alone, whatever kind of garment an item is.")
@click.option("--where", metavar="FILTER", help="Only items that pass it, by label or any column of the catalogue.")
@click.option("--min-similarity", type=click.FloatRange(-1, 1), default=-1.0, help="Leave out matches below it.")
@click.option("--item", metavar="ID", help="Search by an item of GALLERY instead of photos.")
@click.option("--text", help="Search by text, alone or beside photos or an item.")
@click.option("--text-weight", type=click.FloatRange(0, 1), default=0.5, show_default=True,
              help="How much the text counts beside a photo or an item.")  # fmt: skip
@click.option("--as-is", is_flag=True, help="Search by whole photos, without looking for garments in them.")
@config_options("detector", "crop", "embedder", "index", "pace")
@calibration_option
@result_options
@click.option("--report", type=FOLDER, help="Write an HTML page with pictures into this folder.")
@friendly
def search(
    folder: Path,
    photos: tuple[Path, ...],
    settings: dict[str, Any],
    k: int,
    same_label: bool,
    any_kind: bool,
    where: str | None,
    min_similarity: float,
    item: str | None,
    text: str | None,
    text_weight: float,
    as_is: bool,
    calibration_file: Path | None,
    output: Path | None,
    delimiter: str,
    resume: bool,
    overwrite: bool,
    report: Path | None,
) -> None:
    """Find items of GALLERY similar to every garment in every PHOTO (files or folders, - for a list on standard input).

    Items of the garment's kind come first. Where GALLERY has none of them, the answer says so instead of showing
    unlike things, unless --any-kind is given. The embedder and the crop are those of the gallery; others are refused.
    A FILTER compares columns: = != < <= > >= in (...) contains like, combined by and, or, not and parentheses.
    --item ID, or --text "navy checked shirt" alone, writes one JSON line; beside photos or an item, --text changes
    which matches come first.
    With a calibration each match has a verdict: same item, not sure, or different.

    \b
    Examples:
      outfinder search shop street.jpg
      outfinder search shop photos/ -k 10 --same-label -o found.csv
      outfinder search shop photos/ --where "category = boots and price < 200"
      outfinder search shop photos/ --report report
      outfinder search shop --text "navy checked shirt"
      outfinder search shop --item 24-WB04
      outfinder search shop street.jpg --text "but in red"
      outfinder search shop photos/ -o found.jsonl --resume
      outfinder search shop photos/ --calibration shop.calibration.json
    """  # noqa: D301
    from pipeline.report import Report
    from pipeline.search import catalogue_columns, open_gallery, search_batch, similar_items
    from pipeline.writers import open_outputs, write_answer

    _check_usage(bool(photos), item, text, report, resume=resume)
    gallery, pipeline, config = open_gallery(folder, settings | ({"detector": "whole"} if as_is else {}))
    _check_searchable(gallery, pipeline.embedder if photos else None)
    words = None if text is None else _read_words(pipeline.embedder, text, text_weight)
    if where is not None and not gallery.count(where):  # a wrong filter is refused before anything is written
        click.echo(f"note: no photo of the gallery passes the filter {where!r}", err=True)
    made_with, kinds = gallery.manifest, attribute_part(pipeline.embedder)
    if not photos:
        query = {name: value for name, value in (("item", item), ("text", text)) if value is not None}
        matches = similar_items(
            gallery, item, words, k, kinds=kinds, any_kind=any_kind, where=where, min_similarity=min_similarity
        )
        write_answer(query, matches, output, overwrite=overwrite)
        return
    calibration = find_calibration(made_with.embedder, calibration_file, config.embedder_weights, config.embedder)
    options = Options(matches=True, metadata=catalogue_columns(gallery), delimiter=delimiter)
    with ExitStack() as stack:
        if report:
            clear_folder(report, overwrite=overwrite)
        outputs = stack.enter_context(open_outputs(output, None, options, resume=resume, overwrite=overwrite))
        total = outputs.done + sum(1 for _ in outputs.remaining(walk(photos)))
        progress = Progress("searched", total, done=outputs.done, failed=outputs.failed)
        stack.enter_context(progress.interruptible(resume_hint(output)))
        shown = {"gallery": f"{gallery.item_count} items in {len(gallery)} photos", "detector": config.detector,
                 "crop": made_with.crop, "embedder": made_with.embedder, **given_options()}  # fmt: skip
        page = stack.enter_context(Report(report, settings=shown)) if report else None
        if report:
            mark_folder(report)
        for batch in stack.enter_context(closing(pipeline.batches(outputs.remaining(walk(photos))))):
            results = search_batch(gallery, batch, k, kinds=kinds, any_kind=any_kind, same_label=same_label,
                                   where=where, min_similarity=min_similarity, words=words)  # fmt: skip
            for analysis, found in zip(batch, results, strict=True):
                result = _with_verdicts(found, calibration) if calibration else found
                outputs.write(result, analysis)
                if page:
                    page.add(result, analysis.photo.image if analysis.photo else None)
                progress.count(analysis.error, str(analysis.path))
    progress.finish()
    if report:
        click.echo(f"report: {report / 'index.html'}", err=True)
    sys.exit(progress.status())


def _check_usage(has_photos: bool, item: str | None, text: str | None, report: Path | None, *, resume: bool) -> None:
    if not has_photos and item is None and text is None:
        raise click.UsageError("Missing argument 'PHOTO...': name a photo, or what to look for by --item or --text.")
    if has_photos and item is not None:
        raise click.UsageError("Search by photos or by --item, not by both.")
    if not has_photos and (report or resume):
        raise click.UsageError("A search without photos has no --report, and nothing to --resume.")
    if resume and report:
        raise click.UsageError("--resume cannot continue a --report, which is written as a whole: leave one out.")


def _check_searchable(gallery: Gallery, embedder: object) -> None:
    """Refuse an empty gallery, and an embedder that cannot embed photos."""
    from pipeline.search import AbsentEmbedder

    if not len(gallery):
        raise ValueError(
            f"gallery {gallery.folder} is empty; add a catalogue with: outfinder index {gallery.folder} CATALOGUE"
        )
    if isinstance(embedder, AbsentEmbedder):
        raise OutfinderError(embedder.reason)


def _read_words(embedder: object, text: str, weight: float) -> Words:
    from pipeline.search import read_words

    vector, notice = read_words(text_embedder(embedder), text)
    if notice:
        click.echo(f"note: {notice}", err=True)
    return Words(vector, weight)


def _with_verdicts(result: PhotoResult, calibration: Calibration) -> PhotoResult:
    garments = (
        replace(garment, matches=tuple(add_verdicts(calibration, garment.label, garment.matches or ())))
        for garment in result.garments
    )
    return replace(result, garments=tuple(garments))
