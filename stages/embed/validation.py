"""Validation during training: one number for a network, on photos that it does not train on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from stages.embed.data import Dataset
from stages.embed.inputs import Normalise
from stages.embed.metrics import (
    Ints,
    Retrieval,
    SimilarityFunction,
    cosine,
    error_rates,
    is_collapsed,
    one_shot,
    precomputed,
    retrieve,
    sample_pairs,
)
from stages.embed.network import SiameseNetwork
from stages.embed.siamese import vectors_of
from stages.embed.verifier import pair_similarities

_WAYS: Final = 20
_TRIALS: Final = 2000
_BATCH: Final = 32
_MIN_SPREAD: Final = 1e-4
"""Probabilities of a pair head with a smaller standard deviation are a collapse."""


@dataclass(frozen=True, slots=True)
class Validator:
    """Measures a network during training.

    Attributes:
        data: the photos, loaded.
        metric: a name in :data:`METRICS`.
        query_domain: photos of this domain are queries and all others the gallery; empty: every photo is both.
    """

    data: Dataset
    metric: str = "recall@1"
    query_domain: str = ""

    def __post_init__(self) -> None:
        if self.metric not in METRICS:
            raise ValueError(f"no metric is called {self.metric!r}; there are {', '.join(METRICS)}")

    def __call__(self, network: SiameseNetwork) -> float | None:
        """Return the metric, in [0, 1], higher is better; None if the network has collapsed or its output is not finite.

        Leaves the network in evaluation mode.
        """
        device = str(next(network.parameters()).device)
        normalise = Normalise(*network.design.stats)
        vectors = vectors_of(network.eval(), self.data.images, normalise, device, _BATCH, unit=False)
        if not np.isfinite(vectors).all():
            return None
        if network.pair_head is None:
            unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
            similarity, collapsed = cosine(unit), is_collapsed(unit)
        else:
            probabilities = pair_similarities(network.pair_head, vectors, vectors, device)
            similarity = precomputed(probabilities)
            collapsed = float(probabilities.std(dtype=np.float64)) < _MIN_SPREAD
        return None if collapsed else METRICS[self.metric](similarity, self)

    def retrieve(self, similarity: SimilarityFunction, labels: Ints) -> Retrieval:
        """Return the retrieval of all queries; ``labels`` are equal for photos that count as the same."""
        if not self.query_domain:
            return retrieve(similarity, labels)
        queries = self.data.in_domain(self.query_domain)
        return retrieve(similarity, labels, queries, ~queries)


def _one_shot(similarity: SimilarityFunction, validator: Validator) -> float:
    ways = min(_WAYS, len(validator.data.items))
    return float(one_shot(similarity, validator.data.item_ids, ways, trials=_TRIALS).hits.mean())


def _auc(similarity: SimilarityFunction, validator: Validator) -> float:
    domains = validator.data.domain_ids if validator.query_domain else None
    return error_rates(sample_pairs(similarity, validator.data.item_ids, domains)).auc


METRICS: Final[Mapping[str, Callable[[SimilarityFunction, Validator], float]]] = {
    "recall@1": lambda similarity, by: float(by.retrieve(similarity, by.data.item_ids).hits(1).mean()),
    "recall@5": lambda similarity, by: float(by.retrieve(similarity, by.data.item_ids).hits(5).mean()),
    "style-recall@1": lambda similarity, by: float(by.retrieve(similarity, by.data.style_ids).hits(1).mean()),
    "map@r": lambda similarity, by: float(by.retrieve(similarity, by.data.item_ids).average_precisions.mean()),
    "auc": _auc,
    "one-shot": _one_shot,
}
"""Every metric by name."""
