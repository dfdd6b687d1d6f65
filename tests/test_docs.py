"""The README and the guides name commands, options, scripts and modules that exist."""

import ast
import importlib
import re
import shlex
from pathlib import Path

import click
import pytest

from pipeline.cli import main

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def commands(page: Path) -> list[str]:
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    return [line.strip() for line in text.splitlines() if re.match(r"    (outfinder|python|sh) ", line)]


def snippets(page: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


COMMANDS = [(page.name, line) for page in PAGES for line in commands(page)]
SNIPPETS = [(page.name, text) for page in PAGES for text in snippets(page)]


@pytest.mark.parametrize(("page", "line"), COMMANDS)
def test_a_command_in_the_documentation_exists_with_its_options(page, line):
    words = shlex.split(line, comments=True)
    if words[0] != "outfinder":
        script = words[1] if words[1] != "-m" else ""
        assert not script or (ROOT / script).exists(), f"{page}: there is no {script}"
        return
    command, rest = main, words[1:]
    while isinstance(command, click.Group):
        found = command.get_command(click.Context(command), rest[0])
        assert found is not None, f"{page}: there is no command {rest[0]}"
        command, rest = found, rest[1:]
    known = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    used = {word.partition("=")[0] for word in rest if re.match(r"--?[a-z]", word)}
    assert used <= known, f"{page}: {command.name} has no {', '.join(sorted(used - known))}"


@pytest.mark.parametrize(("page", "text"), SNIPPETS)
def test_a_snippet_in_the_documentation_compiles_and_imports_what_exists(page, text):
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in (
            "pipeline",
            "stages",
            "weights",
        ):
            module = importlib.import_module(node.module or "")
            missing = [alias.name for alias in node.names if not hasattr(module, alias.name)]
            assert not missing, f"{page}: {node.module} has no {', '.join(missing)}"


def test_the_readme_fits_within_150_lines_and_links_to_pages_that_exist():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")

    assert len(readme.splitlines()) <= 150
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
