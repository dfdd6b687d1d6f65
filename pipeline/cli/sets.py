"""The options of commands that read photo sets, and the sets they name."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from pipeline.cli.common import EXISTING

if TYPE_CHECKING:
    from stages.embed.data import Dataset

F = TypeVar("F", bound=Callable[..., Any])

LAYOUT_NAMES = ("items", "luma", "shoes", "clothing", "omniglot", "cifar10", "garments", "cutouts")
"""The keys of :data:`pipeline.photosets.LAYOUTS`, so that ``--help`` answers without importing it."""


def set_options(command: F) -> F:
    """``DATA...``, ``--layout``, ``--item-pattern``, ``--split``."""
    for option in (
        click.option("--split", "splits", multiple=True, type=click.Choice(["train", "val", "test"]),
                     help="Only this part of a public set; may be repeated."),
        click.option("--item-pattern", metavar="REGEX", help="Finds the item id in a file name."),
        click.option("--layout", default="items", show_default=True, type=click.Choice(LAYOUT_NAMES)),
        click.argument("data", metavar="DATA...", nargs=-1, required=True, type=EXISTING),
    ):  # fmt: skip
        command = option(command)
    return command


def open_told(paths: Sequence[Path], layout: str, item_pattern: str | None, splits: Sequence[Any]) -> Dataset:
    """Open the photo set that the options name.

    Raises:
        ValueError: the pattern is not a regular expression, or the layout takes other paths.
        CatalogueError: there is no photo.
    """
    from pipeline.photosets import open_set

    try:
        pattern = re.compile(item_pattern) if item_pattern else None
    except re.error as error:
        raise ValueError(f"--item-pattern {item_pattern!r} is not a regular expression: {error}") from error
    return open_set(paths, layout, pattern, splits or None)


def tell_problems(photos: Dataset) -> None:
    """Print the problems and the notes of a photo set on standard error, if it has some."""
    if photos.problems or photos.notes:
        click.echo(photos.describe(), err=True)
