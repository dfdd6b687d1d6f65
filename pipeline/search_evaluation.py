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
from numpy.typing import NDArray

from pipeline.evaluation import Table, match_greedily, rounded
from pipeline.evaluation_pages import THUMB_PX, Thumb, window_around, write_figures
from pipeline.gallery import Gallery
from pipeline.pages import Pictures, write_page
from pipeline.pipeline import Pipeline
from pipeline.search import Garment, search_batch
from stages.detect.annotations import AnnotatedPhoto
from stages.detect.coco import MAX_FILE_BYTES, read_annotations
from stages.embed.attributes import attribute_part
from stages.embed.data import numbered
from stages.embed.metrics import Estimate, bootstrap_counts, mean_estimate
from stages.errors import CatalogueError
from stages.files import read_whole
from stages.labels import kind_of, type_of
from stages.problems import plural
from stages.types import LABELS, Box

MIN_IOU: Final = 0.5
"""The smallest overlap of boxes at which a detection belongs to an annotated garment."""

INTERVALS: Final = "intervals: 95 %, percentile bootstrap over photos of the street and items of the catalogue"

_CONFUSIONS, _EXAMPLES, _PHOTOS = 12, 3, 8  # shown: confusions in a list, garments of each, photos in a row

T = TypeVar("T")

Relation = Literal["kind", "type"]
RELATIONS: Final[tuple[Relation, ...]] = ("kind", "type")


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
    """An annotated garment; ``garment`` is its detection, None if it was missed; ``matches`` are best first."""

    photo: str
    box: Box
    size: tuple[int, int]
    kind: str
    type: str | None
    garment: Garment | None = None
    matches: tuple[CataloguePhoto, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class SearchEvaluation:
    """The photos of a gallery, and annotated garments with the matches that it returned.

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
        return {value for photo in self.catalogue if (value := getattr(photo, relation))}


def evaluate_search(
    gallery: Gallery,
    pipeline: Pipeline,
    truth: Path | str,
    photos: Path | str,
    *,
    columns: Columns,
    k: int = 5,
    progress: Callable[[str, str | None, int], None] = lambda _photo, _error, _photos: None,
) -> SearchEvaluation:
    """Search a gallery for all photos of a COCO instances file, and pair annotated garments with detections.

    Args:
        gallery: to search.
        pipeline: detects and embeds garments for the gallery.
        truth: the COCO instances file. Its categories name kinds or types; an annotation may name its type as
            ``attributes: {"type": …}``.
        photos: the folder that its file names are relative to.
        columns: where the catalogue states kinds and types.
        k: matches of each garment.
        progress: called after each photo with its name, its error if it has one, and the number of all photos.

    Raises:
        ValueError: no column is given, the catalogue lacks it, or none of its values is known.
        CatalogueError: the file is not COCO instances, no category is of a known kind, or no photo can be read.
    """
    truth, photos = Path(truth), Path(photos)
    catalogue, notes = _read_catalogue(gallery, columns)
    by_photo = {(one.item, one.photo): one for one in catalogue}
    names = [name for name in _category_names(truth) if kind_of(name) in LABELS]
    annotations = read_annotations(truth, photos, names or LABELS, check_images=False)
    paths = [photos / photo.file_name for photo in annotations.photos]
    kinds = attribute_part(pipeline.embedder)
    queries: list[AnnotatedGarment] = []
    failed: dict[str, str] = {}
    with closing(pipeline.batches(paths)) as batches:
        results = (
            pair for batch in batches for pair in zip(batch, search_batch(gallery, batch, k, kinds=kinds), strict=True)
        )
        for photo, (analysis, result) in zip(annotations.photos, results, strict=True):
            error = analysis.error
            if not error and (result.width, result.height) != (photo.width, photo.height):
                error = f"is {result.width}x{result.height} px, its annotations are for {photo.width}x{photo.height}"
            if error:
                failed[photo.file_name] = error
            else:
                queries += _pair(photo, result.garments, names, by_photo)
            progress(photo.file_name, error, len(paths))
    if len(failed) == len(paths):
        raise CatalogueError(
            f"no photo of {truth} could be read; is {photos} the folder that its file names are relative to?"
        )
    problems, notes = tuple(map(str, annotations.problems)), [*notes, *annotations.notes]
    return SearchEvaluation(k, catalogue, len(paths) - len(failed), tuple(queries), failed, problems, tuple(notes))


def _read_catalogue(gallery: Gallery, columns: Columns) -> tuple[tuple[CataloguePhoto, ...], list[str]]:
    """Return the photos of a gallery with their kinds and types, and notes on unknown names."""
    rows = [(row, dict(row.metadata)) for row in gallery.rows]
    present = dict.fromkeys(name for _, values in rows for name in values)
    column, listed = columns.kind or columns.type, f"its columns are {', '.join(present) or 'none'}"
    if not column:
        raise ValueError(f"name the catalogue's column of kinds or of types: --kind-column, --type-column; {listed}")
    for name in (columns.kind, columns.type):
        if name is not None and name not in present:
            raise ValueError(f"the catalogue has no column {name!r}; {listed}")
    names = [values.get(column, "") for _, values in rows]
    types = [type_of(values.get(columns.type or "", "")) for _, values in rows]
    photos = tuple(
        CataloguePhoto(row.item, row.photo, row.label, kind_of(name), type_)
        for (row, _), name, type_ in zip(rows, names, types, strict=True)
    )
    unknown = Counter(name for name in names if kind_of(name) is None)
    if not any(photo.kind in LABELS for photo in photos):
        some = ", ".join(repr(name) for name, _ in unknown.most_common(5)) or "there are no photos"
        raise ValueError(
            f"no value of the column {column!r} ({some}) is a known kind or type; the kinds are {', '.join(LABELS)}"
        )
    notes = [f"{name or 'an empty value'}: no known kind, {count} photos" for name, count in unknown.most_common(20)]
    return photos, notes


def _category_names(truth: Path) -> list[str]:
    """Return the category names of a COCO file; :func:`read_annotations` reports whatever is wrong with it."""
    try:
        categories = json.loads(read_whole(truth, MAX_FILE_BYTES))["categories"]
        return list(dict.fromkeys(str(category["name"]) for category in categories))
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return []


def _pair(
    photo: AnnotatedPhoto,
    garments: Sequence[Garment],
    names: Sequence[str],
    catalogue: Mapping[tuple[str, str], CataloguePhoto],
) -> Iterator[AnnotatedGarment]:
    """Yield a query for each annotated garment.

    A detection belongs to one garment at most: pairs of the same kind come first, then those that overlap most.
    """
    truths = [
        (names[instance.label - 1], instance.type, box)
        for instance in photo.instances
        if (box := Box.clipped(*instance.box, width=photo.width, height=photo.height))
    ]
    matched = match_greedily(
        ((garment.label != (kind_of(name) or "")) - iou, place, number)
        for place, (name, _, box) in enumerate(truths)
        for number, garment in enumerate(garments)
        if (iou := box.iou(garment.box)) >= MIN_IOU
    )
    for place, (name, type_, box) in enumerate(truths):
        garment = garments[matched[place]] if place in matched else None
        yield AnnotatedGarment(
            photo=photo.file_name,
            box=box,
            size=(photo.width, photo.height),
            kind=kind_of(name) or "",
            type=type_of(type_ or name),
            garment=garment,
            matches=tuple(catalogue[match.item, match.photo] for match in (garment.matches if garment else None) or ()),
        )


def search_figures(evaluation: SearchEvaluation) -> dict[str, Any]:
    """Return all figures as nested mappings of numbers and estimates; see :func:`~pipeline.evaluation.rounded`."""
    queries = evaluation.queries
    kinds = sorted({query.kind for query in queries}, key=LABELS.index)
    is_found = np.array([query.garment is not None for query in queries], np.float64)
    confusions = Counter(pair for pair, query in _confusions(queries) if query.garment)
    return {
        "catalogue": _catalogue_figures(evaluation.catalogue),
        "search": {
            "k": evaluation.k,
            "photos": evaluation.photos,
            **_garment_figures(evaluation, queries),
            "found_share": mean_estimate(is_found, numbered([query.photo for query in queries])) if queries else None,
            "kinds": {
                kind: _garment_figures(evaluation, [query for query in queries if query.kind == kind]) for kind in kinds
            },
        },
        "confusions": {f"{kind} > {other}": count for (kind, other), count in confusions.most_common()},
        "failed": dict(evaluation.failed),
        "problems": list(evaluation.problems),
        "notes": [*evaluation.notes, *_unanswerable(evaluation)],
        "intervals": INTERVALS,
    }


def _catalogue_figures(catalogue: Sequence[CataloguePhoto]) -> dict[str, Any]:
    known = [photo for photo in catalogue if photo.kind in LABELS]
    items = numbered([photo.item for photo in known])
    right = np.array([photo.label == photo.kind for photo in known], np.float64)
    kinds = np.array([photo.kind for photo in known])
    by_kind = {}
    for kind in sorted(set(kinds.tolist()), key=LABELS.index):
        labels = Counter(photo.label for photo in known if photo.kind == kind)
        estimate = mean_estimate(right[kinds == kind], items[kinds == kind])
        by_kind[kind] = {"photos": labels.total(), "right": estimate, "labels": dict(labels.most_common())}
    mean = _mean_over_groups(right, items, numbered(kinds.tolist()))
    return {
        "photos": len(known),
        "without_kind": len(catalogue) - len(known),
        "label_right": {"mean_over_kinds": mean, "over_photos": mean_estimate(right, items)},
        "kinds": by_kind,
    }


def _garment_figures(evaluation: SearchEvaluation, queries: Sequence[AnnotatedGarment]) -> dict[str, Any]:
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
            f"p@{n}": mean_estimate(np.array([sum(hits[:n]) / min(n, items) for hits in right]), photos)
            for n in dict.fromkeys((1, evaluation.k))
            if counted
        }
        figures[relation] = {"garments": len(counted), **precision} if counted else None
    return figures


def _mean_over_groups(values: NDArray[np.float64], units: NDArray[np.int64], groups: NDArray[np.int64]) -> Estimate:
    """Return the mean of the groups' means, with an interval that resamples units."""
    size = int(units.max()) + 1, int(groups.max()) + 1
    sums, counts = np.zeros(size), np.zeros(size)
    np.add.at(sums, (units, groups), values)
    np.add.at(counts, (units, groups), 1)
    with np.errstate(invalid="ignore"):  # a replicate may lack a group
        means = np.array([(drawn @ sums) / (drawn @ counts) for drawn in bootstrap_counts(size[0])])
    value = float((sums.sum(axis=0) / counts.sum(axis=0)).mean())
    return Estimate.from_replicates(value, np.nanmean(means, axis=1))


def _unanswerable(evaluation: SearchEvaluation) -> list[str]:
    """Return notes on garments that no match can be right for."""
    notes = []
    for relation in RELATIONS:
        counts = Counter(getattr(query, relation) for query in evaluation.queries)
        if without := counts.pop(None, 0):
            notes.append(f"garments without a known {relation}, left out by {relation}: {without}")
        known = evaluation.known(relation)
        if names := ", ".join(f"{name} {count}" for name, count in counts.most_common() if name not in known):
            notes.append(f"garments of a {relation} that the catalogue lacks, left out by {relation}: {names}")
    return notes


def search_tables(figures: Mapping[str, Any]) -> dict[str, Table]:
    """Return the figures of :func:`search_figures` as the tables ``catalogue`` and ``search``."""
    catalogue, search = figures["catalogue"], figures["search"]
    labels: list[tuple[object, ...]] = []
    for kind, one in catalogue["kinds"].items():
        most = ", ".join(f"{label} {count}" for label, count in [*one["labels"].items()][:4])
        labels.append((kind, one["photos"], one["right"], most))
    for name, key in (("mean over kinds", "mean_over_kinds"), ("over all photos", "over_photos")):
        labels.append((name, "", catalogue["label_right"][key], ""))
    keys = [(relation, f"p@{n}") for relation in RELATIONS for n in dict.fromkeys((1, search["k"]))]

    def row(name: str, garments: int, found: int, precision: Mapping[str, Any]) -> tuple[object, ...]:
        return name, garments, found, *((precision[relation] or {}).get(key) for relation, key in keys)

    rows = [row(kind, one["garments"], one["found"], one["all_garments"]) for kind, one in search["kinds"].items()]
    rows.append(row("all garments", search["garments"], search["found"], search["all_garments"]))
    rows.append(row("found garments", search["found"], search["found"], search["found_garments"]))
    head = ("kind", "garments", "found", *(f"{key.upper()} by {relation}" for relation, key in keys))
    return {"catalogue": Table(("kind", "photos", "label right", "labels"), labels), "search": Table(head, rows)}


def search_text(figures: Mapping[str, Any]) -> str:
    """Return the figures of :func:`search_figures` as lines of text."""
    catalogue, search, tables = figures["catalogue"], figures["search"], search_tables(figures)
    notes = "\n".join([figures["intervals"], *figures["notes"]])
    return (
        f"{catalogue['photos']} catalogue photos of known kinds, {catalogue['without_kind']} others\n\n"
        f"{tables['catalogue']}\n\n"
        f"{search['garments']} garments in {search['photos']} street photos: {search['found']} found,"
        f" {search['missed']} missed; a garment that is missed has no right match\n\n"
        f"{tables['search']}\n\n{notes}"
    )


def write_search_page(
    folder: Path | str,
    evaluation: SearchEvaluation,
    photos: Path | str,
    figures: Mapping[str, Any],
    about: Mapping[str, str],
) -> None:
    """Write ``index.html``, its pictures and ``figures.json`` into a folder from :func:`prepare_page`.

    ``photos`` is the folder of the annotated photos, ``figures`` are those of :func:`search_figures`, and ``about`` says by
    name what was evaluated and how.
    """
    folder = Path(folder)
    write_figures(folder, rounded({**about, **figures}))
    pictures, known = Pictures(folder), evaluation.known("kind")
    numbers = iter(range(1, 1 << 30))

    def catalogue_thumb(photo: CataloguePhoto, frame: str, words: str) -> Thumb:
        address = pictures.write_photo(str(next(numbers)), Path(photo.photo), THUMB_PX)
        return {"address": address, "kind": frame, "words": words, "caption": photo.item}

    def query_thumb(query: AnnotatedGarment, frame: str, words: str) -> Thumb:
        window = window_around([query.box], *query.size)
        address = pictures.write_photo(str(next(numbers)), Path(photos) / query.photo, THUMB_PX, window)
        return {"address": address, "kind": frame, "words": words, "caption": query.photo}

    def match_strip(query: AnnotatedGarment) -> list[Thumb]:
        matches = [
            catalogue_thumb(one, "right" if one.kind == query.kind else "wrong", one.type or one.kind or "")
            for one in query.matches
        ]
        return [query_thumb(query, "anchor", query.garment.label if query.garment else ""), *matches]

    wrong_labels = (
        (f"{photo.kind} labelled {photo.label}", photo)
        for photo in evaluation.catalogue
        if photo.kind in LABELS and photo.kind != photo.label
    )
    wrong_matches = (
        (f"{kind} matched with {other}", query)
        for (kind, other), query in _confusions(evaluation.queries)
        if kind in known
    )
    missed = ((query.kind, query) for query in evaluation.queries if query.garment is None)
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
        mislabelled=_strips(
            wrong_labels, "photo", _PHOTOS, lambda photo: [catalogue_thumb(photo, "wrong", photo.label)]
        ),
        mismatched=_strips(wrong_matches, "garment", _EXAMPLES, match_strip),
        missed=_strips(missed, "garment", _PHOTOS, lambda query: [query_thumb(query, "wrong", "missed")]),
    )


def _strips(
    pairs: Iterable[tuple[str, T]], noun: str, most: int, strip: Callable[[T], list[Thumb]]
) -> dict[str, list[list[Thumb]]]:
    """Group values by heading, and return strips of the first ``most`` values of the largest groups."""
    groups: defaultdict[str, list[T]] = defaultdict(list)
    for heading, value in pairs:
        groups[heading].append(value)
    largest = sorted(groups.items(), key=lambda group: -len(group[1]))[:_CONFUSIONS]
    return {
        f"{heading}: {plural(len(values), noun)}": [strip(value) for value in values[:most]]
        for heading, values in largest
    }


def _confusions(queries: Iterable[AnnotatedGarment]) -> Iterator[tuple[tuple[str, str], AnnotatedGarment]]:
    """Yield the kinds of query and first match, and the query, where they differ."""
    for query in queries:
        if query.matches and query.matches[0].kind != query.kind:
            yield (query.kind, query.matches[0].kind or "unknown"), query


def _tiles(figures: Mapping[str, Any]) -> dict[str, dict[str, object]]:
    search, labels = figures["search"], figures["catalogue"]["label_right"]
    matches: dict[str, object] = {
        f"P@{key[2:]} by kind, {name}": estimate.value
        for name in ("all", "found")
        for key, estimate in (search[f"{name}_garments"]["kind"] or {}).items()
        if key != "garments"
    }
    return {
        "Labels of catalogue photos": {
            "Right, mean over kinds": labels["mean_over_kinds"].value,
            "Right, over photos": labels["over_photos"].value,
        },
        "Street to catalogue": matches | {"Found": search["found"], "Missed": search["missed"]},
    }
