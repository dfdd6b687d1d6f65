"""The page of an evaluation: figures per label, curves, the worst mistakes. It opens from disk, offline."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from pipeline.detector_evaluation.figures import curves
from pipeline.detector_evaluation.mistakes import Kind, mistakes_html
from pipeline.detector_evaluation.style import STYLE as OWN_STYLE
from pipeline.plots import Line, Panel, draw, require_matplotlib
from pipeline.report_page import frame
from pipeline.report_photo import plural, text_html
from pipeline.report_style import STYLE, color_of
from stages.detect.evaluate import Evaluation, LabelEvaluation
from stages.detect.precision import AveragePrecision

_LISTED: Final = 50
"""Photos that could not be judged and the like, as many as the page lists."""


def prepare_page(folder: Path) -> None:
    """Make a page's folder; ask before a long evaluation.

    Raises:
        ValueError: the folder holds something already.
        OutfinderError: matplotlib, which draws the curves, is not installed.
        OSError: the folder cannot be made.
    """
    if folder.exists() and any(folder.iterdir()):
        raise ValueError(f"the page's folder {folder} is not empty; name a new one")
    require_matplotlib()
    folder.mkdir(parents=True, exist_ok=True)


def write_page(
    folder: Path,
    evaluation: Evaluation,
    photos: Path,
    figures: Mapping[str, Any],
    *,
    title: str,
    about: Mapping[str, str],
) -> None:
    """Write ``index.html`` with its pictures, ``figures.json`` and ``curves.json`` into a folder made by prepare_page.

    Args:
        folder: of the page.
        evaluation: what to tell.
        photos: the folder of the photos, for pictures of the mistakes.
        figures: what goes into ``figures.json``.
        title: of the page.
        about: what was judged and how, by its name.

    Raises:
        OSError: a file cannot be written.
    """
    (folder / "mistakes").mkdir()
    _write(folder / "figures.json", json.dumps(figures, indent=2) + "\n")
    _write(folder / "curves.json", json.dumps(curves(evaluation), separators=(",", ":")) + "\n")
    panels = _panels(evaluation)
    if panels:
        draw(panels, folder / "curves.png")
        draw(panels, folder / "curves-dark.png", dark=True)
    parts = [
        _overview_html(evaluation, about),
        _troubles_html(evaluation),
        _labels_html(evaluation),
        _CURVES if panels else "",
        *_mistake_parts(evaluation, photos, folder),
    ]
    _write(folder / "index.html", _page(title, evaluation, "\n".join(parts)))


def _page(title: str, evaluation: Evaluation, body: str) -> str:
    state = f"{plural(evaluation.photos, 'photo')} with {plural(evaluation.garments, 'garment')}"
    heading = text_html(title)
    top = f'<header><h1>{heading}</h1></header>\n<p class="state soft">{state}</p>'
    return frame(heading, f"{top}\n<main>\n{body}\n</main>", STYLE + OWN_STYLE)


def _overview_html(evaluation: Evaluation, about: Mapping[str, str]) -> str:
    precision = {"Box AP50": evaluation.box.ap50, "Box AP": evaluation.box.ap}
    if evaluation.mask:
        precision |= {"Mask AP50": evaluation.mask.ap50, "Mask AP": evaluation.mask.ap}
    precision |= {"Box AP75": evaluation.box.ap75, "Box recall, 100 per photo": evaluation.box.recall}
    use = {
        "Missed": str(evaluation.missed),
        "False alarms": str(evaluation.false_alarms),
        "Seconds per photo": f"{evaluation.latency.mean_s:.3f}",
        "95th percentile": f"{evaluation.latency.p95_s:.3f}",
    }
    settings = "".join(f"<dt>{text_html(key)}</dt><dd>{text_html(value)}</dd>" for key, value in about.items())
    return (
        '<div class="card overview">'
        f"<section><h2>Average precision</h2>{_tiles({name: f'{value:.3f}' for name, value in precision.items()})}"
        f"</section><section><h2>In use, at score {evaluation.threshold:g}</h2>{_tiles(use)}</section>"
        f'<section><h2>Judged</h2><dl class="settings">{settings}</dl></section></div>'
    )


def _tiles(values: Mapping[str, str]) -> str:
    tiles = "".join(f'<div><dt>{name}</dt><dd class="number">{value}</dd></div>' for name, value in values.items())
    return f'<dl class="totals">{tiles}</dl>'


def _troubles_html(evaluation: Evaluation) -> str:
    """What could not be judged, and what to know of the rest."""
    rows = [*evaluation.notes, *(f"{photo} {why}" for photo, why in evaluation.failed.items()), *evaluation.problems]
    if not rows:
        return ""
    listed = "".join(f"<li><bdi>{text_html(row)}</bdi></li>" for row in rows[:_LISTED])
    if len(rows) > _LISTED:
        listed += f'<li class="soft">and {len(rows) - _LISTED} more, all in figures.json</li>'
    return f'<section class="card failures"><h2>Not judged, and worth knowing</h2><ul>{listed}</ul></section>'


def _labels_html(evaluation: Evaluation) -> str:
    masks = evaluation.mask is not None
    heads = ["label", "garments", "box AP50", "box AP"] + ["mask AP50", "mask AP"] * masks
    heads += ["found", "missed", "false alarms", "balanced at"]
    rows = "".join(
        f'<tr style="--color: {color_of(name)}"><th scope="row">{text_html(name)}</th>{_cells(label, masks=masks)}</tr>'
        for name, label in evaluation.labels.items()
    )
    columns = "".join(f'<th scope="col">{head}</th>' for head in heads)
    ends = [str(evaluation.garments - evaluation.missed), str(evaluation.missed), str(evaluation.false_alarms), ""]
    total = _numbers(evaluation.garments, evaluation.box, evaluation.mask, ends, masks=masks)
    return (
        '<section class="card part"><header><h2>By label</h2><p class="soft">Found, missed and false alarms are'
        f" counted by boxes, at IoU 0.50 and score {evaluation.threshold:g}; at the score “balanced at” there would be as"
        " many false alarms as misses.</p></header>"
        f'<div class="scroll"><table class="figures"><thead><tr>'
        f"{columns}</tr></thead>"
        f'<tbody>{rows}</tbody><tfoot><tr style="--color: var(--ink)"><th scope="row">all</th>{total}</tr></tfoot>'
        "</table></div></section>"
    )


def _cells(label: LabelEvaluation, *, masks: bool) -> str:
    balanced = "–" if label.balanced_threshold is None else f"{label.balanced_threshold:.2f}"
    ends = [str(label.found), str(label.missed), str(label.false_alarms), balanced]
    return _numbers(label.garments, label.box, label.mask, ends, masks=masks)


def _numbers(
    garments: int, box: AveragePrecision | None, mask: AveragePrecision | None, ends: list[str], *, masks: bool
) -> str:
    cells = [f"<td>{garments}</td>"]
    for precision in (box, mask) if masks else (box,):
        if precision is None:
            cells.append("<td>–</td><td>–</td>")
        else:
            share = f'<i style="--share: {100 * precision.ap50:.1f}%" aria-hidden="true"></i>'
            cells.append(f'<td class="share">{share}{precision.ap50:.3f}</td><td>{precision.ap:.3f}</td>')
    return "".join(cells) + "".join(f"<td>{end}</td>" for end in ends)


_CURVES = (
    '<section class="card part curves"><header><h2>Precision by recall</h2><p class="soft">At IoU 0.50; the dot is'
    ' where the score in use lies, for boxes.</p></header><div class="scroll"><picture>'
    '<source srcset="curves-dark.png" media="(prefers-color-scheme: dark)">'
    '<img src="curves.png" alt="A precision/recall curve for each label"></picture></div></section>'
)


def _panels(evaluation: Evaluation) -> list[Panel]:
    panels = []
    for name, label in evaluation.labels.items():
        if not (label.box and label.box_curve):
            continue
        kinds = {"boxes": label.box_curve} | ({"masks": label.mask_curve} if label.mask_curve else {})
        lines = []
        for kind, curve in kinds.items():
            reached = sum(precision > 0 for precision in curve.precision)
            lines.append(Line(kind, curve.recall[:reached], curve.precision[:reached]))
        sure = label.found + label.false_alarms
        precision = label.found / sure if sure else float("nan")
        lines.append(Line("score in use", [label.found / label.garments], [precision]))
        title = f"{name}  {label.box.ap50:.2f}"
        panels.append(Panel(title, "recall", "precision", lines, x_range=(0, 1.02), y_range=(0, 1.03)))
    return panels


def _mistake_parts(evaluation: Evaluation, photos: Path, folder: Path) -> list[str]:
    shown = {
        "confusion": evaluation.mistakes.confusions,
        "false-alarm": evaluation.mistakes.false_alarms,
        "miss": evaluation.mistakes.misses,
    }
    return [
        f'<section class="card part"><header><h2>{name}</h2><p class="soft">{explained}</p>{_KEY}</header>'
        f"{mistakes_html(shown[kind], kind, photos, folder)}</section>"
        for kind, name, explained in _KINDS
        if shown[kind]
    ]


_KINDS: tuple[tuple[Kind, str, str], ...] = (
    ("confusion", "Confusions", "Missed garments that were found by another label, the most confident first."),
    ("false-alarm", "False alarms", "Other detections that no garment accounts for, the most confident first."),
    ("miss", "Misses", "Garments that were found at no score, the largest first."),
)
_KEY = '<p class="key"><span>found</span><span class="annotated">annotated</span></p>'


def _write(path: Path, text: str) -> None:
    """Write a file at once, so that no one sees half of it."""
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8", errors="backslashreplace", newline="\n")
    part.replace(path)
