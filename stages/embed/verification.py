"""Verification: are two photos of one item? Scores of pairs, the ROC curve and what is read off it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from stages.embed.intervals import Estimate, draws, estimate
from stages.embed.likeness import Likeness

MAX_PAIRS: Final = 200_000
"""Of each kind, same and different; where there are more they are drawn."""

REPLICATES: Final = 200
"""Of the bootstrap; fewer than of a mean, since each goes through all pairs."""

FMRS: Final = (0.1, 0.01, 0.001)
"""The false match rates at which the false non-match rate is told."""


@dataclass(frozen=True, slots=True, eq=False)
class Pairs:
    """Pairs of photos by falling similarity: ``first`` and ``second`` are rows, ``same`` whether they show one item."""

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    same: NDArray[np.bool_]
    similarities: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.same)

    def __getitem__(self, wanted: NDArray[np.bool_]) -> Pairs:
        return Pairs(self.first[wanted], self.second[wanted], self.same[wanted], self.similarities[wanted])

    @property
    def counts(self) -> tuple[int, int]:
        """Pairs of one item, pairs of two."""
        same = int(self.same.sum())
        return same, len(self) - same


@dataclass(frozen=True, slots=True, eq=False)
class Curve:
    """Error rates by threshold, which falls from +inf; a pair is called the same from the threshold on.

    ``fmr``: the share of different pairs that are called the same (false match rate); ``fnmr``: the share of same
    pairs that are not (false non-match rate). Recall is 1 - fnmr.
    """

    thresholds: NDArray[np.float64]
    fmr: NDArray[np.float64]
    fnmr: NDArray[np.float64]

    @property
    def precision(self) -> NDArray[np.float64]:
        """The share of pairs called the same that are, were there as many same pairs as different ones."""
        called = 1 - self.fnmr + self.fmr
        return np.divide(1 - self.fnmr, called, out=np.ones_like(called), where=called > 0)

    @property
    def auc(self) -> float:
        """The area under the ROC curve: the chance that a same pair is nearer than a different one; ties are half."""
        return float(np.trapezoid(1 - self.fnmr, self.fmr))

    @property
    def eer(self) -> float:
        """The equal error rate: where fmr and fnmr are one, between two thresholds linearly."""
        return self._equal()[0]

    @property
    def eer_threshold(self) -> float:
        """The threshold at which the larger of both rates is least."""
        return self._equal()[1]

    def fnmr_at(self, fmr: float) -> float:
        """The false non-match rate at the lowest threshold whose false match rate is at most so much."""
        return float(self.fnmr[self._last(fmr)])

    def threshold_at(self, fmr: float) -> float:
        """The lowest threshold whose false match rate is at most so much; +inf where none is."""
        return float(self.thresholds[self._last(fmr)])

    def _last(self, fmr: float) -> int:
        return int(np.searchsorted(self.fmr, fmr + 1e-12, side="right")) - 1

    def _equal(self) -> tuple[float, float]:
        after = int(np.argmax(self.fmr >= self.fnmr))
        gap_before = self.fnmr[after - 1] - self.fmr[after - 1]
        gap_after = self.fmr[after] - self.fnmr[after]
        share = gap_before / (gap_before + gap_after) if gap_before + gap_after > 0 else 0.0
        rate = self.fmr[after - 1] + share * (self.fmr[after] - self.fmr[after - 1])
        worst = np.maximum(self.fmr, self.fnmr)
        return float(rate), float(self.thresholds[int(np.argmin(worst))])


@dataclass(frozen=True, slots=True, eq=False)
class Verification:
    """What pairs of photos tell: the curve, and its figures with their intervals."""

    same: int
    different: int
    curve: Curve
    auc: Estimate
    eer: Estimate
    eer_threshold: float
    fnmr_at: dict[float, Estimate]


def pairs_of(
    likeness: Likeness,
    labels: NDArray[np.int64],
    domains: NDArray[np.int64] | None = None,
    limit: int = MAX_PAIRS,
    seed: int = 0,
) -> Pairs:
    """All pairs of two photos, of each kind a random ``limit`` where there are more.

    Args:
        likeness: of the photos, by row.
        labels: ``(n,)``, equal for photos of one item.
        domains: ``(n,)``; where given, only pairs of two domains.
        limit: of same pairs, and of different ones.
        seed: of the draw.

    Raises:
        ValueError: there are no same pairs, or no different ones.
    """
    rng = np.random.default_rng(seed)
    kept: dict[bool, list[tuple[NDArray[np.int64], NDArray[np.int64]]]] = {True: [], False: []}
    expected = len(labels) * (len(labels) - 1) / 2
    for row in range(len(labels) - 1):
        others = np.arange(row + 1, len(labels))
        if domains is not None:
            others = others[domains[others] != domains[row]]
        same = labels[others] == labels[row]
        different = others[~same]
        if expected > 4 * limit:  # thin out at once, and to the limit in the end
            different = different[rng.random(len(different)) < 4 * limit / expected]
        kept[True].append((np.full(int(same.sum()), row), others[same]))
        kept[False].append((np.full(len(different), row), different))
    drawn = {kind: _drawn(parts, limit, rng) for kind, parts in kept.items()}
    for kind, name in ((True, "two photos of one item"), (False, "photos of two items")):
        if not len(drawn[kind][0]):
            raise ValueError(
                f"verification needs {name}" + (" in two domains" if domains is not None else "") + "; got none"
            )
    first = np.concatenate([drawn[True][0], drawn[False][0]])
    second = np.concatenate([drawn[True][1], drawn[False][1]])
    flags = np.arange(len(first)) < len(drawn[True][0])
    similarities = _similarities(likeness, first, second)
    order = np.argsort(-similarities, kind="stable")
    return Pairs(first[order], second[order], flags[order], similarities[order])


def curve_of(pairs: Pairs, weights: NDArray[np.float64] | None = None) -> Curve:
    """The error rates of pairs, each counted by its weight; a step for each similarity that occurs."""
    counted = np.ones(len(pairs)) if weights is None else weights
    ends = np.flatnonzero(np.append(pairs.similarities[1:] != pairs.similarities[:-1], True))
    same = np.append(0.0, np.cumsum(counted * pairs.same)[ends])
    different = np.append(0.0, np.cumsum(counted * ~pairs.same)[ends])
    with np.errstate(invalid="ignore"):  # a replicate may have drawn no pair of a kind
        fmr, fnmr = different / different[-1], 1 - same / same[-1]
    return Curve(np.append(np.inf, pairs.similarities[ends].astype(np.float64)), fmr, fnmr)


def verify(pairs: Pairs, units: NDArray[np.int64], replicates: int = REPLICATES, seed: int = 0) -> Verification:
    """The figures of pairs, with intervals from drawing units again.

    A pair of two different units counts as often as both are drawn together, one of a unit with itself as often as
    that one is (the vertex bootstrap; Snijders and Borgatti 1999). The interval of a rate without an error reaches to
    3 divided by the number of items at least (the rule of three), since the bootstrap sees no spread there.

    Args:
        pairs: of photos.
        units: ``(n,)``, the item, or what hangs together with it, of each row that the pairs name.
        replicates: of the bootstrap.
        seed: of its draws.
    """
    whole = curve_of(pairs)
    again = [curve_of(pairs, weights) for weights in pair_weights(pairs, units, replicates, seed)]
    same, different = pairs.counts

    witnesses = len(np.unique(units[pairs.first[pairs.same]]))

    def told(value: float, values: list[float]) -> Estimate:
        return estimate(value, np.array(values, np.float64))

    def rate(value: float, values: list[float]) -> Estimate:
        found = told(value, values)
        return found if value > 0 else Estimate(value, found.low, max(found.high, min(1.0, 3 / witnesses)))

    return Verification(
        same,
        different,
        whole,
        auc=told(whole.auc, [one.auc for one in again]),
        eer=rate(whole.eer, [one.eer for one in again]),
        eer_threshold=whole.eer_threshold,
        fnmr_at={
            fmr: rate(whole.fnmr_at(fmr), [one.fnmr_at(fmr) for one in again]) for fmr in FMRS if fmr * different >= 10
        },
    )


def pair_weights(
    pairs: Pairs, units: NDArray[np.int64], replicates: int = REPLICATES, seed: int = 0
) -> Iterator[NDArray[np.float64]]:
    """The weight of each pair in each replicate of the vertex bootstrap; replicates without both kinds are left out."""
    _, place = np.unique(units, return_inverse=True)
    one, other = place[pairs.first], place[pairs.second]
    within = one == other
    for drawn in draws(int(place.max()) + 1, replicates, seed):
        weights = np.where(within, drawn[one], drawn[one] * drawn[other]).astype(np.float64)
        if weights[pairs.same].any() and weights[~pairs.same].any():
            yield weights


def _drawn(
    parts: list[tuple[NDArray[np.int64], NDArray[np.int64]]], limit: int, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    empty = np.zeros(0, np.int64)
    first, second = (np.concatenate([empty, *(part[side] for part in parts)]) for side in (0, 1))
    if len(first) > limit:
        wanted = np.sort(rng.choice(len(first), limit, replace=False))
        first, second = first[wanted], second[wanted]
    return first, second


def _similarities(likeness: Likeness, first: NDArray[np.int64], second: NDArray[np.int64]) -> NDArray[np.float32]:
    """Of each pair; all of one first photo at once."""
    found = np.empty(len(first), np.float32)
    order = np.argsort(first, kind="stable")
    rows, starts = np.unique(first[order], return_index=True)
    for row, places in zip(rows, np.split(order, starts[1:]), strict=True):
        found[places] = likeness(np.array([row]), second[places])[0]
    return found
