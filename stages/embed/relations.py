"""Who is compared with whom in a batch: what samplers arrange, miners choose from, and losses read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Self

import torch
from torch import Tensor


class Triplets(NamedTuple):
    """Rows of a batch, ``(t,)`` int64 each: an anchor, a photo of the same thing, a photo of another."""

    anchors: Tensor
    positives: Tensor
    negatives: Tensor


class Pairs(NamedTuple):
    """Rows of a batch, ``(p,)`` int64 each, and whether the two show the same thing, ``(p,)`` bool."""

    left: Tensor
    right: Tensor
    same: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Relations:
    """The positives and the negatives of each row of a batch.

    Attributes:
        labels: ``(n,)`` int64, the thing on each row.
        positive: ``(n, n)`` bool, whether the column is a positive of the row; never its own.
        negative: ``(n, n)`` bool, whether the column is a negative of the row.
    """

    labels: Tensor
    positive: Tensor
    negative: Tensor

    @classmethod
    def of(
        cls,
        labels: Tensor,
        groups: Tensor | None = None,
        anchors: Tensor | None = None,
        partners: Tensor | None = None,
    ) -> Self:
        """All pairs of a batch, or some.

        Args:
            labels: ``(n,)`` integers, equal on rows that show the same thing.
            groups: ``(n,)`` integers; rows are related within their group only. None: one group.
            anchors: ``(n,)`` bool, rows that have relations. None: all.
            partners: ``(n,)`` bool, rows that anchors have relations with. None: all.
        """
        same = labels[:, None] == labels[None, :]
        related = ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)
        if groups is not None:
            related &= groups[:, None] == groups[None, :]
        if anchors is not None:
            related &= anchors[:, None]
        if partners is not None:
            related &= partners[None, :]
        return cls(labels, same & related, ~same & related)

    def above(self, styles: Tensor) -> Relations:
        """The same pairs a level up: the other things of a row's style are positives, other styles negatives.

        Photos of the thing itself take no part, so a loss on these never pulls against one on the relations below.

        Args:
            styles: ``(n,)`` integers; rows of one label have one style.
        """
        same_style = styles[:, None] == styles[None, :]
        other_thing = self.labels[:, None] != self.labels[None, :]
        related = self.positive | self.negative
        return Relations(styles, same_style & other_thing & related, ~same_style & related)

    def pairs(self) -> Pairs:
        """Every positive and every negative as a pair."""
        left, right = (self.positive | self.negative).nonzero(as_tuple=True)
        return Pairs(left, right, self.positive[left, right])

    def triplets(self) -> Triplets:
        """Every anchor with each of its positives and each of its negatives."""
        anchors, positives = self.positive.nonzero(as_tuple=True)
        which, negatives = self.negative[anchors].nonzero(as_tuple=True)
        return Triplets(anchors[which], positives[which], negatives)
