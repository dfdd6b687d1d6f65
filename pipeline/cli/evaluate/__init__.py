"""``outfinder evaluate``: a group; each of its commands is a module, imported when it is asked for."""

from __future__ import annotations

import click

from pipeline.cli import LazyGroup

COMMANDS = {
    "detector": "Average precision, mistakes and latency of a garment detector.",
    "embedder": "Retrieval, verification and one-shot figures of an embedder.",
}


@click.group(cls=LazyGroup, package=__name__, summaries=COMMANDS)
def evaluate() -> None:
    """How good a stage is, on photos with known answers.

    \b
    Examples:
      outfinder evaluate detector val.json photos/ -o evaluation
      outfinder evaluate embedder shop/ -o evaluation
    """  # noqa: D301
