"""What the figures say, in words; every sentence follows from an interval."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Final

from pipeline.benchmark.crops.asking import ALL
from pipeline.benchmark.crops.conditions import BOX, MASK, TRUTH, Condition
from pipeline.benchmark.crops.figures import Difference, grown
from pipeline.benchmark.crops.run import Comparison
from stages.embed.metrics import Estimate

NOT_SHOWN: Final = "no difference could be shown"


def verdict(comparison: Comparison) -> list[str]:
    """The answer, in sentences: when masks pay, when boxes do, and what the lighter detector costs and saves."""
    rows = [row for row in comparison.differences if not row.label]
    return [
        *_summary(comparison),
        *_crops(comparison, rows),
        *_clutter(comparison),
        *_training(rows),
        *_detectors(comparison, rows),
    ]


def told(estimate: Estimate, more: str, less: str) -> str:
    """What an interval of a difference in recall says; nothing is shown where it holds zero.

    >>> told(Estimate(0.1, 0.02, 0.18), "masks find more", "boxes find more")
    'masks find more (+0.100 [+0.020, +0.180])'
    >>> told(Estimate(0.01, -0.02, 0.04), "masks find more", "boxes find more")
    'no difference could be shown (+0.010 [−0.020, +0.040])'
    >>> told(Estimate(0.1, float("nan"), float("nan")), "masks find more", "boxes find more")
    'no difference could be shown (+0.100, from a single item)'
    """
    if estimate.low > 0:
        word = more
    elif estimate.high < 0:
        word = less
    else:
        word = NOT_SHOWN
    return f"{word} ({interval(estimate)})"


def interval(estimate: Estimate) -> str:
    """A difference with its interval, all with a sign."""
    if math.isnan(estimate.low):
        return f"{signed(estimate.value)}, from a single item"
    return f"{signed(estimate.value)} [{signed(estimate.low)}, {signed(estimate.high)}]"


def signed(value: float) -> str:
    """With three decimals and a sign, which zero has none of.

    >>> signed(0.1), signed(-0.1), signed(-0.0001)
    ('+0.100', '−0.100', '0.000')
    """
    return f"{value:+.3f}".replace("-0.000", "0.000").replace("+0.000", "0.000").replace("-", "−")


def main_difference(comparison: Comparison, data: str, clutter: float | None) -> Difference | None:
    """Mask on white against box on a set, as the first embedder and the first detector with masks have it."""
    ours = [
        row
        for row in comparison.differences
        if (row.data, row.clutter, row.label, row.among, row.asked) == (data, clutter, "", ALL, "crop")
        and (row.first.query, row.second.query) == (MASK, BOX)
        and row.first.embedder == comparison.reference
    ]
    return next((row for row in ours if row.first.detections != TRUTH), ours[0] if ours else None)


def names(comparison: Comparison) -> list[str]:
    """The data sets, in order."""
    return list(dict.fromkeys(one.data for one in comparison.answers))


def _summary(comparison: Comparison) -> Iterator[str]:
    """One sentence over all data sets."""
    outcome: dict[str, list[str]] = {"masks": [], "boxes": [], "neither": []}
    for name in names(comparison):
        if row := main_difference(comparison, name, None):
            side = "masks" if row.recall_1.low > 0 else "boxes" if row.recall_1.high < 0 else "neither"
            outcome[side].append(name)
    parts = []
    if outcome["masks"]:
        parts.append(f"masks find more on {_listed(outcome['masks'])}")
    if outcome["boxes"]:
        parts.append(f"boxes find more on {_listed(outcome['boxes'])}")
    if outcome["neither"]:
        parts.append(f"{NOT_SHOWN} on {_listed(outcome['neither'])}")
    if not parts:
        yield "No detector here has masks, so that masks and boxes were not compared."
        return
    detections = next(
        row.first.detections for name in names(comparison) if (row := main_difference(comparison, name, None))
    )
    yield (
        f"Mask against box at recall@1, by {detections} and the embedder {comparison.reference}: {'; '.join(parts)}."
    )


def _crops(comparison: Comparison, rows: Sequence[Difference]) -> Iterator[str]:
    """Mask against box on each data set: by annotations and by each detector, by each embedder."""
    for name in names(comparison):
        ours = [
            row
            for row in rows
            if (row.data, row.clutter, row.among, row.asked) == (name, None, ALL, "crop")
            and (row.first.query, row.second.query) == (MASK, BOX)
        ]
        for source in dict.fromkeys(row.first.detections for row in ours):
            own = [row for row in ours if row.first.detections == source]
            each = "; ".join(
                f"{row.first.embedder}: {told(row.recall_1, 'masks find more', 'boxes find more')}" for row in own
            )
            by = "annotated outlines" if source == TRUTH else f"detections of {source}"
            yield f"{name}, {own[0].queries} queries, {by}: {each}."


def _clutter(comparison: Comparison) -> Iterator[str]:
    """Whether a cluttered ground makes masks pay more, on the same queries."""
    for name in names(comparison):
        levels = [
            one for one in comparison.answers if one.data == name and one.among == ALL and one.clutter is not None
        ]
        if len(levels) < 2:
            continue
        plain, cluttered = levels[0], levels[-1]
        for source in (TRUTH, *(one for one in plain.missed if one != TRUTH)):
            mask, box = (Condition(comparison.reference, source, crop, crop) for crop in (MASK, BOX))
            if not all(one in level.outcomes for one in (mask, box) for level in (plain, cluttered)):
                continue
            by = "annotated outlines" if source == TRUTH else f"detections of {source}"
            each = _by_clutter(comparison, name, mask, box)
            yield f"{name}, {by}, {comparison.reference}, at each clutter: {'; '.join(each)}."
            change = grown(plain, cluttered, mask, box, comparison.seed)
            if change is None:
                continue
            said = told(change, "clutter favours masks", "clutter favours boxes")
            yield (
                f"{name}, {by}: from clutter {plain.clutter:g} to {cluttered.clutter:g} the difference mask − box"
                f" changes: {said}."
            )


def _by_clutter(comparison: Comparison, name: str, mask: Condition, box: Condition) -> Iterator[str]:
    for row in comparison.differences:
        if (row.data, row.among, row.label, row.first, row.second) == (name, ALL, "", mask, box) and (
            row.clutter is not None
        ):
            yield f"{row.clutter:g}: {told(row.recall_1, 'masks find more', 'boxes find more')}"


def _training(rows: Sequence[Difference]) -> Iterator[str]:
    """Each crop with an embedder that was trained on it."""
    for row in rows:
        if (row.asked, row.clutter, row.among) == ("training", None, ALL):
            said = told(row.recall_1, "masks find more", "boxes find more")
            yield (
                f"{row.data}, {row.first.detections}, each crop with the embedder trained on it"
                f" ({row.first.embedder} against {row.second.embedder}): {said}."
            )


def _detectors(comparison: Comparison, rows: Sequence[Difference]) -> Iterator[str]:
    """What the lighter detector costs in recall and saves in time."""
    for row in rows:
        ours = (row.asked, row.clutter, row.first.embedder) == ("detector", None, comparison.reference)
        if not ours or row.first.query != MASK:
            continue
        said = told(row.recall_1, "masks find more", "the boxes find more")
        among = "counting misses as failures" if row.among == ALL else "over garments that both found"
        yield (
            f"{row.data}: masks of {row.first.detections} against boxes of {row.second.detections}, {among}: {said}."
        )
    ms = {(cost.detections, cost.crop): cost for cost in comparison.costs if cost.embedder == comparison.reference}
    for heavy, light in dict.fromkeys(
        (row.first.detections, row.second.detections) for row in rows if row.asked == "detector"
    ):
        one, other = ms.get((heavy, MASK)), ms.get((light, BOX))
        if one and other:
            memory = (
                f", {one.peak_mb:.0f} MB of memory against {other.peak_mb:.0f} MB"
                if one.peak_mb is not None and other.peak_mb is not None
                else ""
            )
            yield (
                f"A photo takes {one.total_ms:.0f} ms with {heavy} and masks, {other.total_ms:.0f} ms with {light} and"
                f" boxes{memory}."
            )


def _listed(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
