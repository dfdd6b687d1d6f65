"""The parts of the page of the comparison, as HTML."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from pipeline.plots import Panel, draw
from pipeline.report_page import frame
from pipeline.report_photo import text_html
from pipeline.report_style import STYLE, color_of
from stages.files import write_whole

OWN_STYLE: Final = """
.part { padding: 1.3rem 1.5rem 1.5rem; margin-bottom: 1.75rem }
.part > header { margin-bottom: 1rem }
.part > header p { font-size: .86rem; max-width: 62rem }
.scroll { overflow-x: auto }

.figures { width: 100%; border-collapse: collapse; font-size: .86rem; white-space: nowrap }
.figures th, .figures td { padding: .42rem .7rem; text-align: right; font-variant-numeric: tabular-nums }
.figures th { color: var(--soft); font-weight: 600; font-size: .8rem; vertical-align: bottom }
.figures th:first-child, .figures td:first-child { text-align: left; padding-left: 0 }
.figures tbody tr { border-top: 1px solid var(--line) }
.figures tbody th { color: var(--ink); font-size: .86rem }
.figures tbody th::before {
  content: ""; display: inline-block; width: 9px; height: 9px; border-radius: 3px; background: var(--color);
  margin-right: .55rem;
}
.figures tfoot tr { border-top: 2px solid var(--line) }
.figures tfoot th, .figures tfoot td { font-weight: 650; color: var(--ink); font-size: .86rem }
.figures .share { position: relative; min-width: 5.6rem }
.figures .share i {
  position: absolute; left: .7rem; right: 3.4rem; top: 50%; height: 6px; margin-top: -3px; border-radius: 3px;
  background: var(--track); overflow: hidden;
}
.figures .share i::before {
  content: ""; display: block; height: 100%; width: var(--share); background: var(--color); border-radius: 3px;
}
.curves img { width: 100%; min-width: 46rem; height: auto }

.view {
  position: relative; aspect-ratio: 4 / 5; border-radius: 10px; overflow: hidden; background: var(--track);
  display: grid; place-items: center; color: var(--soft); margin-bottom: .5rem;
}
.view img { width: 100%; height: 100%; object-fit: contain }

@media (max-width: 720px) {
  .part { padding: 1rem; border-radius: 14px }
}
@media print { .part { break-inside: avoid; box-shadow: none } .scroll { overflow: visible } }
"""
STRIPS: Final = """
.part + .part { margin-top: 0 }
.figures td i { font-style: normal; color: var(--soft); font-size: .8em; margin-left: .35rem }
.plain tbody th::before { display: none }
.tables { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 22rem), 1fr)); gap: 1.4rem 2.5rem }
.tables td, .tables th { padding-inline: .3rem }
.tables td:last-child, .tables th:last-child { padding-right: 0 }
.tables > div:not(.scroll) > .scroll + .scroll { margin-top: 1.4rem }
.tables + .scroll { margin-top: 1.8rem }
.collapsed { padding: 1rem 1.5rem; margin-bottom: 1.75rem; background: var(--badpage); color: var(--bad); font-weight: 600 }
.notes { font-size: .86rem; color: var(--soft); margin-top: .9rem }

.strips { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 360px), 1fr)); gap: 1.5rem 2rem }
.strips.pairs { grid-template-columns: repeat(auto-fill, minmax(min(100%, 220px), 1fr)) }
.strips.rows { grid-template-columns: minmax(0, 1fr) }
.strip { display: grid; grid-template-columns: repeat(3, minmax(0, 1fr)); gap: .6rem }
.strip.pair { grid-template-columns: repeat(2, minmax(0, 1fr)) }
.strip.row { grid-template-columns: repeat(9, minmax(0, 1fr)) }
.thumb { font-size: .76rem; line-height: 1.35; min-width: 0 }
.thumb .view { aspect-ratio: 1; background: #fff; border: 2px solid var(--line); margin-bottom: .35rem }
.thumb.right .view { border-color: #009e73 }
.thumb.wrong .view { border-color: #d55e00 }
.thumb b { display: block; font-weight: 600; font-variant-numeric: tabular-nums }
.thumb bdi { display: block; white-space: nowrap; overflow: hidden; text-overflow: ellipsis }
.part h3.sub { margin: 1.4rem 0 .8rem; font-size: .9rem }
.part h3.sub:first-of-type, .scroll h3.sub { margin-top: 0 }
.scroll h3.sub { margin-bottom: .3rem }
.frames { display: flex; flex-wrap: wrap; gap: .3rem 1.2rem; font-size: .82rem; margin-top: .5rem }
.frames span::before {
  content: ""; display: inline-block; width: .8rem; height: .8rem; margin-right: .5rem; vertical-align: -.1rem;
  border: 2px solid #009e73; border-radius: 3px;
}
.frames .wrong::before { border-color: #d55e00 }
.atlas { width: 100%; height: auto; border-radius: 10px }

@media (max-width: 720px) {
  .strip.row { grid-template-columns: repeat(9, 84px); overflow-x: auto }
}
"""
_LISTED: Final = 50
"""Photos that could not be judged and the like, as many as the page lists."""


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
