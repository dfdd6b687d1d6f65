"""Metrics of an embedder: retrieval, verification and one-shot accuracy, with bootstrap confidence intervals.

Metrics take a :data:`SimilarityFunction` instead of vectors, so that they measure a pair head as well as cosine
similarity. Ties count as errors.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from stages.types import Vectors

Ints: TypeAlias = NDArray[np.int64]
Floats: TypeAlias = NDArray[np.float64]
Flags: TypeAlias = NDArray[np.bool_]

SimilarityFunction: TypeAlias = Callable[[Ints, Ints], NDArray[np.float32]]
"""Maps row numbers ``(a,)`` and row numbers ``(b,)`` to their similarities ``(a, b)``; higher is closer."""

CONFIDENCE: Final = 0.95
REPLICATES: Final = 1000
PAIR_REPLICATES: Final = 200  # fewer than for a mean, because each replicate goes through all pairs
MAX_PAIRS: Final = 200_000  # the limit of same and of different pairs; more are sampled
FMRS: Final = (0.1, 0.01, 0.001)  # the false match rates that the false non-match rate is reported at
UNREACHED: Final = 1 << 30  # the rank of a photo with similarity minus infinity
_BLOCK: Final = 256
_CACHED_UNITS: Final = 512


def cosine(vectors: Vectors) -> SimilarityFunction:
    """Return the inner products of unit rows as a similarity function.

    >>> cosine(np.eye(2, dtype=np.float32))(np.array([0]), np.array([0, 1]))
    array([[1., 0.]], dtype=float32)
    """
    return lambda rows, others: np.asarray(vectors[rows] @ vectors[others].T, np.float32)


def precomputed(similarities: NDArray[np.float32]) -> SimilarityFunction:
    """Return the entries of an ``(n, n)`` matrix as a similarity function."""
    return lambda rows, others: similarities[np.ix_(rows, others)]


def angular_percent(similarity: float) -> float:
    """Return a cosine as an angle in percent: 100 for the same direction, 50 for a right angle.

    >>> angular_percent(1.0), round(angular_percent(0.0), 6), angular_percent(-1.0)
    (100.0, 50.0, 0.0)
    """
    return 100.0 * (1.0 - math.acos(min(1.0, max(-1.0, similarity))) / math.pi)


def euclidean(similarity: float) -> float:
    """Return the Euclidean distance of two unit vectors with this cosine, in [0, 2].

    >>> euclidean(1.0), euclidean(-1.0)
    (0.0, 2.0)
    """
    return math.sqrt(max(0.0, 2.0 - 2.0 * similarity))


def is_collapsed(vectors: Vectors) -> bool:
    """Return whether all rows are nearly equal, with a variance below 1e-4.

    >>> is_collapsed(np.ones((3, 1), np.float32)), is_collapsed(np.eye(3, dtype=np.float32))
    (True, False)
    """
    return len(vectors) > 1 and float(vectors.astype(np.float64).var(axis=0).sum()) < 1e-4


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure and its 95 % confidence interval, or NaN if it has none."""

    value: float
    low: float
    high: float

    @classmethod
    def from_replicates(cls, value: float, replicates: Floats) -> Estimate:
        """Return a value with the central 95 % of its finite bootstrap replicates, widened to include the value."""
        finite = replicates[np.isfinite(replicates)]
        if not len(finite):
            return cls(value, math.nan, math.nan)
        tail = (1 - CONFIDENCE) / 2
        low, high = np.quantile(finite, [tail, 1 - tail]).tolist()
        return cls(value, min(low, value), max(high, value))

    def __str__(self) -> str:
        """Format with three decimals.

        >>> print(Estimate(0.5, 0.4, 0.61))
        0.500 [0.400, 0.610]
        """
        interval = "" if math.isnan(self.low) else f" [{self.low:.3f}, {self.high:.3f}]"
        return f"{self.value:.3f}{interval}"


def bootstrap_counts(units: int, replicates: int = REPLICATES, seed: int = 0) -> Iterator[Ints]:
    """Yield the number of times that each unit is drawn, ``(units,)``, for each replicate of a bootstrap."""
    rng = np.random.default_rng(seed)
    for _ in range(replicates):
        yield np.bincount(rng.integers(0, units, units), minlength=units)


@lru_cache(maxsize=32)
def _cached_counts(units: int, replicates: int, seed: int) -> Floats:
    """Return all counts, ``(replicates, units)``; cached, because benchmarks compute thousands of means of the same units."""
    return np.array(list(bootstrap_counts(units, replicates, seed)), np.float64)


def mean_estimate(
    values: Floats, units: Ints, replicates: int = REPLICATES, seed: int = 0, floor: float = 0.0
) -> Estimate:
    """Return the mean of values ``(n,)`` with a percentile bootstrap interval that resamples units ``(n,)``.

    Units are items rather than photos, because photos of an item tend to fail together. A single unit has no interval. If
    all values are equal, the bootstrap sees no spread; the interval then reaches 3 / units to either side (the rule of
    three; Hanley and Lippman-Hand 1983), but not beyond ``floor``, the lowest possible value, and 1.

    >>> mean_estimate(np.array([1.0, 1.0]), np.array([0, 0])).value
    1.0
    """
    if not len(values):
        raise ValueError("a mean needs at least one value, got none")
    _, codes = np.unique(units, return_inverse=True)
    sizes, sums = np.bincount(codes), np.bincount(codes, weights=values)
    value = float(values.mean())
    if len(sizes) == 1:
        return Estimate(value, math.nan, math.nan)
    if np.all(values == values[0]):
        reach = 3 / len(sizes)
        return Estimate(value, max(floor, value - reach), min(1.0, value + reach))
    if len(sizes) <= _CACHED_UNITS:
        drawn = _cached_counts(len(sizes), replicates, seed)
        return Estimate.from_replicates(value, drawn @ sums / (drawn @ sizes))
    means = [one @ sums / (one @ sizes) for one in bootstrap_counts(len(sizes), replicates, seed)]
    return Estimate.from_replicates(value, np.array(means))


@dataclass(frozen=True, slots=True, eq=False)
class Retrieval:
    """The result of each query, ``(q,)`` each."""

    queries: Ints  # row numbers
    ranks: Ints  # of the first relevant photo, from 1
    average_precisions: Floats  # at R, for R relevant photos (Musgrave, Belongie, Lim 2020, eq. 1)

    def hits(self, k: int) -> Floats:
        """Return 1 for each query with a relevant photo among the k nearest, else 0; their mean is recall@k."""
        return (self.ranks <= k).astype(np.float64)


def retrieve(
    similarity: SimilarityFunction, labels: Ints, queries: Flags | None = None, gallery: Flags | None = None
) -> Retrieval:
    """Rank the gallery for every query that has a relevant photo in it; a photo never retrieves itself.

    Args:
        similarity: of rows; minus infinity never retrieves.
        labels: ``(n,)``, equal for photos that are relevant to each other.
        queries: ``(n,)``, whether each photo is a query; None for all.
        gallery: ``(n,)``, whether each photo can be retrieved; None for all.
    """
    everything = np.ones(len(labels), np.bool_)
    in_gallery = everything if gallery is None else gallery
    rows = np.flatnonzero(in_gallery)
    _, codes = np.unique(labels, return_inverse=True)
    per_label = np.bincount(codes[rows], minlength=codes.max(initial=0) + 1)
    query_rows = np.flatnonzero((everything if queries is None else queries) & (per_label[codes] > in_gallery))
    if not len(query_rows):
        raise ValueError("retrieval needs a label that occurs twice, as a query and in the gallery; got none")
    ranks, precisions = [], []
    for start in range(0, len(query_rows), _BLOCK):
        block = query_rows[start : start + _BLOCK]
        for query, similarities in zip(block, similarity(block, rows), strict=True):
            relevant = codes[rows] == codes[query]
            irrelevant = np.sort(similarities[~relevant])
            hits = np.sort(similarities[relevant & (rows != query)])[::-1]
            ahead = len(irrelevant) - np.searchsorted(irrelevant, hits, side="left")  # including ties
            hit_ranks = np.where(np.isneginf(hits), UNREACHED, ahead + np.arange(1, len(hits) + 1))
            within = hit_ranks[hit_ranks <= len(hits)]
            ranks.append(hit_ranks[0])
            precisions.append((np.arange(1, len(within) + 1) / within).sum() / len(hits))
    return Retrieval(query_rows, np.array(ranks, np.int64), np.array(precisions, np.float64))


@dataclass(frozen=True, slots=True, eq=False)
class PhotoPairs:
    """Pairs of photos, most similar first; ``same`` tells whether both show the same item."""

    first: Ints
    second: Ints
    same: Flags
    similarities: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.same)

    def __getitem__(self, wanted: Flags) -> PhotoPairs:
        return PhotoPairs(self.first[wanted], self.second[wanted], self.same[wanted], self.similarities[wanted])

    @property
    def counts(self) -> tuple[int, int]:
        """The numbers of same and of different pairs."""
        same = int(self.same.sum())
        return same, len(self) - same


def sample_pairs(
    similarity: SimilarityFunction, labels: Ints, domains: Ints | None = None, limit: int = MAX_PAIRS, seed: int = 0
) -> PhotoPairs:
    """Return all pairs of photos, or samples of ``limit`` same and ``limit`` different pairs.

    ``labels`` ``(n,)`` are equal for photos of the same item. With ``domains`` ``(n,)``, only pairs across domains count.
    """
    rng = np.random.default_rng(seed)
    pairs: dict[bool, list[Ints]] = {True: [], False: []}
    expected = len(labels) * (len(labels) - 1) / 2
    for row in range(len(labels) - 1):
        others = np.arange(row + 1, len(labels))
        if domains is not None:
            others = others[domains[others] != domains[row]]
        same = labels[others] == labels[row]
        different = others[~same]
        if expected > 4 * limit:  # bounds the memory; sampled exactly below
            different = different[rng.random(len(different)) < 4 * limit / expected]
        for kind, chosen in ((True, others[same]), (False, different)):
            pairs[kind].append(np.stack([np.full_like(chosen, row), chosen]))
    sampled = []
    for kind, needed in ((True, "two photos of one item"), (False, "photos of two items")):
        rows = np.concatenate([np.zeros((2, 0), np.int64), *pairs[kind]], axis=1)
        if not rows.size:
            where = "" if domains is None else " in two domains"
            raise ValueError(f"verification needs {needed}{where}; got none")
        if rows.shape[1] > limit:
            rows = rows[:, np.sort(rng.choice(rows.shape[1], limit, replace=False))]
        sampled.append(rows)
    first, second = np.concatenate(sampled, axis=1)
    similarities = np.empty(len(first), np.float32)
    for row, places in zip(*_grouped(first), strict=True):
        similarities[places] = similarity(np.array([row]), second[places])[0]
    order = np.argsort(-similarities, kind="stable")
    return PhotoPairs(first[order], second[order], order < sampled[0].shape[1], similarities[order])


@dataclass(frozen=True, slots=True, eq=False)
class ErrorRates:
    """Error rates over thresholds that decrease from +inf; pairs at least as similar as a threshold are accepted."""

    thresholds: Floats
    fmr: Floats  # false match rate: the share of different pairs that are accepted
    fnmr: Floats  # false non-match rate: the share of same pairs that are rejected, or 1 - recall

    @property
    def precision(self) -> Floats:
        """The share of accepted pairs that are the same, if same and different pairs are equally frequent."""
        accepted = 1 - self.fnmr + self.fmr
        return np.divide(1 - self.fnmr, accepted, out=np.ones_like(accepted), where=accepted > 0)

    @property
    def auc(self) -> float:
        """The area under the ROC curve."""
        return float((np.diff(self.fmr) * (2 - self.fnmr[1:] - self.fnmr[:-1])).sum() / 2)

    @property
    def eer(self) -> float:
        """The equal error rate, interpolated linearly between thresholds."""
        gaps = self.fnmr - self.fmr
        after = int(np.argmax(gaps <= 0))
        before = after - 1
        share = gaps[before] / (gaps[before] - gaps[after]) if gaps[before] > gaps[after] else 0.0
        return float(self.fmr[before] + share * (self.fmr[after] - self.fmr[before]))

    @property
    def eer_threshold(self) -> float:
        """The threshold that minimises the larger of both rates."""
        return float(self.thresholds[int(np.argmin(np.maximum(self.fmr, self.fnmr)))])

    def fnmr_at(self, fmr: float) -> float:
        """Return the false non-match rate at the lowest threshold with at most this false match rate."""
        return float(self.fnmr[self._last(fmr)])

    def threshold_at(self, fmr: float) -> float:
        """Return the lowest threshold with at most this false match rate, possibly +inf."""
        return float(self.thresholds[self._last(fmr)])

    def _last(self, fmr: float) -> int:
        return int(np.searchsorted(self.fmr, fmr + 1e-12, side="right")) - 1


def error_rates(pairs: PhotoPairs, weights: Floats | None = None) -> ErrorRates:
    """Return the error rates of weighted pairs at every similarity that occurs.

    Unlike scikit-learn's ``roc_curve``, it relies on sorted pairs, so that a bootstrap can compute hundreds of curves.
    """
    counted = np.ones(len(pairs)) if weights is None else weights
    ends = np.flatnonzero(np.append(pairs.similarities[1:] != pairs.similarities[:-1], True))
    same = np.append(0.0, np.cumsum(counted * pairs.same)[ends])
    different = np.append(0.0, np.cumsum(counted * ~pairs.same)[ends])
    thresholds = np.append(np.inf, pairs.similarities[ends].astype(np.float64))
    return ErrorRates(thresholds, different / different[-1], 1 - same / same[-1])


@dataclass(frozen=True, slots=True, eq=False)
class Verification:
    """The error rates of pairs, and summary figures with their intervals."""

    same: int
    different: int
    rates: ErrorRates
    auc: Estimate
    eer: Estimate
    eer_threshold: float
    fnmr_at: dict[float, Estimate]


def verify(pairs: PhotoPairs, units: Ints, replicates: int = PAIR_REPLICATES, seed: int = 0) -> Verification:
    """Return the verification figures of pairs, with intervals from a bootstrap over the units ``(n,)`` of the rows.

    An error rate of 0 has an interval up to 3 / units (the rule of three), because the bootstrap sees no spread in it.
    """
    whole = error_rates(pairs)
    curves = [error_rates(pairs, weights) for weights in pair_weights(pairs, units, replicates, seed)]
    zero_high = min(1.0, 3 / len(np.unique(units[pairs.first[pairs.same]])))

    def estimate(figure: Callable[[ErrorRates], float]) -> Estimate:
        return Estimate.from_replicates(figure(whole), np.array([figure(one) for one in curves], np.float64))

    def error(figure: Callable[[ErrorRates], float]) -> Estimate:
        rate = estimate(figure)
        return rate if rate.value > 0 else Estimate(rate.value, rate.low, max(rate.high, zero_high))

    same, different = pairs.counts
    return Verification(
        same,
        different,
        whole,
        auc=estimate(lambda rates: rates.auc),
        eer=error(lambda rates: rates.eer),
        eer_threshold=whole.eer_threshold,
        fnmr_at={fmr: error(partial(ErrorRates.fnmr_at, fmr=fmr)) for fmr in FMRS if fmr * different >= 10},
    )


def pair_weights(pairs: PhotoPairs, units: Ints, replicates: int = PAIR_REPLICATES, seed: int = 0) -> Iterator[Floats]:
    """Yield the weight of every pair in each replicate of the vertex bootstrap (Snijders and Borgatti 1999).

    A pair of two units weighs the product of their counts, a pair within a unit its count. Replicates without same or
    without different pairs are left out.
    """
    _, codes = np.unique(units, return_inverse=True)
    first, second = codes[pairs.first], codes[pairs.second]
    for drawn in bootstrap_counts(int(codes.max()) + 1, replicates, seed):
        weights = np.where(first == second, drawn[first], drawn[first] * drawn[second]).astype(np.float64)
        if weights[pairs.same].any() and weights[~pairs.same].any():
            yield weights


@dataclass(frozen=True, slots=True, eq=False)
class OneShot:
    """The results of one-shot trials: whether each is a hit, and the class of its query, ``(trials,)`` each."""

    ways: int
    hits: Flags
    targets: Ints

    @property
    def accuracy(self) -> Estimate:
        """The share of hits; its interval resamples classes."""
        return mean_estimate(self.hits.astype(np.float64), self.targets)


def one_shot(
    similarity: SimilarityFunction,
    labels: Ints,
    ways: int,
    groups: Ints | None = None,
    sources: Ints | None = None,
    trials: int = 10_000,
    seed: int = 0,
) -> OneShot:
    """Run N-way one-shot trials (Lake et al. 2011; Koch, Zemel, Salakhutdinov 2015).

    Each trial compares a query with another photo of its class and a photo of each of ``ways - 1`` other classes. It is
    a hit if the query's class is strictly nearest.

    Args:
        similarity: of rows.
        labels: ``(n,)``, the class of each photo.
        ways: the number of classes in a trial.
        groups: ``(n,)``; if given, each trial stays within a group, such as an alphabet of Omniglot.
        sources: ``(n,)``; if given, examples are from one source and the query from another, such as two drawers.
        trials: the number of trials.
        seed: of the draws.
    """
    if ways < 2:
        raise ValueError(f"one-shot trials need at least 2 ways, got {ways}")
    pools = list(_trial_pools(labels, groups, sources, ways))
    if not pools:
        needed = " within a group" * (groups is not None) + " with photos" + " of two sources" * (sources is not None)
        raise ValueError(f"{ways}-way one-shot needs {ways} classes{needed}; got fewer, ask for fewer ways")
    rng = np.random.default_rng(seed)
    drawn = [pools[int(pool)].draw(ways, rng) for pool in rng.integers(len(pools), size=trials)]
    queries, examples = np.array([query for query, _ in drawn]), np.stack([shown for _, shown in drawn])
    hits = np.zeros(trials, np.bool_)
    for query, places in zip(*_grouped(queries), strict=True):
        similarities = similarity(np.array([query]), examples[places].ravel()).reshape(-1, ways)
        hits[places] = similarities[:, 0] > similarities[:, 1:].max(axis=1)
    return OneShot(ways, hits, labels[queries])


@dataclass(frozen=True, slots=True, eq=False)
class _TrialPool:
    """Classes that meet in trials: the example rows of each class, and query rows with the number of their class."""

    examples: list[Ints]
    queries: Ints
    targets: Ints

    def draw(self, ways: int, rng: np.random.Generator) -> tuple[int, Ints]:
        """Return a query row and its example rows, the one of its class first."""
        place = int(rng.integers(len(self.queries)))
        query, target = int(self.queries[place]), int(self.targets[place])
        others = rng.choice(len(self.examples) - 1, ways - 1, replace=False)
        same = self.examples[target][self.examples[target] != query]
        rows = [same, *(self.examples[other + (other >= target)] for other in others.tolist())]
        return query, np.array([of[int(share * len(of))] for of, share in zip(rows, rng.random(ways), strict=True)])


def _trial_pools(labels: Ints, groups: Ints | None, sources: Ints | None, ways: int) -> Iterator[_TrialPool]:
    """Yield the pool of each group, or of each group and source of examples."""
    for members in [np.arange(len(labels))] if groups is None else _grouped(groups)[1]:
        for source in [None] if sources is None else np.unique(sources[members]).tolist():
            from_source = np.ones(len(members), np.bool_) if sources is None else sources[members] == source
            shown, candidates = members[from_source], members if sources is None else members[~from_source]
            classes, places = _grouped(labels[shown])
            enough = 2 if sources is None else 1  # a query is never its own example
            usable = [int(one) for one, rows in zip(classes, places, strict=True) if len(rows) >= enough]
            queries = candidates[np.isin(labels[candidates], usable)]
            if len(classes) >= ways and len(queries):
                targets = np.searchsorted(classes, labels[queries])
                yield _TrialPool([shown[one] for one in places], queries, targets)


def _grouped(values: Ints) -> tuple[Ints, list[Ints]]:
    """Return the distinct values, ascending, and the positions of each."""
    order = np.argsort(values, kind="stable")
    distinct, starts = np.unique(values[order], return_index=True)
    return distinct, np.split(order, starts[1:]) if len(values) else []
