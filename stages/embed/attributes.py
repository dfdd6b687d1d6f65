"""Attributes of garments in vectors: kind, article type, colour, pattern, gender and usage, as probabilities.

Probabilities are stored as square roots, so that the inner product of two vectors includes the Bhattacharyya coefficient
of their distributions, 1 for equal and 0 for disjoint ones. A search by similarity therefore prefers items of the
garment's kind, as far as both sides are sure, and one wrong label does not hide an item.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from stages.labels import OTHER, kind_of
from stages.protocols import Embedder
from stages.types import LABELS, Image, Vectors

KINDS: tuple[str, ...] = (*LABELS, OTHER)
"""The kinds in the order of their probabilities."""

Probabilities = NDArray[np.float32]
"""``(n, values)`` float32, rows with the sum 1."""

EMPHASIS: Final = 3.0
"""How many times more kinds and types weigh where a garment is the query than in the product of two items' vectors.

The probabilities of two views of one item differ a little, so kinds weigh little between items. Between street and
shop, looks differ so much that the kind has to weigh more.
"""

SHARES: Final[Mapping[str, float]] = {
    "kind": 0.03, "type": 0.25, "colour": 0.06, "pattern": 0.02, "gender": 0.02, "usage": 0.01,
}  # fmt: skip
"""What each attribute makes up of the similarity of two items, where they are added to an embedder.

Larger shares find more items of one type and colour, and fewer photos of one item and fewer colours of one style.
"""

_EMPHASISED: Final = ("kind", "type")
_LEAST: Final = 1e-6


@dataclass(frozen=True, slots=True)
class Attribute:
    """The most probable value of one attribute of a garment, and its probability."""

    name: str
    value: str
    confidence: float


@dataclass(frozen=True)
class AttributePart:
    """Where a vector holds attributes, and how much of a similarity they make up.

    Attributes:
        dim: the width of the vectors; the attributes are the last of it, in the order of ``shares``.
        values: the values of each attribute by its name; those of ``type`` are known to :mod:`stages.labels`, and
            the values of ``kind`` are :data:`KINDS`.
        shares: what each attribute makes up of the similarity of two vectors; their sum is below 1.
        least: the confidence from which an attribute's value is stated.
    """

    dim: int
    values: Mapping[str, tuple[str, ...]]
    shares: Mapping[str, float]
    least: Mapping[str, float]

    @cached_property
    def _names(self) -> dict[str, tuple[str, ...]]:
        names = {"kind": KINDS, **self.values}
        return {name: names[name] for name in self.shares}

    @cached_property
    def width(self) -> int:
        """How many numbers of a vector hold attributes."""
        return sum(map(len, self._names.values()))

    @cached_property
    def places(self) -> dict[str, slice]:
        """Where a vector holds each attribute."""
        stops = self.dim - self.width + np.cumsum([len(values) for values in self._names.values()])
        return {
            name: slice(int(stop) - len(values), int(stop))
            for (name, values), stop in zip(self._names.items(), stops, strict=True)
        }

    @cached_property
    def kind_of_type(self) -> NDArray[np.float32]:
        """``(types, kinds)`` of 0 and 1: the kind of each type."""
        kinds = [kind_of(name) for name in self.values["type"]]
        return np.array([[kind == name for name in KINDS] for kind in kinds], np.float32)

    def probabilities(self, vectors: Vectors, name: str) -> Probabilities:
        """Return the probability of each value of an attribute, ``(n, values)``."""
        return normalised(vectors[:, self.places[name]] ** 2)

    def kinds(self, vectors: Vectors) -> Probabilities:
        """Return the probability of each of :data:`KINDS`, ``(n, 14)``."""
        return self.probabilities(vectors, "kind")

    def stated(self, vectors: Vectors) -> tuple[tuple[Attribute, ...], ...]:
        """Return the attributes of each row that are sure enough to be stated, without the kind."""
        found: list[list[Attribute]] = [[] for _ in vectors]
        for name, values in self.values.items():
            probabilities = self.probabilities(vectors, name)
            for row, place in enumerate(probabilities.argmax(axis=1)):
                confidence = float(probabilities[row, place])
                if confidence >= self.least.get(name, 0.5) and values[place] != OTHER:
                    found[row].append(Attribute(name, values[place], round(confidence, 3)))
        return tuple(map(tuple, found))

    def with_kinds(self, vectors: Vectors, kinds: Probabilities) -> Vectors:
        """Return the vectors with other probabilities of kinds, and of types in proportion.

        Args:
            vectors: ``(n, dim)`` unit rows.
            kinds: ``(n, 14)``, rows with the sum 1.
        """
        factor = (kinds + _LEAST) / (self.kinds(vectors) + _LEAST)
        types = normalised(self.probabilities(vectors, "type") * (factor @ self.kind_of_type.T).astype(np.float32))
        rows = vectors.copy()
        for name, probabilities in (("kind", kinds), ("type", types)):
            rows[:, self.places[name]] = np.sqrt(probabilities * self.shares[name])
        return _unit(rows)

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
        share = sum(self.shares[name] for name in _EMPHASISED)
        length = (1 - share + factor**2 * share) ** 0.5
        return self._weighted(vectors, factor), length / (1 - share + factor * share)

    def comparable(self, vectors: Vectors) -> Vectors:
        """Return vectors whose inner products are the similarities of garments that :meth:`queries` describes."""
        return self._weighted(vectors, EMPHASIS**0.5)

    def _weighted(self, vectors: Vectors, factor: float) -> Vectors:
        rows = vectors.copy()
        for name in _EMPHASISED:
            rows[:, self.places[name]] *= factor
        return _unit(rows)

    def join(self, looks: Vectors, attributes: Mapping[str, Probabilities]) -> Vectors:
        """Return unit vectors of looks, ``(n, dim - width)`` unit rows, and probabilities of all attributes but kinds."""
        known = {"kind": attributes["type"] @ self.kind_of_type, **attributes}
        roots = [np.sqrt(known[name] * share) for name, share in self.shares.items()]
        return _unit(np.concatenate([looks * (1 - sum(self.shares.values())) ** 0.5, *roots], axis=1))


class Classifier(Protocol):
    """Gives the probabilities of the attributes of images."""

    @property
    def values(self) -> Mapping[str, tuple[str, ...]]:
        """The values of each attribute, ``type`` among them."""

    @property
    def least(self) -> Mapping[str, float]:
        """The confidence from which an attribute's value is stated."""

    @property
    def input_px(self) -> int:
        """The side of the square that images are resized to."""

    @property
    def fingerprint(self) -> str:
        """Identifies the network, its weights and its input."""

    def __call__(self, images: Sequence[Image]) -> Mapping[str, Probabilities]:
        """Return the probabilities of each attribute's values, ``(len(images), values)``."""


@runtime_checkable
class KnowsAttributes(Protocol):
    """An embedder whose vectors hold probabilities of attributes."""

    @property
    def attributes(self) -> AttributePart | None:
        """Where they hold them; None where they do not."""


def attribute_part(embedder: object) -> AttributePart | None:
    """Return where an embedder's vectors hold attributes, or None."""
    return embedder.attributes if isinstance(embedder, KnowsAttributes) else None


class AttributeEmbedder:
    """An embedder whose vectors also hold the probabilities of attributes that a classifier gives.

    Args:
        looks: any embedder.
        classifier: gives the probabilities of types, and of other attributes in :data:`SHARES`.

    Raises:
        ValueError: the vectors of the embedder hold attributes already.
    """

    def __init__(self, looks: Embedder, classifier: Classifier) -> None:
        if attribute_part(looks) is not None:
            raise ValueError(f"the vectors of {looks.fingerprint} hold attributes already")
        self._looks, self._classifier = looks, classifier
        shares = {name: share for name, share in SHARES.items() if name == "kind" or name in classifier.values}
        part = AttributePart(looks.dim, classifier.values, shares, classifier.least)
        self.attributes = AttributePart(looks.dim + part.width, part.values, shares, part.least)
        self.dim, self.input_px = self.attributes.dim, max(looks.input_px, classifier.input_px)
        self.fingerprint = f"{looks.fingerprint}+{classifier.fingerprint}"

    def __call__(self, images: Sequence[Image]) -> Vectors:
        """``(len(images), dim)`` float32 unit rows."""
        return self.attributes.join(self._looks(images), self._classifier(images))


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


def _unit(rows: NDArray[np.floating]) -> Vectors:
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True).clip(_LEAST), np.float32)
