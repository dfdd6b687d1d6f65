"""Evaluation of detectors and embedders: photo sets as vectors, figures for JSON, tables for the terminal."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any, Final

import numpy as np

import weights
from pipeline.config import FLIP, Config
from pipeline.pages import text_of
from stages.detect.evaluation import AveragePrecision, DetectorEvaluation, Mistakes
from stages.embed.data import KEPT_PX, Dataset, Sample, load, small
from stages.embed.evaluation import EmbedderEvaluation, RetrievalFigures
from stages.embed.metrics import SimilarityFunction, cosine
from stages.errors import CatalogueError
from stages.images import enough_px
from stages.protocols import Embedder
from stages.types import Image, Vectors

INTERVALS: Final = "intervals: 95 %, percentile bootstrap; resampled by item, all colours of a style together"
COLLAPSED: Final = "COLLAPSED: all vectors are nearly equal, so no figure below means anything; the training has failed"

_NAMES: Final[Mapping[str, str]] = {
    "map_at_r": "mAP@R",
    "same_pairs": "same pairs",
    "different_pairs": "different pairs",
    "auc": "AUC",
    "eer": "EER",
    "eer_threshold": "similarity at the EER",
}
_BATCH: Final = 64


@dataclass(frozen=True, slots=True)
class Table:
    """Figures in rows, each named by its first cell."""

    head: Sequence[str]
    rows: Sequence[Sequence[object]]

    def __str__(self) -> str:
        """Align the first column to the left and the others, formatted by :func:`text_of`, to the right.

        >>> print(Table(("label", "n"), [("top", 12), ("scarf", 3)]))
        label   n
        top    12
        scarf   3
        """
        lines = [[text_of(cell) for cell in row] for row in (self.head, *self.rows)]
        first, *others = (max(map(len, column)) for column in zip(*lines, strict=True))
        aligned = ((line[0].ljust(first), *map(str.rjust, line[1:], others)) for line in lines)
        return "\n".join("  ".join(cells).rstrip() for cells in aligned)


def rounded(value: Any) -> Any:
    """Return figures as JSON can hold them: four decimals, None for NaN and infinity, dataclasses as mappings.

    >>> rounded({"a": (1 / 3, float("nan")), 2: "b"})
    {'a': [0.3333, None], '2': 'b'}
    """
    if isinstance(value, float):
        return round(float(value), 4) if math.isfinite(value) else None
    if is_dataclass(value) and not isinstance(value, type):
        return rounded(asdict(value))
    if isinstance(value, Mapping):
        return {str(key): rounded(each) for key, each in value.items()}
    return [rounded(each) for each in value] if isinstance(value, list | tuple) else value


def match_greedily(candidates: Iterable[tuple[float, int, int]]) -> dict[int, int]:
    """Match numbers of two lists one to one, in the order of the candidates: a cost and the two numbers, lowest first.

    >>> match_greedily([(0.1, 0, 5), (0.2, 1, 5), (0.3, 1, 6)])
    {0: 5, 1: 6}
    """
    matches: dict[int, int] = {}
    for _, first, second in sorted(candidates):
        if first not in matches and second not in matches.values():
            matches[first] = second
    return matches


def describe_detector(config: Config, annotations: Path | str, photos: Path | str) -> dict[str, Any]:
    """Return the detector, its weights and the data of an evaluation, for JSON.

    The number of learned parameters excludes running statistics; it and the size are None for weights that outfinder
    does not ship and the user does not name.
    """
    shipped = weights.manifest().get(config.detector.removesuffix(FLIP))
    path = config.detector_weights or (weights.FOLDER / shipped["file"] if shipped else None)
    parameters = path and sum(
        tensor.numel()
        for name, tensor in weights.read(path).tensors.items()
        if tensor.is_floating_point() and not name.endswith((".running_mean", ".running_var"))
    )
    return {
        "detector": config.detector,
        "detector_weights": str(config.detector_weights) if config.detector_weights else None,
        "device": config.device,
        "weights_bytes": path and path.stat().st_size,
        "parameters": parameters,
        "annotations": str(annotations),
        "folder": str(photos),
    }


def detector_figures(evaluation: DetectorEvaluation) -> dict[str, Any]:
    """Return the figures of a detector without its curves and mistakes, for JSON."""
    figures: dict[str, Any] = rounded(replace(evaluation, mistakes=Mistakes()))
    del figures["mistakes"]
    figures |= {"missed": evaluation.missed, "false_alarms": evaluation.false_alarms}
    for label in figures["labels"].values():
        del label["box_curve"], label["mask_curve"]
    return figures


def detector_label_table(evaluation: DetectorEvaluation, *, with_ap: bool = False) -> Table:
    """Return a row of figures for each label and one for all; ``with_ap`` adds AP over IoU 0.50 to 0.95."""
    figures = ("ap50", "ap")[: 1 + with_ap]

    def precision(*means: AveragePrecision | None) -> list[float | None]:
        return [getattr(mean, figure) if mean else None for mean in means for figure in figures]

    rows: list[tuple[object, ...]] = []
    for name, label in evaluation.labels.items():
        balanced = "–" if label.balanced_threshold is None else f"{label.balanced_threshold:.2f}"
        counts = label.found, label.missed, label.false_alarms
        rows.append((name, label.garments, *precision(label.box, label.mask), *counts, balanced))
    totals = evaluation.garments - evaluation.missed, evaluation.missed, evaluation.false_alarms
    rows.append(("all", evaluation.garments, *precision(evaluation.box, evaluation.mask), *totals, ""))
    columns = [f"{kind} {figure.upper()}" for kind in ("box", "mask") for figure in figures]
    return Table(("label", "garments", *columns, "found", "missed", "false alarms", "balanced at"), rows)


def detector_text(evaluation: DetectorEvaluation) -> str:
    """Return the most important figures of a detector as lines of text."""
    means = [
        (kind, mean.ap, mean.ap50, mean.ap75, mean.recall)
        for kind, mean in (("box", evaluation.box), ("mask", evaluation.mask))
        if mean
    ]
    latency = evaluation.latency
    return (
        f"{Table(('', 'AP', 'AP50', 'AP75', 'recall'), means)}\n\n{detector_label_table(evaluation)}\n\n"
        f"found, missed and false alarms: by boxes, at IoU 0.50 and score {evaluation.threshold:g}\n"
        f"{latency.mean_s:.3f} s per photo (median {latency.median_s:.3f}, 95th percentile {latency.p95_s:.3f})"
    )


@dataclass(frozen=True, slots=True, eq=False)
class EmbeddedPhotos:
    """The readable photos of a set with their vectors; the last ``distractors`` of them are distractors.

    ``pair_head`` compares photos by row in place of the cosine similarity of their vectors.
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

    Unreadable photos become problems of the set. ``keep_large`` keeps the images at the size that they are embedded at,
    which takes four times the memory.

    Raises:
        CatalogueError: no photo can be read.
    """
    embedded = _embed(embedder, photos, keep_large=keep_large)
    if not embedded.samples:
        raise CatalogueError(f"{embedded.photos.describe()}\nNone of its photos can be read.")
    if distractors is None:
        return embedded
    others = _embed(embedder, distractors, keep_large=keep_large)
    return EmbeddedPhotos(
        embedded.photos.joined(others.photos),
        [*embedded.images, *others.images],
        np.concatenate([embedded.vectors, others.vectors]),
        len(others.samples),
        embedded.seconds + others.seconds,
    )


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


def pair_head_similarity(checkpoint: Path | str | None, images: Sequence[Image], device: str) -> SimilarityFunction:
    """Return the probabilities of a checkpoint's pair head as a similarity function of images.

    Raises:
        ValueError: no checkpoint is given.
        WeightsError: it has no pair head.
    """
    from stages.embed.siamese import PairVerifier  # noqa: PLC0415  torch, which not every embedder needs

    if checkpoint is None:
        raise ValueError("only weights that you have trained have a pair head; name them with --embedder-weights")
    verifier = PairVerifier(weights.read(Path(checkpoint)), device)
    features = verifier.features(images)
    return lambda rows, others: verifier.similarities(features[rows], features[others])


def embedder_figures(evaluation: EmbedderEvaluation) -> dict[str, Any]:
    """Return the figures of an embedder without its curves, as nested mappings of numbers and estimates."""
    verification = evaluation.verification
    return {
        "photos": evaluation.photos,
        "items": evaluation.items,
        "distractors": evaluation.distractors,
        "collapsed": evaluation.collapsed,
        "retrieval": {name: _retrieval(figures) for name, figures in evaluation.retrieval_figures.items()},
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


def _retrieval(figures: RetrievalFigures | None) -> dict[str, Any] | None:
    if figures is None:
        return None
    recall = {f"recall@{k}": estimate for k, estimate in figures.recall.items()}
    return {"queries": figures.queries, **recall, "map_at_r": figures.map_at_r}


def embedder_tables(figures: Mapping[str, Any]) -> dict[str, Table]:
    """Return the figures of :func:`embedder_figures` as tables by name, without those that have no rows."""
    retrieval, pairs = figures["retrieval"], dict(figures["verification"])
    pairs |= {f"FNMR at FMR {fmr}": fnmr for fmr, fnmr in pairs.pop("fnmr_at_fmr").items()}
    labels: list[tuple[object, ...]] = []
    for name, one in figures["labels"].items():
        of_label = one["retrieval"] or {}
        labels.append((name, one["photos"], of_label.get("recall@1"), of_label.get("map_at_r"), one["auc"], one["eer"]))
    tables = {
        "retrieval": Table(
            ("retrieval", *(f"same {name}" for name in retrieval)),
            [
                (_NAMES.get(key, key), *(one[key] for one in retrieval.values()))
                for key in next(iter(retrieval.values()), {})
            ],
        ),
        "verification": Table(("verification", ""), [(_NAMES.get(key, key), value) for key, value in pairs.items()]),
        "one-shot": Table(
            ("one-shot accuracy", ""), [(f"{ways}-way", value) for ways, value in figures["one_shot"].items()]
        ),
        "smaller vectors": Table(
            ("smaller vectors", "recall@1", "loss"),
            [(name, *one.values()) for name, one in figures["smaller_vectors"].items()],
        ),
        "label": Table(("label", "photos", "recall@1", "mAP@R", "AUC", "EER"), labels if len(labels) > 1 else ()),
    }
    return {name: table for name, table in tables.items() if table.rows}


def embedder_text(figures: Mapping[str, Any]) -> str:
    """Return the figures of :func:`embedder_figures` as lines of text."""
    counts = f"{figures['photos']} photos of {figures['items']} items, {figures['distractors']} distractors"
    parts = [COLLAPSED] * figures["collapsed"] + [counts, *map(str, embedder_tables(figures).values())]
    return "\n\n".join([*parts, "\n".join([INTERVALS, *figures["notes"]])])
