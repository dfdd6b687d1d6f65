"""Compare mask crops with box crops: detect once, crop in many ways, embed, search, and measure the differences.

Every query is searched under every condition. A garment that its detector missed is a failure, whether it is the query or
the answer; figures over the garments that all detectors found stand beside. Differences are paired over the same queries.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.crop_benchmark_costs import (
    AVERAGE,
    BOX,
    CONTEXT,
    CROPS,
    MASK,
    MASKS,
    NONE,
    PARTS,
    WHOLE,
    CropCost,
    CropStages,
    costs,
)
from pipeline.crop_benchmark_data import CropSet, Example, ExamplePhoto
from pipeline.pipeline import main_garment
from stages.embed.data import numbered
from stages.embed.metrics import Estimate, Flags, Floats, Ints, mean_estimate
from stages.protocols import Detector, Embedder
from stages.types import WHOLE as WHOLE_LABEL
from stages.types import Detection, Image, Vectors

TRUTH: Final = "truth"
"""The name of the annotations, as a source of detections."""

MIXED: Final = ((BOX, MASK), (MASK, BOX), (BOX, WHOLE), (MASK, WHOLE))
"""Crops of query and gallery that differ."""

ALL, FOUND_BY_ALL = "all", "found by all detectors"
"""Which garments count: every one, or those that no detector missed."""

RANKS: Final = (1, 5, 20)
IOU: Final = 0.5
"""A detection is of a garment if their boxes overlap by this much, intersection over union."""

MISSED: Final = 1 << 30
"""The rank of an answer that cannot be found, because a detector missed it or the query."""

Asked = Literal["crop", "detector", "training"]

Key = tuple[str, str]
"""A source of detections and a crop."""


@dataclass(frozen=True, slots=True, order=True)
class Condition:
    """One way to search: queries and gallery are cropped as named, from the same detections.

    >>> str(Condition("siamese", "truth", "box", "mask-white"))
    'siamese, truth: box for mask-white'
    """

    embedder: str
    detections: str
    query: str
    gallery: str

    @classmethod
    def same(cls, embedder: str, detections: str, crop: str) -> Condition:
        """Return the condition with the same crop on both sides."""
        return cls(embedder, detections, crop, crop)

    def __str__(self) -> str:
        return f"{self.embedder}, {self.detections}: {self.crops}"

    @property
    def crops(self) -> str:
        """The crop, or both if they differ."""
        return self.query if self.query == self.gallery else f"{self.query} for {self.gallery}"

    @property
    def keys(self) -> tuple[Key, Key]:
        """Where the vectors of query and gallery are."""
        return _key(self.detections, self.query), _key(self.detections, self.gallery)


@dataclass(frozen=True, slots=True, eq=False)
class EmbeddedSet:
    """A set with the vectors of all its crops; row k of every array is of example k.

    Attributes:
        data: the set.
        examples: of all its photos.
        photos: ``(n,)``, the photo of each example.
        present: by detections and crop, ``(n,)``, whether there is a crop, that is, whether the garment was detected.
        vectors: by embedder, detections and crop, ``(n, dim)`` unit rows; zero if there is no crop.
    """

    data: CropSet
    examples: tuple[Example, ...]
    photos: Ints
    present: dict[Key, Flags]
    vectors: dict[tuple[str, Key], Vectors]

    @property
    def sources(self) -> list[str]:
        """The sources of detections."""
        return [source for source, crop in self.present if crop == BOX]

    @property
    def items(self) -> Ints:
        """The number of each example's item, ``(n,)``."""
        return numbered([example.item for example in self.examples])

    def similarities(self, condition: Condition, queries: Ints, gallery: Ints) -> NDArray[np.float32]:
        """Return how similar queries and gallery are, ``(q, g)``; minus infinity for what must not or cannot match.

        A missed garment cannot match; other items in the query's photo, and the query itself, must not.
        """
        query, other = condition.keys
        vectors = self.vectors[condition.embedder, query][queries], self.vectors[condition.embedder, other][gallery]
        similar = np.round(vectors[0] @ vectors[1].T, 6)  # so that equal vectors tie, in whatever order sums are taken
        items, photos = self.items, self.photos
        excluded = (photos[queries][:, None] == photos[gallery]) & (items[queries][:, None] != items[gallery])
        excluded |= ~self.present[query][queries][:, None] | ~self.present[other][gallery]
        excluded |= queries[:, None] == gallery
        return np.where(excluded, -np.inf, similar).astype(np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class SetResults:
    """The outcomes of the same queries under every condition.

    Attributes:
        data: name of the set.
        clutter: of its backgrounds; None if unknown, or for several sets together.
        among: :data:`ALL` or :data:`FOUND_BY_ALL`.
        rows: of the queries in the set; of no meaning for several sets together.
        labels: of the queries.
        units: of the queries, what the bootstrap resamples.
        missed: by source of detections, which queries it missed.
        outcomes: by condition, ``(2, q)``: the rank of the first right answer, or :data:`MISSED`; average precision at R.
    """

    data: str
    clutter: float | None
    among: str
    rows: Ints
    labels: tuple[str, ...]
    units: tuple[str, ...]
    missed: Mapping[str, Flags]
    outcomes: Mapping[Condition, Floats]

    def scores(self, condition: Condition) -> Floats:
        """Return hits at each of :data:`RANKS` and the average precision, ``(4, q)``."""
        ranks, precisions = self.outcomes[condition]
        return np.stack([*((ranks <= k).astype(np.float64) for k in RANKS), precisions])

    def by_label(self) -> list[tuple[str, Flags]]:
        """Return all queries under an empty label, then those of each label if there are several."""
        labels = np.array(self.labels)
        names = sorted({*self.labels} - {""})
        everyone = [("", np.ones(len(labels), np.bool_))]
        return everyone + ([(name, labels == name) for name in names] if len(names) > 1 else [])


@dataclass(frozen=True, slots=True, kw_only=True)
class CropRow:
    """Figures of one set of queries, all or those of a label; see :class:`SetResults`."""

    data: str
    clutter: float | None
    among: str
    label: str
    queries: int
    recall_1: Estimate
    recall_5: Estimate
    recall_20: Estimate
    map_at_r: Estimate


@dataclass(frozen=True, slots=True, kw_only=True)
class CropFigures(CropRow):
    """How good one condition is; ``missed`` counts the queries that the detector missed."""

    condition: Condition
    missed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CropDifference(CropRow):
    """By how much one condition is better than another on the same queries.

    They differ in what ``asked`` names: the crop; the detector (and perhaps the crop); or the training of the embedder,
    each with the crop that it was trained on.
    """

    asked: Asked
    first: Condition
    second: Condition


@dataclass(frozen=True, slots=True, eq=False)
class CropComparison:
    """Rows of figures, of paired differences and of costs, and the results and vectors that they were made from.

    Figures and differences follow from data, stages and seed; costs are of this machine. ``results`` has each set at each
    clutter, and sets of one name together.
    """

    figures: tuple[CropFigures, ...]
    differences: tuple[CropDifference, ...]
    costs: tuple[CropCost, ...]
    results: tuple[SetResults, ...]
    embedded: tuple[EmbeddedSet, ...]
    trained_on: dict[str, str]
    seed: int

    @property
    def reference(self) -> str:
        """The embedder that the verdict is about."""
        return next(iter(self.trained_on))

    @property
    def names(self) -> list[str]:
        """The names of the data, in order."""
        return list(dict.fromkeys(one.data for one in self.results))


def benchmark_crops(
    data: Sequence[CropSet],
    stages: CropStages | None = None,
    *,
    seed: int = 0,
    timed_photos: int = 8,
    timing_rounds: int = 2,
    memory: bool = False,
    progress: Callable[[str], None] = lambda _: None,
) -> CropComparison:
    """Compare ways to crop garments on the same photos, detections and queries.

    Args:
        data: sets of photos; those of one name differ in clutter and are also taken together.
        stages: detectors and embedders; by default those with shipped weights.
        seed: of the bootstrap.
        timed_photos: how many photos of the first set are timed.
        timing_rounds: how often.
        memory: whether to measure peak memory in processes of their own; a script then needs its
            ``if __name__ == "__main__"``.
        progress: called with what is being done.

    Raises:
        ValueError: there is no data, or nothing would be timed.
        CatalogueError: no item of a set has two photos, or labels match nothing that a detector finds.
        ImageError: a photo cannot be read.
    """
    if not data or min(timed_photos, timing_rounds) < 1:
        raise ValueError("comparing crops needs at least one set, one timed photo and one round")
    stages = stages or CropStages.build()
    embedded = [embed_set(one.checked(stages.detectors), stages.detectors, stages.embedders, progress) for one in data]
    progress("searching")
    levels: dict[tuple[str, str], list[SetResults]] = defaultdict(list)
    for one in embedded:
        for among in (ALL, FOUND_BY_ALL):
            if found := search_set(one, list(stages.embedders), among):
                levels[found.data, among].append(found)
    results = [one for some in levels.values() for one in (*some, *([_together(some)] if len(some) > 1 else []))]
    first = [one for one in data if one.name == data[0].name]
    photos = first[len(first) // 2].photos
    places = np.linspace(0, len(photos) - 1, min(timed_photos, len(photos))).round().astype(int)
    timed = costs([photos[place].read() for place in places], stages, timing_rounds, memory=memory, progress=progress)
    return CropComparison(
        tuple(row for one in results for row in _figures(one, seed)),
        tuple(row for one in results for row in _differences(one, stages.trained_on, seed)),
        tuple(timed),
        tuple(results),
        tuple(embedded),
        stages.trained_on,
        seed,
    )


def embed_set(
    data: CropSet,
    detectors: Mapping[str, Detector],
    embedders: Mapping[str, Embedder],
    progress: Callable[[str], None] = lambda _: None,
) -> EmbeddedSet:
    """Detect, crop and embed the garments of a set, each photo once.

    Raises:
        ImageError: a photo cannot be read.
    """
    examples = tuple(data.examples)
    sources = [TRUTH, *detectors] if data.annotated else list(detectors)
    crops = [crop for crop in CROPS if crop != WHOLE or data.whole]
    keys = dict.fromkeys(_key(source, crop) for source in sources for crop in crops)
    present = {key: np.zeros(len(examples), np.bool_) for key in keys}
    vectors = {
        (name, key): np.zeros((len(examples), embedder.dim), np.float32)
        for name, embedder in embedders.items()
        for key in keys
    }
    photos: list[int] = []
    for place, photo in enumerate(data.photos):
        cropped = list(_crops(data, photo, detectors, crops, len(photos)))
        photos += [place] * len(photo.examples)
        for name, embedder in embedders.items():
            for (key, rows, _), vector in zip(cropped, embedder([pixels for *_, pixels in cropped]), strict=True):
                present[key][rows] = True
                vectors[name, key][rows] = vector
        if (place + 1) % 20 == 0 or place + 1 == len(data.photos):
            clutter = "" if data.clutter is None else f", clutter {data.clutter:g}"
            progress(f"{data.name}{clutter}: {place + 1} of {len(data.photos)} photos")
    for source in sources:
        for mask in MASKS:  # a mask that only some garments have compares nothing
            if not present[source, BOX].any() or not np.array_equal(present[source, mask], present[source, BOX]):
                del present[source, mask]
        if (source, MASK) in present:
            present[source, AVERAGE] = present[source, BOX]
            for name in embedders:
                vectors[name, (source, AVERAGE)] = _unit(vectors[name, (source, MASK)] + vectors[name, (source, BOX)])
    return EmbeddedSet(data, examples, np.array(photos, np.int64), present, vectors)


def _crops(
    data: CropSet, photo: ExamplePhoto, detectors: Mapping[str, Detector], crops: Sequence[str], row: int
) -> Iterator[tuple[Key, slice, Image]]:
    """Yield the crops of a photo whose first example is in a row, each with the rows that it is of."""
    image = photo.read()
    if WHOLE in crops:
        yield (NONE, WHOLE), slice(row, row + len(photo.examples)), image
    for source, detections in detect_examples(data, photo, image, detectors):
        for crop in (crop for crop in crops if crop != WHOLE):
            for number, pixels in crop_examples(image, detections, crop):
                yield (source, crop), slice(row + number, row + number + 1), pixels


def detect_examples(
    data: CropSet, photo: ExamplePhoto, image: Image, detectors: Mapping[str, Detector]
) -> Iterator[tuple[str, list[Detection | None]]]:
    """Yield each source of detections with the detection of each example, None for those that it missed."""
    if data.annotated:
        yield TRUTH, [example.truth for example in photo.examples]
    for name, detector in detectors.items():
        (detections,) = detector([image])
        if data.annotated:
            yield name, match_detections(photo.examples, detections)
        else:
            main = main_garment(detections, image)
            missed = main.label == WHOLE_LABEL and WHOLE_LABEL not in detector.labels
            yield name, [None if missed else main for _ in photo.examples]


def match_detections(examples: Sequence[Example], detections: Sequence[Detection]) -> list[Detection | None]:
    """Return each example's detection: same label, an overlap of :data:`IOU`, best overlap first, each only once."""
    pairs = [
        (example.truth.box.iou(detection.box), place, other)
        for place, example in enumerate(examples)
        for other, detection in enumerate(detections)
        if example.truth is not None and example.label in ("", detection.label)
    ]
    chosen: dict[int, int] = {}
    for overlap, place, other in sorted(pairs, key=lambda pair: -pair[0]):
        if overlap >= IOU and place not in chosen and other not in chosen.values():
            chosen[place] = other
    return [detections[chosen[place]] if place in chosen else None for place in range(len(examples))]


def crop_examples(image: Image, detections: Sequence[Detection | None], crop: str) -> list[tuple[int, Image]]:
    """Return the crops of the detected examples with their numbers; a mask crop needs a mask."""
    present = [
        (number, detection)
        for number, detection in enumerate(detections)
        if detection is not None and (crop not in MASKS or detection.mask is not None)
    ]
    (crops,) = CROPS[crop]([image], [[detection for _, detection in present]])
    return [(number, one.image) for (number, _), one in zip(present, crops, strict=True)]


def search_set(embedded: EmbeddedSet, embedders: Sequence[str], among: str = ALL) -> SetResults | None:
    """Search every query under every condition; None if no query has an answer."""
    examples, items, present = embedded.examples, embedded.items, embedded.present
    counted = np.ones(len(examples), np.bool_)
    if among == FOUND_BY_ALL:
        counted = reduce(np.logical_and, (present[one, BOX] for one in embedded.sources if one != TRUTH), counted)
    in_gallery = np.array([example.in_gallery for example in examples], np.bool_) & counted
    answers = np.bincount(items[in_gallery], minlength=items.max() + 1)[items] - in_gallery
    queries = np.flatnonzero(np.array([example.is_query for example in examples]) & counted & (answers > 0))
    if not len(queries):
        return None
    gallery = np.flatnonzero(in_gallery)
    blocks = np.array_split(queries, -(-len(queries) // 256))

    def outcomes(condition: Condition) -> Floats:
        relevant = ((items[some][:, None] == items[gallery]) & (some[:, None] != gallery) for some in blocks)
        similar = (embedded.similarities(condition, some, gallery) for some in blocks)
        return np.concatenate([rank(one, right) for one, right in zip(similar, relevant, strict=True)], axis=1)

    return SetResults(
        embedded.data.name,
        embedded.data.clutter,
        among,
        queries,
        tuple(examples[row].label for row in queries),
        tuple(examples[row].unit or examples[row].item for row in queries),
        {source: ~present[source, BOX][queries] for source in embedded.sources},
        {condition: outcomes(condition) for condition in _conditions(embedders, embedded)},
    )


def rank(similarities: NDArray[np.float32], relevant: Flags) -> Floats:
    """Return the rank of each query's first relevant answer, and its average precision at R, ``(2, q)``.

    A tie counts as an error: irrelevant answers come first. Answers of minus infinity are not found.

    >>> rank(np.array([[0.9, 0.8, 0.8]], np.float32), np.array([[False, True, False]]))
    array([[3.],
           [0.]])
    """
    reached = relevant & np.isfinite(similarities)
    hits = np.take_along_axis(reached, np.lexsort((reached, -similarities)), axis=1)
    positions, wanted = np.arange(1, hits.shape[1] + 1), relevant.sum(axis=1, keepdims=True)
    precisions = hits.cumsum(axis=1) / positions * (hits & (positions <= wanted)) / wanted
    return np.stack([np.where(hits.any(axis=1), hits.argmax(axis=1) + 1.0, MISSED), precisions.sum(axis=1)])


def _key(source: str, crop: str) -> Key:
    return (NONE if crop == WHOLE else source), crop


def _conditions(embedders: Sequence[str], embedded: EmbeddedSet) -> Iterator[Condition]:
    """Yield the conditions for which there are crops."""
    for embedder in embedders:
        if (NONE, WHOLE) in embedded.present:
            yield Condition.same(embedder, NONE, WHOLE)
        for source in embedded.sources:
            for query, gallery in (*((crop, crop) for crop in PARTS if crop != WHOLE), *MIXED):
                condition = Condition(embedder, source, query, gallery)
                if all(key in embedded.present for key in condition.keys):
                    yield condition


def _together(levels: Sequence[SetResults]) -> SetResults:
    """Return the queries of several sets of one name as one."""
    first = levels[0]
    shared = [condition for condition in first.outcomes if all(condition in level.outcomes for level in levels)]
    return replace(
        first,
        clutter=None,
        labels=tuple(label for level in levels for label in level.labels),
        units=tuple(unit for level in levels for unit in level.units),
        missed={source: np.concatenate([level.missed[source] for level in levels]) for source in first.missed},
        outcomes={one: np.concatenate([level.outcomes[one] for level in levels], axis=1) for one in shared},
    )


def _figures(results: SetResults, seed: int) -> Iterator[CropFigures]:
    """Yield a row for each condition, over all queries and by label."""
    for condition in results.outcomes:
        missed = results.missed.get(condition.detections, np.zeros(len(results.units), np.bool_))
        for label, chosen in results.by_label():
            values = _row(results, results.scores(condition), label, chosen, seed, floor=0.0)
            yield CropFigures(**values, condition=condition, missed=int(missed[chosen].sum()))


def _differences(results: SetResults, trained_on: Mapping[str, str], seed: int) -> Iterator[CropDifference]:
    """Yield a row for each pair of conditions worth comparing, over all queries and by label."""
    for asked, first, second in _pairs(results, trained_on):
        scores = results.scores(first) - results.scores(second)
        for label, chosen in results.by_label():
            values = _row(results, scores, label, chosen, seed, floor=-1.0)
            yield CropDifference(**values, asked=asked, first=first, second=second)


def _row(results: SetResults, scores: Floats, label: str, chosen: Flags, seed: int, floor: float) -> dict[str, Any]:
    """Return the fields of a :class:`CropRow`."""
    units = numbered([unit for unit, wanted in zip(results.units, chosen, strict=True) if wanted])
    names = (*(f"recall_{k}" for k in RANKS), "map_at_r")
    return {
        "data": results.data, "clutter": results.clutter, "among": results.among, "label": label,
        "queries": int(chosen.sum()),
    } | {
        name: mean_estimate(values[chosen], units, seed=seed, floor=floor)
        for name, values in zip(names, scores, strict=True)
    }  # fmt: skip


def _pairs(results: SetResults, trained_on: Mapping[str, str]) -> Iterator[tuple[Asked, Condition, Condition]]:
    """Yield the pairs of conditions to compare; the first has to be worth its cost."""
    same = Condition.same
    embedders = list(dict.fromkeys(condition.embedder for condition in results.outcomes))
    sources = [one for one in dict.fromkeys(condition.detections for condition in results.outcomes) if one != NONE]
    masked = [one for one in sources if same(embedders[0], one, MASK) in results.outcomes]
    boxed = [one for one in sources if one not in (*masked, TRUTH)]
    pairs: list[tuple[Asked, Condition, Condition]] = []
    for name in embedders:
        for source in sources:
            crops = dict.fromkeys((MASK, *MASKS, AVERAGE, CONTEXT))
            pairs += [("crop", same(name, source, crop), same(name, source, BOX)) for crop in crops]
        for heavy in (one for one in masked if one != TRUTH):
            for light in boxed:
                pairs += [("detector", same(name, heavy, crop), same(name, light, BOX)) for crop in (MASK, BOX)]
    by_crop = {crop: name for name, crop in trained_on.items() if crop in ("box", "mask") and name in embedders}
    if len(by_crop) == 2:
        mask, box = by_crop["mask"], by_crop["box"]
        pairs += [("training", same(mask, source, MASK), same(box, source, BOX)) for source in masked]
    yield from (pair for pair in pairs if pair[1] in results.outcomes and pair[2] in results.outcomes)


def clutter_effect(
    plain: SetResults, cluttered: SetResults, first: Condition, second: Condition, seed: int
) -> Estimate | None:
    """Return by how much clutter changes the difference in recall@1; None if the queries are not the same."""
    if plain.units != cluttered.units or plain.labels != cluttered.labels:
        return None
    change = [(one.scores(first) - one.scores(second))[0] for one in (cluttered, plain)]
    return mean_estimate(change[0] - change[1], numbered(plain.units), seed=seed, floor=-2.0)


def _unit(vectors: Vectors) -> Vectors:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: Vectors = np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 0)
    return unit
