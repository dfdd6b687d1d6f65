"""``outfinder embed``."""

from __future__ import annotations

import os
import sys
from itertools import islice
from pathlib import Path
from typing import Any

import click
import numpy as np

from pipeline.cli.common import FILE_OUT, config_options, friendly, overwrite_option, photos_argument
from pipeline.cli.progress import Progress
from pipeline.config import Config, build_embedder
from pipeline.outputs import check_file
from stages.errors import ImageError
from stages.files import replacing
from stages.images import enough_px, read_photo, walk


@click.command()
@photos_argument("images", "IMAGE...")
@config_options("embedder")
@click.option("-o", "--output", type=FILE_OUT, required=True, help="Where to write the .npz.")
@overwrite_option
@friendly
def embed(images: tuple[Path, ...], settings: dict[str, Any], output: Path, overwrite: bool) -> None:
    """Embed every IMAGE (files or folders) as a whole: arrays `paths` (n,) and `vectors` (n, dim) float32.

    \b
    Example:
      outfinder detect photos/ --crops crops && outfinder embed crops/ -o vectors.npz
    """  # noqa: D301
    if output.suffix.lower() != ".npz":
        raise ValueError(f"vectors are written as .npz, got {output.name!r}")
    check_file(output, overwrite=overwrite)
    embedder = build_embedder(Config(**settings))
    progress = Progress("embedded", sum(1 for _ in walk(images)))
    paths, vectors, remaining = [], [np.zeros((0, embedder.dim), np.float32)], iter(walk(images))
    while batch := list(islice(remaining, 32)):
        read = []
        for path in batch:
            try:
                read.append(read_photo(path, enough_px(embedder.input_px)).image)
                paths.append(os.fsencode(path).decode("utf-8", "backslashreplace"))
                progress.count()
            except ImageError as error:
                progress.count(str(error), str(path))
        vectors.append(embedder(read))
    if progress.done:
        with replacing(output) as part, part.open("wb") as file:
            np.savez(file, paths=np.array(paths, dtype=np.str_), vectors=np.concatenate(vectors))
        progress.finish()
    sys.exit(progress.status())
