"""Evaluation of attributes: how often the type, colour, pattern, gender and usage of garments are predicted right."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pipeline.catalogue import CatalogueEntry
from pipeline.evaluation import INTERVALS, Table, rounded
from pipeline.evaluation_pages import write_figures
from pipeline.pages import write_page
from stages.embed.attributes import AttributePart, attribute_part
from stages.embed.data import numbered
from stages.embed.metrics import mean_estimate
from stages.errors import CatalogueError, ImageError
from stages.images import read_image
from stages.labels import COLOURS, GENDERS, PATTERNS, USAGES, named, type_of
from stages.protocols import Embedder

_BATCH: Final = 64
_TABLES: Final = {"colour": COLOURS, "pattern": PATTERNS, "gender": GENDERS, "usage": USAGES}


@dataclass(frozen=True, slots=True)
class AttributeEvaluation:
    """The photos whose value of one attribute is known, one entry each.

    Attributes:
        values: that the attribute may have.
        truth: indexes into ``values``.
        predicted: the most probable value, as an index.
        stated: whether the prediction is confident enough to be stated.
        items: numbers, equal for photos of one item.
    """

    values: tuple[str, ...]
    truth: NDArray[np.int64]
    predicted: NDArray[np.int64]
    stated: NDArray[np.bool_]
    items: NDArray[np.int64]


def value_of(attribute: str, word: str) -> str | None:
    """Return the value of an attribute that a catalogue's word means, or None.

    >>> value_of("type", "Casual Shoes"), value_of("colour", "Navy Blue"), value_of("usage", "?")
    ('sneakers', 'navy', None)
    """
    return type_of(word) if attribute == "type" else named(_TABLES[attribute], word)


def evaluate_attributes(
    embedder: Embedder,
    entries: Iterable[CatalogueEntry],
    progress: Callable[[CatalogueEntry, str | None], None] = lambda _entry, _error: None,
) -> tuple[dict[str, AttributeEvaluation], list[str]]:
    """Compare an embedder's predictions for whole photos with the columns of their catalogue.

    The columns are ``type``, ``colour``, ``pattern``, ``gender`` and ``usage``; an empty cell or an unknown word means that
    the value is unknown. ``progress`` is called for each photo, with the reason if it cannot be read.

    Returns:
        The evaluation of each attribute that is known of some photo, and the photos that cannot be used.

    Raises:
        ValueError: the vectors hold no attributes.
        CatalogueError: no photo has a known attribute.
    """
    part = attribute_part(embedder)
    if part is None:
        raise ValueError(f"the vectors of {embedder.fingerprint} hold no attributes, as those of siamese+attributes do")
    vectors, problems = [np.empty((0, embedder.dim), np.float32)], list[str]()
    items, truths = list[str](), list[dict[str, int]]()
    remaining = iter(entries)
    while batch := list(islice(remaining, _BATCH)):
        images = []
        for entry in batch:
            error = entry.error
            try:
                images += [] if error else [read_image(entry.path)]
            except ImageError as unreadable:
                error = str(unreadable)
            progress(entry, error)
            if error:
                problems.append(f"{entry.path}: {error}")
            else:
                items.append(entry.item)
                truths.append(_stated_values(part, entry))
        vectors.append(embedder(images))
    numbers, rows = numbered(items), np.concatenate(vectors)
    evaluations = {}
    for name, values in part.values.items():
        chosen = np.array([row for row, truth in enumerate(truths) if name in truth], np.int64)
        if len(chosen):
            probabilities = part.probabilities(rows[chosen], name)
            evaluations[name] = AttributeEvaluation(
                values,
                np.array([truths[row][name] for row in chosen]),
                probabilities.argmax(axis=1),
                probabilities.max(axis=1) >= part.least.get(name, 0.5),
                numbers[chosen],
            )
    if not evaluations:
        raise CatalogueError(f"no photo has a known value in a column {', '.join(part.values)}")
    return evaluations, problems


def _stated_values(part: AttributePart, entry: CatalogueEntry) -> dict[str, int]:
    """Return the index of each attribute's value, as far as the catalogue states one that the vectors can hold."""
    words = {name.casefold(): word for name, word in entry.metadata}
    values = {name: value_of(name, words.get(name, "")) for name in part.values}
    return {name: part.values[name].index(value) for name, value in values.items() if value in part.values[name]}


def attribute_figures(evaluations: Mapping[str, AttributeEvaluation]) -> dict[str, Any]:
    """Return the figures of each attribute: of all photos, of those whose value is stated, and of each value."""
    return {name: _figures(evaluation) for name, evaluation in evaluations.items()}


def _figures(evaluation: AttributeEvaluation) -> dict[str, Any]:
    items, stated = evaluation.items, evaluation.stated
    right = (evaluation.truth == evaluation.predicted).astype(float)
    values: dict[str, dict[str, Any]] = {}
    f1_scores: list[float] = []
    for number, value in enumerate(evaluation.values):
        actual, predicted = evaluation.truth == number, evaluation.predicted == number
        both = int((actual & predicted).sum())
        if actual.any():
            f1_scores.append(2 * both / (int(actual.sum()) + int(predicted.sum())))
        if actual.any() or predicted.any():
            values[value] = {
                "photos": int(actual.sum()),
                "recall": mean_estimate(right[actual], items[actual]) if actual.any() else None,
                "precision": both / int(predicted.sum()) if predicted.any() else None,
            }
    return {
        "photos": len(right),
        "right": mean_estimate(right, items),
        "stated": float(stated.mean()),
        "stated_right": mean_estimate(right[stated], items[stated]) if stated.any() else None,
        "macro_f1": float(np.mean(f1_scores)),
        "values": dict(sorted(values.items(), key=lambda pair: -pair[1]["photos"])),
    }


def attribute_tables(figures: Mapping[str, Any]) -> list[Table]:
    """Return the figures as tables: one of all attributes, then one of the values of each."""
    keys = ("photos", "right", "stated", "stated_right", "macro_f1")
    rows = [(name, *(one[key] for key in keys)) for name, one in figures.items()]
    tables = [Table(("attribute", "photos", "right", "stated", "right if stated", "macro F1"), rows)]
    for name, one in figures.items():
        values = [(value, *counts.values()) for value, counts in one["values"].items()]
        tables.append(Table((name, "photos", "recall", "precision"), values))
    return tables


def write_attribute_page(
    folder: Path | str, figures: Mapping[str, Any], about: Mapping[str, str], problems: Sequence[str]
) -> None:
    """Write ``index.html`` and ``figures.json`` into a folder from :func:`~pipeline.evaluation_pages.prepare_page`."""
    write_figures(folder, rounded({**about, "attributes": figures}))
    write_page(
        Path(folder) / "index.html",
        "evaluation_attributes.html",
        title="How well the embedder predicts attributes",
        tiles={"Most probable value right": {name.capitalize(): one["right"].value for name, one in figures.items()}},
        about=about,
        messages=problems,
        tables=attribute_tables(figures),
        intervals=INTERVALS,
    )  # fmt: skip
