"""Calibrate a trained detector on validation photos and put it among the shipped weights.

Usage:

    python scripts/ship_detector.py maskrcnn_mobilenet_v2 runs/mask-4/weights.safetensors 640 runs/ccp/val.json DATA/ccp/photos

Writes weights/NAME.safetensors and its sha256 into the manifest, and prints the card's table.
"""

from __future__ import annotations

from pathlib import Path

import click

import weights
from stages.detect.evaluation import EVALUATION_MIN_SCORE, DetectorEvaluation, balanced_thresholds, evaluate
from stages.detect.rcnn import from_checkpoint

FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command()
@click.argument("name", type=click.Choice(sorted(weights.manifest())))
@click.argument("trained", type=FILE)
@click.argument("input_px", type=click.IntRange(64))
@click.argument("annotations", type=FILE)
@click.argument("photos", type=click.Path(exists=True, file_okay=False, path_type=Path))
def main(name: str, trained: Path, input_px: int, annotations: Path, photos: Path) -> None:
    """Ship the checkpoint TRAINED as NAME with the input size INPUT_PX; thresholds are set on PHOTOS."""
    checkpoint = weights.read(trained)
    described = checkpoint.metadata | {"input_px": str(input_px), "licence": "Apache-2.0", "thresholds": ""}
    plain = weights.Checkpoint(name, checkpoint.tensors, described, checkpoint.sha256)
    thresholds = balanced_thresholds(evaluate(from_checkpoint(plain, EVALUATION_MIN_SCORE), annotations, photos))
    described["thresholds"] = " ".join(str(thresholds[label]) for label in described["labels"].split("\n"))
    entry = weights.manifest()[name]
    digest = weights.save(weights.FOLDER / entry["file"], checkpoint.tensors, described)
    weights.record(name, digest, entry["summary"])
    click.echo(table(evaluate(from_checkpoint(weights.load(name), EVALUATION_MIN_SCORE), annotations, photos)))


def table(judged: DetectorEvaluation) -> str:
    """Return the table of figures per label for the card."""
    rows = [
        ["label", "garments", "box AP50", *(["mask AP50"] if judged.mask else []), "found", "missed", "false alarms"]
    ]
    rows.append(["---"] * len(rows[0]))
    for name, label in judged.labels.items():
        kinds = [of.ap50 if of else float("nan") for of in (label.box, label.mask)][: 2 if judged.mask else 1]
        counts = label.garments, *(f"{value:.3f}" for value in kinds), label.found, label.missed, label.false_alarms
        rows.append([name, *map(str, counts)])
    means = [f"**{of.ap50:.3f}**" for of in (judged.box, judged.mask) if of]
    found = judged.garments - judged.missed
    rows.append(["all", str(judged.garments), *means, *map(str, (found, judged.missed, judged.false_alarms))])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


if __name__ == "__main__":
    main()
