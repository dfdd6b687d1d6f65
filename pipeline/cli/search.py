"""``outfinder search``."""

from __future__ import annotations

import sys
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pipeline.cli.common import (
    ANYWHERE,
    FILE_OUT,
    FOLDER,
    calibration_option,
    chosen,
    device_option,
    friendly,
    given_options,
    goes_on,
    isolate_option,
    pace_options,
    resume_option,
    stage_options,
)
from pipeline.cli.progress import Progress

if TYPE_CHECKING:
    from pipeline.search import PhotoResult
    from stages.embed.calibration import Calibration


@click.command()
@click.argument("folder", metavar="GALLERY", type=FOLDER)
@click.argument("photos", metavar="PHOTO...", nargs=-1, required=True, type=ANYWHERE)
@click.option("-k", default=5, show_default=True, type=click.IntRange(1), help="Items per garment.")
@click.option("--same-label", is_flag=True, help="Only items of the garment's own group.")
@click.option("--where", metavar="FILTER", help="Only items that fulfil it, by label or any column of the catalogue.")
@click.option("--min-similarity", type=click.FloatRange(-1, 1), default=-1.0, help="Leave out matches below it.")
@click.option("--as-is", is_flag=True, help="Search by whole photos, without looking for garments in them.")
@stage_options("detector", "crop", "embedder", "index")
@calibration_option
@device_option
@click.option("-o", "--output", type=FILE_OUT, help="Write .jsonl or .csv instead of standard output.")
@click.option("--report", type=FOLDER, help="Write an HTML page with pictures into this folder.")
@resume_option
@pace_options
@isolate_option
@friendly
def search(
    folder: Path,
    photos: tuple[Path, ...],
    k: int,
    same_label: bool,
    where: str | None,
    min_similarity: float,
    as_is: bool,
    detector: str | None,
    detector_weights: Path | None,
    min_score: float | None,
    crop: str | None,
    embedder: str | None,
    embedder_weights: Path | None,
    index: str | None,
    calibration_file: Path | None,
    device: str,
    output: Path | None,
    report: Path | None,
    resume: bool,
    batch_size: int,
    workers: int | None,
) -> None:
    """Find items of GALLERY similar to every garment in every PHOTO (files or folders).

    The embedder and the crop are the gallery's own unless given, and others are refused. A FILTER compares
    columns: = != < <= > >= in (...) contains like, combined by and, or, not and parentheses. With a calibration
    each match has a verdict: same item, not sure, or different.

    \b
    Examples:
      outfinder search shop street.jpg
      outfinder search shop photos/ -k 10 --same-label -o found.csv
      outfinder search shop photos/ --where "category = boots and price < 200"
      outfinder search shop photos/ --report report
      outfinder search shop photos/ -o found.jsonl --resume
      outfinder search shop photos/ --calibration shop.calibration.json
    """  # noqa: D301
    from pipeline.report import Report
    from pipeline.search import open_for_search, search_batch
    from pipeline.verdicts import calibration_for
    from pipeline.writers import open_or_reopen
    from stages.images import walk

    if resume and report:
        raise click.UsageError("--resume cannot go on with a --report, which is made as a whole: leave one out.")
    given = chosen(detector="whole" if as_is else detector, detector_weights=detector_weights, min_score=min_score,
                   crop=crop, embedder=embedder, embedder_weights=embedder_weights, index=index,
                   device=device, batch_size=batch_size, workers=workers)  # fmt: skip
    gallery, pipeline, config = open_for_search(folder, given)
    made_by = gallery.manifest.embedder
    calibration = calibration_for(made_by, calibration_file, config.embedder_weights, config.embedder)
    if where is not None:
        gallery.count(where)  # a wrong one is told before anything is written
    with ExitStack() as stack:
        writer, written = open_or_reopen(output, resume=resume)
        stack.enter_context(writer)
        total = written.count + sum(1 for _ in written.left(walk(photos)))
        progress = Progress("searched", total, done=written.count, failed=written.failed)
        stack.enter_context(progress.interruptible(goes_on(output)))
        settings = {"gallery": f"{len(gallery.items)} items in {len(gallery)} photos", "detector": config.detector,
                    "crop": gallery.manifest.crop, "embedder": gallery.manifest.embedder, **given_options()}  # fmt: skip
        page = stack.enter_context(Report(report, settings=settings)) if report else None
        batches = stack.enter_context(closing(pipeline.batches(written.left(walk(photos)))))
        for batch in batches:
            results = search_batch(gallery, batch, k, same_label=same_label, where=where, min_similarity=min_similarity)
            for analysis, found in zip(batch, results, strict=True):
                result = judged(found, calibration) if calibration else found
                writer.write(result)
                if page:
                    page.add(result, analysis.photo.image if analysis.photo else None)
                progress.count(analysis.error, str(analysis.path))
    progress.finish()
    if report:
        click.echo(f"report: {report / 'index.html'}", err=True)
    sys.exit(progress.status())


def judged(result: PhotoResult, calibration: Calibration) -> PhotoResult:
    """The result with a verdict on each match."""
    from pipeline.verdicts import with_verdicts

    garments = (
        replace(garment, matches=tuple(with_verdicts(calibration, garment.label, garment.matches or ())))
        for garment in result.garments
    )
    return replace(result, garments=tuple(garments))
