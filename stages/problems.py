"""What is wrong with data, told before it is used: where, what, and grouped by kind."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

_TOLD_PER_KIND: Final = 20


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong, and where: a path, an item, ``annotation 17 of 0003.jpg``; the kind is a heading."""

    kind: StrEnum
    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"


def described(
    source: object, usable: str, kinds: Iterable[StrEnum], problems: Sequence[Problem], notes: Sequence[str]
) -> str:
    """How much of a source can be used, what is wrong with the rest, kind by kind, and the notes; in lines.

    Args:
        source: its name.
        usable: how much can be used, in words.
        kinds: of problems, in the order that they are told in; each is its own heading.
        problems: all of them; of each kind the first are told.
        notes: what is no problem, yet worth knowing.
    """
    lines = [f"{source}: {plural(len(problems), 'problem')}; {usable} can be used"]
    for kind in kinds:
        lines += _listed(kind, [str(problem) for problem in problems if problem.kind is kind])
    return "\n".join(lines + _listed("worth knowing", notes))


def _listed(heading: str, lines: Sequence[str]) -> list[str]:
    """A heading with a count, and the first lines below it; nothing where there are none."""
    told = [f"    {line}" for line in lines[:_TOLD_PER_KIND]]
    more = [f"    and {len(lines) - _TOLD_PER_KIND} more"] if len(lines) > _TOLD_PER_KIND else []
    return [f"  {heading} ({len(lines)}):", *told, *more] if lines else []


def plural(count: int, noun: str) -> str:
    """A count of things.

    >>> plural(1, "photo"), plural(0, "photo")
    ('1 photo', '0 photos')
    """
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
