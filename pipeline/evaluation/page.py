"""The page of an evaluation and the parts that every one has. It opens from disk, offline, with no script in it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from pipeline.evaluation.style import STYLE as OWN_STYLE
from pipeline.plots import Panel, draw, require_matplotlib
from pipeline.report_page import frame
from pipeline.report_photo import text_html
from pipeline.report_style import STYLE, color_of
from stages.files import write_whole

_LISTED: Final = 50
"""Photos that could not be judged and the like, as many as the page lists."""


def prepare_page(folder: Path) -> None:
    """Make a page's folder; ask before a long evaluation.

    Raises:
        ValueError: the folder holds something already.
        OutfinderError: matplotlib, which draws the curves, is not installed.
        OSError: the folder cannot be made.
    """
    if folder.exists() and any(folder.iterdir()):
        raise ValueError(f"the page's folder {folder} is not empty; name a new one")
    require_matplotlib()
    folder.mkdir(parents=True, exist_ok=True)


def write_numbers(folder: Path, figures: Mapping[str, Any], curves: Mapping[str, Any], panels: Sequence[Panel]) -> None:
    """Write ``figures.json``, ``curves.json``, and the panels, if any, as pictures on light ground and on dark.

    Raises:
        OSError: a file cannot be written.
    """
    write_whole(folder / "figures.json", json.dumps(figures, indent=2) + "\n")
    write_whole(folder / "curves.json", json.dumps(curves, separators=(",", ":")) + "\n")
    if panels:
        draw(panels, folder / "curves.png")
        draw(panels, folder / "curves-dark.png", dark=True)


def write_index(folder: Path, title: str, state: str, parts: Sequence[str], style: str) -> None:
    """Write ``index.html``.

    Args:
        folder: of the page.
        title: of the page, any text.
        state: what was judged, in a few words of HTML.
        parts: of the page, in order; empty ones are not there.
        style: of these parts, on top of what all evaluations share.

    Raises:
        OSError: it cannot be written.
    """
    heading, body = text_html(title), "\n".join(filter(None, parts))
    top = f'<header><h1>{heading}</h1></header>\n<p class="state soft">{state}</p>'
    page = frame(heading, f"{top}\n<main>\n{body}\n</main>", STYLE + OWN_STYLE + style)
    write_whole(folder / "index.html", page)


def overview_html(tiles: Mapping[str, Mapping[str, str]], about: Mapping[str, str]) -> str:
    """The first part: figures to see from afar, by heading and name, and what was judged and how."""
    sections = "".join(f"<section><h2>{heading}</h2>{_tiles(values)}</section>" for heading, values in tiles.items())
    settings = "".join(f"<dt>{text_html(key)}</dt><dd>{text_html(value)}</dd>" for key, value in about.items())
    return (
        f'<div class="card overview">{sections}'
        f'<section><h2>Judged</h2><dl class="settings">{settings}</dl></section></div>'
    )


def _tiles(values: Mapping[str, str]) -> str:
    tiles = "".join(f'<div><dt>{name}</dt><dd class="number">{value}</dd></div>' for name, value in values.items())
    return f'<dl class="totals">{tiles}</dl>'


def troubles_html(rows: Sequence[str]) -> str:
    """What could not be judged, and what to know of the rest; nothing where all is well."""
    if not rows:
        return ""
    listed = "".join(f"<li><bdi>{text_html(row)}</bdi></li>" for row in rows[:_LISTED])
    if len(rows) > _LISTED:
        listed += f'<li class="soft">and {len(rows) - _LISTED} more, all in figures.json</li>'
    return f'<section class="card failures"><h2>Not judged, and worth knowing</h2><ul>{listed}</ul></section>'


def part_html(title: str, explained: str, body: str, key: str = "") -> str:
    """A part with a heading, a sentence on what it shows, and perhaps a key to its colours; all of it HTML."""
    words = f'<p class="soft">{explained}</p>' if explained else ""
    return f'<section class="card part"><header><h2>{title}</h2>{words}{key}</header>{body}</section>'


def table_html(head: Sequence[str], rows: Sequence[Sequence[str]], *, title: str = "", colored: bool = False) -> str:
    """Figures, their intervals set smaller; the first of a row names it, in its label's colour if asked for."""
    heading = f'<h3 class="sub">{title}</h3>' if title else ""
    heads = "".join(f'<th scope="col">{text_html(cell)}</th>' for cell in head) if any(head) else ""
    body = "".join(
        f'<tr style="--color: {color_of(first)}"><th scope="row">{text_html(first)}</th>'
        + "".join(f"<td>{_cell(cell)}</td>" for cell in rest)
        + "</tr>"
        for first, *rest in rows
    )
    kind = "figures" if colored else "figures plain"
    return (
        f'<div class="scroll">{heading}<table class="{kind}"><thead><tr>{heads}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _cell(text: str) -> str:
    """A figure, its interval set smaller."""
    value, bracket, rest = text.partition(" [")
    return f"{text_html(value)}<i>{text_html(bracket.strip() + rest)}</i>" if bracket else text_html(text)


def curves_html(title: str, explained: str, shown: str, stem: str = "curves") -> str:
    """The part with the pictures of panels, ``STEM.png`` and ``STEM-dark.png``; ``shown`` describes them in words."""
    picture = (
        '<div class="scroll curves"><picture>'
        f'<source srcset="{stem}-dark.png" media="(prefers-color-scheme: dark)">'
        f'<img src="{stem}.png" alt="{shown}"></picture></div>'
    )
    return part_html(title, explained, picture)
