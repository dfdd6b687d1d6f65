"""Pages of evaluations: figures, curves, and pictures of the best and the worst results."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.evaluation import COLLAPSED, INTERVALS, EmbeddedPhotos, detector_label_table, embedder_tables, rounded
from pipeline.outputs import clear_folder, mark_folder
from pipeline.pages import Pictures, svg_path, write_page
from pipeline.plots import Line, Panel, draw, require_matplotlib
from stages.detect.evaluation import SAME_IOU, DetectorEvaluation, Mistake
from stages.embed.evaluation import EmbedderEvaluation
from stages.embed.metrics import ErrorRates
from stages.files import write_whole
from stages.images import letterbox, write_jpeg
from stages.problems import plural
from stages.types import Box, Image, Vectors

Thumb: TypeAlias = dict[str, str]
"""The arguments of the template macro ``thumb``."""

MAP_WIDTH, MAP_HEIGHT, MAP_THUMB = 1680, 1050, 66
PER_PHOTO: Final = 2
"""The most pairs in a list that show the same photo, so that one odd photo does not fill the list."""

THUMB_PX: Final = 220
_MISTAKE_PX: Final = 420
_NEIGHBORS: Final = 8
_MAX_TRIPLETS: Final = 2000  # queries that triplets are chosen from, spread evenly
_MAX_ON_MAP: Final = 4000
_MARGIN: Final = 0.3  # around the boxes of a mistake, as a share of each side
_MIN_CONTEXT_PX: Final = 64
_ASPECT: Final = 4 / 5  # width to height of the picture of a mistake
_CURVE_POINTS: Final = 400
_HISTOGRAM_BINS: Final = 60


def prepare_page(folder: Path | str, *, overwrite: bool = False) -> None:
    """Create the folder of a page, or empty one of an earlier run; call this before a long evaluation.

    Raises:
        OutfinderError: the folder is not empty, or matplotlib is not installed.
    """
    require_matplotlib()
    clear_folder(Path(folder), overwrite=overwrite)
    Path(folder).mkdir(parents=True, exist_ok=True)


def write_figures(
    folder: Path | str,
    figures: Mapping[str, Any],
    curves: Mapping[str, Any] | None = None,
    panels: Sequence[Panel] = (),
) -> None:
    """Write ``figures.json``, the curves as ``curves.json``, and the panels as ``curves.png`` and ``curves-dark.png``."""
    folder = Path(folder)
    mark_folder(folder)
    write_whole(folder / "figures.json", json.dumps(figures, indent=2) + "\n")
    if curves is not None:
        write_whole(folder / "curves.json", json.dumps(curves, separators=(",", ":")) + "\n")
    if panels:
        draw(panels, folder / "curves.png")
        draw(panels, folder / "curves-dark.png", dark=True)


def write_detector_page(
    folder: Path | str, evaluation: DetectorEvaluation, photos: Path | str, figures: Mapping[str, Any]
) -> None:
    """Write ``index.html``, its pictures, ``figures.json`` and ``curves.json`` into a folder from :func:`prepare_page`.

    ``photos`` is the folder of the photos, for pictures of mistakes. ``figures`` are those of
    :func:`~pipeline.evaluation.detector_figures` and :func:`~pipeline.evaluation.describe_detector`.
    """
    folder, photos = Path(folder), Path(photos)
    about = {"detector": figures["detector"]}
    if figures["weights_bytes"]:
        megabytes, millions = figures["weights_bytes"] / 1e6, figures["parameters"] / 1e6
        about["size"] = f"{megabytes:.1f} MB, {millions:.1f} million parameters"
    shown = {"weights": "detector_weights", "device": "device", "annotations": "annotations", "photos": "folder"}
    about |= {name: figures[key] for name, key in shown.items() if figures[key]}
    curves = {
        name: rounded({"box": label.box_curve, "mask": label.mask_curve})
        for name, label in evaluation.labels.items()
        if label.box_curve
    }
    panels = _precision_recall_panels(evaluation)
    write_figures(folder, figures, curves, panels)
    pictures, mistakes = Pictures(folder, "mistakes"), evaluation.mistakes
    box, mask, latency = evaluation.box, evaluation.mask, evaluation.latency
    failed = [f"{photo} {error}" for photo, error in evaluation.failed.items()]
    write_page(
        folder / "index.html",
        "evaluation_detector.html",
        title=f"How good {figures['detector']} is",
        state=f"{plural(evaluation.photos, 'photo')} with {plural(evaluation.garments, 'garment')}",
        tiles={
            "Average precision": {"Box AP50": box.ap50, "Box AP": box.ap}
            | ({"Mask AP50": mask.ap50, "Mask AP": mask.ap} if mask else {})
            | {"Box AP75": box.ap75, "Box recall, 100 per photo": box.recall},
            f"In use, at score {evaluation.threshold:g}": {
                "Missed": evaluation.missed,
                "False alarms": evaluation.false_alarms,
                "Seconds per photo": latency.mean_s,
                "95th percentile": latency.p95_s,
            },
        },
        about=about,
        messages=[*evaluation.notes, *failed, *evaluation.problems],
        threshold=f"{evaluation.threshold:g}",
        labels=detector_label_table(evaluation, with_ap=True),
        curves=bool(panels),
        mistakes={
            kind: [_mistake_card(one, kind, number, photos, pictures) for number, one in enumerate(worst, start=1)]
            for kind, worst in (
                ("confusion", mistakes.confusions),
                ("false-alarm", mistakes.false_alarms),
                ("miss", mistakes.misses),
            )
        },
    )


def _precision_recall_panels(evaluation: DetectorEvaluation) -> list[Panel]:
    panels = []
    for name, label in evaluation.labels.items():
        if not (label.box and label.box_curve):
            continue
        lines = []
        for kind, curve in (("boxes", label.box_curve), ("masks", label.mask_curve)):
            if curve:
                reached = sum(precision > 0 for precision in curve.precision)
                lines.append(Line(kind, curve.recall[:reached], curve.precision[:reached]))
        confident = label.found + label.false_alarms
        precision = label.found / confident if confident else math.nan
        lines.append(Line("score in use", [label.found / label.garments], [precision]))
        title = f"{name}  {label.box.ap50:.2f}"
        panels.append(Panel(title, "recall", "precision", lines, x_range=(0, 1.02), y_range=(0, 1.03)))
    return panels


def _mistake_card(mistake: Mistake, kind: str, number: int, photos: Path, pictures: Pictures) -> dict[str, Any]:
    """Return what a card shows of a mistake."""
    boxes = [one.box for one in (mistake.detection, mistake.truth) if one]
    window = window_around(boxes, mistake.width, mistake.height)
    shown = mistake.truth if kind == "miss" else mistake.detection
    overlap = f" · IoU\u00a0{math.floor(100 * mistake.iou) / 100:.2f}" if mistake.detection and mistake.truth else ""
    return {
        "label": shown.label if shown else "",
        "score": f"{shown.score:.2f}" if shown and kind != "miss" else "",
        "words": _explanation(mistake, kind) + overlap,
        "photo": mistake.photo,
        "address": pictures.write_photo(f"{kind}-{number}", photos / mistake.photo, _MISTAKE_PX, window),
        "window": f"{window.x1} {window.y1} {window.width} {window.height}",
        "shapes": [
            {"kind": name, "box": one.box, "path": svg_path(one.mask, one.box)}
            for name, one in (("annotated", mistake.truth), ("found", mistake.detection))
            if one
        ],
    }


def _explanation(mistake: Mistake, kind: str) -> str:
    detection, truth = mistake.detection, mistake.truth
    if kind == "miss":
        return (
            f"the nearest detection, at score {detection.score:.2f}, is too far off"
            if detection
            else "nothing similar nearby"
        )
    if detection is None or truth is None:
        return "nothing is annotated here"
    if detection.label != truth.label:
        return f"annotated as {truth.label}" if mistake.iou >= SAME_IOU else f"near {truth.label}"
    return "found a second time" if mistake.iou >= SAME_IOU else "too far off"


def window_around(boxes: Sequence[Box], width: int, height: int) -> Box:
    """Return the part of a photo of this size that shows boxes and some context, in the shape of a picture."""
    x1, y1 = min(box.x1 for box in boxes), min(box.y1 for box in boxes)
    x2, y2 = max(box.x2 for box in boxes), max(box.y2 for box in boxes)
    across, down = (max(_MIN_CONTEXT_PX, (1 + 2 * _MARGIN) * side) for side in (x2 - x1, y2 - y1))
    across, down = max(across, down * _ASPECT), max(down, across / _ASPECT)
    left, top = (x1 + x2 - across) / 2, (y1 + y2 - down) / 2
    return Box.clipped(left, top, left + across, top + down, width, height) or Box(0, 0, width, height)


def write_embedder_page(
    folder: Path | str,
    evaluation: EmbedderEvaluation,
    embedded: EmbeddedPhotos,
    figures: Mapping[str, Any],
    examples: int = 12,
    queries: Sequence[str] = (),
) -> None:
    """Write ``index.html``, its pictures, ``figures.json`` and ``curves.json`` into a folder from :func:`prepare_page`.

    ``figures`` are those of :func:`~pipeline.evaluation.embedder_figures`, with texts on what was evaluated. The page shows
    so many ``examples`` of each kind, and the nearest neighbours of the items ``queries``, by default of a selection.

    Raises:
        ValueError: an item of ``queries`` has no query.
    """
    folder, verification = Path(folder), evaluation.verification
    write_figures(folder, rounded(figures), curve_points(verification.rates), verification_panels(evaluation))
    write_jpeg(folder / "map.jpg", map_picture(embedded.images, embedded.vectors))
    chosen = _Examples(Pictures(folder, "photos"), evaluation, embedded)
    among = f" among {plural(evaluation.distractors, 'distractor')}" if evaluation.distractors else ""
    write_page(
        folder / "index.html",
        "evaluation_embedder.html",
        title="How good the embedder is",
        state=f"{plural(evaluation.photos, 'photo')} of {plural(evaluation.items, 'item')}{among}",
        alert=COLLAPSED if evaluation.collapsed else "",
        tiles={
            "Retrieval": {
                f"Same {name}, recall@{k}": of_relation.recall[k].value
                for name, of_relation in evaluation.retrieval_figures.items()
                for k in (1, 5)
            },
            "Pairs": {"AUC": verification.auc.value, "Equal error rate": f"{100 * verification.eer.value:.1f} %"}
            | {f"{shot.ways}-way one-shot": shot.accuracy.value for shot in evaluation.one_shot[-2:]},
        },
        about={name: text for name, text in figures.items() if isinstance(text, str) and name != "intervals"},
        messages=[*embedded.photos.notes, *map(str, embedded.photos.problems)],
        tables=embedder_tables(figures),
        notes=[INTERVALS, *evaluation.notes],
        triplets=chosen.triplets(examples),
        per_photo=PER_PHOTO,
        pairs={
            f"{'The same' if same else 'Different'}, {'most' if most else 'least'} similar": chosen.pairs(
                examples, same=same, most=most
            )
            for same, most in ((True, False), (False, True), (True, True), (False, False))
        },
        neighbors=[chosen.neighbors(row) for row in chosen.queries(queries, examples)],
    )


def _spread(rows: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Return at most ``count`` of the rows, spread evenly."""
    return rows[np.linspace(0, len(rows) - 1, min(count, len(rows))).round().astype(np.int64)]


class _Examples:
    """Chooses the photos that a page shows; each picture is written when it is first shown."""

    def __init__(self, pictures: Pictures, evaluation: EmbedderEvaluation, embedded: EmbeddedPhotos) -> None:
        self._pictures, self._evaluation, self._embedded = pictures, evaluation, embedded
        self._addresses: dict[int, str] = {}

    def triplets(self, count: int) -> dict[str, list[list[Thumb]]]:
        """Return the worst and the best anchors with their nearest positive and negative, one anchor for each item.

        An anchor is as bad as its negative is more similar than its positive.
        """
        triplets = []
        for query in _spread(self._evaluation.retrieval.queries, _MAX_TRIPLETS).tolist():
            others, similarities, relevant = self._candidates(query)
            if not relevant.all():
                positive = int(np.where(relevant, similarities, -np.inf).argmax())
                negative = int(np.where(relevant, -np.inf, similarities).argmax())
                near, far = float(similarities[positive]), float(similarities[negative])
                triplets.append((near - far, query, int(others[positive]), int(others[negative]), far))
        triplets.sort()
        strips = {}
        for heading, ordered in (("Worst", triplets), ("Best", triplets[::-1])):
            of_item: dict[str, tuple[float, int, int, int, float]] = {}
            for triplet in ordered:
                of_item.setdefault(self._embedded.samples[triplet[1]].item, triplet)
            strips[heading] = [
                [
                    self._thumb(anchor, "anchor", "anchor"),
                    self._thumb(positive, "right", f"positive {margin + far:.3f}"),
                    self._thumb(negative, "wrong", f"negative {far:.3f}"),
                ]
                for margin, anchor, positive, negative, far in list(of_item.values())[:count]
            ]
        return strips

    def pairs(self, count: int, *, same: bool, most: bool) -> list[list[Thumb]]:
        """Return pairs of one item, or of two, the most similar first, or the least."""
        pairs, uses = self._evaluation.pairs, Counter[int]()
        rows = np.flatnonzero(pairs.same == same)
        kind, strips = "right" if same else "wrong", []
        for row in (rows if most else rows[::-1]).tolist():
            first, second = int(pairs.first[row]), int(pairs.second[row])
            if max(uses[first], uses[second]) < PER_PHOTO:
                uses.update((first, second))
                strips.append([self._thumb(first, kind, f"{pairs.similarities[row]:.3f}"), self._thumb(second, kind)])
            if len(strips) == count:
                break
        return strips

    def queries(self, items: Sequence[str], count: int) -> list[int]:
        """Return a query of each item; without items, ``count`` queries spread evenly.

        Raises:
            ValueError: an item has no query.
        """
        rows = self._evaluation.retrieval.queries
        if not items:
            return list(dict.fromkeys(_spread(rows, count).tolist()))
        first = {self._embedded.samples[row].item: row for row in reversed(rows.tolist())}
        if missing := [item for item in items if item not in first]:
            raise ValueError(
                f"no photo of {', '.join(missing)} can be a query, which needs an item with two photos,"
                f" such as {next(iter(first))}"
            )
        return [first[item] for item in items]

    def neighbors(self, query: int) -> list[Thumb]:
        """Return a query and its nearest photos, the most similar first."""
        others, similarities, relevant = self._candidates(query)
        nearest = np.argsort(-similarities, kind="stable")[:_NEIGHBORS].tolist()
        strip = [self._thumb(query, "anchor", "query")]
        for place in nearest:
            kind = "right" if relevant[place] else "wrong"
            strip.append(self._thumb(int(others[place]), kind, f"{similarities[place]:.3f}"))
        return strip

    def _candidates(self, query: int) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.bool_]]:
        """Return the rows that a query can retrieve, their similarities, and whether they are relevant."""
        others = self._evaluation.gallery[self._evaluation.gallery != query]
        labels = self._evaluation.row_labels
        return others, self._embedded.similarity(np.array([query]), others)[0], labels[others] == labels[query]

    def _thumb(self, row: int, kind: str, words: str = "") -> Thumb:
        if row not in self._addresses:
            self._addresses[row] = self._pictures.write(str(row), self._embedded.images[row], THUMB_PX)
        item = self._embedded.samples[row].item
        return {"address": self._addresses[row], "kind": kind, "words": words, "caption": item}


def curve_points(rates: ErrorRates) -> dict[str, list[float]]:
    """Return some hundred points of the error rates by falling threshold, for JSON."""
    columns = {"threshold": rates.thresholds, "fmr": rates.fmr, "fnmr": rates.fnmr, "precision": rates.precision}
    kept = _thinned(rates)
    return {name: np.round(values[kept].astype(np.float64), 6).tolist() for name, values in columns.items()}


def _thinned(rates: ErrorRates) -> NDArray[np.int64]:
    """Return the indexes of enough points to draw the rates, without the infinite threshold."""
    return _spread(np.flatnonzero(np.isfinite(rates.thresholds)), _CURVE_POINTS)


def verification_panels(evaluation: EmbedderEvaluation) -> list[Panel]:
    """Return plots of the ROC curve, precision and recall, both error rates, and the distribution of similarities."""
    rates, verification, pairs = evaluation.verification.rates, evaluation.verification, evaluation.pairs
    kept = _thinned(rates)
    thresholds, fmr, fnmr = (column[kept].tolist() for column in (rates.thresholds, rates.fmr, rates.fnmr))
    recall, precision = (1 - rates.fnmr)[kept].tolist(), rates.precision[kept].tolist()
    x_range, y_range = (min(*thresholds, 0.95), 1.0), (0.0, 1.02)
    eer, accepted = verification.eer.value, "similarity from which a pair is the same"
    roc = [Line("pairs", fmr, recall), Line("chance", [0, 1], [0, 1]), Line("EER", [eer], [1 - eer])]
    retrieved = [Line("precision", thresholds, precision), Line("recall", thresholds, recall)]
    errors = [
        Line("false matches (FMR)", thresholds, fmr),
        Line("false non-matches (FNMR)", thresholds, fnmr),
        Line("EER", [verification.eer_threshold], [eer]),
    ]
    edges = np.linspace(float(pairs.similarities.min()), max(1.0, float(pairs.similarities.max())), _HISTOGRAM_BINS + 1)
    middles = ((edges[1:] + edges[:-1]) / 2).tolist()
    histograms = []
    for name, kind in (("same", pairs.same), ("different", ~pairs.same)):
        counts, _ = np.histogram(pairs.similarities[kind], edges)
        histograms.append(Line(name, middles, (counts / max(1, counts.sum())).tolist()))
    title, shares = f"ROC  AUC {verification.auc.value:.3f}", "share, at as many same as different pairs"
    return [
        Panel(title, "false match rate", "true match rate", roc, (-0.01, 1), y_range),
        Panel("Precision and recall", accepted, shares, retrieved, x_range, y_range),
        Panel(f"Error rates  EER {eer:.3f}", accepted, "rate", errors, x_range, y_range),
        Panel("Distribution of similarities", "similarity", "share of the pairs in a bin", histograms, x_range),
    ]


def projected(vectors: Vectors) -> NDArray[np.float64]:
    """Project vectors onto their two directions of largest variance, ``(n, 2)``."""
    centred = vectors.astype(np.float64) - vectors.mean(axis=0)
    _, _, directions = np.linalg.svd(centred, full_matrices=False)
    plane: NDArray[np.float64] = centred @ directions[:2].T
    return np.pad(plane, ((0, 0), (0, 2 - plane.shape[1])))


def map_picture(images: Sequence[Image], vectors: Vectors) -> Image:
    """Return a picture of photos at the places of their projected vectors; crowds are thinned out."""
    rows = _spread(np.arange(len(images)), _MAX_ON_MAP)
    plane = projected(vectors[rows])
    low, high = np.quantile(plane, [0.005, 0.995], axis=0)  # outliers move to the edge
    shares = np.clip((plane - low) / np.maximum(high - low, 1e-12), 0, 1)
    corners = (shares * [MAP_WIDTH - MAP_THUMB, MAP_HEIGHT - MAP_THUMB]).astype(np.int64)
    canvas = np.full((MAP_HEIGHT, MAP_WIDTH, 3), (246, 246, 244), np.uint8)
    taken = np.zeros((MAP_HEIGHT, MAP_WIDTH), np.bool_)
    for row, (left, top) in zip(rows.tolist(), corners.tolist(), strict=True):
        window = (slice(top, top + MAP_THUMB), slice(left, left + MAP_THUMB))
        if taken[window].mean() <= 0.2:
            taken[window] = True
            thumb = letterbox(images[row], MAP_THUMB - 2)
            canvas[window] = cv2.copyMakeBorder(thumb, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=(214, 212, 208))
    return canvas
