"""The command ``outfinder``: parse, call, print. Each subcommand is a module, imported when it is run."""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

import click

COMMANDS = {
    "index": "Add a catalogue to a gallery, creating it if absent.",
    "search": "Find similar items for every garment in every photo.",
    "serve": "Serve a web page and an HTTP API to search from.",
    "detect": "Run stage one alone: the garments of every photo.",
    "embed": "Run stage two alone: a vector for every image.",
    "compare": "Tell how similar two pictures are.",
    "gallery": "Show what a gallery holds; remove items; check it.",
    "train": "Train a stage on your own data.",
    "evaluate": "Measure a stage on photos with known answers.",
    "calibrate": "Learn from which similarity two photos show the same item.",
    "dedupe": "Find near-duplicates in a photo set, and write it without them.",
    "benchmark": "Measure speed and quality beside what others use.",
    "export": "Write networks as ONNX files, and vectors as tables.",
    "sample": "Copy a small rendered shop and street scenes to try things on.",
}
"""Every subcommand with its one line. Its module and the function in it have the same name; a package is a group."""


class LazyGroup(click.Group):
    """A group that imports a subcommand only when it is run, so that ``--help`` answers at once.

    Args:
        name: as for any group.
        package: of the subcommands: each is a function in the module of the same name.
        summaries: every subcommand with its one line, in the order that they are used in.
        click_options: as for any group.
    """

    def __init__(
        self, name: str | None = None, *, package: str, summaries: Mapping[str, str], **click_options: Any
    ) -> None:
        super().__init__(name, **click_options)
        self.package, self.summaries = package, summaries

    def list_commands(self, _ctx: click.Context) -> list[str]:
        """Return the subcommands in the order that they are used in."""
        return list(self.summaries)

    def get_command(self, _ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a subcommand."""
        if cmd_name not in self.summaries:
            return None
        command: click.Command = getattr(importlib.import_module(f"{self.package}.{cmd_name}"), cmd_name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the subcommand, or suggest the one that was probably meant."""
        if args and args[0] not in self.summaries and not args[0].startswith("-"):
            close = get_close_matches(args[0], self.summaries, n=1)
            meant = f" Did you mean {close[0]!r}?" if close else ""
            ctx.fail(f"No such command {args[0]!r}.{meant}")
        return super().resolve_command(ctx, args)

    def format_commands(self, _ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the subcommands without importing them."""
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
    """Open closed standard streams on the null device, so that no file opened later is taken for one of them."""
    while (opened := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(opened)
