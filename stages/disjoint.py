"""Groups of things that a chain of pairs joins."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import Generic, TypeVar

T = TypeVar("T", bound=Hashable)


class DisjointSets(Generic[T]):
    """Disjoint sets under union (Galler and Fischer 1964); a thing that is new is a set of its own.

    >>> sets = DisjointSets("abcde")
    >>> sets.join("b", "e"), sets.join("e", "c"), sets.leader("c")
    (None, None, 'b')
    >>> sets.groups()
    [['b', 'c', 'e']]
    """

    def __init__(self, things: Iterable[T] = ()) -> None:
        self._above = {thing: thing for thing in things}

    def leader(self, thing: T) -> T:
        """One thing for all of a set."""
        above = self._above
        above.setdefault(thing, thing)
        while above[thing] != thing:
            above[thing] = above[above[thing]]
            thing = above[thing]
        return thing

    def join(self, one: T, other: T) -> None:
        """Make the sets of two things one, led by the leader of the first."""
        self._above[self.leader(other)] = self.leader(one)

    def groups(self) -> list[list[T]]:
        """The sets of two things or more, the largest first, each in the order that its things came in."""
        found: dict[T, list[T]] = {}
        for thing in self._above:
            found.setdefault(self.leader(thing), []).append(thing)
        return sorted((group for group in found.values() if len(group) > 1), key=len, reverse=True)
