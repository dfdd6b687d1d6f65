"""Problems in input data, reported by kind before the data is used."""

from __future__ import annotations

import reprlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

_LINES_PER_KIND: Final = 20


@dataclass(frozen=True, slots=True)
class Problem:
    """A problem: its kind (the heading of its list), where it is, and what is wrong."""

    kind: str
    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"


def described(source: object, usable: str, problems: Sequence[Problem], notes: Sequence[str]) -> str:
    """Return a summary of a data source: how much is usable, the first problems of each kind, and notes on the rest."""
    lines = [f"{source}: {plural(len(problems), 'problem')}; {usable} can be used"]
    for kind in dict.fromkeys(problem.kind for problem in problems):
        lines += _listed(kind, [str(problem) for problem in problems if problem.kind == kind])
    return "\n".join(lines + _listed("notes", notes))


def _listed(heading: str, lines: Sequence[str]) -> list[str]:
    shown = [f"    {line}" for line in lines[:_LINES_PER_KIND]]
    more = [f"    and {len(lines) - _LINES_PER_KIND} more"] if len(lines) > _LINES_PER_KIND else []
    return [f"  {heading} ({len(lines)}):", *shown, *more] if lines else []


def plural(count: int, noun: str) -> str:
    """Return a count with its noun.

    >>> plural(1, "photo"), plural(0, "photo")
    ('1 photo', '0 photos')
    """
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def brief(value: object) -> str:
    """Return any value as one short line.

    >>> brief("a.jpg"), brief(" "), brief(list(range(100)))
    ('a.jpg', "' '", '[0, 1, 2, 3, 4, 5, ...]')
    """
    if isinstance(value, str) and value.isprintable() and value.strip() and len(value) <= 100:
        return value
    return reprlib.repr(value)
