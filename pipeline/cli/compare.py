"""``outfinder compare``: how similar two photos are."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import click

from pipeline.cli.common import ANYWHERE, calibration_option, config_options, friendly


@click.command()
@click.argument("a", type=ANYWHERE)
@click.argument("b", type=ANYWHERE)
@config_options("embedder")
@calibration_option
@click.option("--label", default="", help="Use the thresholds of this label, if the calibration has any.")
@friendly
def compare(a: Path, b: Path, settings: dict[str, Any], calibration_file: Path | None, label: str) -> None:
    """Compare the photos A and B, not cropped: cosine, angular similarity in percent, Euclidean distance.

    A calibration adds the verdict: same item, not sure, or different.

    \b
    Examples:
      outfinder compare boots-left.jpg boots-right.jpg
      outfinder compare boots-left.jpg boots-right.jpg --calibration shop.calibration.json --label shoes
    """  # noqa: D301
    from pipeline.config import Config, build_embedder
    from stages.embed.attributes import attribute_part
    from stages.embed.calibration import find_calibration
    from stages.embed.metrics import angular_percent, euclidean
    from stages.errors import ImageError, StageError
    from stages.images import enough_px, read_photo

    config = Config(**settings)
    stage = build_embedder(config)
    calibration = find_calibration(stage.fingerprint, calibration_file, config.embedder_weights, config.embedder)
    images = []
    for path in (a, b):
        try:
            images.append(read_photo(path, enough_px(stage.input_px)).image)
        except ImageError as error:
            raise ImageError(f"{path} {error}") from error
    vectors = stage(images)
    part = attribute_part(stage)
    one, other = part.comparable(vectors) if part else vectors
    cosine = float(one @ other)
    if not math.isfinite(cosine):
        raise StageError(f"the vectors of {config.embedder} are not finite; its weights are damaged")
    cosine = min(1.0, max(-1.0, cosine))
    result = {
        "a": str(a),
        "b": str(b),
        "cosine": round(cosine, 4),
        "angular_percent": round(angular_percent(cosine), 2),
        "euclidean": round(euclidean(cosine), 4),
    }
    if calibration:
        result["verdict"] = calibration.verdict(cosine, label).value
    click.echo(json.dumps(result))
