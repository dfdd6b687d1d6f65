"""The results of a comparison of crops: the verdict, tables, figures as JSON, and a page with pictures."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from pipeline.crop_benchmark import (
    ALL,
    AVERAGE,
    BOX,
    CONTEXT,
    FOUND_BY_ALL,
    MASK,
    NONE,
    TRUTH,
    WHOLE,
    Condition,
    CropComparison,
    CropRow,
    SetResults,
    crop_examples,
)
from pipeline.evaluation import Table, rounded
from pipeline.evaluation_pages import THUMB_PX, Thumb, write_figures
from pipeline.pages import Pictures, write_page
from pipeline.plots import Line, Panel, draw
from stages.embed.data import numbered
from stages.embed.metrics import UNREACHED, Estimate, mean_estimate
from stages.problems import plural

INTERVALS: Final = (
    "intervals: 95 %, percentile bootstrap over items; of differences, paired by query. One in twenty excludes zero by"
    " chance."
)
HEAD: Final = ("detections: crop", "recall@1", "@5", "@20", "mAP@R", "missed", "of those found by all", "ms")
DIFFERENCE_HEAD: Final = ("difference", "embedder", "in recall@1", "found by all", "queries")

_LINES: Final = (BOX, CONTEXT, WHOLE, MASK, "mask-mean", "mask-blur", AVERAGE)
"""The order of curves: crops that every detector has come first, so that a crop has one colour in all panels."""


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


def outcome(estimate: Estimate, more: str, less: str) -> str:
    """Say which side the interval of a difference favours, if it excludes zero.

    >>> outcome(Estimate(0.1, 0.02, 0.18), "masks find more", "boxes find more")
    'masks find more (+0.100 [+0.020, +0.180])'
    >>> outcome(Estimate(0.1, float("nan"), float("nan")), "masks find more", "boxes find more")
    'no difference could be shown (+0.100, from a single item)'
    """
    words = more if estimate.low > 0 else less if estimate.high < 0 else "no difference could be shown"
    return f"{words} ({interval(estimate)})"


def _outcomes(rows: Iterable[CropRow]) -> str:
    return "; ".join(f"on {row.data} {outcome(row.recall_1, 'masks find more', 'boxes find more')}" for row in rows)


def verdict(comparison: CropComparison) -> list[str]:
    """Return one sentence each on masks, clutter, the lighter detector, and training, as far as they were compared."""
    main = _main_rows(comparison)
    if not main:
        return ["No detector here has masks, so mask crops and box crops were not compared."]
    first = next(iter(main.values())).first
    by = f"{first.detections} and the embedder {first.embedder}"
    sentences = [f"Mask against box at recall@1, by {by}: {_outcomes(main.values())}."]
    for name, row in main.items():
        levels = [one for one in comparison.results if (one.data, one.among) == (name, ALL) and one.clutter is not None]
        if change := _clutter_effect(levels, row, comparison.seed):
            grades = f"{levels[0].clutter:g} to {levels[-1].clutter:g}"
            words = outcome(change, "clutter favours masks", "clutter favours boxes")
            sentences.append(f"From clutter {grades} on {name}, in mask − box: {words}.")
    ms = {row.first: row.ms for row in comparison.figures}
    by_detectors: dict[tuple[Condition, Condition], list[CropRow]] = {}
    for row in _select(comparison.differences, compared="detector"):
        if row.second and (row.first.crop, row.first.embedder) == (MASK, comparison.reference):
            by_detectors.setdefault((row.first, row.second), []).append(row)
    for (heavy, light), rows in by_detectors.items():
        one, other = ms[heavy], ms[light]
        times = f"; a photo takes {one:.0f} ms against {other:.0f} ms" if one is not None and other is not None else ""
        sentences.append(
            f"Masks of {heavy.detections} against boxes of {light.detections}, a miss counting as a failure:"
            f" {_outcomes(rows)}{times}."
        )
    rows = _select(comparison.differences, compared="training")
    if rows := [row for row in rows if row.first.detections != TRUTH] or rows:
        names = " against ".join(one.embedder for one in (rows[0].first, rows[0].second) if one)
        sentences.append(f"Each crop with the embedder that was trained on it ({names}): {_outcomes(rows)}.")
    return sentences


def _clutter_effect(levels: Sequence[SetResults], row: CropRow, seed: int) -> Estimate | None:
    """Return the change of a difference in recall@1 from least to most clutter; None unless the queries are the same."""
    if len(levels) < 2 or row.second is None or levels[0].units != levels[-1].units:
        return None
    plain, cluttered = ((one.scores(row.first) - one.scores(row.second))[0] for one in (levels[0], levels[-1]))
    return mean_estimate(cluttered - plain, numbered(levels[0].units), seed=seed, floor=-2.0)


def _select(rows: Iterable[CropRow], **wanted: Any) -> list[CropRow]:
    """Return the rows with these fields; by default those over all garments of a set, its clutters together."""
    fields = {"among": ALL, "clutter": None} | wanted
    return [row for row in rows if all(getattr(row, name) == value for name, value in fields.items())]


def _main_rows(comparison: CropComparison) -> dict[str, CropRow]:
    """Return mask − box of each set by the first embedder and the first detector with masks, else by annotations."""
    rows: dict[str, CropRow] = {}
    for row in sorted(_select(comparison.differences, compared="crop"), key=lambda row: row.first.detections == TRUTH):
        if (row.first.crop, row.first.embedder) == (MASK, comparison.reference):
            rows.setdefault(row.data, row)
    return rows


def figures_of(comparison: CropComparison) -> dict[str, Any]:
    """Return everything for JSON, with four decimals; what is unknown is null."""

    def plain(row: CropRow) -> dict[str, Any]:
        values: dict[str, Any] = rounded(row)
        if row.second is None:
            del values["second"], values["compared"]
            values |= values.pop("first")
            return values
        del values["ms"]
        return values

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
                "garments": len(one.data.examples),
                "missed": {source: int(one.missed(source).sum()) for source in one.detections},
                "notes": list(one.data.notes),
                "problems": list(one.data.problems),
            }
            for one in comparison.embedded
        ],
        "figures": list(map(plain, comparison.figures)),
        "differences": list(map(plain, comparison.differences)),
    }


def text_report(comparison: CropComparison) -> str:
    """Return each set's tables by the first embedder, then the verdict, as plain text."""
    parts = []
    for name in comparison.names:
        parts.append(f"{name} ({_counts(comparison, name)}), embedder {comparison.reference}")
        parts.append(str(Table(HEAD, _figure_cells(comparison, name, comparison.reference))))
        parts.append(str(Table(DIFFERENCE_HEAD, _difference_cells(comparison, name))))
    return "\n\n".join([*parts, "\n".join(verdict(comparison)), INTERVALS])


def _counts(comparison: CropComparison, name: str) -> str:
    queries = [len(one.units) for one in comparison.results if (one.data, one.among) == (name, ALL)][-1]
    garments = sum(len(one.data.examples) for one in comparison.embedded if one.data.name == name)
    return f"{queries} queries, {garments} garments"


def _figure_cells(comparison: CropComparison, name: str, embedder: str) -> list[tuple[object, ...]]:
    """Return a row of :data:`HEAD` for each condition of an embedder on a set, its clutters together."""
    found = {row.first: row.recall_1.value for row in _select(comparison.figures, data=name, among=FOUND_BY_ALL)}
    cells: list[tuple[object, ...]] = []
    for row in _select(comparison.figures, data=name):
        if row.first.embedder == embedder:
            others = row.recall_5.value, row.recall_20.value, row.map_at_r.value, row.missed, found.get(row.first)
            ms = row.ms and f"{row.ms:.0f}"
            cells.append((f"{row.first.detections}: {row.first.crop}", row.recall_1, *others, ms))
    return cells


def _difference_cells(comparison: CropComparison, name: str) -> list[tuple[object, ...]]:
    """Return a row of :data:`DIFFERENCE_HEAD` for each pair of conditions on a set, its clutters together."""
    found_rows = _select(comparison.differences, data=name, among=FOUND_BY_ALL)
    found = {(row.first, row.second): interval(row.recall_1) for row in found_rows}
    cells: list[tuple[object, ...]] = []
    for row in _select(comparison.differences, data=name):
        first, second = row.first, row.second
        if second:
            other = second.crop if first.detections == second.detections else f"{second.detections} {second.crop}"
            difference = f"{first.detections}: {first.crop} − {other}"
            embedders = " against ".join(dict.fromkeys((first.embedder, second.embedder)))
            cells.append((difference, embedders, interval(row.recall_1), found.get((first, second)), row.queries))
    return cells


def write_crop_page(folder: Path | str, comparison: CropComparison, figures: Mapping[str, Any], most: int = 6) -> None:
    """Write ``index.html``, its pictures, ``figures.json`` and ``curves.json`` into a folder made by prepare_page.

    ``most`` is the number of queries shown where the mask wins, and where it loses.
    """
    folder = Path(folder)
    clutter = [panel for name in comparison.names for panel in _clutter_panels(comparison, name)]
    cost = [_cost_panel(comparison, name) for name in comparison.names]
    points = {
        panel.title: {line.name: rounded(list(zip(line.x, line.y, strict=True))) for line in panel.lines}
        for panel in (*clutter, *cost)
    }
    write_figures(folder, figures, points, clutter)
    draw(cost, folder / "cost.png")
    draw(cost, folder / "cost-dark.png", dark=True)
    main = _main_rows(comparison)
    detectors = dict.fromkeys(source for one in comparison.embedded for source in one.detections if source != TRUTH)
    trained = {f"embedder {name}": f"trained on {crop}" for name, crop in comparison.trained_on.items()}
    about = {one.data.name: one.data.about for one in reversed(comparison.embedded)}
    write_page(
        folder / "index.html",
        "crop_benchmark.html",
        title="Mask crops against box crops",
        state=f"{plural(sum(len(one.data.photos) for one in comparison.embedded), 'photo')}, seed {comparison.seed}",
        tiles={"Mask − box, recall@1": {name: _signed(row.recall_1.value) for name, row in main.items()}},
        about={"detectors": ", ".join(detectors)} | trained,
        verdict=verdict(comparison),
        intervals=INTERVALS,
        problems=[text for one in comparison.embedded for text in (*one.data.problems, *one.data.notes)],
        clutter=bool(clutter),
        head=HEAD,
        difference_head=DIFFERENCE_HEAD,
        sets=[
            {
                "name": name,
                "about": about[name],
                "counts": _counts(comparison, name),
                "embedders": {one: _figure_cells(comparison, name, one) for one in comparison.trained_on},
                "differences": _difference_cells(comparison, name),
            }
            for name in comparison.names
        ],
        examples=_examples(comparison, next(iter(main.values())), Pictures(folder, "photos"), most) if main else None,
    )


def _clutter_panels(comparison: CropComparison, name: str) -> list[Panel]:
    """Return recall@1 of each crop over clutter for each source of detections, and mask − box with its interval."""
    points: dict[str, dict[str, list[tuple[float, Estimate]]]] = {}
    for row in (*comparison.figures, *comparison.differences):
        first, second = row.first, row.second
        if (row.data, row.among, first.embedder) != (name, ALL, comparison.reference) or row.clutter is None:
            continue
        if second is None:
            points.setdefault(first.detections, {}).setdefault(first.crop, []).append((row.clutter, row.recall_1))
        elif (row.compared, first.crop) == ("crop", MASK):
            points.setdefault("", {}).setdefault(first.detections, []).append((row.clutter, row.recall_1))
    gains, whole = points.pop("", {}), points.pop(NONE, {})
    panels = [
        Panel(
            f"By {'annotated outlines' if source == TRUTH else source}",
            "clutter",
            "recall@1",
            [_line(crop, (lines | whole)[crop]) for crop in _LINES if crop in lines | whole],
            y_range=(0.0, 1.0),
        )
        for source, lines in points.items()
    ]
    panels.append(
        Panel("Mask − box", "clutter", "difference in recall@1", [_line(*one, band=True) for one in gains.items()])
    )
    return panels if any(len(line.x) > 1 for panel in panels for line in panel.lines) else []


def _line(name: str, points: list[tuple[float, Estimate]], *, band: bool = False) -> Line:
    ends = [value.low for _, value in points], [value.high for _, value in points]
    return Line(name, [clutter for clutter, _ in points], [value.value for _, value in points], ends if band else None)


def _cost_panel(comparison: CropComparison, name: str) -> Panel:
    """Return recall@1 on a set against milliseconds per photo, a dot for each detector and crop."""
    dots = [
        Line(f"{row.first.detections} {row.first.crop}", [row.ms], [row.recall_1.value])
        for row in _select(comparison.figures, data=name)
        if row.ms is not None and row.first.embedder == comparison.reference
    ]
    return Panel(name, "milliseconds per photo", "recall@1", dots)


def _examples(comparison: CropComparison, main: CropRow, pictures: Pictures, most: int) -> dict[str, object]:
    """Return strips of thumbnails of a set at the most clutter: where the mask wins most, and where it loses most.

    A strip shows the query and its first match, cropped along the mask, then as a box; one query for each item.
    """
    embedded = [one for one in comparison.embedded if one.data.name == main.data][-1]
    data, examples = embedded.data, embedded.data.examples
    wanted = (data.name, data.clutter, ALL)
    results = next(one for one in comparison.results if (one.data, one.clutter, one.among) == wanted)
    detections = embedded.detections[main.first.detections]
    gallery = np.flatnonzero([one.in_gallery for one in examples])
    conditions = {crop: replace(main.first, crop=crop) for crop in (MASK, BOX)}

    def thumb(row: int | None, crop: str, kind: str, words: str) -> Thumb:
        address = caption = ""
        if row is not None:
            caption = examples[row].item
            for _, pixels in crop_examples(data.photos[embedded.photos[row]].read(), [detections[row]], crop):
                name = re.sub(r"[^\w-]", "_", f"{data.name}-{row}-{crop}")
                address = pictures.write(name, pixels, THUMB_PX)
        return {"address": address, "kind": kind, "words": words, "caption": caption, "missing": "not detected"}

    def strip(query: int) -> Iterator[Thumb]:
        row = int(results.rows[query])
        for crop, condition in conditions.items():
            yield thumb(row, crop, "anchor", f"{'mask' if crop == MASK else 'box'} query")
            rank = int(results.outcomes[condition][0][query])
            (similar,) = embedded.similarities(condition, np.array([row]), gallery)
            answer = int(gallery[similar.argmax()]) if np.isfinite(similar.max()) else None
            right = answer is not None and examples[answer].item == examples[row].item
            words = "missed" if rank == UNREACHED else f"right at {rank}"
            yield thumb(answer, crop, "right" if right else "wrong", words)

    mask, box = (np.minimum(results.outcomes[one][0], len(examples)) for one in conditions.values())
    strips: dict[str, list[list[Thumb]]] = {}
    for heading, gains in (("Mask wins most", np.log(box / mask)), ("Mask loses most", np.log(mask / box))):
        chosen: dict[str, int] = {}
        for query in np.argsort(-gains, kind="stable").tolist():
            if gains[query] > 0:
                chosen.setdefault(examples[results.rows[query]].item, query)
        strips[heading] = [list(strip(query)) for query in list(chosen.values())[:most]]
    clutter = f" at clutter {data.clutter:g}" if data.clutter else ""
    return {"name": data.name, "by": f"{main.first.detections} and {main.first.embedder}{clutter}", "strips": strips}
