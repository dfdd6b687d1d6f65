"""One photo in the report, as HTML. Whatever comes from photos or a catalogue is hostile and is escaped."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Final
from urllib.parse import urlsplit

import cv2
import numpy as np

from pipeline.report_style import color_of
from pipeline.search import Garment, PhotoResult
from stages.problems import plural
from stages.types import Box, Mask, Match

DETAILS: Final = 4
"""Metadata shown per match beside its name, price and link."""

TAG_PX: Final = 18
"""The height of a label on a photo."""

SCENE_PX: Final = 340
"""The width that a photo is about shown at; labels are placed for it."""


@dataclass(frozen=True, slots=True)
class Pictures:
    """Where a photo's pictures lie, relative to the page: None, or a missing match, is one that there is not."""

    photo: str | None
    crops: Sequence[str | None]
    products: Mapping[Match, str]


@dataclass(frozen=True, slots=True)
class Described:
    """What is known of an item, by how it is shown: its name, its price, its links, and the rest by column."""

    name: str
    price: str
    links: tuple[str, ...]
    details: Mapping[str, str]


def photo_html(result: PhotoResult, anchor: str, pictures: Pictures) -> str:
    """One photo: where its garments are, what they are, and their matches."""
    name = f"<h2><bdi>{text_html(result.photo)}</bdi></h2>"
    if result.error is not None:
        return (
            f'<article class="card photo failed" id="{anchor}">'
            f"<header>{name}<p>Not read: {text_html(result.error)}</p></header></article>"
        )
    size = f"{result.width} × {result.height} px · {plural(len(result.garments), 'garment')}"
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
        f'<g style="--color: {color_of(garment.label)}">{outline(garment)}'
        f'<rect class="halo" {frame}/><rect {frame}/></g>'
    )


def outline(garment: Garment) -> str:
    """The mask as a path in the photo's pixels."""
    found = [] if garment.mask is None else rings(garment.mask, garment.box)
    path = "".join("M" + "L".join(f"{x} {y}" for x, y in ring) + "Z" for ring in found)
    return f'<path d="{path}"/>' if path else ""


def rings(mask: Mask, box: Box) -> list[list[tuple[int, int]]]:
    """A mask's outlines, holes too, in the photo's pixels, simplified to about a pixel on the screen."""
    found, _ = cv2.findContours(np.pad(mask.astype(np.uint8), 1), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    slack_px = max(mask.shape) / 250
    simple = (cv2.approxPolyDP(ring, slack_px, True)[:, 0] + [box.x1 - 1, box.y1 - 1] for ring in found)
    return [[(int(x), int(y)) for x, y in ring] for ring in simple if len(ring) >= 3]


def _tags(result: PhotoResult, anchor: str) -> str:
    """A label with its score above each box's upper left corner, moved down where it would hide another."""
    placed: list[tuple[float, float, float]] = []
    parts = []
    scale = SCENE_PX / result.width
    for number, garment in enumerate(result.garments, start=1):
        text = f"{garment.label} {garment.score:.2f}"
        width = 12 + 6.4 * len(text)
        left = max(0.0, min(garment.box.x1 * scale, SCENE_PX - width))
        top = max(0.0, garment.box.y1 * scale - TAG_PX)
        while any(abs(top - other[1]) < TAG_PX and left < other[2] and other[0] < left + width for other in placed):
            top += 2
        placed.append((left, top, left + width))
        at = f"left: {100 * left / SCENE_PX:.2f}%; top: {100 * top / (result.height * scale):.2f}%"
        parts.append(
            f'<a class="tag number" href="#{anchor}-{number}"'
            f' style="--color: {color_of(garment.label)}; {at}">{text_html(text)}</a>'
        )
    return "".join(parts)


def _garment_html(garment: Garment, anchor: str, photo: str, crop: str | None, products: Mapping[Match, str]) -> str:
    image = _image(crop, f"{garment.label} in {photo}")
    head = f'<h3>{text_html(garment.label)}<span class="soft number">{garment.score:.2f}</span></h3>'
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
    told = described(match.metadata)
    lines = [f'<bdi class="item clip">{text_html(match.item)}</bdi>']
    lines += [f'<bdi class="clip">{text_html(told.name)}</bdi>'] if told.name else []
    lines += [f'<bdi class="price">{text_html(told.price)}</bdi>'] if told.price else []
    lines += [f'<bdi class="soft">{text_html(match.verdict)}</bdi>'] if match.verdict else []
    lines += [f'<bdi class="soft">{text_html(match.label)}</bdi>'] if match.label != garment.label else []
    lines += [
        f'<bdi class="soft clip">{text_html(f"{key}: {value}")}</bdi>'
        for key, value in list(told.details.items())[:DETAILS]
    ]
    lines += [
        f'<a href="{escape(url)}" rel="noopener noreferrer nofollow">{text_html(urlsplit(url).hostname or "")} ↗</a>'
        for url in told.links[:DETAILS]
    ]
    share = 100 * max(0.0, min(1.0, match.similarity))
    return (
        f'<li class="match"><div class="product">{_image(picture, f"Item {match.item}") or "no picture"}</div>'
        f'<div class="near"><span class="bar" aria-hidden="true"><i style="width: {share:.1f}%"></i></span>'
        f'<span class="number" title="similarity">{match.similarity:.3f}</span></div>{"".join(lines)}</li>'
    )


def described(metadata: Iterable[tuple[str, str]]) -> Described:
    """An item's metadata by how it is shown.

    >>> described((("Price", "9.90"), ("currency", "EUR"), ("url", "https://shop.example/1"), ("fit", "slim")))
    Described(name='', price='9.90 EUR', links=('https://shop.example/1',), details={'fit': 'slim'})
    """
    data = {key.lower(): value for key, value in metadata}
    name = data.pop("title", "") or data.pop("name", "")
    price = " ".join(part for part in (data.pop("price", ""), data.pop("currency", "")) if part)
    links = tuple(data.pop(key) for key in list(data) if is_link(data[key]))
    return Described(name, price, links, data)


def is_link(value: str) -> bool:
    """Whether a value of the metadata may become a link: http and https only, with a host, in plain characters.

    >>> is_link("https://shop.example/a?b=1"), is_link("javascript:alert(1)"), is_link("http://")
    (True, False, False)
    """
    try:
        return re.fullmatch(r"https?://[!-~]+", value) is not None and bool(urlsplit(value).hostname)
    except ValueError:
        return False


def _image(source: str | None, alt: str, width: int = 0, height: int = 0) -> str:
    if source is None:
        return ""
    size = f' width="{width}" height="{height}"' if width and height else ""
    return f'<img src="{escape(source)}" alt="{text_html(alt)}"{size} loading="lazy" decoding="async">'


def text_html(text: str) -> str:
    """Escaped, without the control characters that HTML cannot hold."""
    return escape(re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", "�", text))
