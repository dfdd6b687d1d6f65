"""Compare mask crops with box crops: detect once, crop in several ways, embed, search, and measure the differences.

Every query is searched under every condition. A garment that its detector missed is a failure, whether it is the query or
the answer; figures over the garments that all detectors found stand beside. Differences are paired over the same queries.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import reduce
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

import weights
from pipeline.config import EMBEDDERS, Config, build_detector, build_embedder
from pipeline.crop_benchmark_data import CropSet, Example, ExamplePhoto
from pipeline.pipeline import main_garment
from stages.crop import BoxCrop, MaskCrop, WholeCrop
from stages.embed.data import numbered
from stages.embed.metrics import Estimate, Flags, Floats, Ints, mean_estimate
from stages.protocols import Cropper, Detector, Embedder
from stages.types import WHOLE as WHOLE_LABEL
from stages.types import Detection, Image, Vectors

TRUTH, NONE = "truth", "none"
"""Sources of detections besides detectors: the annotations, and none, for whole photos."""

WHOLE, BOX, CONTEXT, MASK = "whole", "box", "box-context", "mask-white"
MASKS: Final = ("mask-mean", MASK, "mask-blur")
AVERAGE: Final = "mask+box"
"""The normalised mean of the vectors of :data:`MASK` and :data:`BOX`."""

CROPS: Final[Mapping[str, Cropper]] = {
    WHOLE: WholeCrop(),
    BOX: BoxCrop(),
    CONTEXT: BoxCrop(0.25),
    "mask-mean": MaskCrop("mean"),
    MASK: MaskCrop("white"),
    "mask-blur": MaskCrop("blur"),
}
"""Box and masks have the same margin of 5 %, so that only the background differs."""

MIXED: Final = ((BOX, MASK), (MASK, BOX), (BOX, WHOLE), (MASK, WHOLE))
"""Different crops of query and gallery."""

ALL, FOUND_BY_ALL = "all", "found by all detectors"
"""Which garments count: every one, or those that no detector missed."""

RANKS: Final = (1, 5, 20)
IOU: Final = 0.5
"""A detection is of a garment if the intersection over union of their boxes is at least this."""

MISSED: Final = 1 << 30
"""The rank of an answer that cannot be found, because a detector missed it or the query."""

DETECTORS: Final = ("maskrcnn_mobilenet_v2", "fasterrcnn_mobilenet_v2")
UNKNOWN: Final = "unknown"


@dataclass(frozen=True, slots=True, eq=False)
class CropStages:
    """The detectors and embedders that are compared, by name; the verdict is about the first embedder.

    ``specs`` name the embedders as :meth:`build` takes them; ``trained_on`` is the crop that each embedder's weights say
    they were trained on.
    """

    detectors: dict[str, Detector]
    embedders: dict[str, Embedder]
    specs: dict[str, str]
    trained_on: dict[str, str]

    @classmethod
    def build(cls, detectors: Sequence[str] = DETECTORS, embedders: Sequence[str] = ()) -> CropStages:
        """Build stages by name; an embedder is ``NAME`` or ``NAME=WEIGHTS``, by default all with shipped weights.

        Raises:
            ValueError: a name is unknown or given twice.
            StageError, WeightsError: a stage cannot be built.
        """
        given = embedders or [name for name in EMBEDDERS if name in weights.manifest()]
        specs = {spec.partition("=")[0]: spec for spec in given}
        for name, count in Counter((*detectors, *(spec.partition("=")[0] for spec in given))).items():
            if count > 1:
                raise ValueError(f"two stages are called {name!r}; give each its own name: NAME=WEIGHTS")
        return cls(
            {name: build_detector(Config(detector=name)) for name in detectors},
            {name: build_embedder(_config(spec)) for name, spec in specs.items()},
            specs,
            {name: _trained_on(name, _config(spec)) for name, spec in specs.items()},
        )


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
        """Return the condition with the same crop on both sides; whole photos need no detections."""
        return cls(embedder, NONE if crop == WHOLE else detections, crop, crop)

    def __str__(self) -> str:
        return f"{self.embedder}, {self.detections}: {self.crops}"

    @property
    def crops(self) -> str:
        """The crop, or both if they differ."""
        return self.query if self.query == self.gallery else f"{self.query} for {self.gallery}"

    @property
    def keys(self) -> list[tuple[str, str, str]]:
        """The keys of :attr:`EmbeddedSet.vectors` of query and gallery."""
        return [
            (self.embedder, NONE if crop == WHOLE else self.detections, crop) for crop in (self.query, self.gallery)
        ]


@dataclass(frozen=True, slots=True, eq=False)
class EmbeddedSet:
    """A set with the vectors of all its crops; row k of every array is of example k.

    Attributes:
        data: the set.
        photos: ``(n,)``, the number of each example's photo.
        detections: by source, the detection of each example, None where it was missed.
        vectors: by embedder, source and crop, ``(n, dim)`` unit rows; NaN where there is no crop.
    """

    data: CropSet
    photos: Ints
    detections: Mapping[str, Sequence[Detection | None]]
    vectors: dict[tuple[str, str, str], Vectors]

    def found(self, source: str) -> Flags:
        """Return which examples a source of detections did not miss, ``(n,)``."""
        return np.array([one is not None for one in self.detections[source]], np.bool_)

    def similarities(self, condition: Condition, queries: Ints, gallery: Ints) -> NDArray[np.float32]:
        """Return the similarities of queries and gallery, ``(q, g)``; minus infinity for what must not or cannot match.

        A missed garment cannot match; other items in the query's photo, and the query itself, must not.
        """
        query, other = (self.vectors[key] for key in condition.keys)
        similar = np.round(query[queries] @ other[gallery].T, 6)  # so that equal vectors tie, however sums are rounded
        items, photos = numbered([one.item for one in self.data.examples]), self.photos
        excluded = (photos[queries][:, None] == photos[gallery]) & (items[queries][:, None] != items[gallery])
        excluded |= np.isnan(similar) | (queries[:, None] == gallery)
        return np.where(excluded, -np.inf, similar).astype(np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class SetResults:
    """The outcomes of the same queries under every condition.

    Attributes:
        data: name of the set.
        clutter: of its backgrounds; None if unknown, or for several sets together.
        among: :data:`ALL` or :data:`FOUND_BY_ALL`.
        rows: of the queries in the set; without meaning for several sets together.
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

    def rows_of(
        self,
        first: Condition,
        second: Condition | None = None,
        compared: str = "",
        *,
        seed: int = 0,
        cost: CropCost | None = None,
    ) -> Iterator[CropRow]:
        """Yield a row of all queries, then one of each label if there are several."""
        scores, floor = self.scores(first), 0.0
        if second:
            scores, floor = scores - self.scores(second), -1.0
        labels, units = np.array(self.labels), numbered(self.units)
        missed = self.missed.get(first.detections, np.zeros(len(units), np.bool_))
        names = sorted({*self.labels} - {""})
        for label in ("", *(names if len(names) > 1 else ())):
            chosen = labels == label if label else np.ones(len(labels), np.bool_)
            estimates = [mean_estimate(row[chosen], units[chosen], seed=seed, floor=floor) for row in scores]
            yield CropRow(
                data=self.data,
                clutter=self.clutter,
                among=self.among,
                label=label,
                queries=int(chosen.sum()),
                missed=int(missed[chosen].sum()),
                first=first,
                second=second,
                compared=compared,
                cost=cost,
                **dict(zip(("recall_1", "recall_5", "recall_20", "map_at_r"), estimates, strict=True)),
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class CropRow:
    """How good the condition ``first`` is on a set of queries, or by how much it is better than ``second``.

    Two conditions differ in what ``compared`` names: the crop; the detector (and perhaps the crop); or the training of
    the embedder, each with the crop that it was trained on. ``label`` is empty for all queries; ``missed`` counts those
    that the detector of ``first`` missed. ``cost`` is that of ``first``, where it is the same crop on both sides. See
    :class:`SetResults` for the other fields.
    """

    data: str
    clutter: float | None
    among: str
    label: str
    queries: int
    missed: int
    first: Condition
    second: Condition | None = None
    compared: str = ""
    recall_1: Estimate
    recall_5: Estimate
    recall_20: Estimate
    map_at_r: Estimate
    cost: CropCost | None = None


class CropCost(NamedTuple):
    """The median milliseconds per photo of detector, crop and embedder together, and the growth of a process in MB.

    Photos are taken one at a time. The process analyses some photos, networks included; None if it was not measured.
    """

    ms: float
    peak_mb: float | None


@dataclass(frozen=True, slots=True, eq=False)
class CropComparison:
    """Rows of figures and of paired differences, and the results and vectors that they were made from.

    They follow from data, stages and seed, except for costs, which are of this machine. ``results`` has each set at each
    clutter, and sets of one name together.
    """

    figures: tuple[CropRow, ...]
    differences: tuple[CropRow, ...]
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
    memory: bool = False,
    progress: Callable[[str], None] = lambda _: None,
) -> CropComparison:
    """Compare ways to crop garments on the same photos, detections and queries.

    Args:
        data: sets of photos; those of one name differ in clutter and are also taken together.
        stages: detectors and embedders; by default those with shipped weights.
        seed: of the bootstrap.
        timed_photos: how many photos of the first set are timed.
        memory: whether to measure peak memory in separate processes; a script then needs its
            ``if __name__ == "__main__"``.
        progress: called with what is being done.

    Raises:
        ValueError: there is no data, or nothing would be timed.
        CatalogueError: no item of a set has two photos, or labels match nothing that a detector finds.
        ImageError: a photo cannot be read.
    """
    if not data or timed_photos < 1:
        raise ValueError("comparing crops needs at least one set and one timed photo")
    stages = stages or CropStages.build()
    embedded = [embed_set(one.checked(stages.detectors), stages.detectors, stages.embedders, progress) for one in data]
    progress("searching")
    levels: dict[tuple[str, str], list[SetResults]] = defaultdict(list)
    for one in embedded:
        for among in (ALL, FOUND_BY_ALL):
            if results := search_set(one, list(stages.embedders), among):
                levels[results.data, among].append(results)
    every = [one for some in levels.values() for one in (*some, *([_together(some)] if len(some) > 1 else []))]
    first = [one for one in data if one.name == data[0].name]
    photos = first[len(first) // 2].photos
    numbers = np.linspace(0, len(photos) - 1, min(timed_photos, len(photos))).round().astype(int)
    costs = measure_costs([photos[number].read() for number in numbers], stages, memory=memory, progress=progress)
    return CropComparison(
        tuple(
            row
            for one in every
            for condition in one.outcomes
            for row in one.rows_of(condition, seed=seed, cost=costs.get(condition))
        ),
        tuple(row for one in every for pair in _pairs(one, stages.trained_on) for row in one.rows_of(*pair, seed=seed)),
        tuple(every),
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
    detections: dict[str, list[Detection | None]] = {one: [] for one in ([TRUTH] if data.annotated else [])}
    detections |= {name: [] for name in detectors}
    keys = [(source, crop) for source in detections for crop in CROPS if crop != WHOLE]
    keys += [(NONE, WHOLE)] if data.whole else []
    count = len(data.examples)
    vectors = {
        (name, *key): np.full((count, embedders[name].dim), np.nan, np.float32)
        for name, key in product(embedders, keys)
    }
    photos: list[int] = []
    for number, photo in enumerate(data.photos):
        image, first = photo.read(), len(photos)
        photos += [number] * len(photo.examples)
        cut = [(NONE, WHOLE, row, image) for row in range(first, len(photos) if data.whole else first)]
        for source, of_photo in _detect_examples(data, photo, image, detectors):
            detections[source] += of_photo
            for crop in (crop for crop in CROPS if crop != WHOLE):
                cut += [(source, crop, first + place, one) for place, one in crop_examples(image, of_photo, crop)]
        for name, embedder in embedders.items():
            for (source, crop, row, _), vector in zip(cut, embedder([pixels for *_, pixels in cut]), strict=True):
                vectors[name, source, crop][row] = vector
        if (number + 1) % 20 == 0 or number + 1 == len(data.photos):
            progress(f"{data.title}: {number + 1} of {len(data.photos)} photos")
    for name, source in product(embedders, detections):
        total = vectors[name, source, MASK] + vectors[name, source, BOX]
        length = np.linalg.norm(total, axis=1, keepdims=True)
        vectors[name, source, AVERAGE] = (total / np.where(length == 0, 1, length)).astype(np.float32)
        if not any(detections[source]) or any(one and one.mask is None for one in detections[source]):
            for crop in (*MASKS, AVERAGE):  # a mask that only some garments have compares nothing
                del vectors[name, source, crop]
    return EmbeddedSet(data, np.array(photos, np.int64), detections, vectors)


def _detect_examples(
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
        (example.truth.box.iou(detection.box), number, other)
        for number, example in enumerate(examples)
        for other, detection in enumerate(detections)
        if example.truth is not None and example.label in ("", detection.label)
    ]
    chosen: dict[int, int] = {}
    for overlap, number, other in sorted(pairs, key=lambda pair: -pair[0]):
        if overlap >= IOU and number not in chosen and other not in chosen.values():
            chosen[number] = other
    return [detections[chosen[number]] if number in chosen else None for number in range(len(examples))]


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
    examples, found = embedded.data.examples, {source: embedded.found(source) for source in embedded.detections}
    items, counted = numbered([one.item for one in examples]), np.ones(len(examples), np.bool_)
    if among == FOUND_BY_ALL:
        counted = reduce(np.logical_and, (some for source, some in found.items() if source != TRUTH), counted)
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
        {source: ~some[queries] for source, some in found.items()},
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


def measure_costs(
    images: Sequence[Image], stages: CropStages, *, memory: bool, progress: Callable[[str], None] = lambda _: None
) -> dict[Condition, CropCost]:
    """Measure the time, and perhaps the memory, that each combination of detector, crop and embedder takes."""
    progress("timing")
    ms: defaultdict[Condition, list[float]] = defaultdict(list)
    for image in (images[0], *images):  # the first twice, because the first call of a network is slow
        for source, detector in (NONE, None), *stages.detectors.items():
            start = perf_counter()
            detections = detector([image])[0] if detector else []
            detect_s = perf_counter() - start
            masks = (*MASKS, AVERAGE) if all(one.mask is not None for one in detections) else ()
            crops = (BOX, CONTEXT, *masks) if detector else (WHOLE,)
            for crop in crops:
                for name, embedder in stages.embedders.items():
                    start = perf_counter()
                    for part in (MASK, BOX) if crop == AVERAGE else (crop,):
                        embedder([pixels for _, pixels in crop_examples(image, detections, part)] or [image])
                    ms[Condition.same(name, source, crop)].append(1000 * (detect_s + perf_counter() - start))
    spec, images = next(iter(stages.specs.values())), list(images)
    peaks: dict[tuple[str, str], float | None] = {}
    for one in ms if memory else ():
        if one.query == _memory_like(one.query) and (one.detections, one.query) not in peaks:
            progress(f"memory: {one.detections} {one.query}")
            with ProcessPoolExecutor(1, get_context("spawn")) as process:
                growth = process.submit(_memory_growth, one.detections, one.query, spec, images)
                peaks[one.detections, one.query] = growth.result()
    return {
        one: CropCost(round(median(values[1:]), 2), peaks.get((one.detections, _memory_like(one.query))))
        for one, values in ms.items()
    }


def _memory_like(crop: str) -> str:
    """Return the crop whose memory is measured for this one."""
    return WHOLE if crop == WHOLE else MASK if crop in (*MASKS, AVERAGE) else BOX


def _memory_growth(source: str, crop: str, spec: str, images: Sequence[Image]) -> float | None:
    """Return by how many MB this fresh process grows at most while it analyses photos; None if the system hides it."""
    import stages.detect.rcnn  # noqa: PLC0415  modules are loaded before the measurement
    import stages.embed.siamese  # noqa: F401, PLC0415

    before = _process_mb("VmRSS")
    embedder = build_embedder(_config(spec))
    detector = None if source == NONE else build_detector(Config(detector=source))
    for image in images:
        embedder([image] if detector is None else [one.image for one in CROPS[crop]([image], detector([image]))[0]])
    peak = _process_mb("VmHWM")  # not that of getrusage, which a process inherits from its parent
    return None if before is None or peak is None else round(max(0.0, peak - before), 1)


def _process_mb(field: str) -> float | None:
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    except (OSError, ValueError):
        return None
    return next((1024 * int(line.split()[1]) / 1e6 for line in lines if line.startswith(field)), None)


def _config(spec: str) -> Config:
    """Return the config of the embedder ``NAME`` or ``NAME=WEIGHTS``; with weights, an unknown name is a Siamese network.

    >>> _config("mine=run/weights.safetensors").embedder, _config("features-resnet50").embedder
    ('siamese', 'features-resnet50')
    """
    name, _, file = spec.partition("=")
    known = name in EMBEDDERS or ":" in name or name.startswith("features-")
    return Config(embedder=name if known or not file else "siamese", embedder_weights=Path(file) if file else None)


def _trained_on(name: str, config: Config) -> str:
    """Return the crop that an embedder's weights say they were trained on."""
    if config.embedder.startswith("features"):
        return "nothing but ImageNet"
    if config.embedder_weights:
        return weights.read(config.embedder_weights).metadata.get("crop", UNKNOWN)
    return weights.load(name).metadata.get("crop", UNKNOWN) if name in weights.manifest() else UNKNOWN


def _conditions(embedders: Sequence[str], embedded: EmbeddedSet) -> Iterator[Condition]:
    """Yield the conditions for which there are crops."""
    crops = [*((crop, crop) for crop in (*CROPS, AVERAGE) if crop != WHOLE), *MIXED]
    for embedder in embedders:
        possible = [Condition(embedder, source, *pair) for source in embedded.detections for pair in crops]
        for condition in (Condition.same(embedder, NONE, WHOLE), *possible):
            if all(key in embedded.vectors for key in condition.keys):
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


def _pairs(results: SetResults, trained_on: Mapping[str, str]) -> Iterator[tuple[Condition, Condition, str]]:
    """Yield the pairs of conditions to compare, and what differs; the first costs more, so it has to be worth it."""
    same = Condition.same
    embedders = list(dict.fromkeys(condition.embedder for condition in results.outcomes))
    masked = [one for one in results.missed if same(embedders[0], one, MASK) in results.outcomes]
    boxed = [one for one in results.missed if one not in (*masked, TRUTH)]
    pairs = [
        (same(name, source, crop), same(name, source, BOX), "crop")
        for name in embedders
        for source in results.missed
        for crop in dict.fromkeys((MASK, *MASKS, AVERAGE, CONTEXT))
    ]
    pairs += [
        (same(name, heavy, crop), same(name, light, BOX), "detector")
        for name in embedders
        for heavy in masked
        for light in boxed
        for crop in (MASK, BOX)
        if heavy != TRUTH
    ]
    by_crop = {crop: name for name, crop in trained_on.items() if name in embedders}
    if {"mask", "box"} <= by_crop.keys():
        mask, box = by_crop["mask"], by_crop["box"]
        pairs += [(same(mask, source, MASK), same(box, source, BOX), "training") for source in masked]
    yield from (pair for pair in pairs if pair[0] in results.outcomes and pair[1] in results.outcomes)


def clutter_effect(levels: Sequence[SetResults], first: Condition, second: Condition, seed: int) -> Estimate | None:
    """Return the change of a difference in recall@1 from least to most clutter; None if the queries are not the same."""
    plain, cluttered = levels[0], levels[-1]
    if plain.units != cluttered.units or plain.labels != cluttered.labels:
        return None
    change = [(one.scores(first) - one.scores(second))[0] for one in (cluttered, plain)]
    return mean_estimate(change[0] - change[1], numbered(plain.units), seed=seed, floor=-2.0)
