"""The product exports of shops: which columns they have, and which photos a row names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Final

from pipeline.tables import Layout, TableRow

REQUIRED: Final = ("item_id", "image")
"""The columns that a catalogue's table must have."""

SHOPIFY: Final = Layout(
    "a product export of Shopify",
    {
        "item_id": "Handle", "image": "Image Src", "image_2": "Variant Image", "title": "Title", "brand": "Vendor",
        "type": "Type", "tags": "Tags", "price": "Variant Price", "sku": "Variant SKU",
    },
)  # fmt: skip
GOOGLE: Final = Layout(
    "a product feed of Google Merchant Center",
    {"item_id": "id", "image": "image_link", "image_2": "additional_image_link", "style": "item_group_id"},
)
LAYOUTS: Final = (SHOPIFY, GOOGLE, Layout("a table of several images", {"image": "image_1"}))

_FURTHER: Final = re.compile(r"image[ _-]?(\d+)", re.IGNORECASE)
_BETWEEN: Final = re.compile(
    r"\s*[|\n]\s*|[;,\s]+(?=(?:https?|s3|gs|file)://)"
    r"|(?:(?<=\.jpg)|(?<=\.jpeg)|(?<=\.png)|(?<=\.webp))\s*[;,]\s*",
    re.IGNORECASE,
)


def is_image_column(name: str) -> bool:
    """Return whether a column names photos: ``image``, ``image_2``, ``Image 3``."""
    return name == "image" or _FURTHER.fullmatch(name) is not None


def image_names(cells: Mapping[str, str]) -> list[str]:
    """Return the photos of a row: of the column ``image``, then of ``image_1``, ``image_2`` and so on.

    A cell may name several, separated by a line break or ``|``, and by a comma, semicolon or blank where that is
    unambiguous: before an address, and after the suffix of a photo.

    >>> image_names({"image_10": "c.jpg", "image": "a, b.jpg; https://shop.example/w_200,h_300/d", "image_2": ""})
    ['a, b.jpg', 'https://shop.example/w_200,h_300/d', 'c.jpg']
    """
    further = {int(match[1]): name for name in cells if (match := _FURTHER.fullmatch(name))}
    columns = [cells.get("image", ""), *(cells[name] for _, name in sorted(further.items()))]
    return list(dict.fromkeys(name for cell in columns for name in _BETWEEN.split(cell) if name))


def products(rows: Iterable[TableRow]) -> Iterator[TableRow]:
    """Yield the rows that name photos, and an error for each product of Shopify's export that has none.

    There, a product has a row for each variant and each further photo, and only the first describes it.
    """
    described: dict[str, dict[str, str]] = {}
    with_photo: set[str] = set()
    for row in rows:
        if row.error is not None or row.layout != SHOPIFY.name:
            yield row
            continue
        item = row.cells.get("item_id", "")
        about = described.setdefault(
            item, {name: cell for name, cell in row.cells.items() if not is_image_column(name)}
        )
        if image_names(row.cells):
            with_photo.add(item)
            yield replace(row, cells=about | {name: cell for name, cell in row.cells.items() if cell})
    for item in described:
        if item not in with_photo:
            yield TableRow(f"the product {item!r}", error="has no photo")
