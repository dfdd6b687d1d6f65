"""``outfinder benchmark``: a group; each of its commands is a module, imported when it is asked for."""

from __future__ import annotations

import click

from pipeline.cli import LazyGroup

COMMANDS = {
    "crops": "Mask crops against box crops: which find more, and what they cost.",
}


@click.group(cls=LazyGroup, package=__name__, summaries=COMMANDS)
def benchmark() -> None:
    """Compare ways of cropping garments.

    \b
    Examples:
      outfinder benchmark crops --quick
    """  # noqa: D301
