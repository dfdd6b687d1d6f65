"""What a comparison of crops says: the verdict, tables, figures for machines, and a page with pictures."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from pipeline.crop_benchmark import (
    ALL,
    FOUND_BY_ALL,
    MISSED,
    TRUTH,
    Condition,
    CropComparison,
    CropDifference,
    CropFigures,
    EmbeddedSet,
    SetResults,
    clutter_effect,
    crop_examples,
    detect_examples,
)
from pipeline.crop_benchmark_costs import AVERAGE, BOX, CONTEXT, MASK, NONE, WHOLE
from pipeline.evaluation import Table, rounded
from pipeline.evaluation_pages import write_figures
from pipeline.pages import Pictures, write_page
from pipeline.plots import Line, Panel, draw
from stages.embed.metrics import Estimate, Floats
from stages.problems import plural
from stages.protocols import Detector

INTERVALS: Final = (
    "intervals: 95 %, percentile bootstrap over items; of differences paired, over the same queries. One in twenty excludes"
    " zero by chance."
)
HEAD: Final = ("detections: crop", "recall@1", "@5", "@20", "mAP@R", "missed", "of those found by all", "ms", "MB")
DIFFERENCE_HEAD: Final = ("difference", "embedder", "in recall@1", "found by all", "queries")
THUMB_PX: Final = 220

_UNCLEAR: Final = "no difference could be shown"
_LINES: Final = (BOX, CONTEXT, WHOLE, MASK, "mask-mean", "mask-blur", AVERAGE)
"""The order of curves: crops that every detector has come first, so that a crop has one colour in all panels."""


def verdict(comparison: CropComparison) -> list[str]:
    """Return one sentence each on masks, on clutter, on the lighter detector, and on training, as far as compared."""
    return [*_masks(comparison), *_clutter(comparison), *_detectors(comparison), *_training(comparison)]


def outcome(estimate: Estimate, more: str, less: str) -> str:
    """Say what the interval of a difference shows; nothing if it includes zero.

    >>> outcome(Estimate(0.1, 0.02, 0.18), "masks find more", "boxes find more")
    'masks find more (+0.100 [+0.020, +0.180])'
    >>> outcome(Estimate(0.1, float("nan"), float("nan")), "masks find more", "boxes find more")
    'no difference could be shown (+0.100, from a single item)'
    """
    words = more if estimate.low > 0 else less if estimate.high < 0 else _UNCLEAR
    return f"{words} ({interval(estimate)})"


def interval(estimate: Estimate) -> str:
    """Format a difference with its interval, with signs.

    >>> interval(Estimate(0.1, -0.0001, 0.25))
    '+0.100 [0.000, +0.250]'
    """
    if math.isnan(estimate.low):
        return f"{_signed(estimate.value)}, from a single item"
    return f"{_signed(estimate.value)} [{_signed(estimate.low)}, {_signed(estimate.high)}]"


def _signed(value: float) -> str:
    return f"{value:+.3f}".replace("-0.000", "0.000").replace("+0.000", "0.000").replace("-", "−")


def _rows(comparison: CropComparison, asked: str, data: str, among: str = ALL) -> list[CropDifference]:
    """Return the differences over all queries of a set, its clutters together."""
    return [
        row
        for row in comparison.differences
        if (row.asked, row.data, row.among, row.label, row.clutter) == (asked, data, among, "", None)
    ]


def _main(comparison: CropComparison, data: str) -> CropDifference | None:
    """Return mask − box by the first embedder and the first detector with masks, else by annotations."""
    rows = [
        row
        for row in _rows(comparison, "crop", data)
        if row.first.query == MASK and row.first.embedder == comparison.reference
    ]
    return min(rows, key=lambda row: row.first.detections == TRUTH, default=None)


def _masks(comparison: CropComparison) -> Iterator[str]:
    rows = {name: row for name in comparison.names if (row := _main(comparison, name))}
    if not rows:
        yield "No detector here has masks, so mask crops and box crops were not compared."
        return
    first = next(iter(rows.values())).first
    each = (f"on {name} {outcome(row.recall_1, 'masks find more', 'boxes find more')}" for name, row in rows.items())
    yield f"Mask against box at recall@1, by {first.detections} and the embedder {first.embedder}: {'; '.join(each)}."


def _clutter(comparison: CropComparison) -> Iterator[str]:
    for name in comparison.names:
        levels = [one for one in comparison.results if (one.data, one.among) == (name, ALL) and one.clutter is not None]
        row = _main(comparison, name)
        if len(levels) < 2 or row is None:
            continue
        plain, cluttered = levels[0], levels[-1]
        change = clutter_effect(plain, cluttered, row.first, row.second, comparison.seed)
        if change:
            words = outcome(change, "clutter favours masks", "clutter favours boxes")
            yield f"From clutter {plain.clutter:g} to {cluttered.clutter:g} on {name}, in mask − box: {words}."


def _detectors(comparison: CropComparison) -> Iterator[str]:
    rows = [
        row
        for name in comparison.names
        for row in _rows(comparison, "detector", name)
        if row.first.query == MASK and row.first.embedder == comparison.reference
    ]
    costs = {(cost.detections, cost.crop): cost for cost in comparison.costs if cost.embedder == comparison.reference}
    for heavy, light in dict.fromkeys((row.first.detections, row.second.detections) for row in rows):
        each = [
            f"on {row.data} {outcome(row.recall_1, 'masks find more', 'the boxes find more')}"
            for row in rows
            if (row.first.detections, row.second.detections) == (heavy, light)
        ]
        one, other = costs[heavy, MASK], costs[light, BOX]
        memory = f" and {one.peak_mb:.0f} MB against {other.peak_mb:.0f} MB" if one.peak_mb and other.peak_mb else ""
        yield (
            f"Masks of {heavy} against boxes of {light}, a miss counting as a failure: {'; '.join(each)}; a photo takes"
            f" {one.total_ms:.0f} ms against {other.total_ms:.0f} ms{memory}."
        )


def _training(comparison: CropComparison) -> Iterator[str]:
    rows = [row for name in comparison.names for row in _rows(comparison, "training", name)]
    by_detector = [row for row in rows if row.first.detections != TRUTH] or rows
    if by_detector:
        each = (f"on {row.data} {outcome(row.recall_1, 'masks find more', 'boxes find more')}" for row in by_detector)
        first = by_detector[0]
        yield (
            "Each crop with the embedder that was trained on it"
            f" ({first.first.embedder} against {first.second.embedder}): {'; '.join(each)}."
        )


def figures_of(comparison: CropComparison) -> dict[str, Any]:
    """Return everything for JSON, with four decimals; what is unknown is null."""
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
                "photos": len(one.data.photos),
                "garments": len(one.examples),
                "missed": {source: int((~one.present[source, BOX]).sum()) for source in one.sources},
                "notes": list(one.data.notes),
                "problems": list(one.data.problems),
            }
            for one in comparison.embedded
        ],
        "figures": [_plain(row) for row in comparison.figures],
        "differences": [rounded(row) for row in comparison.differences],
        "costs": [rounded(row) | {"total_ms": rounded(row.total_ms)} for row in comparison.costs],
    }


def _plain(row: CropFigures) -> dict[str, Any]:
    """Return a row of figures with its condition spread out."""
    plain: dict[str, Any] = rounded(row)
    plain |= plain.pop("condition")
    return plain


def text_report(comparison: CropComparison) -> str:
    """Return each set's tables by the first embedder, then the verdict, as plain text."""
    parts = []
    for name in comparison.names:
        parts.append(f"{name} ({_counts(comparison, name)}), embedder {comparison.reference}")
        parts.append(str(Table(HEAD, _figure_rows(comparison, name, comparison.reference))))
        parts.append(str(Table(DIFFERENCE_HEAD, _difference_rows(comparison, name))))
    return "\n\n".join([*parts, "\n".join(verdict(comparison)), INTERVALS])


def _counts(comparison: CropComparison, name: str) -> str:
    queries = [len(one.units) for one in comparison.results if (one.data, one.among) == (name, ALL)][-1]
    garments = sum(len(one.examples) for one in comparison.embedded if one.data.name == name)
    return f"{queries} queries, {garments} garments"


def _figure_rows(comparison: CropComparison, name: str, embedder: str) -> list[tuple[str, ...]]:
    """Return a row of :data:`HEAD` for each condition of an embedder on a set, its clutters together."""
    rows = [
        row
        for row in comparison.figures
        if (row.data, row.clutter, row.label, row.condition.embedder) == (name, None, "", embedder)
    ]
    found = {row.condition: f"{row.recall_1.value:.3f}" for row in rows if row.among == FOUND_BY_ALL}
    costs = {
        Condition.same(embedder, cost.detections, cost.crop): cost
        for cost in comparison.costs
        if cost.embedder == embedder
    }
    cells: list[tuple[str, ...]] = []
    for row in (row for row in rows if row.among == ALL):
        cost = costs.get(row.condition)
        others = [f"{value.value:.3f}" for value in (row.recall_5, row.recall_20, row.map_at_r)]
        ms = f"{cost.total_ms:.0f}" if cost else "–"
        mb = f"{cost.peak_mb:.0f}" if cost and cost.peak_mb is not None else "–"
        name = f"{row.condition.detections}: {row.condition.crops}"
        cells.append((name, str(row.recall_1), *others, str(row.missed), found.get(row.condition, "–"), ms, mb))
    return cells


def _difference_rows(comparison: CropComparison, name: str) -> list[tuple[str, ...]]:
    """Return a row of :data:`DIFFERENCE_HEAD` for each pair of conditions on a set, its clutters together."""
    cells: list[tuple[str, ...]] = []
    for asked in ("crop", "detector", "training"):
        found = {(row.first, row.second): row.recall_1 for row in _rows(comparison, asked, name, FOUND_BY_ALL)}
        for row in _rows(comparison, asked, name):
            first, second, both = row.first, row.second, found.get((row.first, row.second))
            who = " against ".join(dict.fromkeys((first.embedder, second.embedder)))
            shared = first.detections == second.detections
            what = (
                f"{first.detections}: {first.crops} − {second.crops}"
                if shared
                else f"{first.detections} {first.crops} − {second.detections} {second.crops}"
            )
            cells.append((what, who, interval(row.recall_1), interval(both) if both else "–", str(row.queries)))
    return cells


def write_crop_page(
    folder: Path,
    comparison: CropComparison,
    detectors: Mapping[str, Detector],
    figures: Mapping[str, Any],
    most: int = 6,
) -> None:
    """Write ``index.html``, its pictures, ``figures.json`` and ``curves.json`` into a folder made by prepare_page.

    Args:
        folder: of the page.
        comparison: to show.
        detectors: by name, to crop the queries that are shown.
        figures: for ``figures.json``.
        most: how many queries of each kind are shown.

    Raises:
        OSError: a file cannot be written.
    """
    clutter, cost = clutter_panels(comparison), cost_panels(comparison)
    points = {
        panel.title: {line.name: rounded(list(zip(line.x, line.y, strict=True))) for line in panel.lines}
        for panel in (*clutter, *cost)
    }
    write_figures(folder, figures, points, clutter)
    draw(cost, folder / "cost.png")
    draw(cost, folder / "cost-dark.png", dark=True)
    main = {name: row for name in comparison.names if (row := _main(comparison, name))}
    trained = {f"embedder {name}": f"trained on {crop}" for name, crop in comparison.trained_on.items()}
    pictures = Pictures(folder, "photos")
    write_page(
        folder / "index.html",
        "crop_benchmark.html",
        title="Mask crops against box crops",
        interactive=True,
        state=f"{plural(sum(len(one.data.photos) for one in comparison.embedded), 'photo')}, seed {comparison.seed}",
        tiles={"Mask − box, recall@1": {name: _signed(row.recall_1.value) for name, row in main.items()}},
        about={"detectors": ", ".join(detectors)} | trained,
        verdict=verdict(comparison),
        intervals=INTERVALS,
        problems=[text for one in comparison.embedded for text in (*one.data.problems, *one.data.notes)],
        clutter=bool(clutter),
        head=HEAD,
        difference_head=DIFFERENCE_HEAD,
        sets=[_set_values(comparison, name, main.get(name)) for name in comparison.names],
        duels=[_duel_values(duel, detectors, pictures, most) for duel in duels(comparison)],
    )


def _set_values(comparison: CropComparison, name: str, main: CropDifference | None) -> dict[str, object]:
    """Return what the page shows of one set."""
    labels = [
        (row.label, str(row.queries), interval(row.recall_1), interval(row.map_at_r))
        for row in comparison.differences
        if main is not None and row.label and (row.clutter, row.among) == (None, ALL)
        if (row.data, row.first, row.second) == (name, main.first, main.second)
    ]
    return {
        "name": name,
        "about": next(one.data.about for one in comparison.embedded if one.data.name == name),
        "counts": _counts(comparison, name),
        "embedders": {embedder: _figure_rows(comparison, name, embedder) for embedder in comparison.trained_on},
        "differences": _difference_rows(comparison, name),
        "labels": labels,
        "main": f"by {main.first.detections}: {interval(main.recall_1)} in all" if main else "",
    }


def clutter_panels(comparison: CropComparison) -> list[Panel]:
    """Return recall@1 of each crop over clutter for each source of detections, and mask − box with its interval."""
    panels: list[Panel] = []
    for name in comparison.names:
        rows = [
            row
            for row in comparison.figures
            if (row.data, row.label, row.among) == (name, "", ALL) and row.clutter is not None
        ]
        if len({row.clutter for row in rows}) < 2:
            continue
        for source in dict.fromkeys(row.condition.detections for row in rows if row.condition.detections != NONE):
            points = {
                crop: [
                    (row.clutter, row.recall_1)
                    for row in rows
                    if row.condition == Condition.same(comparison.reference, NONE if crop == WHOLE else source, crop)
                ]
                for crop in _LINES
            }
            lines = [_line(crop, values) for crop, values in points.items() if values]
            by = "annotated outlines" if source == TRUTH else source
            panels.append(Panel(f"By {by}", "clutter", "recall@1", lines, y_range=(0.0, 1.0)))
        points = {}
        for row in comparison.differences:
            if (row.data, row.label, row.among, row.asked, row.first.query) == (name, "", ALL, "crop", MASK) and (
                row.clutter is not None and comparison.reference == row.first.embedder
            ):
                points.setdefault(row.first.detections, []).append((row.clutter, row.recall_1))
        lines = [_line(source, values, band=True) for source, values in points.items()]
        panels.append(Panel("Mask − box", "clutter", "difference in recall@1", lines))
    return panels


def _line(name: str, points: Iterable[tuple[float | None, Estimate]], *, band: bool = False) -> Line:
    x, values = zip(*((clutter or 0.0, value) for clutter, value in points), strict=True)
    ends = [value.low for value in values], [value.high for value in values]
    return Line(name, x, [value.value for value in values], ends if band else None)


def cost_panels(comparison: CropComparison) -> list[Panel]:
    """Return recall@1 against milliseconds per photo, a panel for each set and a dot for each detector and crop."""
    panels = []
    for name in comparison.names:
        recall = {
            row.condition: row.recall_1.value
            for row in comparison.figures
            if (row.data, row.clutter, row.label, row.among) == (name, None, "", ALL)
        }
        dots = []
        for cost in (cost for cost in comparison.costs if cost.embedder == comparison.reference):
            title = cost.crop if cost.detections == NONE else f"{cost.detections} {cost.crop}"
            condition = Condition.same(cost.embedder, cost.detections, cost.crop)
            dots.append(Line(title, [cost.total_ms], [recall.get(condition, math.nan)]))
        panels.append(Panel(name, "milliseconds per photo", "recall@1", dots))
    return panels


@dataclass(frozen=True, slots=True, eq=False)
class Duel:
    """A set on which mask crops and box crops of the same detections are compared, query by query."""

    embedded: EmbeddedSet
    results: SetResults
    mask: Condition
    box: Condition

    def gains(self) -> Floats:
        """Return by which factor the mask brings the right answer closer to the top, for each query, as a logarithm."""
        worst = len(self.embedded.examples)
        box, mask = (np.minimum(self.results.outcomes[one][0], worst) for one in (self.box, self.mask))
        return np.asarray(np.log(box / mask))

    def nearest(self, row: int, condition: Condition) -> int | None:
        """Return the row that a query finds first; None if the query was missed."""
        gallery = np.flatnonzero([example.in_gallery for example in self.embedded.examples])
        (similar,) = self.embedded.similarities(condition, np.array([row]), gallery)
        return int(gallery[similar.argmax()]) if np.isfinite(similar.max()) else None


def duels(comparison: CropComparison) -> Iterator[Duel]:
    """Yield one duel per set, at the most clutter, by the first detector with masks, else by the annotations."""
    last = {one.data.name: one for one in comparison.embedded}
    for embedded in last.values():
        for results in comparison.results:
            if (results.data, results.clutter, results.among) != (embedded.data.name, embedded.data.clutter, ALL):
                continue
            for source in sorted(results.missed, key=lambda name: name == TRUTH):
                mask, box = (Condition.same(comparison.reference, source, crop) for crop in (MASK, BOX))
                if mask in results.outcomes:
                    yield Duel(embedded, results, mask, box)
                    break
            break


def _duel_values(duel: Duel, detectors: Mapping[str, Detector], pictures: Pictures, most: int) -> dict[str, object]:
    """Return the queries where the mask wins and loses most, one for each item, as strips of thumbnails."""
    clutter = duel.embedded.data.clutter
    strips: dict[str, list[list[dict[str, str]]]] = {}
    for heading, gains in (("Mask wins most", duel.gains()), ("Mask loses most", -duel.gains())):
        chosen: dict[str, int] = {}
        for query in np.argsort(-gains, kind="stable").tolist():
            if gains[query] > 0:
                chosen.setdefault(duel.embedded.examples[duel.results.rows[query]].item, query)
        queries = list(chosen.values())[:most]
        strips[heading] = [list(_strip(duel, query, detectors, pictures)) for query in queries]
    return {
        "name": duel.embedded.data.name,
        "by": f"{duel.mask.detections} and {duel.mask.embedder}" + (f" at clutter {clutter:g}" if clutter else ""),
        "strips": strips,
    }


def _strip(duel: Duel, query: int, detectors: Mapping[str, Detector], pictures: Pictures) -> Iterator[dict[str, str]]:
    """Yield the query and its first answer, cropped along the mask, then as a box."""
    examples, row = duel.embedded.examples, int(duel.results.rows[query])
    for condition, name in ((duel.mask, "mask"), (duel.box, "box")):
        yield _thumb(duel, row, condition, detectors, pictures, "anchor", f"{name} query")
        place, answer = int(duel.results.outcomes[condition][0][query]), duel.nearest(row, condition)
        words = "missed" if place == MISSED else f"right at {place}"
        if answer is None:
            yield {"address": "", "kind": "wrong", "words": words, "missing": "not detected"}
        else:
            kind = "right" if examples[answer].item == examples[row].item else "wrong"
            yield _thumb(duel, answer, condition, detectors, pictures, kind, words)


def _thumb(
    duel: Duel,
    row: int,
    condition: Condition,
    detectors: Mapping[str, Detector],
    pictures: Pictures,
    kind: str,
    words: str,
) -> dict[str, str]:
    """Crop an example again, write it, and return the thumbnail."""
    embedded, source = duel.embedded, condition.detections
    place = int(embedded.photos[row])
    photo = embedded.data.photos[place]
    image = photo.read()
    used = {name: detector for name, detector in detectors.items() if name == source}
    detections: Sequence[Any] = dict(detect_examples(embedded.data, photo, image, used))[source]
    number = row - int(np.flatnonzero(embedded.photos == place)[0])
    pixels = dict(crop_examples(image, detections, condition.query)).get(number)
    name = f"{embedded.data.name}-{row}-{condition.query}"
    address = "" if pixels is None else pictures.write(re.sub(r"[^\w-]", "_", name), pixels, THUMB_PX)
    return {
        "address": address,
        "kind": kind,
        "words": words,
        "caption": embedded.examples[row].item,
        "missing": "not detected",
    }
