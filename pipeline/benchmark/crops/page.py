"""The page of the comparison: verdict, curves over clutter, cost against quality, tables, queries as pictures."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from pipeline.benchmark.crops.curves import clutter_panels, cost_panels, numbers
from pipeline.benchmark.crops.parts import (
    STRIPS,
    curves_html,
    overview_html,
    part_html,
    table_html,
    troubles_html,
    write_index,
    write_numbers,
)
from pipeline.benchmark.crops.pictures import Cutter, duels, strips_html
from pipeline.benchmark.crops.report import (
    DIFFERENCE_HEAD,
    HEAD,
    INTERVALS,
    about,
    difference_rows,
    label_rows,
    set_rows,
)
from pipeline.benchmark.crops.run import Comparison
from pipeline.benchmark.crops.verdict import interval, main_difference, names, signed, verdict
from pipeline.plots import draw
from pipeline.report_photo import text_html
from stages.problems import plural
from stages.protocols import Detector

STYLE: Final = """
.strip.four { grid-template-columns: repeat(4, minmax(0, 1fr)) }
.strips.wide { grid-template-columns: repeat(auto-fill, minmax(min(100%, 480px), 1fr)) }
.verdict li { margin: .45rem 0; max-width: 62rem }
.verdict li:first-child { font-weight: 650; font-size: 1.05rem }
.thumb .view { color: #65625e }
.part details { margin-top: 1rem }
.part summary { cursor: pointer; font-size: .86rem; color: var(--soft) }
"""
_FRAMES: Final = '<p class="frames"><span>found the item</span><span class="wrong">found another</span></p>'


_NONE: Final = '<p class="soft">None: the right garment is as near either way.</p>'


def write_page(
    folder: Path,
    comparison: Comparison,
    detectors: Mapping[str, Detector],
    figures: Mapping[str, Any],
    examples: int = 6,
) -> None:
    """Write ``index.html`` with its pictures, ``figures.json`` and ``curves.json`` into a folder made by prepare_page.

    Args:
        folder: of the page.
        comparison: what to tell.
        detectors: by name, to cut out the queries that are shown.
        figures: what goes into ``figures.json``.
        examples: queries shown of each kind.

    Raises:
        OSError: a file cannot be written.
    """
    (folder / "photos").mkdir()
    clutter, cost = clutter_panels(comparison), cost_panels(comparison)
    write_numbers(folder, figures, numbers([*clutter, *cost]), clutter)
    draw(cost, folder / "cost.png")
    draw(cost, folder / "cost-dark.png", dark=True)
    parts = [
        overview_html(_tiles(comparison), _about(comparison, detectors)),
        _verdict_html(comparison),
        troubles_html([text for one in comparison.seen for text in (*one.data.problems, *one.data.notes)]),
        _CLUTTER if clutter else "",
        _COST,
        *(_set_html(comparison, name) for name in names(comparison)),
        *_pictures(folder, comparison, detectors, examples),
    ]
    counts = f"{plural(sum(len(one.data.shots) for one in comparison.seen), 'photo')}, seed {comparison.seed}"
    write_index(folder, "Mask crops against box crops", counts, parts, STRIPS + STYLE)


_CLUTTER: Final = curves_html(
    "Over clutter",
    "The same people before backgrounds from a bare wall (0) to a crowded street (1); shaded: 95 % intervals.",
    "Recall at 1 of each crop over clutter, and the difference between mask and box",
)
_COST: Final = curves_html(
    "Cost and quality",
    "Recall@1 against the milliseconds that a photo of the first set takes with detector, crop and embedder; what was missed is"
    " a failure. Up and to the left is better.",
    "Recall at 1 against milliseconds per photo for each detector and crop",
    "cost",
)


def _tiles(comparison: Comparison) -> dict[str, dict[str, str]]:
    found = {name: main_difference(comparison, name, None) for name in names(comparison)}
    return {"Mask − box, recall@1": {name: signed(row.recall_1.value) for name, row in found.items() if row}}


def _about(comparison: Comparison, detectors: Mapping[str, Detector]) -> dict[str, str]:
    trained = {f"embedder {name}": f"trained on {crop}" for name, crop in comparison.trained_on.items()}
    return {"detectors": ", ".join(detectors)} | trained


def _verdict_html(comparison: Comparison) -> str:
    lines = "".join(f"<li>{text_html(line)}</li>" for line in verdict(comparison))
    return part_html("Verdict", "", f'<ul class="verdict">{lines}</ul><p class="notes">{INTERVALS}</p>')


def _set_html(comparison: Comparison, name: str) -> str:
    words = next(one.data.about for one in comparison.seen if one.data.name == name)
    first, *others = comparison.trained_on
    tables = [table_html(HEAD, set_rows(comparison, name, first))]
    tables += [
        f"<details><summary>embedder {text_html(other)}</summary>{table_html(HEAD, set_rows(comparison, name, other))}</details>"
        for other in others
    ]
    apart = table_html(DIFFERENCE_HEAD, difference_rows(comparison, name))
    tables.append(f"<details open><summary>paired differences</summary>{apart}</details>")
    if (row := main_difference(comparison, name, None)) and (
        labels := label_rows(comparison, name, row.first.detections)
    ):
        head = ("label", "queries", "mask − box, recall@1", "mAP@R")
        tables.append(
            f"<details open><summary>by label, by {row.first.detections}: {interval(row.recall_1)} in all</summary>"
            f"{table_html(head, labels, colored=True)}</details>"
        )
    explained = f"{text_html(words)}; {about(comparison, name)}; embedder {text_html(first)}"
    return part_html(text_html(name), explained, "".join(tables))


def _pictures(folder: Path, comparison: Comparison, detectors: Mapping[str, Detector], examples: int) -> list[str]:
    cutter, parts = Cutter(folder, detectors), []
    for duel in duels(comparison):
        lists = [
            (heading, strips_html(duel, cutter, examples, wins=wins))
            for heading, wins in (("Mask wins most", True), ("Mask loses most", False))
        ]
        body = "".join(
            f'<h3 class="sub">{heading}</h3>' + (f'<ul class="strips wide">{html}</ul>' if html else _NONE)
            for heading, html in lists
        )
        clutter = duel.seen.data.clutter
        at = "" if clutter is None else f" at clutter {clutter:g}"
        explained = (
            f"By {text_html(duel.mask.detections)} and {text_html(duel.mask.embedder)}{at}: what asks, and what it finds"
            " first, cut along the mask and as a box. “Right at” is the place of the right garment."
        )
        parts.append(part_html(f"Queries of {text_html(duel.seen.data.name)}", explained, body, _FRAMES))
    return parts
