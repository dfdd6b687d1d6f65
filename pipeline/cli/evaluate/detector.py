"""``outfinder evaluate detector``."""

from __future__ import annotations

import sys
from dataclasses import asdict, replace
from pathlib import Path

import click

from pipeline.cli.common import (
    FILE_IN,
    FILE_OUT,
    FOLDER,
    SOME_FAILED,
    chosen,
    device_option,
    friendly,
    isolate_option,
    print_figures,
    stage_options,
)
from pipeline.cli.progress import Progress


@click.command()
@click.argument("annotations", type=FILE_IN)
@click.argument("photos", type=FOLDER)
@stage_options("detector")
@device_option
@click.option("-o", "--output", type=FOLDER, help="Write a page with curves and the worst mistakes into this folder.")
@click.option("--json", "json_file", type=FILE_OUT, help="Write the figures as JSON; - for standard output.")
@click.option("--mistakes", type=click.IntRange(0), default=24, show_default=True, help="Of each kind, on the page.")
@click.option("--limit", type=click.IntRange(1), help="Look at so many photos, the first ones.")
@isolate_option
@friendly
def detector(
    annotations: Path,
    photos: Path,
    detector: str | None,
    detector_weights: Path | None,
    min_score: float | None,
    device: str,
    output: Path | None,
    json_file: Path | None,
    mistakes: int,
    limit: int | None,
) -> None:
    """Judge a detector on ANNOTATIONS, a COCO instances file, of the photos in the folder PHOTOS.

    Prints COCO's average precision and recall, what is found, missed and a false alarm at --min-score, and the
    seconds that a photo takes. Categories are matched with the detector's labels by name. Exit status 1: some
    photos or annotations could not be used.

    \b
    Examples:
      outfinder evaluate detector val.json photos/
      outfinder evaluate detector val.json photos/ --detector fasterrcnn_mobilenet_v2 -o evaluation
      outfinder evaluate detector val.json photos/ --detector-weights run/weights.safetensors --json - | jq .box.ap50
    """  # noqa: D301
    from pipeline.config import Config, build_detector, resolve_device
    from pipeline.detector_evaluation.figures import figures, table
    from pipeline.detector_evaluation.page import write_page
    from pipeline.detector_evaluation.subject import subject_of
    from pipeline.evaluation.page import prepare_page
    from stages.detect.evaluation import EVALUATION_MIN_SCORE, evaluate

    device = resolve_device(device)
    config = Config(**chosen(detector=detector, detector_weights=detector_weights, min_score=min_score), device=device)
    if output:
        prepare_page(output)
    subject = subject_of(config, annotations, photos)
    progress = Progress("judged")

    def tell(photo: str, error: str | None, photos: int) -> None:
        progress.total = photos
        progress.count(error, photo)

    evaluation = evaluate(
        build_detector(replace(config, min_score=EVALUATION_MIN_SCORE)),
        annotations,
        photos,
        threshold=config.min_score,
        mistakes=mistakes if output else 0,
        limit=limit,
        progress=tell,
    )
    progress.finish()
    for line in (*evaluation.problems, *evaluation.notes):
        click.echo(line, err=True)
    numbers = asdict(subject) | figures(evaluation)
    if output:
        title = f"How good {config.detector} is"
        write_page(output, evaluation, photos, numbers, title=title, about=subject.told())
        click.echo(f"page: {output / 'index.html'}", err=True)
    print_figures(numbers, table(evaluation), json_file)
    sys.exit(SOME_FAILED if evaluation.failed or evaluation.problems else 0)
