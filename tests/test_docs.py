"""The README and the guides name commands, options, scripts and modules that exist."""

import ast
import importlib
import itertools
import re
import shlex
import tomllib
from pathlib import Path

import click
import pytest
from packaging.requirements import Requirement

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


def test_every_page_is_in_the_navigation_of_the_site():
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    for page in (ROOT / "docs").rglob("*.md"):
        assert f": {page.relative_to(ROOT / 'docs')}\n" in navigation, f"mkdocs.yml does not name {page.name}"


def test_the_licence_of_every_dependency_is_listed():
    page = (ROOT / "docs" / "licences.md").read_text(encoding="utf-8")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for text in itertools.chain(project["dependencies"], *project["optional-dependencies"].values()):
        name = re.match(r"[\w-]+", text)[0].replace("_", "-")
        assert name == "outfinder" or f"| {name} |" in page, f"{name} is missing; run scripts/licences.py"
    assert "not stated" not in page


def test_what_is_installed_for_the_demo_and_the_tests_is_locked_with_hashes():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extra = [text for text in project["optional-dependencies"]["dev"] if not text.startswith("outfinder")]
    extras = project["optional-dependencies"]
    for name, wanted in (("", []), ("-docs", extras["docs"]), ("-dev", [*extra, *extras["web"]])):
        lines = (ROOT / "scripts" / f"requirements{name}.txt").read_text(encoding="utf-8").splitlines()
        pins = [Requirement(line.removesuffix("\\")) for line in lines if "==" in line]
        for requirement in map(Requirement, [*project["dependencies"], *wanted]):
            versions = [next(iter(pin.specifier)).version for pin in pins if pin.name == requirement.name]
            assert versions, f"{requirement.name} is not locked; run make lock"
            assert all(version in requirement.specifier for version in versions)
        places = [place for place, line in enumerate(lines) if "==" in line]
        assert all("--hash=sha256:" in lines[place + 1] for place in places)
