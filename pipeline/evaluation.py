"""Evaluation of detectors and embedders: photo sets as vectors, figures for JSON, tables for the terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any, Final

import numpy as np

import weights
from pipeline.config import FLIP, Config
from stages.detect.evaluation import AveragePrecision, DetectorEvaluation, Mistakes
from stages.embed.data import KEPT_PX, Dataset, Sample, load, small
from stages.embed.evaluation import EmbedderEvaluation, RetrievalFigures
from stages.embed.metrics import SimilarityFunction, cosine
from stages.errors import CatalogueError
from stages.images import enough_px
from stages.protocols import Embedder
from stages.types import Image, Vectors

INTERVALS: Final = "intervals: 95 %, percentile bootstrap; items are drawn again, all colours of a style together"
COLLAPSED: Final = "COLLAPSED: all vectors are nearly equal, so no figure below means anything; the training has failed"

_NAMES: Final[Mapping[str, str]] = {
    "map_at_r": "mAP@R",
    "same_pairs": "same pairs",
    "different_pairs": "different pairs",
    "auc": "AUC",
    "eer": "EER",
    "eer_threshold": "EER's similarity",
}
_BATCH: Final = 64


@dataclass(frozen=True, slots=True)
class Table:
    """Figures as text; the first cell of a row names it, and the first cell of the head names the table."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]

    def __str__(self) -> str:
        """Align the columns, the first to the left and numbers to the right.

        >>> print(Table(("label", "n"), [("top", "12"), ("scarf", "3")]))
        label   n
        top    12
        scarf   3
        """
        lines = [self.head, *self.rows]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        aligned = (
            (first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True)))
            for first, *rest in lines
        )
        return "\n".join("  ".join(cells).rstrip() for cells in aligned)


def rounded(value: Any) -> Any:
    """Return figures as JSON can hold them: with four decimals, None for NaN and infinity, dataclasses as mappings.

    >>> rounded({"a": (1 / 3, float("nan")), 2: "b"})
    {'a': [0.3333, None], '2': 'b'}
    """
    if isinstance(value, float):
        return round(float(value), 4) if math.isfinite(value) else None
    if is_dataclass(value) and not isinstance(value, type):
        return rounded(asdict(value))
    if isinstance(value, Mapping):
        return {str(key): rounded(one) for key, one in value.items()}
    return [rounded(one) for one in value] if isinstance(value, list | tuple) else value


def describe_detector(config: Config, annotations: Path, photos: Path) -> dict[str, Any]:
    """Return what is evaluated on what, for the record; the size of unknown weights is None.

    Raises:
        WeightsError: the weights cannot be read.
    """
    shipped = weights.manifest().get(config.detector.removesuffix(FLIP))
    path = config.detector_weights or (weights.FOLDER / shipped["file"] if shipped else None)
    return {
        "detector": config.detector,
        "detector_weights": str(config.detector_weights) if config.detector_weights else None,
        "device": config.device,
        "weights_bytes": path.stat().st_size if path else None,
        "parameters": _count_parameters(path) if path else None,
        "annotations": str(annotations),
        "folder": str(photos),
    }


def detector_figures(evaluation: DetectorEvaluation) -> dict[str, Any]:
    """Return all figures of a detector but its curves, for JSON."""
    figures: dict[str, Any] = rounded(replace(evaluation, mistakes=Mistakes()))
    del figures["mistakes"]
    figures |= {"missed": evaluation.missed, "false_alarms": evaluation.false_alarms}
    for label in figures["labels"].values():
        del label["box_curve"], label["mask_curve"]
    return figures


def detector_curves(evaluation: DetectorEvaluation) -> dict[str, Any]:
    """Return the precision/recall curves of each label with garments, for JSON."""
    return {
        name: rounded({"box": label.box_curve, "mask": label.mask_curve})
        for name, label in evaluation.labels.items()
        if label.box_curve
    }


def detector_label_table(evaluation: DetectorEvaluation, *, with_ap: bool = False) -> Table:
    """Return a row of figures for each label and one for all; ``with_ap`` adds AP over IoU 0.50 to 0.95."""

    def precision(*means: AveragePrecision | None) -> list[str]:
        return [_text(value) for one in means for value in (one and one.ap50, one and one.ap)[: 1 + with_ap]]

    rows: list[tuple[str, ...]] = []
    for name, label in evaluation.labels.items():
        counts = map(str, (label.found, label.missed, label.false_alarms))
        balanced = "–" if label.balanced_threshold is None else f"{label.balanced_threshold:.2f}"
        rows.append((name, str(label.garments), *precision(label.box, label.mask), *counts, balanced))
    totals = map(str, (evaluation.garments - evaluation.missed, evaluation.missed, evaluation.false_alarms))
    rows.append(("all", str(evaluation.garments), *precision(evaluation.box, evaluation.mask), *totals, ""))
    columns = [f"{kind} {figure}" for kind in ("box", "mask") for figure in ("AP50", "AP")[: 1 + with_ap]]
    return Table(("label", "garments", *columns, "found", "missed", "false alarms", "balanced at"), rows)


def detector_text(evaluation: DetectorEvaluation) -> str:
    """Return the most important figures of a detector as lines of text."""
    means = [
        (kind, *map(_text, (of.ap, of.ap50, of.ap75, of.recall)))
        for kind, of in (("box", evaluation.box), ("mask", evaluation.mask))
        if of
    ]
    seconds = evaluation.latency
    return "\n\n".join(
        (
            str(Table(("", "AP", "AP50", "AP75", "recall"), means)),
            str(detector_label_table(evaluation)),
            (
                f"found, missed and false alarms: by boxes, at IoU 0.50 and score {evaluation.threshold:g}\n"
                f"{seconds.mean_s:.3f} s per photo (median {seconds.median_s:.3f}, 95th percentile {seconds.p95_s:.3f})"
            ),
        )
    )


@dataclass(frozen=True, slots=True, eq=False)
class EmbeddedPhotos:
    """The photos that could be read, with their vectors; the last ``distractors`` of them are distractors.

    ``pair_head`` compares them if they are not compared by their vectors.
    """

    photos: Dataset
    images: Sequence[Image]
    vectors: Vectors
    distractors: int
    seconds: float
    pair_head: SimilarityFunction | None = None

    @property
    def similarity(self) -> SimilarityFunction:
        """Compares photos by row."""
        return self.pair_head or cosine(self.vectors)

    @property
    def samples(self) -> tuple[Sample, ...]:
        """What each photo shows."""
        return self.photos.samples


def embed_photos(
    embedder: Embedder, photos: Dataset, distractors: Dataset | None = None, *, keep_large: bool = False
) -> EmbeddedPhotos:
    """Read and embed a photo set, and photos of other items as distractors.

    Photos that cannot be read become problems of the set.

    Args:
        embedder: to use.
        photos: to embed.
        distractors: more photos for the gallery.
        keep_large: keep the images as large as they are embedded, which takes four times the memory.

    Raises:
        CatalogueError: no photo can be read.
    """
    own = _embed(embedder, photos, keep_large=keep_large)
    if not own.samples:
        raise CatalogueError(f"{own.photos.describe()}\nNone of its photos can be read.")
    if distractors is None:
        return own
    others = _embed(embedder, distractors, keep_large=keep_large)
    return EmbeddedPhotos(
        own.photos.joined(others.photos),
        [*own.images, *others.images],
        np.concatenate([own.vectors, others.vectors]),
        len(others.samples),
        own.seconds + others.seconds,
    )


def pair_head_similarity(checkpoint: Path | None, images: Sequence[Image], device: str) -> SimilarityFunction:
    """Return the probabilities of a checkpoint's pair head as a similarity function of images.

    Raises:
        ValueError: no checkpoint is given.
        WeightsError: it has no pair head.
    """
    from stages.embed.siamese import PairVerifier  # noqa: PLC0415  torch, which not every embedder needs

    if checkpoint is None:
        raise ValueError("a pair head is part of weights of your own; name them with --embedder-weights")
    verifier = PairVerifier(weights.read(checkpoint), device)
    features = verifier.features(images)
    return lambda rows, others: verifier.similarities(features[rows], features[others])


def embedder_figures(evaluation: EmbedderEvaluation) -> dict[str, Any]:
    """Return all figures of an embedder but its curves, as nested mappings of numbers and estimates."""
    verification = evaluation.verification
    return {
        "photos": evaluation.photos,
        "items": evaluation.items,
        "distractors": evaluation.distractors,
        "collapsed": evaluation.collapsed,
        "retrieval": {name: _retrieval(one) for name, one in evaluation.retrieval_figures.items()},
        "verification": {
            "same_pairs": verification.same,
            "different_pairs": verification.different,
            "auc": verification.auc,
            "eer": verification.eer,
            "eer_threshold": verification.eer_threshold,
            "fnmr_at_fmr": {f"{fmr:g}": fnmr for fmr, fnmr in verification.fnmr_at.items()},
        },
        "one_shot": {str(shot.ways): shot.accuracy for shot in evaluation.one_shot},
        "smaller_vectors": {
            name: {"recall@1": cost.recall, "loss": cost.loss} for name, cost in evaluation.compression.items()
        },
        "labels": {
            name: {"photos": one.photos, "retrieval": _retrieval(one.retrieval), "auc": one.auc, "eer": one.eer}
            for name, one in evaluation.labels.items()
        },
        "intervals": INTERVALS,
        "notes": list(evaluation.notes),
    }


def embedder_tables(figures: Mapping[str, Any]) -> dict[str, Table]:
    """Return the figures of :func:`embedder_figures` by table: retrieval, verification, one-shot, smaller vectors, label."""
    retrieval, pairs = figures["retrieval"], dict(figures["verification"])
    pairs |= {f"FNMR at FMR {fmr}": fnmr for fmr, fnmr in pairs.pop("fnmr_at_fmr").items()}
    rows: dict[tuple[str, ...], list[list[object]]] = {
        ("retrieval", *(f"same {name}" for name in retrieval)): [
            [_NAMES.get(key, key), *(one[key] for one in retrieval.values())] for key in next(iter(retrieval.values()))
        ],
        ("verification", ""): [[_NAMES.get(key, key), value] for key, value in pairs.items()],
        ("one-shot accuracy", ""): [[f"{ways}-way", value] for ways, value in figures["one_shot"].items()],
        ("smaller vectors", "recall@1", "loss"): [
            [name, *one.values()] for name, one in figures["smaller_vectors"].items()
        ],
        ("label", "photos", "recall@1", "mAP@R", "AUC", "EER"): [
            [
                name,
                one["photos"],
                *((one["retrieval"] or {}).get(key) for key in ("recall@1", "map_at_r")),
                one["auc"],
                one["eer"],
            ]
            for name, one in figures["labels"].items()
            if len(figures["labels"]) > 1
        ],
    }
    return {
        head[0].removesuffix(" accuracy"): Table(head, [tuple(map(_text, cells)) for cells in some])
        for head, some in rows.items()
        if some
    }


def embedder_text(figures: Mapping[str, Any]) -> str:
    """Return the figures of :func:`embedder_figures` as lines of text."""
    counts = f"{figures['photos']} photos of {figures['items']} items, {figures['distractors']} distractors"
    parts = [COLLAPSED] * figures["collapsed"] + [counts, *map(str, embedder_tables(figures).values())]
    return "\n\n".join([*parts, "\n".join([INTERVALS, *figures["notes"]])])


def _embed(embedder: Embedder, photos: Dataset, *, keep_large: bool) -> EmbeddedPhotos:
    """Embed photos at the size that search decodes them to, and keep smaller ones."""
    load_px = max(KEPT_PX, enough_px(embedder.input_px))
    samples: list[Sample] = []
    problems = [*photos.problems]
    images: list[Image] = []
    vectors = [np.zeros((0, embedder.dim), np.float32)]
    seconds = 0.0
    for start in range(0, len(photos.samples), _BATCH):
        readable = load(replace(photos, samples=photos.samples[start : start + _BATCH], problems=()), load_px)
        large = list(readable.images)
        samples += readable.samples
        problems += [problem for problem in readable.problems if problem not in problems]
        images += large if keep_large else map(small, large)
        began = perf_counter()
        vectors.append(embedder(large))
        seconds += perf_counter() - began
    embedded = replace(photos, samples=tuple(samples), problems=tuple(problems))
    return EmbeddedPhotos(embedded, images, np.concatenate(vectors), 0, seconds)


def _count_parameters(path: Path) -> int:
    """Return how many numbers of a checkpoint were learnt; running statistics were not."""
    return sum(
        tensor.numel()
        for name, tensor in weights.read(path).tensors.items()
        if tensor.is_floating_point() and not name.endswith((".running_mean", ".running_var"))
    )


def _retrieval(figures: RetrievalFigures | None) -> dict[str, Any] | None:
    if figures is None:
        return None
    recall = {f"recall@{k}": estimate for k, estimate in figures.recall.items()}
    return {"queries": figures.queries, **recall, "map_at_r": figures.map_at_r}


def _text(value: object) -> str:
    return "–" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value)
