"""Average precision of a detector on COCO instances, as JSON.

Usage:

    python scripts/evaluate_detector.py maskrcnn_mobilenet_v2 runs/ccp/val.json DATA/ccp/photos
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click

from pipeline.build import Config, build_detector
from stages.detect.evaluate import evaluate

PATH = click.Path(exists=True, path_type=Path)


@click.command()
@click.argument("detector")
@click.argument("annotations", type=PATH)
@click.argument("photos", type=PATH)
@click.option("--detector-weights", type=PATH, help="A checkpoint of your own.")
@click.option("--min-score", default=0.02, show_default=True, help="Average precision needs the doubtful ones too.")
def main(detector: str, annotations: Path, photos: Path, detector_weights: Path | None, min_score: float) -> None:
    """Evaluate DETECTOR on the ANNOTATIONS (COCO instances) of the folder PHOTOS."""
    config = Config(detector=detector, detector_weights=detector_weights, min_score=min_score)
    result = evaluate(build_detector(config), annotations, photos)
    click.echo(json.dumps(asdict(result), indent=2))


if __name__ == "__main__":
    main()
