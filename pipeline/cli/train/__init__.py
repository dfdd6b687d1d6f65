"""``outfinder train``: a group; each of its commands is a module, imported when it is asked for."""

from __future__ import annotations

import click

from pipeline.cli import LazyGroup

COMMANDS = {
    "detector": "Train a garment detector on COCO instances.",
    "embedder": "Train a Siamese embedder on photos of items or classes.",
}


@click.group(cls=LazyGroup, package=__name__, summaries=COMMANDS)
def train() -> None:
    """Train a stage on your own data.

    \b
    Examples:
      outfinder train detector train.json photos/ -o run
      outfinder train embedder photos/ -o run
    """  # noqa: D301
