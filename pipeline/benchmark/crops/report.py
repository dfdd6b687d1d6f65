"""The comparison of crops as figures for machines and as tables for people."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any, Final

from pipeline.benchmark.crops.asking import ALL, BOTH
from pipeline.benchmark.crops.conditions import BOX, MASK, Condition
from pipeline.benchmark.crops.figures import CropFigures, Difference
from pipeline.benchmark.crops.run import Comparison
from pipeline.benchmark.crops.verdict import interval, names, verdict
from pipeline.evaluation import Table

INTERVALS: Final = (
    "intervals: 95 %, percentile bootstrap, items drawn again; of differences paired, over the same queries. One in twenty"
    " leaves zero out by chance."
)
HEAD: Final = ("detections", "crop", "recall@1", "@5", "@20", "mAP@R", "missed", "of those found by all", "ms", "MB")
DIFFERENCE_HEAD: Final = ("by", "on", "difference in recall@1", "found by all", "queries")


def figures_of(comparison: Comparison) -> dict[str, Any]:
    """Everything, for JSON, with four decimals; what cannot be told is null."""
    return {
        "seed": comparison.seed,
        "intervals": INTERVALS,
        "embedders": comparison.trained_on,
        "verdict": verdict(comparison),
        "data": [
            {
                "data": one.data.name,
                "clutter": one.data.clutter,
                "about": one.data.about,
                "photos": len(one.data.shots),
                "garments": len(one.garments),
                "missed": {source: int((~there).sum()) for (source, crop), there in one.there.items() if crop == BOX},
                "notes": list(one.data.notes),
                "problems": list(one.data.problems),
            }
            for one in comparison.seen
        ],
        "figures": [_plain(asdict(row)) for row in comparison.figures],
        "differences": [_plain(asdict(row)) for row in comparison.differences],
        "costs": [_plain(asdict(row) | {"total_ms": row.total_ms}) for row in comparison.costs],
    }


def table(comparison: Comparison) -> str:
    """What a person wants to know first, in lines of plain text: each set by the first embedder, and the verdict."""
    parts = []
    for name in names(comparison):
        rows = set_rows(comparison, name, comparison.reference)
        parts.append(f"{name} ({about(comparison, name)}), embedder {comparison.reference}")
        parts.append(str(Table(HEAD, rows)))
        parts.append(str(Table(DIFFERENCE_HEAD, difference_rows(comparison, name))))
    return "\n\n".join([*parts, "\n".join(verdict(comparison)), INTERVALS])


def about(comparison: Comparison, name: str) -> str:
    """How many asked on a set, and of how many garments."""
    own = [one for one in comparison.answers if (one.data, one.among) == (name, ALL)]
    garments = sum(len(one.garments) for one in comparison.seen if one.data.name == name)
    return f"{len(own[-1].units)} queries, {garments} garments" if own else f"{garments} garments"


def set_rows(comparison: Comparison, name: str, embedder: str) -> list[tuple[str, ...]]:
    """A row for each condition of an embedder on a set, its clutters together, as :data:`HEAD`."""
    own = [
        row
        for row in comparison.figures
        if (row.data, row.clutter, row.label, row.condition.embedder) == (name, None, "", embedder)
    ]
    found = {row.condition: row for row in own if row.among == BOTH}
    spent = {(cost.detections, cost.crop): cost for cost in comparison.costs if cost.embedder == embedder}
    return [_row(row, found.get(row.condition), spent) for row in own if row.among == ALL]


def _row(row: CropFigures, found: CropFigures | None, spent: dict[tuple[str, str], Any]) -> tuple[str, ...]:
    condition = row.condition
    cost = spent.get((condition.detections, condition.query)) if condition.query == condition.gallery else None
    return (
        condition.detections,
        condition.crops,
        str(row.recall_1),
        f"{row.recall_5.value:.3f}",
        f"{row.recall_20.value:.3f}",
        f"{row.map_at_r.value:.3f}",
        str(row.missed),
        f"{found.recall_1.value:.3f}" if found else "–",
        f"{cost.total_ms:.0f}" if cost else "–",
        f"{cost.peak_mb:.0f}" if cost and cost.peak_mb is not None else "–",
    )


def difference_rows(comparison: Comparison, name: str, label: str = "") -> list[tuple[str, ...]]:
    """A row for each pair of conditions on a set, its clutters together, as :data:`DIFFERENCE_HEAD`."""
    own = [row for row in comparison.differences if (row.data, row.clutter, row.label) == (name, None, label)]
    found = {(row.first, row.second): row for row in own if row.among == BOTH}
    return [
        (
            _who(row),
            _what(row.first, row.second),
            interval(row.recall_1),
            interval(both.recall_1) if (both := found.get((row.first, row.second))) else "–",
            str(row.queries),
        )
        for row in own
        if row.among == ALL
    ]


def label_rows(comparison: Comparison, name: str, source: str) -> list[tuple[str, ...]]:
    """Mask against box by label, by the first embedder and some detections."""
    return [
        (row.label, str(row.queries), interval(row.recall_1), interval(row.map_at_r))
        for row in comparison.differences
        if (row.data, row.clutter, row.among, row.asked) == (name, None, ALL, "crop")
        and row.label
        and row.first == Condition(comparison.reference, source, MASK, MASK)
    ]


def _who(row: Difference) -> str:
    first, second = row.first.embedder, row.second.embedder
    return first if first == second else f"{first} against {second}"


def _what(first: Condition, second: Condition) -> str:
    if first.detections == second.detections:
        return f"{first.detections}: {first.crops} − {second.crops}"
    return f"{first.detections} {first.crops} − {second.detections} {second.crops}"


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    """A row with its condition spelled out, and numbers that JSON can hold."""
    plain: dict[str, Any] = {}
    for key, value in row.items():
        if key == "condition":
            plain |= value
        elif isinstance(value, dict):
            plain[key] = {name: _number(part) for name, part in value.items()}
        else:
            plain[key] = _number(value)
    return plain


def _number(value: object) -> object:
    if isinstance(value, float):
        return round(value, 4) if math.isfinite(value) else None
    return value
