"""Rows of figures: how good each condition is, and how two conditions differ on the same queries."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.benchmark.crops.asking import RANKS, Answers
from pipeline.benchmark.crops.conditions import AVERAGE, BOX, CONTEXT, MASK, MASKS, NONE, TRUTH, Condition
from stages.embed.metrics import Estimate, mean_estimate
from stages.embed.rows import numbered

Asked = Literal["crop", "detector", "training"]


@dataclass(frozen=True, slots=True)
class CropFigures:
    """One condition on one set of queries.

    Attributes:
        data: name of the set.
        clutter: of the backgrounds, in [0, 1]; None where it is not known, or all are taken together.
        among: all garments, those that a detector missed being failures; or those that every detector found.
        label: of the queries; empty for all together.
        condition: embedder, detections, crops of query and gallery.
        queries: how many asked.
        missed: how many of them were not found in their photos.
        recall_1, recall_5, recall_20: the share of queries with one of their item among the first.
        map_at_r: mean average precision at R.
    """

    data: str
    clutter: float | None
    among: str
    label: str
    condition: Condition
    queries: int
    missed: int
    recall_1: Estimate
    recall_5: Estimate
    recall_20: Estimate
    map_at_r: Estimate


@dataclass(frozen=True, slots=True)
class Difference:
    """By how much one condition is better than another on the same queries, paired.

    ``asked`` is what they differ in: the crop; the detector (and perhaps the crop); or the embedder's training, each
    looking at the crop that it was trained on. The rest is as in :class:`CropFigures`.
    """

    asked: Asked
    data: str
    clutter: float | None
    among: str
    label: str
    first: Condition
    second: Condition
    queries: int
    recall_1: Estimate
    recall_5: Estimate
    recall_20: Estimate
    map_at_r: Estimate


def figures(answers: Answers, seed: int) -> Iterator[CropFigures]:
    """A row for each condition, with all queries and by label."""
    for condition, found in answers.outcomes.items():
        missed = answers.missed.get(condition.detections, np.zeros(len(answers.units), np.bool_))
        values = _values(found.ranks, found.average_precisions)
        for label, chosen in by_label(answers):
            told = _estimates([own[chosen] for own in values], _units(answers, chosen), seed, floor=0.0)
            yield CropFigures(
                answers.data, answers.clutter, answers.among, label, condition,
                int(chosen.sum()), int(missed[chosen].sum()), *told,
            )  # fmt: skip


def differences(answers: Answers, trained_on: dict[str, str], seed: int) -> Iterator[Difference]:
    """A row for each pair of conditions worth comparing, with all queries and by label."""
    for asked, first, second in pairs(answers, trained_on):
        one, other = answers.outcomes[first], answers.outcomes[second]
        values = [
            mine - its
            for mine, its in zip(
                _values(one.ranks, one.average_precisions), _values(other.ranks, other.average_precisions), strict=True
            )
        ]
        for label, chosen in by_label(answers):
            told = _estimates([own[chosen] for own in values], _units(answers, chosen), seed, floor=-1.0)
            yield Difference(
                asked, answers.data, answers.clutter, answers.among, label, first, second, int(chosen.sum()), *told
            )


def pairs(answers: Answers, trained_on: dict[str, str]) -> Iterator[tuple[Asked, Condition, Condition]]:
    """Which conditions are compared, the one that has to earn its cost first."""
    there = answers.outcomes
    embedders = list(dict.fromkeys(one.embedder for one in there))
    sources = list(dict.fromkeys(one.detections for one in there if one.detections != NONE))
    masked = [source for source in sources if Condition(embedders[0], source, MASK, MASK) in there]
    wanted: list[tuple[Asked, Condition, Condition]] = []
    for name in embedders:
        for source in sources:
            box = _same(name, source, BOX)
            wanted += [("crop", _same(name, source, crop), box) for crop in (MASK, *MASKS, AVERAGE, CONTEXT)]
        for heavy in masked:
            for light in sources:
                if TRUTH not in (heavy, light) and light not in masked:
                    wanted.append(("detector", _same(name, heavy, MASK), _same(name, light, BOX)))
                    wanted.append(("detector", _same(name, heavy, BOX), _same(name, light, BOX)))
    own = {crop: name for name, crop in trained_on.items() if crop in ("box", "mask") and name in embedders}
    if len(own) == 2:
        wanted += [("training", _same(own["mask"], source, MASK), _same(own["box"], source, BOX)) for source in masked]
    for asked, first, second in dict.fromkeys(wanted):
        if first in there and second in there:
            yield asked, first, second


def grown(plain: Answers, cluttered: Answers, first: Condition, second: Condition, seed: int) -> Estimate | None:
    """By how much the difference in recall@1 is larger before a cluttered ground, with the same queries at both.

    None where the queries are not the same.
    """
    if plain.units != cluttered.units or plain.labels != cluttered.labels:
        return None
    values = [level.outcomes[first].hits(1) - level.outcomes[second].hits(1) for level in (cluttered, plain)]
    everyone = np.ones(len(plain.units), np.bool_)
    return mean_estimate(values[0] - values[1], _units(plain, everyone), seed=seed, floor=-2.0)


def by_label(answers: Answers) -> list[tuple[str, NDArray[np.bool_]]]:
    """All queries, and those of each label where there are several."""
    labels = np.array(answers.labels)
    names = sorted({*answers.labels} - {""})
    found = [("", np.ones(len(labels), np.bool_))]
    return found + ([(name, labels == name) for name in names] if len(names) > 1 else [])


def _same(embedder: str, detections: str, crop: str) -> Condition:
    return Condition(embedder, detections, crop, crop)


def _values(ranks: NDArray[np.int64], precisions: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    return [*((ranks <= k).astype(np.float64) for k in RANKS), precisions]


def _units(answers: Answers, chosen: NDArray[np.bool_]) -> NDArray[np.int64]:
    return numbered([unit for unit, wanted in zip(answers.units, chosen, strict=True) if wanted])


def _estimates(
    values: Sequence[NDArray[np.float64]], units: NDArray[np.int64], seed: int, floor: float
) -> tuple[Estimate, Estimate, Estimate, Estimate]:
    one, five, twenty, precision = (mean_estimate(own, units, seed=seed, floor=floor) for own in values)
    return one, five, twenty, precision
