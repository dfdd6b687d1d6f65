"""An embedder's evaluation as figures for machines and as tables for people."""

from __future__ import annotations

import math
from typing import Any, Final

from pipeline.evaluation.tables import aligned
from stages.embed.evaluation import EmbedderEvaluation, LabelFigures, RetrievalFigures
from stages.embed.metrics import Estimate

INTERVALS: Final = "intervals: 95 %, percentile bootstrap; items are drawn again, all colours of a style together"


def figures(evaluation: EmbedderEvaluation) -> dict[str, Any]:
    """All numbers of an evaluation but its curves, for JSON, with four decimals; what cannot be told is null."""
    verification = evaluation.verification
    return {
        "photos": evaluation.photos,
        "items": evaluation.items,
        "distractors": evaluation.distractors,
        "collapsed": evaluation.collapsed,
        "retrieval": {sort: _measure(measure) for sort, measure in evaluation.retrieval_figures.items()},
        "verification": {
            "same_pairs": verification.same,
            "different_pairs": verification.different,
            "auc": _estimate(verification.auc),
            "eer": _estimate(verification.eer),
            "eer_threshold": _number(verification.eer_threshold),
            "fnmr_at_fmr": {f"{fmr:g}": _estimate(fnmr) for fmr, fnmr in verification.fnmr_at.items()},
        },
        "one_shot": {str(shot.ways): _estimate(shot.accuracy) for shot in evaluation.one_shot},
        "smaller_vectors": {
            name: {"recall@1": _number(cost.recall), "loss": _estimate(cost.loss)}
            for name, cost in evaluation.compression.items()
        },
        "labels": {name: _label(label) for name, label in evaluation.labels.items()},
        "intervals": INTERVALS,
        "notes": list(evaluation.notes),
    }


def table(evaluation: EmbedderEvaluation) -> str:
    """What a person wants to know first, in lines of plain text."""
    counts = f"{evaluation.photos} photos of {evaluation.items} items, {evaluation.distractors} distractors"
    parts = [
        *([COLLAPSED] if evaluation.collapsed else []),
        counts,
        aligned(("retrieval", *retrieval_head(evaluation)), retrieval_rows(evaluation)),
        aligned(("verification", ""), verification_rows(evaluation)),
    ]
    if evaluation.one_shot:
        rows = [(f"{shot.ways}-way", str(shot.accuracy)) for shot in evaluation.one_shot]
        parts.append(aligned(("one-shot accuracy", ""), rows))
    parts.append(aligned(("smaller vectors", "recall@1", "loss"), cost_rows(evaluation)))
    if len(evaluation.labels) > 1:
        parts.append(aligned(LABEL_HEAD, label_rows(evaluation)))
    return "\n\n".join([*parts, "\n".join([INTERVALS, *evaluation.notes])])


COLLAPSED: Final = "COLLAPSED: all vectors are nearly equal, so no figure below means anything; the training has failed"
LABEL_HEAD: Final = ("label", "photos", "recall@1", "mAP@R", "AUC", "EER")


def retrieval_head(evaluation: EmbedderEvaluation) -> list[str]:
    """The columns of :func:`retrieval_rows` but the first: what photos shared to be the same."""
    return [f"same {sort}" for sort in evaluation.retrieval_figures]


def retrieval_rows(evaluation: EmbedderEvaluation) -> list[tuple[str, ...]]:
    """How many photos asked, and a row for each figure."""
    measures = list(evaluation.retrieval_figures.values())
    return [
        ("queries", *(str(measure.queries) for measure in measures)),
        *((f"recall@{k}", *(str(measure.recall[k]) for measure in measures)) for k in measures[0].recall),
        ("mAP@R", *(str(measure.map_at_r) for measure in measures)),
    ]


def verification_rows(evaluation: EmbedderEvaluation) -> list[tuple[str, str]]:
    """What pairs tell, by name."""
    told = evaluation.verification
    return [
        ("same pairs", str(told.same)),
        ("different pairs", str(told.different)),
        ("AUC", str(told.auc)),
        ("EER", str(told.eer)),
        ("EER's similarity", f"{told.eer_threshold:.3f}"),
        *((f"FNMR at FMR {fmr:g}", str(fnmr)) for fmr, fnmr in told.fnmr_at.items()),
    ]


def cost_rows(evaluation: EmbedderEvaluation) -> list[tuple[str, str, str]]:
    """What smaller vectors cost in recall@1."""
    return [(name, f"{cost.recall:.3f}", str(cost.loss)) for name, cost in evaluation.compression.items()]


def label_rows(evaluation: EmbedderEvaluation) -> list[tuple[str, ...]]:
    """A row for each label, as :data:`LABEL_HEAD`."""
    return [
        (
            name,
            str(label.photos),
            str(label.retrieval.recall[1]) if label.retrieval else "–",
            str(label.retrieval.map_at_r) if label.retrieval else "–",
            str(label.auc or "–"),
            str(label.eer or "–"),
        )
        for name, label in evaluation.labels.items()
    ]


def _measure(measure: RetrievalFigures) -> dict[str, Any]:
    recall = {f"recall@{k}": _estimate(found) for k, found in measure.recall.items()}
    return {"queries": measure.queries, **recall, "map_at_r": _estimate(measure.map_at_r)}


def _label(label: LabelFigures) -> dict[str, Any]:
    return {
        "photos": label.photos,
        "retrieval": _measure(label.retrieval) if label.retrieval else None,
        "auc": _estimate(label.auc) if label.auc else None,
        "eer": _estimate(label.eer) if label.eer else None,
    }


def _estimate(of: Estimate) -> dict[str, float | None]:
    return {"value": _number(of.value), "low": _number(of.low), "high": _number(of.high)}


def _number(value: float) -> float | None:
    return round(value, 4) if math.isfinite(value) else None
