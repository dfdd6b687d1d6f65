"""Compare mask crops with box crops: detect once, crop in several ways, embed, search, and measure the differences.

Every query is searched under every condition. A garment that its detector missed is a failure, whether it is the query or
the answer; figures over the garments that all detectors found are given as well. Differences are paired by query.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Final

import numpy as np
from numpy.typing import NDArray

import weights
from pipeline.config import EMBEDDERS, Config, build_detector, build_embedder
from pipeline.crop_benchmark_data import CropSet, Example
from pipeline.evaluation import match_greedily
from pipeline.pipeline import main_garment
from stages.crop import BoxCrop, MaskCrop, WholeCrop
from stages.embed.data import numbered
from stages.embed.metrics import Estimate, Flags, Floats, Ints, mean_estimate, retrieve
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
"""Boxes and masks have the same margin of 5 %, so that only the background differs."""

ALL, FOUND_BY_ALL = "all", "found by all detectors"
"""Which garments count: every one, or those that no detector missed."""

RANKS: Final = (1, 5, 20)
IOU: Final = 0.5
"""The smallest intersection over union of boxes at which a detection belongs to a garment."""

DETECTORS: Final = ("maskrcnn_mobilenet_v2", "fasterrcnn_mobilenet_v2")
UNKNOWN: Final = "unknown"


@dataclass(frozen=True, slots=True, eq=False)
class CropStages:
    """The detectors and embedders to compare, by name; the verdict is about the first embedder.

    ``trained_on`` is the crop that each embedder was trained on, according to its weights.
    """

    detectors: dict[str, Detector]
    embedders: dict[str, Embedder]
    trained_on: dict[str, str]

    @classmethod
    def build(cls, detectors: Sequence[str] = DETECTORS, embedders: Sequence[str] = ()) -> CropStages:
        """Build stages by name; an embedder is ``NAME`` or ``NAME=WEIGHTS``, by default all with shipped weights.

        Raises:
            ValueError: a name is unknown or given twice.
            StageError, WeightsError: a stage cannot be built.
        """
        specs = embedders or [name for name in EMBEDDERS if name in weights.manifest()]
        names = [spec.partition("=")[0] for spec in specs]
        for name, count in Counter((*detectors, *names)).items():
            if count > 1:
                raise ValueError(f"two stages are called {name!r}; give each a different name: NAME=WEIGHTS")
        configs = dict(zip(names, map(_config, specs), strict=True))
        return cls(
            {name: build_detector(Config(detector=name)) for name in detectors},
            {name: build_embedder(config) for name, config in configs.items()},
            {name: _trained_on(name, config) for name, config in configs.items()},
        )


def _config(spec: str) -> Config:
    """Return the config of the embedder ``NAME`` or ``NAME=WEIGHTS``; with weights, an unknown name is a Siamese network.

    >>> _config("mine=run/weights.safetensors").embedder, _config("features-resnet50").embedder
    ('siamese', 'features-resnet50')
    """
    name, _, file = spec.partition("=")
    known = name in EMBEDDERS or ":" in name or name.startswith("features-")
    return Config(embedder=name if known or not file else "siamese", embedder_weights=Path(file) if file else None)


def _trained_on(name: str, config: Config) -> str:
    if config.embedder.startswith("features"):
        return "nothing but ImageNet"
    if config.embedder_weights:
        return weights.read(config.embedder_weights).metadata.get("crop", UNKNOWN)
    return weights.load(name).metadata.get("crop", UNKNOWN) if name in weights.manifest() else UNKNOWN


@dataclass(frozen=True, slots=True, order=True)
class Condition:
    """One way to search: queries and gallery are cropped alike, from the same detections.

    >>> str(Condition("siamese", "truth", "mask-white"))
    'siamese, truth: mask-white'
    """

    embedder: str
    detections: str
    crop: str

    def __str__(self) -> str:
        return f"{self.embedder}, {self.detections}: {self.crop}"


@dataclass(frozen=True, slots=True, eq=False)
class EmbeddedSet:
    """A set with the vectors of all its crops; row k of every array is of example k.

    Attributes:
        data: the set.
        photos: ``(n,)``, the number of each example's photo.
        detections: by source, the detection of each example, None where it was missed.
        vectors: by condition, ``(n, dim)`` unit rows; NaN where there is no crop.
    """

    data: CropSet
    photos: Ints
    detections: Mapping[str, Sequence[Detection | None]]
    vectors: Mapping[Condition, Vectors]

    def missed(self, source: str) -> Flags:
        """Return which examples a source of detections missed, ``(n,)``."""
        return np.array([detection is None for detection in self.detections[source]], np.bool_)

    def similarities(self, condition: Condition, queries: Ints, gallery: Ints) -> NDArray[np.float32]:
        """Return the similarities of queries and gallery, ``(q, g)``; minus infinity for pairs that must not match.

        Missed garments match nothing; the query itself and other items in its photo are excluded.
        """
        vectors, photos = self.vectors[condition], self.photos
        similar = np.round(vectors[queries] @ vectors[gallery].T, 6)  # equal vectors tie, however sums are rounded
        items = numbered([example.item for example in self.data.examples])
        excluded = (photos[queries][:, None] == photos[gallery]) & (items[queries][:, None] != items[gallery])
        excluded |= np.isnan(similar) | (queries[:, None] == gallery)
        return np.where(excluded, -np.inf, similar).astype(np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class SetResults:
    """The outcomes of the same queries under every condition, of a set or of all sets of one name together.

    Attributes:
        data: name of the set.
        clutter: of its backgrounds; None if unknown, or for several sets.
        among: :data:`ALL` or :data:`FOUND_BY_ALL`.
        rows: of the queries in the set; without meaning for several sets.
        units: of the queries; the bootstrap resamples them.
        missed: by source of detections, which queries it missed.
        outcomes: by condition, ``(2, q)``: the rank of the first right answer (``UNREACHED`` if it was missed), and the
            average precision at R.
    """

    data: str
    clutter: float | None
    among: str
    rows: Ints
    units: tuple[str, ...]
    missed: Mapping[str, Flags]
    outcomes: Mapping[Condition, Floats]

    def scores(self, condition: Condition) -> Floats:
        """Return hits at each of :data:`RANKS` and the average precision, ``(4, q)``."""
        ranks, precisions = self.outcomes[condition]
        return np.stack([*((ranks <= k).astype(np.float64) for k in RANKS), precisions])


@dataclass(frozen=True, slots=True)
class CropRow:
    """How good the condition ``first`` is on a set of queries, or by how much it is better than ``second``.

    ``compared`` says how two conditions differ: in the ``crop``, in the ``detector`` and perhaps the crop, or in the
    ``training`` of the embedder, each with the crop that it was trained on. ``missed`` counts the queries that the
    detector of ``first`` missed. ``ms`` is the median time per photo of detector, crop and embedder of ``first``; None
    for a difference. See :class:`SetResults` for the other fields.
    """

    data: str
    clutter: float | None
    among: str
    queries: int
    missed: int
    first: Condition
    second: Condition | None
    compared: str
    recall_1: Estimate
    recall_5: Estimate
    recall_20: Estimate
    map_at_r: Estimate
    ms: float | None


@dataclass(frozen=True, slots=True, eq=False)
class CropComparison:
    """Rows of figures and of paired differences, and the results and vectors that they were made from.

    All but times follows from data, stages and seed. ``results`` has each set at each clutter, and sets of one name
    together.
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
        return list(dict.fromkeys(results.data for results in self.results))


def benchmark_crops(
    data: Sequence[CropSet],
    stages: CropStages | None = None,
    *,
    seed: int = 0,
    timed_photos: int = 8,
    progress: Callable[[str], None] = lambda _: None,
) -> CropComparison:
    """Compare ways to crop garments on the same photos, detections and queries.

    Args:
        data: sets of photos; those of one name differ in clutter and are also taken together.
        stages: detectors and embedders; by default those with shipped weights.
        seed: of the bootstrap.
        timed_photos: how many photos of the first set are timed.
        progress: called with the current step, in words.

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
    for one, among in product(embedded, (ALL, FOUND_BY_ALL)):
        if result := search_set(one, among):
            levels[result.data, among].append(result)
    results = [one for some in levels.values() for one in (*some, *([_together(some)] if len(some) > 1 else []))]
    progress("timing")
    timed = [one for one in data if one.name == data[0].name]
    photos = timed[len(timed) // 2].photos
    numbers = np.linspace(0, len(photos) - 1, min(timed_photos, len(photos))).round().astype(int)
    ms = measure_ms([photos[number].read() for number in numbers], stages)
    figures = [_row(one, (first, None, ""), seed, ms.get(first)) for one in results for first in one.outcomes]
    differences = [_row(one, pair, seed) for one in results for pair in _pairs(one, stages.trained_on)]
    return CropComparison(tuple(figures), tuple(differences), tuple(results), tuple(embedded), stages.trained_on, seed)


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
    sources = ([TRUTH] if data.annotated else []) + list(detectors)
    detections: dict[str, list[Detection | None]] = {source: [] for source in sources}
    keys = [(NONE, WHOLE)] if data.whole else []
    keys += [(source, crop) for source in sources for crop in (*CROPS, AVERAGE) if crop != WHOLE]
    vectors = {
        Condition(name, *key): np.full((len(data.examples), embedder.dim), np.nan, np.float32)
        for (name, embedder), key in product(embedders.items(), keys)
    }
    photos: list[int] = []
    for number, photo in enumerate(data.photos):
        image, first = photo.read(), len(photos)
        photos += [number] * len(photo.examples)
        cut = [(NONE, WHOLE, row, image) for row in range(first, len(photos) if data.whole else first)]
        for source in sources:
            present = _detect_examples(data, photo.examples, image, detectors.get(source))
            detections[source] += present
            for crop in (crop for crop in CROPS if crop != WHOLE):
                cut += [(source, crop, first + place, pixels) for place, pixels in crop_examples(image, present, crop)]
        for name, embedder in embedders.items():
            for (source, crop, row, _), vector in zip(cut, embedder([pixels for *_, pixels in cut]), strict=True):
                vectors[Condition(name, source, crop)][row] = vector
        if (number + 1) % 20 == 0 or number + 1 == len(data.photos):
            clutter = "" if data.clutter is None else f", clutter {data.clutter:g}"
            progress(f"{data.name}{clutter}: {number + 1} of {len(data.photos)} photos")
    for name, source in product(embedders, sources):
        total = vectors[Condition(name, source, MASK)] + vectors[Condition(name, source, BOX)]
        length = np.linalg.norm(total, axis=1, keepdims=True)
        vectors[Condition(name, source, AVERAGE)] = (total / np.where(length == 0, 1, length)).astype(np.float32)
        if not any(detections[source]) or any(one and one.mask is None for one in detections[source]):
            for crop in (*MASKS, AVERAGE):  # masks of only some garments cannot be compared
                del vectors[Condition(name, source, crop)]
    return EmbeddedSet(data, np.array(photos, np.int64), detections, vectors)


def _detect_examples(
    data: CropSet, examples: Sequence[Example], image: Image, detector: Detector | None
) -> list[Detection | None]:
    """Return the detection of each example, None for those that were missed; without detector, the annotations."""
    if detector is None:
        return [example.truth for example in examples]
    (detections,) = detector([image])
    if data.annotated:
        return match_detections(examples, detections)
    main = main_garment(detections, image)
    missed = main.label == WHOLE_LABEL and WHOLE_LABEL not in detector.labels
    return [None if missed else main for _ in examples]


def match_detections(examples: Sequence[Example], detections: Sequence[Detection]) -> list[Detection | None]:
    """Return each example's detection: same label, an overlap of :data:`IOU`, best overlap first, each only once."""
    matches = match_greedily(
        (-overlap, number, other)
        for number, example in enumerate(examples)
        for other, detection in enumerate(detections)
        if example.truth is not None and example.label in ("", detection.label)
        if (overlap := example.truth.box.iou(detection.box)) >= IOU
    )
    return [detections[matches[number]] if number in matches else None for number in range(len(examples))]


def crop_examples(image: Image, detections: Sequence[Detection | None], crop: str) -> list[tuple[int, Image]]:
    """Return the crops of the detected examples with their numbers; a mask crop needs a mask."""
    present = [
        (number, detection)
        for number, detection in enumerate(detections)
        if detection is not None and (crop not in MASKS or detection.mask is not None)
    ]
    (crops,) = CROPS[crop]([image], [[detection for _, detection in present]])
    return [(number, one.image) for (number, _), one in zip(present, crops, strict=True)]


def search_set(embedded: EmbeddedSet, among: str = ALL) -> SetResults | None:
    """Search every query under every condition; None if no query has an answer."""
    examples = embedded.data.examples
    missed = {source: embedded.missed(source) for source in embedded.detections}
    by_detectors = [flags for source, flags in missed.items() if source != TRUTH and among == FOUND_BY_ALL]
    counted = ~np.any([np.zeros(len(examples), np.bool_), *by_detectors], axis=0)
    is_query, in_gallery = np.array([(one.is_query, one.in_gallery) for one in examples], np.bool_).T & counted
    items = numbered([example.item for example in examples])
    try:
        retrieved = {
            one: retrieve(partial(embedded.similarities, one), items, is_query, in_gallery) for one in embedded.vectors
        }
    except ValueError:
        return None
    queries = next(iter(retrieved.values())).queries
    return SetResults(
        embedded.data.name,
        embedded.data.clutter,
        among,
        queries,
        tuple(examples[row].unit or examples[row].item for row in queries),
        {source: flags[queries] for source, flags in missed.items()},
        {one: np.stack([result.ranks, result.average_precisions]) for one, result in retrieved.items()},
    )


def _together(levels: Sequence[SetResults]) -> SetResults:
    """Return the queries of several sets of one name as one."""
    first = levels[0]
    shared = [condition for condition in first.outcomes if all(condition in level.outcomes for level in levels)]
    return replace(
        first,
        clutter=None,
        units=tuple(unit for level in levels for unit in level.units),
        missed={source: np.concatenate([level.missed[source] for level in levels]) for source in first.missed},
        outcomes={one: np.concatenate([level.outcomes[one] for level in levels], axis=1) for one in shared},
    )


def measure_ms(images: Sequence[Image], stages: CropStages) -> dict[Condition, float]:
    """Return the median milliseconds per photo of each combination of detector, crop and embedder."""
    ms: defaultdict[Condition, list[float]] = defaultdict(list)
    for image in (images[0], *images):  # the first twice, because the first call of a network is slow
        for source, detector in (NONE, None), *stages.detectors.items():
            start = perf_counter()
            detections = detector([image])[0] if detector else []
            detect_s = perf_counter() - start
            masks = (*MASKS, AVERAGE) if all(one.mask is not None for one in detections) else ()
            crops = (BOX, CONTEXT, *masks) if detector else (WHOLE,)
            for crop, (name, embedder) in product(crops, stages.embedders.items()):
                start = perf_counter()
                for part in (MASK, BOX) if crop == AVERAGE else (crop,):
                    embedder([pixels for _, pixels in crop_examples(image, detections, part)] or [image])
                ms[Condition(name, source, crop)].append(1000 * (detect_s + perf_counter() - start))
    return {condition: round(median(values[1:]), 2) for condition, values in ms.items()}


def _row(
    results: SetResults, compared: tuple[Condition, Condition | None, str], seed: int, ms: float | None = None
) -> CropRow:
    """Return the figures of a condition, or their differences from a second one's."""
    first, second, _ = compared
    scores, floor = (results.scores(first) - results.scores(second), -1.0) if second else (results.scores(first), 0.0)
    units = numbered(results.units)
    at_1, at_5, at_20, map_at_r = (mean_estimate(values, units, seed=seed, floor=floor) for values in scores)
    missed = int(results.missed[first.detections].sum()) if first.detections != NONE else 0
    about = results.data, results.clutter, results.among, len(units), missed
    return CropRow(*about, *compared, at_1, at_5, at_20, map_at_r, ms)


def _pairs(results: SetResults, trained_on: Mapping[str, str]) -> Iterator[tuple[Condition, Condition, str]]:
    """Yield pairs of conditions and what differs; the first costs more, so it has to be better to be worth it."""
    sources = list(results.missed)
    masked = [one for one in sources if Condition(next(iter(trained_on)), one, MASK) in results.outcomes]
    boxed = [one for one in sources if one not in (*masked, TRUTH)]
    pairs = [
        (Condition(name, source, crop), Condition(name, source, BOX), "crop")
        for name, source, crop in product(trained_on, sources, (MASK, "mask-mean", "mask-blur", AVERAGE, CONTEXT))
    ]
    pairs += [
        (Condition(name, heavy, crop), Condition(name, light, BOX), "detector")
        for name, heavy, light, crop in product(trained_on, masked, boxed, (MASK, BOX))
        if heavy != TRUTH
    ]
    by_crop = {crop: name for name, crop in trained_on.items()}
    if {"mask", "box"} <= by_crop.keys():
        pairs += [
            (Condition(by_crop["mask"], source, MASK), Condition(by_crop["box"], source, BOX), "training")
            for source in masked
        ]
    yield from (pair for pair in pairs if pair[0] in results.outcomes and pair[1] in results.outcomes)
