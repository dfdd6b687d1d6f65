"""The command ``outfinder``: parse, call, print. Each subcommand is a module, imported when it is asked for."""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from typing import Any

import click

COMMANDS = {
    "index": "Add a catalogue to a gallery, making it if absent.",
    "search": "Similar items for every garment in every photo.",
    "serve": "A web page and an HTTP API to search from.",
    "detect": "Stage one alone: the garments of every photo.",
    "embed": "Stage two alone: a vector for every image.",
    "compare": "How similar two pictures are.",
    "gallery": "What a gallery holds; remove items; check it.",
    "train": "Train a stage on your own data.",
    "evaluate": "How good a stage is, on photos with known answers.",
    "calibrate": "From which similarity on two photos show the same item.",
    "dedupe": "Near-duplicates in a photo set, and the set without them.",
    "benchmark": "How fast, how good and how large, beside what others use.",
    "sample": "Render a small shop and street scenes to try things on.",
}
"""Every subcommand and its one line; its module has the same name, and so has the command in it.

A package among them is a group with COMMANDS of its own.
"""


class LazyGroup(click.Group):
    """Imports a subcommand when it is run, so that ``--help`` answers at once.

    Args:
        package: where the subcommands are: each in a module of its name, and called like it there.
        summaries: every subcommand and its one line, in the order that they are used in.
        name, click_options: as for any group.
    """

    def __init__(
        self, name: str | None = None, *, package: str, summaries: Mapping[str, str], **click_options: Any
    ) -> None:
        super().__init__(name, **click_options)
        self.package, self.summaries = package, summaries

    def list_commands(self, _ctx: click.Context) -> list[str]:
        """In the order that they are used in."""
        return list(self.summaries)

    def get_command(self, _ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The subcommand, its module imported."""
        if cmd_name not in self.summaries:
            return None
        command: click.Command = getattr(importlib.import_module(f"{self.package}.{cmd_name}"), cmd_name)
        return command

    def format_commands(self, _ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of subcommands, without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(self.summaries.items()))


@click.group(
    "outfinder",
    cls=LazyGroup,
    package=__name__,
    summaries=COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(package_name="outfinder")
def main() -> None:
    """Find every garment in every photo, and the most similar items of a catalogue.

    \b
    Try it on rendered pictures:
      outfinder sample demo
      outfinder index demo/gallery demo/shop.csv
      outfinder search demo/gallery demo/street --report demo/report

    Results are JSON lines on standard output, messages go to standard error. Exit status: 0 everything was
    read, 1 some photos failed, 2 nothing could run.
    """  # noqa: D301  \b is click's mark for lines to keep
    _fill_standard_streams()


def _fill_standard_streams() -> None:
    """Where a standard stream is closed, let nothing that is opened later be taken for it."""
    while (opened := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(opened)
