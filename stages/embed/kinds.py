"""Kinds of garments in vectors: the part of a vector that holds probabilities of kinds and of article types.

Probabilities are stored as square roots, so that the inner product of two vectors includes the Bhattacharyya coefficient
of their distributions, 1 for equal and 0 for disjoint ones. A search by similarity therefore prefers items of the
garment's kind, as far as both sides are sure, and one wrong label does not hide an item.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from stages.labels import OTHER, kind_of
from stages.protocols import Embedder
from stages.types import LABELS, Image, Vectors

KINDS: tuple[str, ...] = (*LABELS, OTHER)
"""The kinds in the order of their probabilities."""

Probabilities = NDArray[np.float32]
"""``(n, kinds)`` or ``(n, types)`` float32, rows with the sum 1."""

EMPHASIS = 7.0
"""How many times more kinds and types weigh where a garment is the query than in the product of two items' vectors.

The probabilities of two views of one item differ a little, so kinds weigh little between items. Between street and
shop, looks differ so much that the kind has to weigh more.
"""

KIND_SHARE, TYPE_SHARE = 0.05, 0.05
"""What kinds and types make up of the similarity of two items, where they are added to an embedder."""

_LEAST = 1e-6


@dataclass(frozen=True)
class KindPart:
    """Where a vector holds its kinds and its types, and how much of a similarity they make up.

    Attributes:
        dim: the width of the vectors; the types are the last of it, and the kinds stand before them.
        types: the name of each type, known to :mod:`stages.labels`.
        kind_share: what kinds make up of the similarity of two vectors, in [0, 1).
        type_share: the same for types.
    """

    dim: int
    types: tuple[str, ...]
    kind_share: float
    type_share: float

    @property
    def width(self) -> int:
        """How many numbers of a vector hold kinds and types."""
        return len(KINDS) + len(self.types)

    @cached_property
    def kind_of_type(self) -> NDArray[np.float32]:
        """``(types, kinds)`` of 0 and 1: the kind of each type."""
        kinds = [kind_of(name) for name in self.types]
        return np.array([[kind == name for name in KINDS] for kind in kinds], np.float32)

    def kinds(self, vectors: Vectors) -> Probabilities:
        """Return the probability of each of :data:`KINDS`, ``(n, 14)``."""
        return normalised(vectors[:, self.dim - self.width : self.dim - len(self.types)] ** 2)

    def type_probabilities(self, vectors: Vectors) -> Probabilities:
        """Return the probability of each type, ``(n, types)``."""
        return normalised(vectors[:, self.dim - len(self.types) :] ** 2)

    def with_kinds(self, vectors: Vectors, kinds: Probabilities) -> Vectors:
        """Return the vectors with other probabilities of kinds, and of types in proportion.

        Args:
            vectors: ``(n, dim)`` unit rows.
            kinds: ``(n, 14)``, rows with the sum 1.
        """
        factor = (kinds + _LEAST) / (self.kinds(vectors) + _LEAST)
        types = normalised((self.type_probabilities(vectors) * (factor @ self.kind_of_type.T)).astype(np.float32))
        return self._concatenated(vectors[:, : self.dim - self.width], kinds, types)

    def queries(self, vectors: Vectors, *, any_kind: bool = False) -> tuple[Vectors, float]:
        """Return garments as queries, in whose similarities kinds and types weigh :data:`EMPHASIS` times as much.

        Args:
            vectors: ``(n, dim)`` unit rows.
            any_kind: kinds and types weigh nothing instead.

        Returns:
            ``(n, dim)`` unit rows, and what their inner products with items are multiplied by to be similarities: with
            it, an item that is the garment itself has 1.
        """
        factor = 0.0 if any_kind else EMPHASIS
        share = self.kind_share + self.type_share
        length = (1 - share + factor**2 * share) ** 0.5
        return self._weighted(vectors, factor), length / (1 - share + factor * share)

    def comparable(self, vectors: Vectors) -> Vectors:
        """Return vectors whose inner products are the similarities of garments that :meth:`queries` describes."""
        return self._weighted(vectors, EMPHASIS**0.5)

    def _weighted(self, vectors: Vectors, factor: float) -> Vectors:
        rows = vectors.copy()
        rows[:, self.dim - self.width :] *= factor
        return _unit(rows)

    def join(self, looks: Vectors, kinds: Probabilities, types: Probabilities) -> Vectors:
        """Return unit vectors of looks, ``(n, dim - width)`` unit rows, and probabilities of kinds and types."""
        return self._concatenated(looks * np.float32((1 - self.kind_share - self.type_share) ** 0.5), kinds, types)

    def _concatenated(self, looks: Vectors, kinds: Probabilities, types: Probabilities) -> Vectors:
        rows = [looks, np.sqrt(kinds * self.kind_share), np.sqrt(types * self.type_share)]
        return _unit(np.concatenate(rows, axis=1).astype(np.float32))


@runtime_checkable
class KnowsKinds(Protocol):
    """An embedder whose vectors hold probabilities of kinds."""

    @property
    def kinds(self) -> KindPart | None:
        """Where they hold them; None where they do not."""


def kind_part(embedder: object) -> KindPart | None:
    """Return where an embedder's vectors hold kinds, or None."""
    return embedder.kinds if isinstance(embedder, KnowsKinds) else None


class KindAwareEmbedder:
    """An embedder whose vectors also hold the probabilities of kinds and types that a classifier gives.

    Args:
        looks: any embedder.
        classifier: an embedder whose vectors hold kinds and types.

    Raises:
        ValueError: the classifier's vectors hold none, or those of the embedder hold some already.
    """

    def __init__(self, looks: Embedder, classifier: Embedder) -> None:
        known = kind_part(classifier)
        if known is None:
            raise ValueError(f"{classifier.fingerprint} knows no kinds; name a classifier that does")
        if kind_part(looks) is not None:
            raise ValueError(f"the vectors of {looks.fingerprint} hold kinds already")
        self._looks, self._classifier, self._known = looks, classifier, known
        self.kinds = KindPart(looks.dim + known.width, known.types, KIND_SHARE, TYPE_SHARE)
        self.dim, self.input_px = self.kinds.dim, max(looks.input_px, classifier.input_px)
        self.fingerprint = f"{looks.fingerprint}+{classifier.fingerprint}"

    def __call__(self, images: Sequence[Image]) -> Vectors:
        """``(len(images), dim)`` float32 unit rows."""
        known, classified = self._known, self._classifier(images)
        return self.kinds.join(self._looks(images), known.kinds(classified), known.type_probabilities(classified))


def believed(kinds: Probabilities, labels: Sequence[str], trust: float) -> Probabilities:
    """Combine probabilities of kinds with the labels that a detector gives.

    Args:
        kinds: ``(n, 14)`` by the embedder.
        labels: a detector's label for each row; one that is no kind changes nothing.
        trust: how often a detector's label is right, in (0, 1).

    >>> kinds = np.full((1, 14), 1 / 14, np.float32)
    >>> round(float(believed(kinds, ["top"], trust=0.8)[0, KINDS.index("top")]), 2)
    0.8
    """
    likelihood = np.ones_like(kinds)
    for row, label in zip(likelihood, labels, strict=True):
        if label in KINDS:
            row[:] = (1 - trust) / (len(KINDS) - 1)
            row[KINDS.index(label)] = trust
    return normalised(kinds * likelihood)


def normalised(values: NDArray[np.float32]) -> Probabilities:
    """Return rows of non-negative numbers as probabilities, none of them 0."""
    values = values + np.float32(_LEAST)
    probabilities: Probabilities = (values / values.sum(axis=1, keepdims=True)).astype(np.float32)
    return probabilities


def _unit(rows: Vectors) -> Vectors:
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True).clip(_LEAST), np.float32)
