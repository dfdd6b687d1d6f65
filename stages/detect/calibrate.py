"""The score of each label at which false alarms and misses balance, for a detector's scores to be honest."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from stages.detect.evaluate import Evaluation

_PRIOR = 10  # garments that the threshold of all labels counts for, in each label's
_LEAST, _MOST = 0.05, 0.95


def balanced_thresholds(evaluation: Evaluation) -> dict[str, float]:
    """A threshold for each label, from the scores of an evaluation whose detector has none yet.

    A label with few garments leans on the threshold of all labels together: the mean in log-odds weighs its own by
    its garments, and the common one by ten.
    """
    return shrunk({name: (label.balanced_threshold, label.garments) for name, label in evaluation.labels.items()})


def shrunk(own: Mapping[str, tuple[float | None, int]]) -> dict[str, float]:
    """Thresholds and garments of each label to thresholds that few garments move little.

    >>> shrunk({"top": (0.8, 90), "belt": (0.2, 0), "hat": (None, 10)})
    {'top': 0.79, 'belt': 0.72, 'hat': 0.27}
    """
    odds = {name: _logit(threshold or _LEAST) for name, (threshold, _) in own.items()}
    garments = {name: count for name, (_, count) in own.items()}
    common = sum(odds[name] * garments[name] for name in own) / max(1, sum(garments.values()))
    leaning = {name: (odds[name] * garments[name] + common * _PRIOR) / (garments[name] + _PRIOR) for name in own}
    return {name: round(float(1 / (1 + np.exp(-value))), 2) for name, value in leaning.items()}


def _logit(score: float) -> float:
    clipped = float(np.clip(score, _LEAST, _MOST))
    return float(np.log(clipped / (1 - clipped)))
