"""``outfinder export``."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

import click

from pipeline.cli.common import (
    ANYWHERE,
    FILE_OUT,
    FOLDER,
    config_options,
    friendly,
    overwrite_option,
)


@click.group()
def export() -> None:
    """Write networks as ONNX files, and vectors as tables, for other programs.

    \b
    Examples:
      outfinder export onnx --embedder siamese -o siamese.onnx
      outfinder export onnx --detector maskrcnn_mobilenet_v2 -o detector.onnx
      outfinder export vectors shop -o shop.npz
    """  # noqa: D301


@export.command()
@config_options("embedder", "detector")
@click.option("-o", "--output", type=FILE_OUT, required=True, help="Where to write the .onnx; a .json goes beside it.")
@click.option("--photos", type=ANYWHERE, help="Photos to compare the result by.  [default: rendered ones]")
@overwrite_option
@friendly
def onnx(settings: dict[str, Any], output: Path, photos: Path | None, overwrite: bool) -> None:
    """Write an embedder or a detector as an ONNX file, compared with the original by onnxruntime.

    The .json beside it says how its input is made and what its output means.
    """
    from pipeline.config import Config
    from pipeline.demo import FOLDER as DEMO
    from pipeline.export import export_detector, export_embedder
    from pipeline.outputs import check_file
    from stages.images import read_photo, walk

    embedders, detectors = ([name for name in settings if name.startswith(stage)] for stage in ("embedder", "detector"))
    if bool(embedders) == bool(detectors):
        raise click.UsageError("Give an --embedder or a --detector.")
    if output.suffix.lower() != ".onnx":
        raise ValueError(f"networks are written as .onnx, got {output.name!r}")
    for path in (output, output.with_suffix(".json")):
        check_file(path, overwrite=overwrite)
    several = photos or DEMO / ("shop" if embedders else "street")
    examples = [read_photo(path).image for path in islice(walk([several]), 20 if embedders else 4)]
    if not examples:
        raise ValueError(f"{several} holds no photo to compare by")
    about = (export_embedder if embedders else export_detector)(Config(**settings), output, examples)
    agreement = ", ".join(f"{name} {value}" for name, value in about["checked"].items())
    click.echo(f"{output} and {output.with_suffix('.json').name}: compared with the original: {agreement}", err=True)


@export.command()
@click.argument("folder", metavar="GALLERY", type=FOLDER)
@click.option("-o", "--output", type=FILE_OUT, required=True, help="Where to write the .npz or .parquet.")
@overwrite_option
@friendly
def vectors(folder: Path, output: Path, overwrite: bool) -> None:
    """Write the photos of GALLERY with their vectors and the catalogue's columns as a table."""
    from pipeline.gallery import Gallery
    from pipeline.outputs import check_file
    from pipeline.vector_tables import export_vectors

    check_file(output, overwrite=overwrite)
    gallery = Gallery.open(folder)
    export_vectors(gallery, output)
    click.echo(f"{output}: {len(gallery)} vectors of {gallery.manifest.dim} numbers", err=True)
