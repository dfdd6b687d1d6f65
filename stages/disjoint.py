"""Disjoint sets: groups of things that pairs connect."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import Generic, TypeVar

T = TypeVar("T", bound=Hashable)


class DisjointSets(Generic[T]):
    """Disjoint sets with union (Galler and Fischer 1964); a new thing is a set by itself.

    >>> sets = DisjointSets("abcde")
    >>> sets.join("b", "e"), sets.join("e", "c"), sets.leader("c")
    (None, None, 'b')
    >>> sets.groups()
    [['b', 'c', 'e']]
    """

    def __init__(self, things: Iterable[T] = ()) -> None:
        self._parents = {thing: thing for thing in things}

    def leader(self, thing: T) -> T:
        """Return the thing that represents the set of a thing."""
        parents = self._parents
        parents.setdefault(thing, thing)
        while parents[thing] != thing:
            parents[thing] = parents[parents[thing]]
            thing = parents[thing]
        return thing

    def join(self, one: T, other: T) -> None:
        """Unite the sets of two things; the leader of the first one stays."""
        self._parents[self.leader(other)] = self.leader(one)

    def groups(self) -> list[list[T]]:
        """Return the sets of two things or more, the largest first, each in the order of insertion."""
        groups: dict[T, list[T]] = {}
        for thing in self._parents:
            groups.setdefault(self.leader(thing), []).append(thing)
        return sorted((group for group in groups.values() if len(group) > 1), key=len, reverse=True)
