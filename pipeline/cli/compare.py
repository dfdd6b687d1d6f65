"""``outfinder compare``."""

from __future__ import annotations

import json
from pathlib import Path

import click

from pipeline.cli.common import ANYWHERE, chosen, friendly, stage_options


@click.command()
@click.argument("a", type=ANYWHERE)
@click.argument("b", type=ANYWHERE)
@stage_options("embedder")
@click.option("--device", default="cpu", show_default=True, help="Where to compute, as torch names it.")
@friendly
def compare(a: Path, b: Path, embedder: str | None, embedder_weights: Path | None, device: str) -> None:
    """Compare pictures A and B as wholes: cosine, angular similarity in percent, Euclidean distance.

    \b
    Example:
      outfinder compare boots-left.jpg boots-right.jpg
    """  # noqa: D301
    from pipeline.build import Config, build_embedder
    from stages.errors import ImageError
    from stages.images import read_photo
    from stages.similarity import angular_percent, euclidean

    stage = build_embedder(Config(**chosen(embedder=embedder, embedder_weights=embedder_weights), device=device))
    images = []
    for path in (a, b):
        try:
            images.append(read_photo(path, stage.input_px).image)
        except ImageError as error:
            raise ImageError(f"{path} {error}") from error
    one, other = stage(images)
    cosine = min(1.0, max(-1.0, float(one @ other)))
    click.echo(
        json.dumps(
            {
                "a": str(a),
                "b": str(b),
                "cosine": round(cosine, 4),
                "angular_percent": round(angular_percent(cosine), 2),
                "euclidean": round(euclidean(cosine), 4),
            }
        )
    )
