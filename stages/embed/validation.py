"""One number by which a training run is judged now and then, on photos that it does not train on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from stages.embed.evaluate import is_collapsed
from stages.embed.inputs import Normalise
from stages.embed.likeness import Likeness, by_matrix, by_vectors
from stages.embed.network import SiameseNetwork
from stages.embed.oneshot import one_shot
from stages.embed.retrieval import Retrieval, retrieve
from stages.embed.rows import Rows
from stages.embed.siamese import vectors_of
from stages.embed.verification import curve_of, pairs_of
from stages.embed.verifier import pair_similarities

WAYS: Final = 20
"""Of one-shot trials, or as many as there are items."""

_SAME_CHANCE: Final = 1e-4
"""Chances of a pair head that spread less than this are all one."""

_TRIALS: Final = 2000
_BATCH: Final = 32


@dataclass(frozen=True, slots=True)
class Judge:
    """Measures a network.

    Attributes:
        rows: the photos.
        metric: of :data:`METRICS`.
        query_domain: its photos ask, those of others are found; empty: each asks, and all others are found.
    """

    rows: Rows
    metric: str = "recall@1"
    query_domain: str = ""

    def __post_init__(self) -> None:
        if self.metric not in METRICS:
            raise ValueError(f"no metric is called {self.metric!r}; there are {', '.join(METRICS)}")

    def __call__(self, network: SiameseNetwork) -> float | None:
        """The metric, in [0, 1], higher is better; None where all vectors, or all chances, are nearly one: a collapse.

        The network is left in evaluation mode.
        """
        device = str(next(network.parameters()).device)
        normalise = Normalise(*network.design.stats)
        vectors = vectors_of(network.eval(), self.rows.images, normalise, device, _BATCH, unit=False)
        if not np.isfinite(vectors).all():
            return None
        if network.pair_head is None:
            unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
            likeness, collapsed = by_vectors(unit), is_collapsed(unit)
        else:
            chances = pair_similarities(network.pair_head, vectors, vectors, device)
            likeness, collapsed = by_matrix(chances), float(chances.std(dtype=np.float64)) < _SAME_CHANCE
        if collapsed:
            return None
        return METRICS[self.metric](likeness, self)

    def found(self, likeness: Likeness, labels: NDArray[np.int64]) -> Retrieval:
        """Every query's outcome."""
        if not self.query_domain:
            return retrieve(likeness, labels)
        queries = self.rows.in_domain(self.query_domain)
        return retrieve(likeness, labels, queries, ~queries)


def _one_shot(likeness: Likeness, judge: Judge) -> float:
    ways = min(WAYS, judge.rows.classes)
    return float(one_shot(likeness, judge.rows.items, ways, trials=_TRIALS).hits.mean())


def _auc(likeness: Likeness, judge: Judge) -> float:
    domains = judge.rows.domains if judge.query_domain else None
    curve = curve_of(pairs_of(likeness, judge.rows.items, domains))
    return float(np.trapezoid(1 - curve.fnmr, curve.fmr))


METRICS: Final[Mapping[str, Callable[[Likeness, Judge], float]]] = {
    "recall@1": lambda likeness, judge: float(judge.found(likeness, judge.rows.items).hits(1).mean()),
    "recall@5": lambda likeness, judge: float(judge.found(likeness, judge.rows.items).hits(5).mean()),
    "style-recall@1": lambda likeness, judge: float(judge.found(likeness, judge.rows.styles).hits(1).mean()),
    "map@r": lambda likeness, judge: float(judge.found(likeness, judge.rows.items).average_precisions.mean()),
    "auc": _auc,
    "one-shot": _one_shot,
}
"""Every metric by its name."""
