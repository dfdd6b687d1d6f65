"""Disjoint sets: groups of elements connected by pairs."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import Generic, TypeVar

T = TypeVar("T", bound=Hashable)


class DisjointSets(Generic[T]):
    """Disjoint sets with union (Galler and Fischer 1964); a new element is a set of its own.

    >>> sets = DisjointSets("abcde")
    >>> sets.join("b", "e"), sets.join("e", "c"), sets.leader("c")
    (None, None, 'b')
    >>> sets.groups()
    [['b', 'c', 'e']]
    """

    def __init__(self, elements: Iterable[T] = ()) -> None:
        self._parents = {element: element for element in elements}

    def leader(self, element: T) -> T:
        """Return the element that represents the set of an element."""
        parents = self._parents
        parents.setdefault(element, element)
        while parents[element] != element:
            parents[element] = parents[parents[element]]
            element = parents[element]
        return element

    def join(self, one: T, other: T) -> None:
        """Unite the sets of two elements; the first one's leader stays."""
        self._parents[self.leader(other)] = self.leader(one)

    def groups(self) -> list[list[T]]:
        """Return the sets of at least two elements, the largest first, each in order of insertion."""
        groups: dict[T, list[T]] = {}
        for element in self._parents:
            groups.setdefault(self.leader(element), []).append(element)
        return sorted((group for group in groups.values() if len(group) > 1), key=len, reverse=True)
