"""Retrieval figures of an embedder: each photo of a set is the query once, all others are the gallery."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import NDArray

from stages.embed.data import Item
from stages.protocols import Embedder
from stages.types import Vectors

RANKS = (1, 5, 10)
"""The k of the recall@k that are told."""


def recall_at(vectors: Vectors, labels: NDArray[np.int64], ranks: Sequence[int] = RANKS) -> dict[int, float]:
    """Recall@k: the share of queries with a photo of their own label among the k nearest others.

    A photo is no neighbour of its own; photos whose label no other has are gallery, but not queries.

    Args:
        vectors: ``(n, dim)`` unit rows.
        labels: ``(n,)``.
        ranks: each k.

    Raises:
        ValueError: no label comes twice.
    """
    _, inverse, counts = np.unique(labels, return_inverse=True, return_counts=True)
    queries = np.flatnonzero(counts[inverse] > 1)
    if not len(queries):
        raise ValueError("recall needs a label that comes twice at least; got none")
    similarities = vectors[queries] @ vectors.T
    similarities[np.arange(len(queries)), queries] = -np.inf
    ranked = np.argsort(-similarities, axis=1, kind="stable")[:, : max(ranks)]
    hits = labels[ranked] == labels[queries, None]
    return {k: float(hits[:, :k].any(axis=1).mean()) for k in ranks}


def retrieval_figures(embedder: Embedder, items: Sequence[Item]) -> dict[str, float]:
    """Recall@k for the identity (the item in its colour) and for the style (in any colour)."""
    photos = [photo for item in items for photo in item.photos]
    vectors = embedder(photos)
    identities = _numbered([item.identity for item in items for _ in item.photos])
    styles = _numbered([item.style for item in items for _ in item.photos])
    figures = {"photos": float(len(photos))}
    for name, labels in (("identity", identities), ("style", styles)):
        recalls = recall_at(vectors, labels)
        figures |= {f"{name}_recall@{k}": round(recall, 4) for k, recall in recalls.items()}
    return figures


def _numbered(names: Sequence[Hashable]) -> NDArray[np.int64]:
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
    return np.array([numbers[name] for name in names], np.int64)
