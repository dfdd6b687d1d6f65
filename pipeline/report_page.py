"""The report's HTML: text in, text out. Whatever comes from photos or a catalogue is hostile and is escaped."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Final
from urllib.parse import urlsplit

import cv2
import numpy as np

from pipeline.report_style import STYLE, color_of
from pipeline.results import Garment, PhotoResult
from stages.types import Match

FAILURES_LISTED: Final = 50
"""Failures listed in the overview; every one stands among the photos."""

DETAILS: Final = 4
"""Metadata shown per match beside its name, price and link."""

SCENE_PX: Final = 340
"""The width that a photo is about shown at; labels are placed for it."""


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


@dataclass(frozen=True, slots=True)
class Pictures:
    """Where a photo's pictures lie, relative to the page: None, or a missing match, is one that there is not."""

    photo: str | None
    crops: Sequence[str | None]
    products: Mapping[Match, str]


def page_name(number: int) -> str:
    """The file of a page, counted from 1.

    >>> page_name(1), page_name(2)
    ('index.html', 'page-2.html')
    """
    return "index.html" if number == 1 else f"page-{number}.html"


def page(overview: Overview, number: int, pages: int, photos: Iterable[str]) -> str:
    """A whole page; the first begins with the overview."""
    title = escape(overview.title)
    if number == 1:
        top = f'<header class="masthead"><h1>{title}</h1>{marked("overview", overview_html(overview))}</header>'
    else:
        top = (
            f'<header class="masthead"><h1>{title}</h1>'
            f'<p class="soft">Page {number} · <a href="{page_name(1)}">overview</a></p></header>'
        )
    turn = marked("pages", pages_html(number, pages))
    body = "\n".join(photos)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="referrer" content="no-referrer">
<meta http-equiv="Content-Security-Policy" content="script-src 'none'; object-src 'none'; base-uri 'none'">
<title>{title}{"" if number == 1 else f" – page {number}"}</title>
<style>{STYLE}</style>
</head>
<body>
{top}
<main>
{body}
</main>
{turn}
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
    totals = [("Photos", overview.photos, ""), ("Garments", overview.garments, "")]
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
        rows = "".join(f"<dt>{_text(key)}</dt><dd>{_text(value)}</dd>" for key, value in overview.settings.items())
        parts.append(f'<section><h2>Settings</h2><dl class="settings">{rows}</dl></section>')
    if overview.failed:
        parts.append(_failures(overview))
    return (
        f'<p class="soft">{_plural(overview.photos, "photo")} {state}</p></header>'
        f'<div class="card overview">{"".join(parts)}</div><header>'
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


def photo_html(result: PhotoResult, anchor: str, pictures: Pictures) -> str:
    """One photo: where its garments are, what they are, and their matches."""
    name = f"<h2><bdi>{_text(result.photo)}</bdi></h2>"
    if result.error is not None:
        return (
            f'<article class="card photo failed" id="{anchor}">'
            f"<header>{name}<p>Not read: {_text(result.error)}</p></header></article>"
        )
    size = f"{result.width} × {result.height} px · {_plural(len(result.garments), 'garment')}"
    garments = "".join(
        _garment_html(garment, f"{anchor}-{number}", result.photo, crop, pictures.products)
        for number, (garment, crop) in enumerate(zip(result.garments, pictures.crops, strict=True), start=1)
    )
    found = f'<ol class="garments">{garments}</ol>' if garments else '<p class="soft">No garment was found.</p>'
    return (
        f'<article class="card photo" id="{anchor}"><header>{name}<p class="soft number">{size}</p></header>'
        f'<div class="look">{_scene_html(result, anchor, pictures.photo)}{found}</div></article>'
    )


def _scene_html(result: PhotoResult, anchor: str, picture: str | None) -> str:
    """The photo with boxes and masks drawn over it, as vectors: sharp at any size."""
    labels = ", ".join(garment.label for garment in result.garments) or "no garment"
    image = _image(picture, f"{result.photo}, showing {labels}", result.width, result.height)
    shapes = "".join(_shape(garment) for garment in result.garments)
    tags = _tags(result, anchor)
    ratio = f"{result.width} / {result.height}"
    return (
        f'<div class="scene" style="aspect-ratio: {ratio}">{image}<svg viewBox="0 0 {result.width} {result.height}"'
        f' preserveAspectRatio="none" aria-hidden="true">{shapes}</svg>{tags}</div>'
    )


def _shape(garment: Garment) -> str:
    box = garment.box
    frame = f'x="{box.x1}" y="{box.y1}" width="{box.width}" height="{box.height}"'
    return (
        f'<g style="--color: {color_of(garment.label)}">{_outline(garment)}'
        f'<rect class="halo" {frame}/><rect {frame}/></g>'
    )


def _outline(garment: Garment) -> str:
    """The mask as a path in the photo's pixels, simplified to about a pixel on the screen."""
    if garment.mask is None or not garment.mask.any():
        return ""
    mask = np.pad(garment.mask.astype(np.uint8), 1)
    rings, _ = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    slack_px = max(garment.mask.shape) / 250
    parts = []
    for ring in rings:
        points = cv2.approxPolyDP(ring, slack_px, True)[:, 0] + [garment.box.x1 - 1, garment.box.y1 - 1]
        if len(points) >= 3:
            parts.append("M" + "L".join(f"{x} {y}" for x, y in points.tolist()) + "Z")
    return f'<path d="{"".join(parts)}"/>' if parts else ""


def _tags(result: PhotoResult, anchor: str) -> str:
    """A label with its score at each box's upper left corner, moved down where it would hide another."""
    placed: list[tuple[float, float, float]] = []
    parts = []
    scale = SCENE_PX / result.width
    for number, garment in enumerate(result.garments, start=1):
        text = f"{garment.label} {garment.score:.2f}"
        width = 12 + 6.4 * len(text)
        left = max(0.0, min(garment.box.x1 * scale, SCENE_PX - width))
        top = min(garment.box.y1 * scale, result.height * scale - 18)
        while any(abs(top - other[1]) < 18 and left < other[2] and other[0] < left + width for other in placed):
            top += 2
        placed.append((left, top, left + width))
        at = f"left: {100 * left / SCENE_PX:.2f}%; top: {100 * top / (result.height * scale):.2f}%"
        parts.append(
            f'<a class="tag number" href="#{anchor}-{number}"'
            f' style="--color: {color_of(garment.label)}; {at}">{_text(text)}</a>'
        )
    return "".join(parts)


def _garment_html(garment: Garment, anchor: str, photo: str, crop: str | None, products: Mapping[Match, str]) -> str:
    image = _image(crop, f"{garment.label} in {photo}")
    head = f'<h3>{_text(garment.label)}<span class="soft number">{garment.score:.2f}</span></h3>'
    if garment.matches:
        matches = "".join(_match_html(match, garment, products.get(match)) for match in garment.matches)
        found = f'<ol class="matches">{matches}</ol>'
    else:
        found = "" if garment.matches is None else '<p class="soft">No match.</p>'
    return (
        f'<li class="garment" id="{anchor}" style="--color: {color_of(garment.label)}">'
        f'<div class="cut">{image}{head}</div>{found}</li>'
    )


def _match_html(match: Match, garment: Garment, picture: str | None) -> str:
    data = {key.lower(): value for key, value in match.metadata}
    name = data.pop("title", "") or data.pop("name", "")
    price = " ".join(part for part in (data.pop("price", ""), data.pop("currency", "")) if part)
    links = [(key, data.pop(key)) for key in list(data) if is_link(data[key])]
    lines = [f'<bdi class="item clip">{_text(match.item)}</bdi>']
    lines += [f'<bdi class="clip">{_text(name)}</bdi>'] if name else []
    lines += [f'<bdi class="price">{_text(price)}</bdi>'] if price else []
    lines += [f'<bdi class="soft">{_text(match.label)}</bdi>'] if match.label != garment.label else []
    lines += [f'<bdi class="soft clip">{_text(f"{key}: {value}")}</bdi>' for key, value in list(data.items())[:DETAILS]]
    lines += [
        f'<a href="{escape(url)}" rel="noopener noreferrer nofollow">{_text(key)} ↗</a>' for key, url in links[:DETAILS]
    ]
    share = 100 * max(0.0, min(1.0, match.similarity))
    return (
        f'<li class="match"><div class="product">{_image(picture, f"Item {match.item}") or "no picture"}</div>'
        f'<div class="near"><span class="bar" aria-hidden="true"><i style="width: {share:.1f}%"></i></span>'
        f'<span class="number" title="similarity">{match.similarity:.3f}</span></div>{"".join(lines)}</li>'
    )


def is_link(value: str) -> bool:
    """Whether a value of the metadata may become a link: http and https only, with a host, in plain characters.

    >>> is_link("https://shop.example/a?b=1"), is_link("javascript:alert(1)"), is_link("http://")
    (True, False, False)
    """
    try:
        return re.fullmatch(r"https?://[!-~]+", value) is not None and bool(urlsplit(value).hostname)
    except ValueError:
        return False


def _failures(overview: Overview) -> str:
    rows = "".join(
        f'<li><a href="{address}"><bdi>{_text(photo)}</bdi></a> <span class="soft">{_text(error)}</span></li>'
        for address, photo, error in overview.failed
    )
    more = overview.failures - len(overview.failed)
    rest = f'<li class="soft">and {more} more, each in its place among the photos</li>' if more else ""
    return f'<section class="failures"><h2>Photos that could not be read</h2><ul>{rows}{rest}</ul></section>'


def _bars(labels: Counter[str]) -> str:
    most = max(labels.values())
    return "".join(
        f'<li><span>{_text(label)}</span><span class="bar" aria-hidden="true">'
        f'<i style="width: {100 * count / most:.1f}%; --color: {color_of(label)}"></i></span>'
        f'<span class="number">{count}</span></li>'
        for label, count in labels.most_common()
    )


def _image(source: str | None, alt: str, width: int = 0, height: int = 0) -> str:
    if source is None:
        return ""
    size = f' width="{width}" height="{height}"' if width and height else ""
    return f'<img src="{escape(source)}" alt="{_text(alt)}"{size} loading="lazy" decoding="async">'


def _text(text: str) -> str:
    """Escaped, without the control characters that HTML cannot hold."""
    return escape(re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", "�", text))


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _duration(seconds: float) -> str:
    """
    >>> _duration(4.21), _duration(125)
    ('4.2 s', '2 min 5 s')
    """
    return f"{seconds:.1f} s" if seconds < 60 else f"{int(seconds) // 60} min {int(seconds) % 60} s"
