"""Confidence intervals by the bootstrap: items are drawn again, never photos, since photos of one item err together."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

CONFIDENCE: Final = 0.95
REPLICATES: Final = 1000

_TABLED: Final = 512
"""Of so many units at most, all draws are kept in memory: 4 MB a table."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure, and the interval that holds it with 95 % confidence (percentile bootstrap over items)."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        """With three decimals; without an interval where there is none.

        >>> print(Estimate(0.5, 0.4, 0.61))
        0.500 [0.400, 0.610]
        """
        if math.isnan(self.low):
            return f"{self.value:.3f}"
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def draws(units: int, replicates: int = REPLICATES, seed: int = 0) -> Iterator[NDArray[np.int64]]:
    """How often each unit is drawn, ``(units,)``, once per replicate: as many draws as units, with replacement."""
    rng = np.random.default_rng(seed)
    for _ in range(replicates):
        yield np.bincount(rng.integers(0, units, units), minlength=units)


def estimate(value: float, replicates: NDArray[np.float64]) -> Estimate:
    """A value with the middle 95 % of its bootstrap replicates; those that are not finite do not count.

    The interval always holds the value.
    """
    finite = replicates[np.isfinite(replicates)]
    if not len(finite):
        return Estimate(value, float("nan"), float("nan"))
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(finite, [tail, 1 - tail]).tolist()
    return Estimate(value, min(low, value), max(high, value))


def mean_estimate(
    values: NDArray[np.float64],
    units: NDArray[np.int64],
    replicates: int = REPLICATES,
    seed: int = 0,
    floor: float = 0.0,
) -> Estimate:
    """The mean of values, each of which belongs to a unit; units are drawn again as wholes.

    A single unit has no interval: its ends are NaN.
    Where all values are equal the bootstrap sees no spread: the interval then reaches 3 divided by the number of
    units to either side (the rule of three; Hanley and Lippman-Hand 1983), but not below the floor nor above 1.

    Args:
        values: ``(n,)``.
        units: ``(n,)``, any integers, equal where values hang together.
        replicates: of the bootstrap.
        seed: of the draws.
        floor: the least that a value can be.

    Raises:
        ValueError: there are no values.

    >>> mean_estimate(np.array([1.0, 1.0]), np.array([0, 0])).value
    1.0
    """
    if not len(values):
        raise ValueError("a mean needs values, got none")
    _, place = np.unique(units, return_inverse=True)
    counts = np.bincount(place).astype(np.float64)
    sums = np.bincount(place, weights=values)
    value = float(values.mean())
    if len(counts) == 1:
        return Estimate(value, float("nan"), float("nan"))
    if np.all(values == values[0]):
        reach = 3 / len(counts)
        return Estimate(value, max(floor, value - reach), min(1.0, value + reach))
    if len(counts) > _TABLED:
        again = np.array([drawn @ sums / (drawn @ counts) for drawn in draws(len(counts), replicates, seed)])
    else:  # a benchmark asks for thousands of figures of the same units
        table = _table(len(counts), replicates, seed)
        again = table @ sums / (table @ counts)
    return estimate(value, again)


@lru_cache(maxsize=32)
def _table(units: int, replicates: int, seed: int) -> NDArray[np.float64]:
    """All draws at once, ``(replicates, units)``."""
    return np.array(list(draws(units, replicates, seed)), np.float64)
