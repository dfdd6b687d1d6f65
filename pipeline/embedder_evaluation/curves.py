"""The curves of a verification, as plots and as numbers."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from pipeline.plots import Line, Panel
from stages.embed.evaluation import EmbedderEvaluation
from stages.embed.metrics import ErrorRates, Pairs

_POINTS: Final = 400
_BINS: Final = 60


def numbers(curve: ErrorRates) -> dict[str, list[float]]:
    """At most some hundred points of a curve, by falling threshold, for JSON; the first threshold is 1 or more."""
    kept = _thinned(curve)
    columns = {
        "threshold": curve.thresholds[kept],
        "fmr": curve.fmr[kept],
        "fnmr": curve.fnmr[kept],
        "precision": curve.precision[kept],
    }
    return {name: [round(float(value), 6) for value in values] for name, values in columns.items()}


def panels(evaluation: EmbedderEvaluation) -> list[Panel]:
    """ROC; precision and recall; both error rates; where the similarities lie."""
    curve, verification = evaluation.verification.rates, evaluation.verification
    kept = _thinned(curve)
    thresholds, fmr, fnmr = (column[kept].tolist() for column in (curve.thresholds, curve.fmr, curve.fnmr))
    recall, precision = (1 - curve.fnmr)[kept].tolist(), curve.precision[kept].tolist()
    reach = (min(*thresholds, 0.95), 1.0)
    eer = verification.eer.value
    return [
        Panel(
            f"ROC  AUC {verification.auc.value:.3f}",
            "false match rate",
            "true match rate",
            [Line("pairs", fmr, recall), Line("chance", [0, 1], [0, 1]), Line("EER", [eer], [1 - eer])],
            x_range=(-0.01, 1),
            y_range=(0, 1.02),
        ),
        Panel(
            "Precision and recall",
            "similarity from which a pair is the same",
            "share, at as many same as different pairs",
            [Line("precision", thresholds, precision), Line("recall", thresholds, recall)],
            x_range=reach,
            y_range=(0, 1.02),
        ),
        Panel(
            f"Error rates  EER {eer:.3f}",
            "similarity from which a pair is the same",
            "rate",
            [
                Line("false matches (FMR)", thresholds, fmr),
                Line("false non-matches (FNMR)", thresholds, fnmr),
                Line("EER", [verification.eer_threshold], [eer]),
            ],
            x_range=reach,
            y_range=(0, 1.02),
        ),
        Panel(
            "Where similarities lie",
            "similarity",
            "share of the pairs in a bin",
            _histograms(evaluation.pairs),
            x_range=reach,
        ),
    ]


def _histograms(pairs: Pairs) -> list[Line]:
    edges = np.linspace(float(pairs.similarities.min()), max(1.0, float(pairs.similarities.max())), _BINS + 1)
    middles = ((edges[1:] + edges[:-1]) / 2).tolist()
    lines = []
    for name, kind in (("same", pairs.same), ("different", ~pairs.same)):
        counts, _ = np.histogram(pairs.similarities[kind], edges)
        lines.append(Line(name, middles, (counts / max(1, counts.sum())).tolist()))
    return lines


def _thinned(curve: ErrorRates) -> NDArray[np.int64]:
    """Places of a curve that are enough to draw it; the infinite threshold is left out."""
    steps = np.append(0, np.cumsum(np.abs(np.diff(curve.fmr)) + np.abs(np.diff(curve.fnmr))))
    wanted = np.linspace(0, steps[-1], _POINTS)
    places = np.unique(np.append(np.searchsorted(steps, wanted), len(steps) - 1))
    kept: NDArray[np.int64] = places[np.isfinite(curve.thresholds[places])]
    return kept
