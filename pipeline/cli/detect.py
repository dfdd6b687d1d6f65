"""``outfinder detect``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from pipeline.cli.common import FILE_OUT, FOLDER, config_options, friendly, photos_argument, result_options
from pipeline.cli.progress import Progress, resume_hint
from pipeline.config import Config, build_cropper, build_detector
from pipeline.outputs import Options
from pipeline.pipeline import Pipeline
from stages.images import walk


@click.command()
@photos_argument()
@config_options("detector", "crop", "pace")
@result_options
@click.option("--masks", is_flag=True, help="Add masks to the JSON lines, as COCO run lengths.")
@click.option("--coco", type=FILE_OUT, help="Write a COCO file that pycocotools loads.")
@click.option("--crops", type=FOLDER, help="Add each garment's crop to this folder.")
@click.option("--overlays", type=FOLDER, help="Add each photo with its garments outlined to this folder.")
@friendly
def detect(
    photos: tuple[Path, ...],
    settings: dict[str, Any],
    output: Path | None,
    delimiter: str,
    resume: bool,
    overwrite: bool,
    masks: bool,
    **others: Path | None,
) -> None:
    """Find the garments of every PHOTO (files or folders, or - for a list on standard input), a JSON line per photo.

    \b
    Examples:
      outfinder detect photos/
      outfinder detect photos/ --detector fasterrcnn_mobilenet_v2 -o found.csv
      outfinder detect photos/ --masks --coco found.json --crops crops --overlays drawn
      outfinder detect photos/ -o found.jsonl --resume
    """  # noqa: D301
    from pipeline.search import result_of
    from pipeline.writers import open_outputs

    config = Config(**settings)
    cropper = build_cropper(config) if others["crops"] else None
    pipeline = Pipeline(build_detector(config), cropper, batch_size=config.batch_size, workers=config.workers)
    options = Options(masks=masks, labels=pipeline.detector.labels, delimiter=delimiter)
    with open_outputs(output, others, options, resume=resume, overwrite=overwrite) as outputs:
        total = outputs.done + sum(1 for _ in outputs.remaining(walk(photos)))
        progress = Progress("detected garments in", total, done=outputs.done, failed=outputs.failed)
        with progress.interruptible(resume_hint(output)):
            for analysis in pipeline(outputs.remaining(walk(photos))):
                outputs.write(result_of(analysis), analysis)
                progress.count(analysis.error, str(analysis.path))
    progress.finish()
    sys.exit(progress.status())
