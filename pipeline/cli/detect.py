"""``outfinder detect``."""

from __future__ import annotations

import re
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pipeline.cli.common import (
    ANYWHERE,
    FILE_OUT,
    FOLDER,
    chosen,
    device_option,
    friendly,
    garments_of,
    goes_on,
    isolate_option,
    pace_options,
    resume_option,
    stage_options,
)
from pipeline.cli.progress import Progress

if TYPE_CHECKING:
    from pipeline.pipeline import Analysis
    from pipeline.search import PhotoResult
    from pipeline.writers import ResultWriter
    from stages.types import Image


@click.command()
@click.argument("photos", metavar="PHOTO...", nargs=-1, required=True, type=ANYWHERE)
@stage_options("detector", "crop")
@device_option
@click.option("-o", "--output", type=FILE_OUT, help="Write .jsonl or .csv instead of standard output.")
@click.option("--masks", is_flag=True, help="Add masks to the JSON lines, as COCO run lengths.")
@click.option("--coco", type=FILE_OUT, help="Write a COCO file that pycocotools loads.")
@click.option("--crops", type=FOLDER, help="Write each garment's crop into this folder.")
@click.option("--overlays", type=FOLDER, help="Write each photo with its garments drawn into this folder.")
@resume_option
@pace_options
@isolate_option
@friendly
def detect(
    photos: tuple[Path, ...],
    detector: str | None,
    detector_weights: Path | None,
    min_score: float | None,
    crop: str | None,
    device: str,
    output: Path | None,
    masks: bool,
    coco: Path | None,
    crops: Path | None,
    overlays: Path | None,
    resume: bool,
    batch_size: int,
    workers: int | None,
) -> None:
    """Find the garments of every PHOTO (files or folders), a JSON line per photo.

    \b
    Examples:
      outfinder detect photos/
      outfinder detect photos/ --detector fasterrcnn_mobilenet_v2 -o found.csv
      outfinder detect photos/ --masks --coco found.json --crops crops --overlays drawn
      outfinder detect photos/ -o found.jsonl --resume
    """  # noqa: D301
    from pipeline.config import Config, build_cropper, build_detector
    from pipeline.pipeline import Pipeline
    from pipeline.writers import CocoWriter, open_or_reopen
    from stages.images import walk

    if resume and coco:
        raise click.UsageError("--resume cannot go on with a --coco file, which is written as a whole: leave one out.")
    given = chosen(detector=detector, detector_weights=detector_weights, min_score=min_score, crop=crop)
    config = Config(**given, device=device)
    cropper = build_cropper(config) if crops else None
    pipeline = Pipeline(build_detector(config), cropper, batch_size=batch_size, workers=workers)
    with ExitStack() as stack:
        writer, written = open_or_reopen(output, masks=masks, resume=resume)
        writers: list[ResultWriter] = [stack.enter_context(writer)]
        total = written.count + sum(1 for _ in written.left(walk(photos)))
        progress = Progress("detected garments in", total, done=written.count, failed=written.failed)
        stack.enter_context(progress.interruptible(goes_on(output)))
        if coco:
            writers.append(stack.enter_context(CocoWriter(coco, pipeline.detector.labels)))
        for analysis in pipeline(written.left(walk(photos))):
            result = _result(analysis)
            if crops:
                _write_crops(crops, progress.done + 1, analysis)
            if overlays:
                _write_overlay(overlays, progress.done + 1, analysis, result)
            for writer in writers:  # last: a photo that has its line is finished
                writer.write(result)
            progress.count(analysis.error, str(analysis.path))
    progress.finish()
    sys.exit(progress.status())


def _result(analysis: Analysis) -> PhotoResult:
    from pipeline.search import PhotoResult

    if analysis.photo is None:
        return PhotoResult(str(analysis.path), error=analysis.error)
    return PhotoResult(str(analysis.path), analysis.photo.width, analysis.photo.height, garments_of(analysis))


def _write_crops(folder: Path, number: int, analysis: Analysis) -> None:
    """Names start with the photo's number in the run: equal names from different folders don't collide."""
    for place, (found, crop) in enumerate(zip(analysis.detections, analysis.crops, strict=True), 1):
        label = re.sub(r"\W+", "-", found.label)
        _write_picture(folder, f"{_stem(number, analysis.path)}-{place}-{label}", crop.image)


def _write_overlay(folder: Path, number: int, analysis: Analysis, result: PhotoResult) -> None:
    from pipeline.writers import draw

    if analysis.photo:
        _write_picture(folder, _stem(number, analysis.path), draw(analysis.photo.image, result))


def _stem(number: int, path: Path) -> str:
    """The photo's number and name, short enough for any file system."""
    return f"{number:05}-{path.stem[:50]}"


def _write_picture(folder: Path, stem: str, image: Image) -> None:
    from stages.errors import ImageError
    from stages.images import write_jpeg

    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{stem}.jpg"
    try:
        write_jpeg(path, image)
    except ImageError as error:
        raise ImageError(f"{path} {error}") from error
