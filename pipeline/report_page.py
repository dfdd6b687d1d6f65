"""The report's pages around its photos: the overview, the way from page to page. Text in, text out."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from pipeline.report_photo import text_html
from pipeline.report_style import STYLE, color_of
from pipeline.search import PhotoResult
from stages.problems import plural

FAILURES_LISTED: Final = 50
"""Failures listed in the overview; every one stands among the photos."""


@dataclass
class Overview:
    """What the first page says of all photos; it grows with them."""

    title: str
    settings: Mapping[str, str]
    photos: int = 0
    garments: int = 0
    failures: int = 0
    seconds: float = 0.0
    finished: bool = False
    labels: Counter[str] = field(default_factory=Counter)
    failed: list[tuple[str, str, str]] = field(default_factory=list)

    def count(self, result: PhotoResult, address: str) -> None:
        """Count one photo, to be found at an address within the report."""
        self.photos += 1
        self.garments += len(result.garments)
        self.labels.update(garment.label for garment in result.garments)
        if result.error is not None:
            self.failures += 1
            if len(self.failed) < FAILURES_LISTED:
                self.failed.append((address, result.photo, result.error))


def page_name(number: int) -> str:
    """The file of a page, counted from 1.

    >>> page_name(1), page_name(2)
    ('index.html', 'page-2.html')
    """
    return "index.html" if number == 1 else f"page-{number}.html"


def page(overview: Overview, number: int, pages: int, photos: Iterable[str]) -> str:
    """A whole page; the first begins with the overview."""
    title = text_html(overview.title)
    if number == 1:
        top = f"<header><h1>{title}</h1></header>{marked('overview', overview_html(overview))}"
    else:
        top = (
            f"<header><h1>{title}</h1></header>"
            f'<p class="state soft">Page {number} · <a href="{page_name(1)}">overview</a></p>'
        )
    turn = marked("pages", pages_html(number, pages))
    body = "\n".join(photos)
    own = title if number == 1 else f"{title} – page {number}"
    return frame(own, f"{top}\n<main>\n{body}\n</main>\n{turn}")


def frame(title: str, body: str, style: str = STYLE, sheets: Sequence[str] = ()) -> str:
    """A whole document of ours: no scripts, nothing from outside; the title is escaped already.

    Where it has style ``sheets``, they are in the place of the ``style``.
    """
    look = "\n".join(f'<link rel="stylesheet" href="{sheet}">' for sheet in sheets) or f"<style>{style}</style>"
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="referrer" content="no-referrer">
<meta http-equiv="Content-Security-Policy" content="script-src 'none'; object-src 'none'; base-uri 'none'">
<title>{title}</title>
{look}
</head>
<body>
{body}
<footer>Made by outfinder</footer>
</body>
</html>
"""


def marked(name: str, html: str) -> str:
    """A part of a page that :func:`replace_marked` finds again; escaped text never holds such a mark."""
    return f"<!--{name}-->{html}<!--/{name}-->"


def replace_marked(whole: str, name: str, html: str) -> str:
    """The page with the part of that name replaced.

    >>> replace_marked("a" + marked("x", "old") + "b", "x", "new")
    'a<!--x-->new<!--/x-->b'
    """
    return re.sub(f"<!--{name}-->.*?<!--/{name}-->", lambda _: marked(name, html), whole, flags=re.DOTALL)


def overview_html(overview: Overview) -> str:
    """Totals, garments by label, settings, and the first failures."""
    state = f"in {_duration(overview.seconds)}" if overview.finished else "so far: the run goes on, or was cut short"
    totals: list[tuple[str, object, str]] = [("Photos", overview.photos, ""), ("Garments", overview.garments, "")]
    if overview.photos > overview.failures:
        each = overview.garments / (overview.photos - overview.failures)
        totals.append(("Garments per photo", f"{each:.1f}", ""))
    totals.append(("Unreadable photos", overview.failures, "bad" if overview.failures else ""))
    tiles = "".join(
        f'<div class="{kind}"><dt>{name}</dt><dd class="number">{value}</dd></div>' for name, value, kind in totals
    )
    parts = [f'<section><h2>In all</h2><dl class="totals">{tiles}</dl></section>']
    if overview.labels:
        parts.append(f'<section><h2>Garments by label</h2><ul class="labels">{_bars(overview.labels)}</ul></section>')
    if overview.settings:
        rows = "".join(
            f"<dt>{text_html(key)}</dt><dd>{text_html(value)}</dd>" for key, value in overview.settings.items()
        )
        parts.append(f'<section><h2>Settings</h2><dl class="settings">{rows}</dl></section>')
    return (
        f'<p class="state soft">{plural(overview.photos, "photo")} {state}</p>'
        f'<div class="card overview">{"".join(parts)}</div>{_failures(overview) if overview.failed else ""}'
    )


def pages_html(number: int, pages: int) -> str:
    """Links to the pages around this one, the first and the last; nothing for a single page."""
    if pages == 1:
        return ""
    near = sorted({1, pages, *range(max(1, number - 2), min(pages, number + 2) + 1)})
    parts = [f'<a href="{page_name(number - 1)}" rel="prev">← Previous</a>'] if number > 1 else []
    for before, other in zip([0, *near], near, strict=False):
        if other > before + 1:
            parts.append("<span>…</span>")
        if other == number:
            parts.append(f'<span aria-current="page">{other}</span>')
        else:
            parts.append(f'<a href="{page_name(other)}" aria-label="Page {other}">{other}</a>')
    if number < pages:
        parts.append(f'<a href="{page_name(number + 1)}" rel="next">Next →</a>')
    return f'<nav class="pages" aria-label="Pages">{"".join(parts)}</nav>'


def _failures(overview: Overview) -> str:
    rows = "".join(
        f'<li><a href="{address}"><bdi>{text_html(photo)}</bdi></a> <span class="soft">{text_html(error)}</span></li>'
        for address, photo, error in overview.failed
    )
    more = overview.failures - len(overview.failed)
    rest = f'<li class="soft">and {more} more, each in its place among the photos</li>' if more else ""
    return f'<section class="card failures"><h2>Photos that could not be read</h2><ul>{rows}{rest}</ul></section>'


def _bars(labels: Counter[str]) -> str:
    most = max(labels.values())
    return "".join(
        f'<li><span>{text_html(label)}</span><span class="bar" aria-hidden="true">'
        f'<i style="width: {100 * count / most:.1f}%; --color: {color_of(label)}"></i></span>'
        f'<span class="number">{count}</span></li>'
        for label, count in labels.most_common()
    )


def _duration(seconds: float) -> str:
    """For people.

    >>> _duration(4.21), _duration(125)
    ('4.2 s', '2 min 5 s')
    """
    return f"{seconds:.1f} s" if seconds < 60 else f"{int(seconds) // 60} min {int(seconds) % 60} s"
