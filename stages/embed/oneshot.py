"""N-way one-shot classification (Lake et al. 2011; Koch, Zemel, Salakhutdinov 2015): one example of each class."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from stages.embed.intervals import Estimate, mean_estimate
from stages.embed.likeness import Likeness

TRIALS: Final = 10_000


@dataclass(frozen=True, slots=True, eq=False)
class OneShot:
    """The outcome of trials: ``hits`` ``(trials,)`` and the class that was asked for, ``targets`` ``(trials,)``."""

    ways: int
    hits: NDArray[np.bool_]
    targets: NDArray[np.int64]

    @property
    def accuracy(self) -> Estimate:
        """The share of hits; classes are drawn again for its interval."""
        return mean_estimate(self.hits.astype(np.float64), self.targets)


def one_shot(
    likeness: Likeness,
    labels: NDArray[np.int64],
    ways: int,
    groups: NDArray[np.int64] | None = None,
    sources: NDArray[np.int64] | None = None,
    trials: int = TRIALS,
    seed: int = 0,
) -> OneShot:
    """Trials: of one other photo of its class and one of each of ``ways - 1`` other classes, which is a photo nearest to.

    The own class has to be strictly nearest: a tie is an error.

    Args:
        likeness: of the photos, by row.
        labels: ``(n,)``, the class of each photo.
        ways: how many classes stand for choice.
        groups: ``(n,)``, equal where classes may meet in a trial (an alphabet); all where it is None.
        sources: ``(n,)``; where given, all examples of a trial are of one source (a drawer), the photo of another.
        trials: how many.
        seed: of the draws.

    Raises:
        ValueError: no group has so many classes, or no class of them two photos (of two sources).
    """
    if ways < 2:
        raise ValueError(f"one-shot needs at least 2 ways, got {ways}")
    desks = _desks(labels, groups, sources, ways)
    if not desks:
        within = " within a group" if groups is not None else ""
        apart = " of two sources" if sources is not None else ""
        raise ValueError(
            f"{ways}-way one-shot needs {ways} classes{within} with photos{apart}; got fewer, ask for fewer ways"
        )
    rng = np.random.default_rng(seed)
    drawn = [desks[int(desk)].draw(ways, rng) for desk in rng.integers(len(desks), size=trials)]
    queries, examples = np.array([query for query, _ in drawn]), np.stack([shown for _, shown in drawn])
    hits = np.zeros(trials, np.bool_)
    for query in np.unique(queries):
        places = queries == query
        similarities = likeness(np.array([query]), examples[places].ravel()).reshape(-1, ways)
        hits[places] = similarities[:, 0] > similarities[:, 1:].max(axis=1)
    return OneShot(ways, hits, labels[queries])


@dataclass(frozen=True, slots=True, eq=False)
class _Desk:
    """A group's classes: the rows of each that may be shown, and the rows that may ask with the place of their class."""

    examples: list[NDArray[np.int64]]
    queries: NDArray[np.int64]
    targets: NDArray[np.int64]

    def draw(self, ways: int, rng: np.random.Generator) -> tuple[int, NDArray[np.int64]]:
        """The row that asks, and the examples, its own class's first."""
        asking = int(rng.integers(len(self.queries)))
        query, target = int(self.queries[asking]), int(self.targets[asking])
        others = rng.choice(len(self.examples) - 1, ways - 1, replace=False)
        own = self.examples[target][self.examples[target] != query]
        rows = [own, *(self.examples[other + (other >= target)] for other in others.tolist())]
        return query, np.array([of[int(place * len(of))] for of, place in zip(rows, rng.random(ways), strict=True)])


def _desks(
    labels: NDArray[np.int64], groups: NDArray[np.int64] | None, sources: NDArray[np.int64] | None, ways: int
) -> list[_Desk]:
    """What trials are drawn from: one desk for each group, or each group and source of its examples."""
    found = []
    group_codes = np.zeros(len(labels), np.int64) if groups is None else groups
    for group in np.unique(group_codes):
        inside = np.flatnonzero(group_codes == group)
        for source in [None] if sources is None else np.unique(sources[inside]).tolist():
            shown = inside if sources is None else inside[sources[inside] == source]
            asking = inside if sources is None else inside[sources[inside] != source]
            examples = _by_label(shown, labels)
            enough = 1 if sources is not None else 2  # the photo that asks is not its own example
            numbers = {label: number for number, (label, rows) in enumerate(examples.items()) if len(rows) >= enough}
            asking = np.array([row for row in asking.tolist() if int(labels[row]) in numbers], np.int64)
            if len(examples) >= ways and len(asking):
                targets = np.array([numbers[int(labels[row])] for row in asking.tolist()], np.int64)
                found.append(_Desk(list(examples.values()), asking, targets))
    return found


def _by_label(rows: NDArray[np.int64], labels: NDArray[np.int64]) -> dict[int, NDArray[np.int64]]:
    grouped: defaultdict[int, list[int]] = defaultdict(list)
    for row in rows.tolist():
        grouped[int(labels[row])].append(row)
    return {label: np.array(own, np.int64) for label, own in grouped.items()}
