"""``outfinder benchmark``: a group; each of its commands is a module, imported when it is asked for."""

from __future__ import annotations

import click

from pipeline.cli import LazyGroup

COMMANDS = {
    "crops": "Mask crops against box crops: which find more, and what they cost.",
    "index": "Recall, queries per second, memory and files of the index, beside others.",
    "speed": "Photos per second and where the time goes, beside what a tutorial would write.",
}


@click.group(cls=LazyGroup, package=__name__, summaries=COMMANDS)
def benchmark() -> None:
    """How fast, how good and how large, side by side with what others use, in one run.

    \b
    Examples:
      outfinder benchmark crops --quick
      outfinder benchmark index --quick
    """  # noqa: D301
