"""What mkdocs.yml adds to the pages of docs/: the README and other files beside docs/, the command line, docstrings.

MkDocs calls the functions ``on_…``, and mkdocstrings the class.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import griffe
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from pipeline.cli import COMMANDS, main

ROOT = Path(__file__).parents[1]
LINKS = {"](docs/": "](", "](weights)": "](weights.md)", "](NOTICE)": "](NOTICE.md)"}
"""Links from pages beside docs/, and what they are within the site."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that lie beside docs/: the README is the first page, and the weights' cards are one page."""
    cards = (re.sub("(?m)^#", "##", read(path)) for path in sorted((ROOT / "weights").glob("*.md")))
    pages = {
        "index.md": read(ROOT / "README.md"),
        "CHANGELOG.md": read(ROOT / "CHANGELOG.md"),
        "CONTRIBUTING.md": read(ROOT / "CONTRIBUTING.md"),
        "NOTICE.md": "# Notice\n\n" + read(ROOT / "NOTICE"),
        "weights.md": "\n\n".join(["# The shipped weights", *cards]),
    }
    for name, text in pages.items():
        files.append(File.generated(config, name, content=text))
    files.append(File.generated(config, "report.jpg", abs_src_path=str(ROOT / "report.jpg")))
    return files


def read(path: Path) -> str:
    """Return a page with its links as they are within the site."""
    text = path.read_text(encoding="utf-8")
    for link, target in LINKS.items():
        text = text.replace(link, target)
    return text


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Link to the weights' cards within the site, and append the commands to their page."""
    markdown = re.sub(r"\]\(\.\./weights/(\w+)\.md\)", r"](weights.md#\1)", markdown)
    if page.file.src_uri == "reference/cli.md":
        group = click.Context(main, info_name="outfinder")
        commands = (block for name in COMMANDS for block in describe_command(name, group))
        return "\n\n".join([markdown, *help_of(main), *commands])
    return markdown


def describe_command(name: str, parent: click.Context) -> Iterator[str]:
    """Yield the Markdown blocks of a command and its subcommands."""
    assert isinstance(parent.command, click.Group)
    command = parent.command.get_command(parent, name)
    assert command is not None
    context = click.Context(command, info_name=name, parent=parent)
    yield f"{'#' * (context.command_path.count(' ') + 1)} {context.command_path}"
    yield f"    {context.command_path} {' '.join(command.collect_usage_pieces(context))}"
    yield from help_of(command)
    records = [option.get_help_record(context) for option in command.params if isinstance(option, click.Option)]
    yield "\n".join(f"- `{record[0]}`  \n  {inline(record[1])}" for record in records if record)
    if isinstance(command, click.Group):
        for subcommand in command.list_commands(context):
            yield from describe_command(subcommand, context)


def help_of(command: click.Command) -> Iterator[str]:
    """Yield the paragraphs of a command's help; what click keeps line by line is code below its title."""
    for paragraph in inspect.cleandoc(command.help or "").split("\n\n"):
        if paragraph.startswith("\b\n"):
            _, title, *lines = paragraph.split("\n")
            yield inline(title)
            yield "\n".join(f"  {line}" for line in lines)
        else:
            yield inline(paragraph)


def inline(text: str) -> str:
    """Return a text of click's as Markdown, with options as code."""
    parts = re.split(r"(`[^`]*`|(?<![\w-])--?[a-z][\w-]*)", text)
    parts[::2] = [re.sub(r"([*_|\\])", r"\\\1", part.replace("<", "&lt;")) for part in parts[::2]]
    parts[1::2] = [f"`{part.strip('`')}`" for part in parts[1::2]]
    return "".join(parts)


class PlainDocstrings(griffe.Extension):
    """Rewrites the roles, literal blocks and doctests of docstrings as Markdown."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrite one docstring."""
        if obj.docstring is None:
            return
        text = re.sub(r":[a-z]+:`([^`]+)`", lambda role: reference(role[1], obj), obj.docstring.value)
        text = re.sub(r"(?m)\s*::$", ":", text)
        obj.docstring.value = re.sub(r"(?m)^( *)>>> (?:.+\n?)+", fenced, text)


def reference(name: str, scope: griffe.Object) -> str:
    """Return a link to an object, or its name alone where it has no place in the reference; ~ hides the module."""
    label, name = name.rpartition(".")[2] if name.startswith("~") else name, name.removeprefix("~")
    try:
        target = scope.resolve(name)
    except griffe.NameResolutionError:
        target = name
    return f'<autoref identifier="{target}" optional><code>{label}</code></autoref>'


def fenced(doctest: re.Match[str]) -> str:
    """Return a doctest as a fenced block, indented alike."""
    return f"{doctest[1]}```pycon\n{doctest[0].rstrip()}\n{doctest[1]}```\n"
