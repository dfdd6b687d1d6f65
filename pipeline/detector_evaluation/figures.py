"""A detector's evaluation as figures for machines and as a table for people."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Final

from pipeline.evaluation.tables import aligned
from stages.detect.evaluation import AveragePrecision, DetectorEvaluation, LabelEvaluation, PrecisionRecall


def figures(evaluation: DetectorEvaluation) -> dict[str, Any]:
    """All numbers of an evaluation but its curves, for JSON, in [0, 1] and with four decimals."""
    return {
        "photos": evaluation.photos,
        "garments": evaluation.garments,
        "threshold": evaluation.threshold,
        "box": _precision(evaluation.box),
        "mask": _precision(evaluation.mask),
        "missed": evaluation.missed,
        "false_alarms": evaluation.false_alarms,
        "latency": _rounded(asdict(evaluation.latency)),
        "labels": {
            name: {
                "garments": label.garments,
                "box": _precision(label.box),
                "mask": _precision(label.mask),
                "missed": label.missed,
                "false_alarms": label.false_alarms,
                "balanced_threshold": None if label.balanced_threshold is None else round(label.balanced_threshold, 4),
            }
            for name, label in evaluation.labels.items()
        },
        "failed": evaluation.failed,
        "problems": list(evaluation.problems),
        "notes": list(evaluation.notes),
    }


def curves(evaluation: DetectorEvaluation) -> dict[str, Any]:
    """The precision/recall curves of each label that has garments, for JSON, with four decimals."""
    return {
        name: {"box": _curve(label.box_curve), "mask": _curve(label.mask_curve)}
        for name, label in evaluation.labels.items()
        if label.box_curve
    }


_COLUMNS: Final = (
    "label", "garments", "box AP50", "mask AP50", "found", "missed", "false alarms", "balanced at",
)  # fmt: skip


def table(evaluation: DetectorEvaluation) -> str:
    """What a person wants to know first, in lines of plain text."""
    kinds = {"box": evaluation.box, "mask": evaluation.mask}
    means = [
        (kind, *(f"{value:.3f}" for value in (of.ap, of.ap50, of.ap75, of.recall))) for kind, of in kinds.items() if of
    ]
    labels = [(name, *_row(label)) for name, label in evaluation.labels.items()]
    seconds = evaluation.latency
    counted = f"found, missed and false alarms: by boxes, at IoU 0.50 and score {evaluation.threshold:g}"
    time = f"{seconds.mean_s:.3f} s per photo (median {seconds.median_s:.3f}, 95th percentile {seconds.p95_s:.3f})"
    parts = (
        aligned(("", "AP", "AP50", "AP75", "recall"), means),
        aligned(_COLUMNS, [*labels, _total(evaluation)]),
        f"{counted}\n{time}",
    )
    return "\n\n".join(parts)


def _row(label: LabelEvaluation) -> tuple[str, ...]:
    return (
        str(label.garments),
        *(_or_dash(of.ap50 if of else None) for of in (label.box, label.mask)),
        str(label.found),
        str(label.missed),
        str(label.false_alarms),
        _or_dash(label.balanced_threshold, 2),
    )


def _total(evaluation: DetectorEvaluation) -> tuple[str, ...]:
    mask = _or_dash(evaluation.mask.ap50 if evaluation.mask else None)
    found = evaluation.garments - evaluation.missed
    counts = map(str, (found, evaluation.missed, evaluation.false_alarms))
    return ("all", str(evaluation.garments), f"{evaluation.box.ap50:.3f}", mask, *counts, "")


def _or_dash(value: float | None, decimals: int = 3) -> str:
    return "–" if value is None else f"{value:.{decimals}f}"


def _precision(of: AveragePrecision | None) -> dict[str, float] | None:
    return _rounded(asdict(of)) if of else None


def _curve(curve: PrecisionRecall | None) -> dict[str, list[float]] | None:
    if curve is None:
        return None
    return {name: [round(value, 4) for value in values] for name, values in asdict(curve).items()}


def _rounded(values: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 4) for name, value in values.items()}
