"""What samplers are made of: whole draws of rows, and the rows of each item that may stand on either side of a pair."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from stages.embed.rows import Ints, Rows


@dataclass(frozen=True, slots=True, eq=False)
class Draw:
    """The rows of one batch, and which of its places are compared; see :meth:`~stages.embed.relations.Relations.of`."""

    rows: Ints
    groups: Ints | None = None
    anchors: NDArray[np.bool_] | None = None
    partners: NDArray[np.bool_] | None = None


class Sampler(Protocol):
    """Which rows make the batch of a step: a function of the seed and the step, so that a killed run can go on."""

    def __call__(self, step: int) -> Draw:
        """The draw of a step, from 0."""


class Pools:
    """Rows by item: those that may be anchors, and those that may be their positives and negatives.

    Args:
        rows: to draw from.
        anchor_domain: anchors are of this domain and partners of all others: street to shop, or shop to street.
            Empty: any row is either. Items without both are left out.

    Raises:
        ValueError: fewer than two items are left, or there is no such domain.
    """

    def __init__(self, rows: Rows, anchor_domain: str = "") -> None:
        everyone = np.ones(len(rows), np.bool_)
        first = rows.in_domain(anchor_domain) if anchor_domain else everyone
        second = ~first if anchor_domain else everyone
        by_item = np.argsort(rows.items, kind="stable")
        parts = np.split(by_item, np.flatnonzero(np.diff(rows.items[by_item])) + 1)
        both = [(part[first[part]], part[second[part]]) for part in parts]
        both = [(anchors, partners) for anchors, partners in both if len(anchors) and len(partners)]
        if len(both) < 2:
            raise ValueError(f"wanted two items with anchors and positives at least, got {len(both)}")
        self.anchors = [anchors for anchors, _ in both]
        self.partners = [partners for _, partners in both]
        self.crossed = bool(anchor_domain)
        self.rows = rows

    def __len__(self) -> int:
        """How many items."""
        return len(self.anchors)

    def positive_pair(self, item: int, rng: Generator) -> tuple[int, int]:
        """An anchor of an item and another of its photos; the same one where it has no other."""
        anchor = int(rng.choice(self.anchors[item]))
        others = self.partners[item][self.partners[item] != anchor]
        return anchor, int(rng.choice(others)) if len(others) else anchor

    def partner(self, item: int, rng: Generator) -> int:
        """Any photo of an item that may be a positive or a negative."""
        return int(rng.choice(self.partners[item]))

    def other(self, item: int, rng: Generator) -> int:
        """Another item than the given one, each as likely."""
        found = int(rng.integers(len(self) - 1))
        return found + (found >= item)


def in_groups(rows: Ints, size: int) -> Draw:
    """Rows in groups of a size, each compared by itself: its first row is the anchor, the others are partners."""
    places = np.arange(len(rows))
    anchors = places % size == 0
    return Draw(rows, places // size, anchors, ~anchors)


def some(rows: Ints, count: int, rng: Generator) -> Ints:
    """So many of some rows, each once before any comes again."""
    rounds = [rng.permutation(rows) for _ in range(-(-count // len(rows)))]
    return np.concatenate(rounds)[:count]
