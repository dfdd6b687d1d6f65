"""What a gallery can be filtered by: its columns, each with the control that fits its values."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Literal

from pipeline.gallery import Gallery
from pipeline.report_photo import is_link

OWN: Final = ("item", "photo", "label", "found", "detector")
"""Columns of every gallery, which need no control here."""

CHOICES: Final = 40
"""Values of a column that can be chosen from."""

FACETS: Final = 12


@dataclass(frozen=True, slots=True)
class Facet:
    """A column: of numbers between ``least`` and ``most``, of a few ``values`` to choose from, or of texts."""

    column: str
    kind: Literal["number", "choice", "text"]
    values: tuple[str, ...] = ()
    least: float = 0.0
    most: float = 0.0


def facets_of(gallery: Gallery) -> list[Facet]:
    """The facets of the catalogue's first columns; links are none."""
    columns = [column for column in gallery.columns if column not in OWN]
    found = (facet_of(column, gallery.values(column)) for column in columns)
    return [facet for facet in found if facet][:FACETS]


def facet_of(column: str, counts: dict[str, int]) -> Facet | None:
    """How a column is filtered by, or None where that would tell nothing apart.

    >>> facet_of("price", {"9.5": 2, "20": 1})
    Facet(column='price', kind='number', values=(), least=9.5, most=20.0)
    >>> facet_of("fit", {"slim": 2, "": 1, "Loose": 5}).values
    ('Loose', 'slim')
    """
    values = [value for value in counts if value.strip()]
    if len(values) < 2 or any(map(is_link, values)):
        return None
    numbers = [number for number in map(_number, values) if number is not None]
    if len(numbers) == len(values):
        return Facet(column, "number", least=min(numbers), most=max(numbers))
    if len(values) <= CHOICES and len(values) < sum(counts[value] for value in values):
        return Facet(column, "choice", tuple(sorted(values, key=str.casefold)))
    return Facet(column, "text")


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
