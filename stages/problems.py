"""Problems found in data before it is used, and their report grouped by kind."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

_LISTED_PER_KIND: Final = 20


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem: its kind, where it is (a path, an item, ``annotation 17 of 0003.jpg``), and what it is."""

    kind: StrEnum
    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"


def described(
    source: object, usable: str, kinds: Iterable[StrEnum], problems: Sequence[Problem], notes: Sequence[str]
) -> str:
    """Return a report of a source in lines: how much can be used, the first problems of each kind, and notes.

    Args:
        source: its name.
        usable: how much can be used, in words.
        kinds: of problems, in the order of the report; each is a heading.
        problems: all of them.
        notes: what is not a problem, but worth knowing.
    """
    lines = [f"{source}: {plural(len(problems), 'problem')}; {usable} can be used"]
    for kind in kinds:
        lines += _listed(kind, [str(problem) for problem in problems if problem.kind is kind])
    return "\n".join(lines + _listed("worth knowing", notes))


def _listed(heading: str, lines: Sequence[str]) -> list[str]:
    """Return a heading with a count and the first lines below it; nothing if there are no lines."""
    listed = [f"    {line}" for line in lines[:_LISTED_PER_KIND]]
    more = [f"    and {len(lines) - _LISTED_PER_KIND} more"] if len(lines) > _LISTED_PER_KIND else []
    return [f"  {heading} ({len(lines)}):", *listed, *more] if lines else []


def plural(count: int, noun: str) -> str:
    """Return a count with its noun.

    >>> plural(1, "photo"), plural(0, "photo")
    ('1 photo', '0 photos')
    """
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
