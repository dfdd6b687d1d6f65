"""Evaluation of search: how often the catalogue's labels and the matches of annotated street garments are right."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

import numpy as np

from pipeline.evaluation import Table, rounded
from pipeline.evaluation_pages import Thumb, window_around
from pipeline.gallery import Gallery
from pipeline.outputs import mark_folder
from pipeline.pages import Pictures, write_page
from pipeline.pipeline import Pipeline
from pipeline.search import Garment, search_batch
from stages.detect.annotations import AnnotatedPhoto
from stages.detect.coco import read_annotations
from stages.embed.attributes import attribute_part
from stages.embed.data import numbered
from stages.embed.metrics import Estimate, bootstrap_counts, mean_estimate
from stages.errors import CatalogueError, ImageError
from stages.files import read_whole, write_whole
from stages.images import read_photo
from stages.labels import kind_of, type_of
from stages.problems import plural
from stages.types import LABELS, Box

MIN_IOU: Final = 0.5
"""The least overlap of boxes at which a detection is of an annotated garment."""

INTERVALS: Final = "intervals: 95 %, percentile bootstrap over photos of the street and items of the catalogue"

_MAX_ANNOTATION_BYTES: Final = 8_000_000_000
_THUMB_PX: Final = 220
_CONFUSIONS, _EXAMPLES, _PHOTOS = 12, 3, 8  # of each list: confusions; garments of each; photos in a row

T = TypeVar("T")
V = TypeVar("V")

Relation = Literal["kind", "type"]
RELATIONS: Final[tuple[Relation, ...]] = ("kind", "type")

ProgressCallback = Callable[[str, str | None, int], None]
"""Called with a photo, the error if it has one, and the number of all photos."""


@dataclass(frozen=True, slots=True)
class Columns:
    """The catalogue's columns of kinds and of types of article; without the first, kinds follow from the types."""

    kind: str | None = None
    type: str | None = None


@dataclass(frozen=True, slots=True)
class CataloguePhoto:
    """A photo of the gallery: the label it was indexed with, and the kind and type that the catalogue states."""

    item: str
    photo: str
    label: str
    kind: str | None
    type: str | None


@dataclass(frozen=True, slots=True, eq=False)
class AnnotatedGarment:
    """An annotated garment; ``garment`` is its detection, None if it was missed; ``matches`` are in order."""

    photo: str
    box: Box
    size: tuple[int, int]
    kind: str
    type: str | None
    garment: Garment | None = None
    matches: tuple[CataloguePhoto, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class SearchEvaluation:
    """What a gallery answered: its photos, and the annotated garments with their matches.

    ``failed`` has the error of each photo that could not be read, ``problems`` what is wrong with the annotations.
    """

    k: int
    catalogue: tuple[CataloguePhoto, ...]
    photos: int
    queries: tuple[AnnotatedGarment, ...]
    failed: Mapping[str, str]
    problems: tuple[str, ...]
    notes: tuple[str, ...]

    def known(self, relation: Relation) -> set[str]:
        """Return the kinds, or the types, that the catalogue has."""
        return {value for one in self.catalogue if (value := getattr(one, relation))}


def evaluate_search(
    gallery: Gallery,
    pipeline: Pipeline,
    truth: Path,
    photos: Path,
    *,
    columns: Columns,
    k: int = 5,
    progress: ProgressCallback = lambda _photo, _error, _photos: None,
) -> SearchEvaluation:
    """Search a gallery by all photos of a COCO instances file, and pair annotated garments with detections.

    Args:
        gallery: to search.
        pipeline: that detects and embeds garments for it.
        truth: the COCO instances file; its categories, or ``attributes: {"type": …}`` of an annotation, name kinds and types.
        photos: the folder that its file names are relative to.
        columns: where the catalogue states kinds and types.
        k: matches of each garment.
        progress: called after each photo.

    Raises:
        ValueError: no column is given, the catalogue lacks it, or none of its values is known.
        CatalogueError: the file is not COCO instances, no category is of a known kind, or no photo can be read.
    """
    catalogue, notes = _read_catalogue(gallery, columns)
    by_photo = {(one.item, one.photo): one for one in catalogue}
    names = [name for name in _category_names(truth) if kind_of(name) in LABELS]
    known = read_annotations(truth, photos, names or LABELS, check_images=False)
    queries: list[AnnotatedGarment] = []
    failed: dict[str, str] = {}
    paths = [photos / photo.file_name for photo in known.photos]
    kinds = attribute_part(pipeline.embedder)
    with closing(pipeline.batches(paths)) as batches:
        annotated = iter(known.photos)
        for batch in batches:
            for analysis, result in zip(batch, search_batch(gallery, batch, k, kinds=kinds), strict=True):
                photo = next(annotated)
                error = analysis.error or _size_error(photo, (result.width, result.height))
                if error:
                    failed[photo.file_name] = error
                else:
                    queries += _pair(photo, result.garments, names, by_photo)
                progress(photo.file_name, error, len(paths))
    if len(failed) == len(paths):
        raise CatalogueError(
            f"no photo of {truth} could be read; is {photos} the folder that its file names are relative to?"
        )
    problems = tuple(map(str, known.problems))
    return SearchEvaluation(
        k, catalogue, len(paths) - len(failed), tuple(queries), failed, problems, (*notes, *known.notes)
    )


def search_figures(evaluation: SearchEvaluation) -> dict[str, Any]:
    """Return all figures as nested mappings of numbers and estimates; see :func:`~pipeline.evaluation.rounded`."""
    found = [query for query in evaluation.queries if query.garment]
    kinds = sorted({query.kind for query in evaluation.queries}, key=LABELS.index)
    photos = numbered([query.photo for query in evaluation.queries])
    is_found = np.array([query.garment is not None for query in evaluation.queries], np.float64)
    return {
        "catalogue": _catalogue_figures(evaluation.catalogue),
        "search": {
            "k": evaluation.k,
            "photos": evaluation.photos,
            "garments": len(evaluation.queries),
            "found": len(found),
            "missed": len(evaluation.queries) - len(found),
            "found_share": mean_estimate(is_found, photos) if len(is_found) else None,
            "all_garments": _precision(evaluation, evaluation.queries),
            "found_garments": _precision(evaluation, found),
            "kinds": {kind: _kind_figures(evaluation, kind) for kind in kinds},
        },
        "confusions": {
            f"{kind} > {other}": count
            for (kind, other), count in Counter(pair for pair, _ in _confusions(found)).most_common()
        },
        "failed": dict(evaluation.failed),
        "problems": list(evaluation.problems),
        "notes": [*evaluation.notes, *_unanswerable(evaluation)],
        "intervals": INTERVALS,
    }


def search_tables(figures: Mapping[str, Any]) -> dict[str, Table]:
    """Return the figures of :func:`search_figures` by table: catalogue, search."""
    catalogue, search = figures["catalogue"], figures["search"]
    labels = [
        (
            kind,
            str(one["photos"]),
            str(one["right"]),
            ", ".join(f"{label} {n}" for label, n in [*one["labels"].items()][:4]),
        )
        for kind, one in catalogue["kinds"].items()
    ]
    means = catalogue["label_right"]
    labels.append(("mean over kinds", "", str(means["mean_over_kinds"] or "–"), ""))
    labels.append(("over all photos", "", str(means["over_photos"] or "–"), ""))
    keys = [(relation, f"p@{n}") for relation in ("kind", "type") for n in dict.fromkeys((1, search["k"]))]

    def row(name: str, garments: int, found: int, precision: Mapping[str, Any]) -> tuple[str, ...]:
        values = (str(precision[relation][key]) if precision[relation] else "–" for relation, key in keys)
        return (name, str(garments), str(found), *values)

    rows = [row(kind, one["garments"], one["found"], one["all_garments"]) for kind, one in search["kinds"].items()]
    rows.append(row("all garments", search["garments"], search["found"], search["all_garments"]))
    rows.append(row("found garments", search["found"], search["found"], search["found_garments"]))
    head = ("kind", "garments", "found", *(f"{key.upper()} by {relation}" for relation, key in keys))
    return {"catalogue": Table(("kind", "photos", "label right", "labels"), labels), "search": Table(head, rows)}


def search_text(figures: Mapping[str, Any]) -> str:
    """Return the figures of :func:`search_figures` as lines of text."""
    catalogue, search = figures["catalogue"], figures["search"]
    tables = search_tables(figures)
    return "\n\n".join(
        (
            f"{catalogue['photos']} catalogue photos of the kinds, {catalogue['without_kind']} others",
            str(tables["catalogue"]),
            (
                f"{search['garments']} garments in {search['photos']} street photos: {search['found']} found,"
                f" {search['missed']} missed; a garment that is missed has no right match"
            ),
            str(tables["search"]),
            "\n".join([figures["intervals"], *figures["notes"]]),
        )
    )


def write_search_page(
    folder: Path, evaluation: SearchEvaluation, photos: Path, figures: Mapping[str, Any], about: Mapping[str, str]
) -> None:
    """Write ``index.html``, its pictures and ``figures.json`` into a folder from :func:`prepare_page`.

    Args:
        folder: of the page.
        evaluation: to show.
        photos: the folder of the annotated photos.
        figures: from :func:`search_figures`.
        about: what was evaluated and how, by name.

    Raises:
        OSError: a file cannot be written.
    """
    mark_folder(folder)
    write_whole(folder / "figures.json", json.dumps(rounded({**about, **figures}), indent=2) + "\n")
    pictures, known = _Thumbnails(folder, photos), evaluation.known("kind")
    mislabelled = {
        f"{kind} labelled {label}: {plural(len(wrong), 'photo')}": [
            [pictures.of_catalogue(photo, "wrong", photo.label)] for photo in wrong[:_PHOTOS]
        ]
        for (kind, label), wrong in _most_common(
            ((photo.kind, photo.label), photo)
            for photo in evaluation.catalogue
            if photo.kind in LABELS and photo.kind != photo.label
        )
    }
    mismatched = {
        f"{kind} answered with {other}: {plural(len(wrong), 'garment')}": [
            [
                pictures.of_query(query, "anchor", query.garment.label if query.garment else ""),
                *(
                    pictures.of_catalogue(one, "right" if one.kind == kind else "wrong", one.type or one.kind or "")
                    for one in query.matches
                ),
            ]
            for query in wrong[:_EXAMPLES]
        ]
        for (kind, other), wrong in _most_common(
            (pair, query) for pair, query in _confusions(evaluation.queries) if query.kind in known
        )
    }
    missed = {
        f"{kind}: {plural(len(some), 'garment')}": [
            [pictures.of_query(query, "wrong", "missed")] for query in some[:_PHOTOS]
        ]
        for kind, some in _most_common((query.kind, query) for query in evaluation.queries if query.garment is None)
    }
    write_page(
        folder / "index.html",
        "evaluation_search.html",
        title="How good search is",
        state=f"{plural(len(evaluation.queries), 'garment')} in {plural(evaluation.photos, 'photo')},"
        f" {plural(len(evaluation.catalogue), 'catalogue photo')}",
        tiles=_tiles(figures),
        about=about,
        messages=[
            *figures["notes"],
            *(f"{photo} {error}" for photo, error in evaluation.failed.items()),
            *evaluation.problems,
        ],
        tables=search_tables(figures),
        k=evaluation.k,
        intervals=INTERVALS,
        mislabelled=mislabelled,
        mismatched=mismatched,
        missed=missed,
    )


def _confusions(queries: Iterable[AnnotatedGarment]) -> Iterator[tuple[tuple[str, str], AnnotatedGarment]]:
    """Yield the kinds of query and first match, and the query, where they differ."""
    for query in queries:
        if query.matches and query.matches[0].kind != query.kind:
            yield (query.kind, query.matches[0].kind or "unknown"), query


def _tiles(figures: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    search, labels = figures["search"], figures["catalogue"]["label_right"]
    precision = {
        f"P@{key[2:]} by kind, {name}": f"{estimate.value:.3f}"
        for name in ("all", "found")
        for key, estimate in (search[f"{name}_garments"]["kind"] or {}).items()
        if key != "garments"
    }
    return {
        "Labels of catalogue photos": {
            "Right, mean over kinds": f"{labels['mean_over_kinds'].value:.3f}",
            "Right, over photos": f"{labels['over_photos'].value:.3f}",
        },
        "Street to catalogue": precision | {"Found": str(search["found"]), "Missed": str(search["missed"])},
    }


class _Thumbnails:
    """The thumbnails of a page; one that cannot be read any more has no picture."""

    def __init__(self, folder: Path, photos: Path) -> None:
        self._pictures, self._photos, self._count = Pictures(folder), photos, 0

    def of_catalogue(self, photo: CataloguePhoto, kind: str, words: str) -> Thumb:
        """Return a catalogue photo as a whole."""
        return {"address": self._write(Path(photo.photo)), "kind": kind, "words": words, "caption": photo.item}

    def of_query(self, query: AnnotatedGarment, kind: str, words: str) -> Thumb:
        """Return an annotated garment with some of its surroundings."""
        address = self._write(self._photos / query.photo, window_around([query.box], *query.size))
        return {"address": address, "kind": kind, "words": words, "caption": query.photo}

    def _write(self, path: Path, window: Box | None = None) -> str:
        try:
            image = read_photo(path, None if window else _THUMB_PX).image
            self._count += 1
            return self._pictures.write(str(self._count), image[window.slices] if window else image, _THUMB_PX)
        except (ImageError, ValueError):  # gone, or changed since
            return ""


def _most_common(pairs: Iterable[tuple[T, V]]) -> list[tuple[T, list[V]]]:
    """Group values by key, the most frequent keys first."""
    groups: defaultdict[T, list[V]] = defaultdict(list)
    for key, value in pairs:
        groups[key].append(value)
    return sorted(groups.items(), key=lambda one: -len(one[1]))[:_CONFUSIONS]


def _read_catalogue(gallery: Gallery, columns: Columns) -> tuple[tuple[CataloguePhoto, ...], list[str]]:
    """Return the photos of a gallery with their kinds and types, and notes on names that are unknown."""
    rows = [(row, dict(row.metadata)) for row in gallery.rows]
    known = dict.fromkeys(name for _, values in rows for name in values)
    by, listed = columns.kind or columns.type, f"its columns are {', '.join(known) or 'none'}"
    if not by:
        raise ValueError(f"name the catalogue's column of kinds or of types: --kind-column, --type-column; {listed}")
    for option, column in (("--kind-column", columns.kind), ("--type-column", columns.type)):
        if column is not None and column not in known:
            raise ValueError(f"{option} {column!r} is no column of the catalogue; {listed}")
    photos = []
    for row, values in rows:
        stated = values.get(columns.type or "")
        kind, type_ = kind_of(values.get(by, "")), type_of(stated) if stated else None
        photos.append(CataloguePhoto(row.item, row.photo, row.label, kind, type_))
    unknown = Counter(values.get(by, "") for _, values in rows if kind_of(values.get(by, "")) is None)
    if not any(photo.kind in LABELS for photo in photos):
        some = ", ".join(repr(name) for name, _ in unknown.most_common(5)) or "there are no photos"
        raise ValueError(
            f"no value of the column {by!r} ({some}) is a known kind or type of garment; the kinds are {', '.join(LABELS)}"
        )
    notes = [f"{name or 'an empty value'}: no known kind, {count} photos" for name, count in unknown.most_common(20)]
    return tuple(photos), notes


def _category_names(truth: Path) -> list[str]:
    """Return the category names of a COCO file; :func:`read_annotations` reports whatever is wrong with it."""
    try:
        categories = json.loads(read_whole(truth, _MAX_ANNOTATION_BYTES))["categories"]
        return list(dict.fromkeys(str(category["name"]) for category in categories))
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return []


def _size_error(photo: AnnotatedPhoto, size: tuple[int, int]) -> str | None:
    if size == (photo.width, photo.height):
        return None
    return f"is {size[0]}x{size[1]} px, its annotations are for {photo.width}x{photo.height}"


def _pair(
    photo: AnnotatedPhoto,
    garments: Sequence[Garment],
    names: Sequence[str],
    catalogue: Mapping[tuple[str, str], CataloguePhoto],
) -> Iterator[AnnotatedGarment]:
    """Yield a query for each annotated garment; a detection is of one garment at most.

    Pairs of the same kind come first, then those that overlap most.
    """
    truths = [
        (names[instance.label - 1], instance.type, box)
        for instance in photo.instances
        if (box := Box.clipped(*instance.box, width=photo.width, height=photo.height))
    ]
    candidates = sorted(
        (garment.label != (kind_of(name) or ""), -iou, place, number)
        for place, (name, _, box) in enumerate(truths)
        for number, garment in enumerate(garments)
        if (iou := box.iou(garment.box)) >= MIN_IOU
    )
    pairs: dict[int, int] = {}
    for *_, place, number in candidates:
        if place not in pairs and number not in pairs.values():
            pairs[place] = number
    for place, (name, type_, box) in enumerate(truths):
        garment = garments[pairs[place]] if place in pairs else None
        matches = (garment.matches or ()) if garment else ()
        yield AnnotatedGarment(
            photo=photo.file_name,
            box=box,
            size=(photo.width, photo.height),
            kind=kind_of(name) or "",
            type=type_of(type_ or name),
            garment=garment,
            matches=tuple(catalogue[match.item, match.photo] for match in matches),
        )


def _catalogue_figures(catalogue: Sequence[CataloguePhoto]) -> dict[str, Any]:
    known = [photo for photo in catalogue if photo.kind in LABELS]
    items = numbered([photo.item for photo in known])
    right = np.array([photo.label == photo.kind for photo in known], np.float64)
    kinds = np.array([photo.kind for photo in known])
    by_kind = {}
    for kind in sorted(set(kinds.tolist()), key=LABELS.index):
        labels = Counter(photo.label for photo in known if photo.kind == kind)
        by_kind[kind] = {
            "photos": labels.total(),
            "right": mean_estimate(right[kinds == kind], items[kinds == kind]),
            "labels": dict(labels.most_common()),
        }
    return {
        "photos": len(known),
        "without_kind": len(catalogue) - len(known),
        "label_right": {
            "mean_over_kinds": _mean_over_groups(right, items, numbered(kinds.tolist())),
            "over_photos": mean_estimate(right, items),
        },
        "kinds": by_kind,
    }


def _kind_figures(evaluation: SearchEvaluation, kind: str) -> dict[str, Any]:
    queries = [query for query in evaluation.queries if query.kind == kind]
    found = [query for query in queries if query.garment]
    return {
        "garments": len(queries),
        "found": len(found),
        "missed": len(queries) - len(found),
        "all_garments": _precision(evaluation, queries),
        "found_garments": _precision(evaluation, found),
    }


def _precision(evaluation: SearchEvaluation, queries: Sequence[AnnotatedGarment]) -> dict[str, dict[str, Any] | None]:
    """Return the mean precision of the first match and of the first k, by kind and by type.

    Garments without a type, and those whose kind or type the catalogue lacks, are left out.
    """
    items = len({photo.item for photo in evaluation.catalogue})
    figures: dict[str, dict[str, Any] | None] = {}
    for relation in RELATIONS:
        known = evaluation.known(relation)
        counted = [query for query in queries if getattr(query, relation) in known]
        photos = numbered([query.photo for query in counted])
        right = [[getattr(match, relation) == getattr(query, relation) for match in query.matches] for query in counted]
        precision = {
            f"p@{n}": mean_estimate(np.array([sum(one[:n]) / min(n, items) for one in right]), photos)
            for n in dict.fromkeys((1, evaluation.k))
            if counted
        }
        figures[relation] = {"garments": len(counted), **precision} if counted else None
    return figures


def _mean_over_groups(
    values: np.ndarray[Any, Any], units: np.ndarray[Any, Any], groups: np.ndarray[Any, Any]
) -> Estimate:
    """Return the mean of the groups' means, with an interval that resamples units."""
    cells = int(units.max()) + 1, int(groups.max()) + 1
    sums, counts = np.zeros(cells), np.zeros(cells)
    np.add.at(sums, (units, groups), values)
    np.add.at(counts, (units, groups), 1)
    with np.errstate(invalid="ignore"):  # a replicate may lack a group
        means = [(drawn @ sums) / (drawn @ counts) for drawn in bootstrap_counts(cells[0])]
    value = float((sums.sum(axis=0) / counts.sum(axis=0)).mean())
    return Estimate.from_replicates(value, np.array([one[np.isfinite(one)].mean() for one in means]))


def _unanswerable(evaluation: SearchEvaluation) -> list[str]:
    """Return notes on garments that no match could be right for."""
    notes = []
    for relation in RELATIONS:
        lacking = Counter(getattr(query, relation) for query in evaluation.queries)
        for value in evaluation.known(relation):
            del lacking[value]
        without = lacking.pop(None, 0)
        if without:
            notes.append(f"garments without a known {relation}, left out by {relation}: {without}")
        if lacking:
            names = ", ".join(f"{name} {count}" for name, count in lacking.most_common())
            notes.append(f"garments of a {relation} that the catalogue lacks, left out by {relation}: {names}")
    return notes
