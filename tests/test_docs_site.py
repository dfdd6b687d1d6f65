"""The documentation as a site: it builds without a warning, is complete, and needs no network."""

import importlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from pipeline.cli import main

ROOT = Path(__file__).parents[1]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("mkdocstrings_handlers.python", reason="needs the extra docs")
    folder = tmp_path_factory.mktemp("site")
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    run = subprocess.run(build, check=False, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return folder


def commands(command: click.Command, path: str) -> Iterator[tuple[str, click.Command]]:
    yield path, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            yield from commands(command.get_command(context, name), f"{path} {name}")


def test_every_command_and_option_is_in_the_reference(site: Path) -> None:
    page = (site / "reference" / "cli.html").read_text(encoding="utf-8")
    sections = dict(re.findall(r'<h[23] id="(outfinder[\w-]*)">(.*?)(?=<h[23] id|</article>)', page, re.DOTALL))
    for path, command in list(commands(main, "outfinder"))[1:]:
        text = sections[path.replace(" ", "-")]
        options = [option for option in command.params if isinstance(option, click.Option)]
        assert not [option.name for option in options if not all(name in text for name in option.opts)], path


def test_the_public_names_are_in_the_reference_with_their_docstrings_in_plain_words(site: Path) -> None:
    pages = "".join(page.read_text(encoding="utf-8") for page in (site / "reference").glob("*.html"))
    for package in map(importlib.import_module, ("stages", "pipeline")):
        for name in package.__all__:
            module = getattr(getattr(package, name), "__module__", "stages.types")
            assert f'id="{module}.{name}"' in pages
    assert not re.search(r":(class|func|mod|meth|attr|data|exc):|<blockquote>", pages)


@pytest.mark.skipif(CHROMIUM is None, reason="needs a chromium on the PATH: apt-get install chromium")
def test_pages_opened_from_files_request_nothing_from_elsewhere_and_can_be_searched(site: Path) -> None:
    with pytest.importorskip("playwright.sync_api").sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_context(offline=True).new_page()
        requests = []
        page.on("request", lambda request: requests.append(request.url))
        for path in sorted(set(site.rglob("*.html")) - {site / "404.html"}):  # which is for servers
            page.goto(path.as_uri())
        assert not [url for url in requests if not url.startswith(site.as_uri())]
        page.goto((site / "index.html").as_uri())
        page.locator("input.md-search__input").fill("near-duplicates")
        page.locator(".md-search-result__link[href*='cli.html']").first.wait_for(state="attached")
        assert not [url for url in requests if not url.startswith(site.as_uri())]
        browser.close()
