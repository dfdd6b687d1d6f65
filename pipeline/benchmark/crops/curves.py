"""Recall over clutter, and recall against milliseconds, as panels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from pipeline.benchmark.crops.asking import ALL
from pipeline.benchmark.crops.conditions import AVERAGE, BOX, CONTEXT, CROPS, MASK, NONE, TRUTH, WHOLE, Condition
from pipeline.benchmark.crops.figures import CropFigures, Difference
from pipeline.benchmark.crops.run import Comparison
from pipeline.benchmark.crops.verdict import names
from pipeline.plots import Line, Panel

_ORDER: Final = (BOX, CONTEXT, WHOLE, MASK, "mask-mean", "mask-blur", AVERAGE)
"""Of the lines: what every detector has comes first, so that a crop has one colour in all panels."""


def clutter_panels(comparison: Comparison) -> list[Panel]:
    """Recall@1 of each crop over clutter, for each detections; and the difference mask − box with its interval."""
    panels: list[Panel] = []
    for name in names(comparison):
        rows = [
            row
            for row in comparison.figures
            if (row.data, row.label, row.among) == (name, "", ALL) and row.clutter is not None
        ]
        if len({row.clutter for row in rows}) < 2:
            continue
        sources = dict.fromkeys(row.condition.detections for row in rows if row.condition.detections != NONE)
        panels += [_recall(comparison.reference, source, rows) for source in sources]
        panels.append(_difference(comparison, name))
    return panels


def cost_panels(comparison: Comparison) -> list[Panel]:
    """Recall@1 against milliseconds per photo, a panel for each set: a dot for each detector and crop."""
    reference = comparison.reference
    spent = {(cost.detections, cost.crop): cost.total_ms for cost in comparison.costs if cost.embedder == reference}
    panels = []
    for name in names(comparison):
        recall = {
            (row.condition.detections, row.condition.query): row.recall_1.value
            for row in comparison.figures
            if (row.data, row.clutter, row.label, row.among) == (name, None, "", ALL)
            and row.condition.embedder == reference
            and row.condition.query == row.condition.gallery
        }
        dots = [
            Line(f"{source} {crop}" if source != NONE else crop, [ms], [recall.get((source, crop), float("nan"))])
            for (source, crop), ms in spent.items()
        ]
        panels.append(Panel(name, "milliseconds per photo", "recall@1", dots))
    return panels


def numbers(panels: Sequence[Panel]) -> dict[str, dict[str, list[list[float | None]]]]:
    """The points of the panels, for JSON; what is not there is null."""
    return {
        panel.title: {
            line.name: [[x, round(y, 4) if math.isfinite(y) else None] for x, y in zip(line.x, line.y, strict=True)]
            for line in panel.lines
        }
        for panel in panels
    }


def _recall(embedder: str, source: str, rows: Sequence[CropFigures]) -> Panel:
    lines = []
    for crop in (one for one in _ORDER if one in (*CROPS, AVERAGE)):
        condition = Condition(embedder, NONE if crop == WHOLE else source, crop, crop)
        own = [row for row in rows if row.condition == condition]
        if own:
            lines.append(Line(crop, [row.clutter or 0.0 for row in own], [row.recall_1.value for row in own]))
    by = "annotated outlines" if source == TRUTH else source
    return Panel(f"By {by}", "clutter", "recall@1", lines, y_range=(0.0, 1.0))


def _difference(comparison: Comparison, name: str) -> Panel:
    rows = [
        row
        for row in comparison.differences
        if (row.data, row.label, row.among, row.asked) == (name, "", ALL, "crop")
        and row.clutter is not None
        and (row.first.query, row.second.query) == (MASK, BOX)
    ]
    lines = []
    for embedder in comparison.trained_on:
        for source in dict.fromkeys(row.first.detections for row in rows):
            own = [row for row in rows if (row.first.embedder, row.first.detections) == (embedder, source)]
            if own and (embedder == comparison.reference or source == TRUTH):
                lines.append(_line(own, f"{embedder}, {source}", band=embedder == comparison.reference))
    return Panel("Mask − box", "clutter", "difference in recall@1", lines)


def _line(own: Sequence[Difference], name: str, *, band: bool) -> Line:
    ends = [row.recall_1.low for row in own], [row.recall_1.high for row in own]
    x = [row.clutter or 0.0 for row in own]
    return Line(name, x, [row.recall_1.value for row in own], ends if band else None)
