"""The command ``outfinder``. Each subcommand is a module of this package and a function of the same name in it."""

from __future__ import annotations

import importlib
import os
from keyword import iskeyword

import click

COMMANDS = {
    "index": "Add a catalogue to a gallery, creating it if absent.",
    "search": "Find similar items for every garment in every photo.",
    "serve": "Serve a web page and an HTTP API to search from.",
    "mcp": "Let an agent search a gallery (Model Context Protocol).",
    "detect": "Run stage one alone: the garments of every photo.",
    "embed": "Run stage two alone: a vector for every image.",
    "compare": "Tell how similar two pictures are.",
    "gallery": "Show what a gallery holds; remove items; check it.",
    "train": "Train a stage on your own data.",
    "evaluate": "Measure a stage on photos with known answers.",
    "calibrate": "Learn from which similarity two photos show the same item.",
    "dedupe": "Find near-duplicates in a photo set, and write it without them.",
    "benchmark": "Compare ways to crop garments.",
    "export": "Write networks as ONNX files, and vectors as tables.",
    "import": "Make a gallery of vectors that another program made.",
    "sample": "Copy a small rendered shop and street scenes to try things on.",
}
"""Every subcommand with its summary, in the order in which they are used."""


class _LazyGroup(click.Group):
    """A group that imports a subcommand only when it is run, so that ``--help`` answers at once."""

    def list_commands(self, _ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, _ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        name = f"{cmd_name}_" if iskeyword(cmd_name) else cmd_name
        command: click.Command = getattr(importlib.import_module(f"{__name__}.{name}"), name)
        return command

    def format_commands(self, _ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(
    "outfinder",
    cls=_LazyGroup,
    commands={name: click.Command(name) for name in COMMANDS},  # for click to suggest the one that was meant
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
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass  # open closed standard streams, so that no file opened later is taken for one of them
    os.close(descriptor)
