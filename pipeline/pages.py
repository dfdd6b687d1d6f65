"""HTML pages from ``pipeline/templates``: one style sheet, one script, all text escaped.

A page opens from disk, offline: it contains style and script, and its pictures are files beside it.
"""

from __future__ import annotations

import hashlib
import re
import zlib
from base64 import b64encode
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import cv2
import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from pipeline.gallery.filters import ATTRIBUTE
from stages.errors import ImageError
from stages.files import write_whole
from stages.images import encode_jpeg, read_photo
from stages.problems import plural
from stages.types import WHOLE, Box, Image, Mask

COLORS: Final = {
    "outerwear": "#7c3aed",
    "top": "#2563eb",
    "dress": "#d61f69",
    "skirt": "#b31ec4",
    "pants": "#0f766e",
    "shorts": "#15803d",
    "shoes": "#c2410c",
    "bag": "#946000",
    "hat": "#b91c1c",
    "eyewear": "#0369a1",
    "scarf": "#9f1239",
    "belt": "#57534e",
    "hosiery": "#4338ca",
    WHOLE: "#475569",
}
"""A colour per label, each dark enough for white text (WCAG AA, 4.5 to 1)."""

STYLE: Final = files("pipeline").joinpath("templates", "style.css").read_text(encoding="utf-8")
"""The style sheet of all pages, light and dark, from a phone to a wide screen."""

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def color_of(label: str) -> str:
    """Return the colour of a label; an unknown label always has the same one of the known colours.

    >>> color_of("top"), color_of("kimono") in COLORS.values()
    ('#2563eb', True)
    """
    choices = list(COLORS.values())
    return COLORS.get(label) or choices[zlib.crc32(label.encode(errors="replace")) % len(choices)]


def shown_label(label: str) -> str:
    """Return a label as people read it: a photo that was not cropped is called a photo.

    >>> shown_label("top"), shown_label("whole")
    ('top', 'photo')
    """
    return "photo" if label == WHOLE else label


def render(template: str, **values: object) -> Markup:
    """Render a template of ``pipeline/templates``; strings are escaped unless they are Markup."""
    return Markup(environment().get_template(template).render(values))  # noqa: S704  escaped by the template


def write_page(path: Path | str, template: str, **values: object) -> None:
    """Render a template into a file, atomically."""
    write_whole(Path(path), render(template, **values))


class Pictures:
    """The JPEG files beside a page, in a subfolder of the page's folder."""

    def __init__(self, folder: Path | str, name: str = "pictures") -> None:
        self._folder, self._name = Path(folder), name
        (self._folder / name).mkdir(parents=True)

    def write(self, name: str, image: Image, max_side: int, quality: int = 85) -> str:
        """Write an image as ``NAME.jpg``, at most ``max_side`` pixels long, and return its address for the page."""
        address = f"{self._name}/{name}.jpg"
        (self._folder / address).write_bytes(encode_jpeg(image, quality, max_side))
        return address

    def write_photo(self, name: str, path: Path, max_side: int, window: Box | None = None) -> str:
        """Write a photo, or the part of it in a window, as :meth:`write` does; return "" if it is no longer readable."""
        try:
            image = read_photo(path, None if window else max_side).image
            return self.write(name, image[window.slices] if window else image, max_side)
        except (ImageError, ValueError):  # removed, or replaced by a smaller one
            return ""


@dataclass(frozen=True, slots=True)
class Description:
    """An item's metadata as it is shown: name, price, links, and the remaining columns."""

    name: str
    price: str
    links: tuple[str, ...]
    details: Mapping[str, str]


def described(metadata: Iterable[tuple[str, str]]) -> Description:
    """Split an item's metadata into what is shown as name, price, links and details.

    >>> described((("Price", "9.90"), ("currency", "EUR"), ("url", "https://shop.example/1"), ("fit", "slim")))
    Description(name='', price='9.90 EUR', links=('https://shop.example/1',), details={'fit': 'slim'})
    """
    given = {key.lower(): value for key, value in metadata}
    predicted = {key.removeprefix(ATTRIBUTE): value for key, value in given.items() if key.startswith(ATTRIBUTE)}
    data = {key: value for key, value in given.items() if not key.startswith(ATTRIBUTE)}
    data |= {key: value for key, value in predicted.items() if key not in data}
    name = data.pop("title", "") or data.pop("name", "")
    price = " ".join(part for part in (data.pop("price", ""), data.pop("currency", "")) if part)
    links = tuple(data.pop(key) for key in list(data) if is_link(data[key]))
    return Description(name, price, links, data)


def is_link(value: str) -> bool:
    """Tell whether a page may link to a value: http or https, with a host, in plain ASCII.

    >>> is_link("https://shop.example/a?b=1"), is_link("javascript:alert(1)"), is_link("http://")
    (True, False, False)
    """
    try:
        return re.fullmatch(r"https?://[!-~]+", value) is not None and bool(urlsplit(value).hostname)
    except ValueError:
        return False


def outlines(mask: Mask, box: Box) -> list[list[tuple[int, int]]]:
    """Return a mask's outlines and holes as polygons in pixels of the photo, simplified to 1/250 of the mask's size."""
    contours, _ = cv2.findContours(np.pad(mask.astype(np.uint8), 1), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    tolerance_px = max(mask.shape) / 250
    simple = (cv2.approxPolyDP(contour, tolerance_px, True)[:, 0] + [box.x1 - 1, box.y1 - 1] for contour in contours)
    return [[(int(x), int(y)) for x, y in polygon] for polygon in simple if len(polygon) >= 3]


def svg_path(mask: Mask | None, box: Box) -> str:
    """Return a mask's outlines as the data of an SVG path in pixels of the photo; empty without a mask.

    >>> svg_path(np.ones((3, 2), np.bool_), Box(10, 20, 12, 23))
    'M10 20L10 22L11 22L11 20Z'
    """
    polygons = [] if mask is None else outlines(mask, box)
    return "".join("M" + "L".join(f"{x} {y}" for x, y in polygon) + "Z" for polygon in polygons)


@cache
def environment() -> Environment:
    """Return the templates with their filters and constants."""
    environment = Environment(
        loader=PackageLoader("pipeline"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_without_control_characters,
    )
    script = files("pipeline").joinpath("templates", "page.js").read_text(encoding="utf-8").strip()
    digest = b64encode(hashlib.sha256(script.encode()).digest()).decode()
    environment.globals |= {
        "style": Markup(STYLE),  # noqa: S704  part of the package
        "script": Markup(script),  # noqa: S704
        "script_hash": Markup(f"'sha256-{digest}'"),  # noqa: S704
        "interactive": False,
        "sheets": (),
        "state": "",
    }
    environment.filters |= {
        "color": color_of,
        "label": shown_label,
        "described": described,
        "plural": plural,
        "figure": text_of,
        "interval": _split_interval,
        "basename": lambda path: path.replace("\\", "/").rstrip("/").rpartition("/")[2] or path,
        "folder": lambda path: path.replace("\\", "/").rstrip("/").rpartition("/")[0],
        "host": lambda url: urlsplit(url).hostname or "",
    }
    return environment


def _without_control_characters(value: object) -> object:
    """Replace the control characters that HTML cannot hold in the text that a template shows."""
    return _CONTROL.sub("�", value) if isinstance(value, str) and not isinstance(value, Markup) else value


def text_of(figure: object) -> str:
    """Return a figure as the text of a table's cell: three decimals, or a dash where it is unknown.

    >>> text_of(0.25), text_of(3), text_of(None)
    ('0.250', '3', '–')
    """
    return "–" if figure is None else f"{figure:.3f}" if isinstance(figure, float) else str(figure)


def _split_interval(figure: object) -> tuple[str, str]:
    """Return the text of a figure, and that of its interval.

    >>> _split_interval("0.5 [0.4, 0.6]"), _split_interval(12)
    (('0.5', '[0.4, 0.6]'), ('12', ''))
    """
    value, bracket, rest = text_of(figure).partition(" [")
    return value, bracket.strip() + rest
