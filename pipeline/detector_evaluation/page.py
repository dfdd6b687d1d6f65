"""The page of an evaluation: figures per label, curves, the worst mistakes. It opens from disk, offline."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.detector_evaluation.figures import curves
from pipeline.detector_evaluation.mistakes import Kind, mistakes_html
from pipeline.detector_evaluation.style import STYLE
from pipeline.evaluation.page import (
    curves_html,
    overview_html,
    part_html,
    troubles_html,
    write_index,
    write_numbers,
)
from pipeline.plots import Line, Panel
from pipeline.report_photo import text_html
from pipeline.report_style import color_of
from stages.detect.evaluation import AveragePrecision, DetectorEvaluation, LabelEvaluation
from stages.problems import plural


def write_page(
    folder: Path,
    evaluation: DetectorEvaluation,
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
    panels = _panels(evaluation)
    write_numbers(folder, figures, curves(evaluation), panels)
    failed = [f"{photo} {why}" for photo, why in evaluation.failed.items()]
    parts = [
        overview_html(_tiles(evaluation), about),
        troubles_html([*evaluation.notes, *failed, *evaluation.problems]),
        _labels_html(evaluation),
        _CURVES if panels else "",
        *_mistake_parts(evaluation, photos, folder),
    ]
    state = f"{plural(evaluation.photos, 'photo')} with {plural(evaluation.garments, 'garment')}"
    write_index(folder, title, state, parts, STYLE)


def _tiles(evaluation: DetectorEvaluation) -> dict[str, dict[str, str]]:
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
    return {
        "Average precision": {name: f"{value:.3f}" for name, value in precision.items()},
        f"In use, at score {evaluation.threshold:g}": use,
    }


def _labels_html(evaluation: DetectorEvaluation) -> str:
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
    return part_html(
        "By label",
        f"Found, missed and false alarms are counted by boxes, at IoU 0.50 and score {evaluation.threshold:g};"
        " at the score “balanced at” there would be as many false alarms as misses.",
        f'<div class="scroll"><table class="figures"><thead><tr>{columns}</tr></thead>'
        f'<tbody>{rows}</tbody><tfoot><tr style="--color: var(--ink)"><th scope="row">all</th>{total}</tr></tfoot>'
        "</table></div>",
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


_CURVES = curves_html(
    "Precision by recall",
    "At IoU 0.50; the dot is where the score in use lies, for boxes.",
    "A precision/recall curve for each label",
)


def _panels(evaluation: DetectorEvaluation) -> list[Panel]:
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


def _mistake_parts(evaluation: DetectorEvaluation, photos: Path, folder: Path) -> list[str]:
    shown = {
        "confusion": evaluation.mistakes.confusions,
        "false-alarm": evaluation.mistakes.false_alarms,
        "miss": evaluation.mistakes.misses,
    }
    return [
        part_html(name, explained, mistakes_html(shown[kind], kind, photos, folder), _KEY)
        for kind, name, explained in _KINDS
        if shown[kind]
    ]


_KINDS: tuple[tuple[Kind, str, str], ...] = (
    ("confusion", "Confusions", "Missed garments that were found by another label, the most confident first."),
    ("false-alarm", "False alarms", "Other detections that no garment accounts for, the most confident first."),
    ("miss", "Misses", "Garments that were found at no score, the largest first."),
)
_KEY = '<p class="key"><span>found</span><span class="annotated">annotated</span></p>'
