"""Evaluation of attributes: how often the type, colour, pattern, gender and usage that an embedder sees are right."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pipeline.catalogue import CatalogueEntry
from pipeline.evaluation import INTERVALS, Table, rounded
from pipeline.outputs import mark_folder
from pipeline.pages import write_page
from stages.embed.attributes import AttributePart, attribute_part
from stages.embed.data import numbered
from stages.embed.metrics import mean_estimate
from stages.errors import CatalogueError, ImageError
from stages.files import write_whole
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
        truth: places in ``values``.
        seen: the most probable value.
        stated: whether it is sure enough to be stated.
        items: numbers, equal for photos of one item.
    """

    values: tuple[str, ...]
    truth: NDArray[np.int64]
    seen: NDArray[np.int64]
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
    """Compare what an embedder sees in whole photos with the columns of their catalogue.

    Args:
        embedder: one whose vectors hold attributes.
        entries: photos with the columns ``type``, ``colour``, ``pattern``, ``gender`` or ``usage``, an empty cell or an
            unknown word where it is not known.
        progress: called for each photo, with the reason if it cannot be read.

    Returns:
        The evaluation of each attribute that is known of some photo, and the photos that cannot be used.

    Raises:
        ValueError: the vectors hold no attributes.
        CatalogueError: no photo has a known attribute.
    """
    part = attribute_part(embedder)
    if part is None:
        raise ValueError(f"the vectors of {embedder.fingerprint} hold no attributes; such as siamese+attributes do")
    rows, known, problems = [], list[tuple[str, dict[str, int]]](), list[str]()
    entries = iter(entries)
    while few := list(islice(entries, _BATCH)):
        images = []
        for entry in few:
            error = entry.error
            try:
                images += [] if error else [read_image(entry.path)]
            except ImageError as unreadable:
                error = str(unreadable)
            progress(entry, error)
            if error:
                problems.append(f"{entry.path}: {error}")
            else:
                known.append((entry.item, _known(part, entry)))
        rows.append(embedder(images))
    vectors = np.concatenate([np.empty((0, embedder.dim), np.float32), *rows])
    items = numbered([item for item, _ in known])
    evaluations = {}
    for name, values in part.values.items():
        chosen = np.array([row for row, (_, truth) in enumerate(known) if name in truth], np.int64)
        if not len(chosen):
            continue
        probabilities = part.probabilities(vectors[chosen], name)
        evaluations[name] = AttributeEvaluation(
            values,
            np.array([known[row][1][name] for row in chosen]),
            probabilities.argmax(axis=1),
            probabilities.max(axis=1) >= part.least.get(name, 0.5),
            items[chosen],
        )
    if not evaluations:
        raise CatalogueError(f"no photo has a known value in a column {', '.join(part.values)}")
    return evaluations, problems


def _known(part: AttributePart, entry: CatalogueEntry) -> dict[str, int]:
    """Return the place of each attribute's value among those that vectors hold, as far as a catalogue states it."""
    words = {name.casefold(): word for name, word in entry.metadata}
    values = {name: value_of(name, words.get(name, "")) for name in part.values}
    return {name: part.values[name].index(value) for name, value in values.items() if value in part.values[name]}


def attribute_figures(evaluations: dict[str, AttributeEvaluation]) -> dict[str, Any]:
    """Return the figures of each attribute: of all photos, of those whose value is stated, and of each value."""
    return {name: _figures(one) for name, one in evaluations.items()}


def attribute_tables(figures: Mapping[str, Any]) -> list[Table]:
    """Return the figures as tables: of all attributes, and of the values of each."""
    rows = [
        (name, str(one["photos"]), str(one["right"]), f"{one['stated']:.3f}", str(one["stated_right"] or "–"),
         f"{one['macro_f1']:.3f}")
        for name, one in figures.items()
    ]  # fmt: skip
    head = ("attribute", "photos", "right", "stated", "right if stated", "macro F1")
    return [Table(head, rows), *(_value_table(name, one) for name, one in figures.items())]


def write_attribute_page(
    folder: Path, figures: Mapping[str, Any], about: Mapping[str, str], problems: list[str]
) -> None:
    """Write ``index.html`` and ``figures.json`` into a folder from :func:`~pipeline.evaluation_pages.prepare_page`.

    Raises:
        OSError: a file cannot be written.
    """
    mark_folder(folder)
    write_whole(folder / "figures.json", json.dumps(rounded({**about, "attributes": figures}), indent=2) + "\n")
    tiles = {name.capitalize(): f"{one['right'].value:.3f}" for name, one in figures.items()}
    write_page(
        folder / "index.html",
        "evaluation_attributes.html",
        title="What the embedder sees",
        tiles={"Most probable value right": tiles},
        about=about,
        messages=problems,
        tables=attribute_tables(figures),
        intervals=INTERVALS,
    )


def _value_table(name: str, figures: dict[str, Any]) -> Table:
    rows = [
        (
            value,
            str(one["photos"]),
            str(one["recall"] or "–"),
            "–" if one["precision"] is None else f"{one['precision']:.3f}",
        )
        for value, one in figures["values"].items()
    ]
    return Table((name, "photos", "recall", "precision"), rows)


def _figures(one: AttributeEvaluation) -> dict[str, Any]:
    right = (one.truth == one.seen).astype(float)
    values: dict[str, dict[str, Any]] = {}
    f1s: list[float] = []
    for place, value in enumerate(one.values):
        mine, said = one.truth == place, one.seen == place
        if not (mine.any() or said.any()):
            continue
        both = int((mine & said).sum())
        if mine.any():
            f1s.append(2 * both / (int(mine.sum()) + int(said.sum())))
        values[value] = {
            "photos": int(mine.sum()),
            "recall": mean_estimate(right[mine], one.items[mine]) if mine.any() else None,
            "precision": both / int(said.sum()) if said.any() else None,
        }
    stated = one.stated
    return {
        "photos": len(right),
        "right": mean_estimate(right, one.items),
        "stated": float(stated.mean()),
        "stated_right": mean_estimate(right[stated], one.items[stated]) if stated.any() else None,
        "macro_f1": float(np.mean(f1s)),
        "values": dict(sorted(values.items(), key=lambda pair: -pair[1]["photos"])),
    }
