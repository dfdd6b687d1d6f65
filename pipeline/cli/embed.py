"""``outfinder embed``."""

from __future__ import annotations

import os
import sys
from itertools import islice
from pathlib import Path

import click

from pipeline.cli.common import (
    ANYWHERE,
    FILE_OUT,
    chosen,
    device_option,
    friendly,
    isolate_option,
    stage_options,
)
from pipeline.cli.progress import Progress


@click.command()
@click.argument("images", metavar="IMAGE...", nargs=-1, required=True, type=ANYWHERE)
@stage_options("embedder")
@device_option
@click.option("-o", "--output", type=FILE_OUT, required=True, help="Where to write the .npz.")
@isolate_option
@friendly
def embed(
    images: tuple[Path, ...], embedder: str | None, embedder_weights: Path | None, device: str, output: Path
) -> None:
    """Embed every IMAGE (files or folders) as a whole: arrays `paths` (n,) and `vectors` (n, dim) float32.

    \b
    Example:
      outfinder detect photos/ --crops crops && outfinder embed crops/ -o vectors.npz
    """  # noqa: D301
    import numpy as np

    from pipeline.config import Config, build_embedder
    from stages.errors import ImageError
    from stages.files import replacing
    from stages.images import enough_px, read_photo, walk

    if output.suffix.lower() != ".npz":
        raise ValueError(f"vectors are written as .npz, got {output.name!r}")
    stage = build_embedder(Config(**chosen(embedder=embedder, embedder_weights=embedder_weights), device=device))
    progress = Progress("embedded", sum(1 for _ in walk(images)))
    paths, vectors, places = [], [np.zeros((0, stage.dim), np.float32)], iter(walk(images))
    while batch := list(islice(places, 32)):
        read = []
        for path in batch:
            try:
                read.append(read_photo(path, enough_px(stage.input_px)).image)
                paths.append(os.fsencode(path).decode("utf-8", "backslashreplace"))
                progress.count()
            except ImageError as error:
                progress.count(str(error), str(path))
        vectors.append(stage(read))
    if not progress.done:
        sys.exit(progress.status())
    with replacing(output) as part, part.open("wb") as file:
        np.savez(file, paths=np.array(paths, dtype=np.str_), vectors=np.concatenate(vectors))
    progress.finish()
    sys.exit(progress.status())
