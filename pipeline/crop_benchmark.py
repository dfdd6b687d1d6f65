"""Compare mask crops with box crops: detect once, crop in several ways, embed, search, and measure the differences.

Every query is searched under every condition. A garment that its detector missed is a failure, whether it is the query or
the answer; figures over the garments that all detectors found stand beside. Differences are paired over the same queries.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial, reduce
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
"""Box and masks have the same margin of 5 %, so that only the background differs."""

ALL, FOUND_BY_ALL = "all", "found by all detectors"
"""Which garments count: every one, or those that no detector missed."""

RANKS: Final = (1, 5, 20)
IOU: Final = 0.5
"""A detection is of a garment if the intersection over union of their boxes is at least this."""

DETECTORS: Final = ("maskrcnn_mobilenet_v2", "fasterrcnn_mobilenet_v2")
UNKNOWN: Final = "unknown"


@dataclass(frozen=True, slots=True, eq=False)
class CropStages:
    """The detectors and embedders that are compared, by name; the verdict is about the first embedder.

    ``trained_on`` is the crop that each embedder's weights say they were trained on.
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
                raise ValueError(f"two stages are called {name!r}; give each its own name: NAME=WEIGHTS")
        configs = dict(zip(names, map(_config, specs), strict=True))
        return cls(
            {name: build_detector(Config(detector=name)) for name in detectors},
            {name: build_embedder(config) for name, config in configs.items()},
            {name: _trained_on(name, config) for name, config in configs.items()},
        )


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

    def found(self, source: str) -> Flags:
        """Return which examples a source of detections did not miss, ``(n,)``."""
        return np.array([one is not None for one in self.detections[source]], np.bool_)

    def similarities(self, condition: Condition, queries: Ints, gallery: Ints) -> NDArray[np.float32]:
        """Return the similarities of queries and gallery, ``(q, g)``; minus infinity for what must not or cannot match.

        A missed garment cannot match; other items in the query's photo, and the query itself, must not.
        """
        vectors = self.vectors[condition]
        similar = np.round(
            vectors[queries] @ vectors[gallery].T, 6
        )  # so that equal vectors tie, however sums are rounded
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
        units: of the queries, what the bootstrap resamples.
        missed: by source of detections, which queries it missed.
        outcomes: by condition, ``(2, q)``: the rank of the first right answer (``UNREACHED`` if it was missed); average precision at R.
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

    def row(
        self,
        first: Condition,
        second: Condition | None = None,
        compared: str = "",
        *,
        seed: int,
        ms: float | None = None,
    ) -> CropRow:
        """Return the figures of a condition, or their differences from a second one's."""
        scores, floor = (self.scores(first) - self.scores(second), -1.0) if second else (self.scores(first), 0.0)
        units = numbered(self.units)
        at_1, at_5, at_20, map_at_r = (mean_estimate(one, units, seed=seed, floor=floor) for one in scores)
        missed = int(self.missed[first.detections].sum()) if first.detections != NONE else 0
        about = (self.data, self.clutter, self.among, len(units), missed)
        return CropRow(*about, first, second, compared, at_1, at_5, at_20, map_at_r, ms)


@dataclass(frozen=True, slots=True)
class CropRow:
    """How good the condition ``first`` is on a set of queries, or by how much it is better than ``second``.

    Two conditions differ in what ``compared`` names: the crop; the detector (and perhaps the crop); or the training of
    the embedder, each with the crop that it was trained on. ``missed`` counts the queries that the detector of ``first``
    missed. ``ms`` is the median time of ``first`` per photo, for detector, crop and embedder together, photos taken one
    at a time; None for a difference. See :class:`SetResults` for the other fields.
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

    They follow from data, stages and seed, except for times, which are of this machine. ``results`` has each set at each
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
    progress: Callable[[str], None] = lambda _: None,
) -> CropComparison:
    """Compare ways to crop garments on the same photos, detections and queries.

    Args:
        data: sets of photos; those of one name differ in clutter and are also taken together.
        stages: detectors and embedders; by default those with shipped weights.
        seed: of the bootstrap.
        timed_photos: how many photos of the first set are timed.
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
            if results := search_set(one, among):
                levels[results.data, among].append(results)
    every = [one for some in levels.values() for one in (*some, *([_together(some)] if len(some) > 1 else []))]
    progress("timing")
    first = [one for one in data if one.name == data[0].name]
    photos = first[len(first) // 2].photos
    numbers = np.linspace(0, len(photos) - 1, min(timed_photos, len(photos))).round().astype(int)
    ms = measure_ms([photos[number].read() for number in numbers], stages)
    return CropComparison(
        tuple(one.row(condition, seed=seed, ms=ms.get(condition)) for one in every for condition in one.outcomes),
        tuple(one.row(*pair, seed=seed) for one in every for pair in _pairs(one, stages.trained_on)),
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
                cut += [(source, crop, first + place, one) for place, one in crop_examples(image, present, crop)]
        for name, embedder in embedders.items():
            for (source, crop, row, _), vector in zip(cut, embedder([pixels for *_, pixels in cut]), strict=True):
                vectors[Condition(name, source, crop)][row] = vector
        if (number + 1) % 20 == 0 or number + 1 == len(data.photos):
            progress(f"{data.title}: {number + 1} of {len(data.photos)} photos")
    for name, source in product(embedders, sources):
        total = vectors[Condition(name, source, MASK)] + vectors[Condition(name, source, BOX)]
        length = np.linalg.norm(total, axis=1, keepdims=True)
        vectors[Condition(name, source, AVERAGE)] = (total / np.where(length == 0, 1, length)).astype(np.float32)
        if not any(detections[source]) or any(one and one.mask is None for one in detections[source]):
            for crop in (*MASKS, AVERAGE):  # a mask that only some garments have compares nothing
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


def search_set(embedded: EmbeddedSet, among: str = ALL) -> SetResults | None:
    """Search every query under every condition; None if no query has an answer."""
    examples, found = embedded.data.examples, {source: embedded.found(source) for source in embedded.detections}
    counted = np.ones(len(examples), np.bool_)
    if among == FOUND_BY_ALL:
        counted = reduce(np.logical_and, (some for source, some in found.items() if source != TRUTH), counted)
    items = numbered([one.item for one in examples])
    is_query, in_gallery = np.array([(one.is_query, one.in_gallery) for one in examples], np.bool_).T & counted
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
        {source: ~some[queries] for source, some in found.items()},
        {one: np.stack([result.ranks, result.average_precisions]) for one, result in retrieved.items()},
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


def _pairs(results: SetResults, trained_on: Mapping[str, str]) -> Iterator[tuple[Condition, Condition, str]]:
    """Yield the pairs of conditions to compare, and what differs; the first costs more, so it has to be worth it."""
    sources = list(results.missed)
    masked = [one for one in sources if Condition(next(iter(trained_on)), one, MASK) in results.outcomes]
    boxed = [one for one in sources if one not in (*masked, TRUTH)]
    crops = (MASK, "mask-mean", "mask-blur", AVERAGE, CONTEXT)
    pairs = [
        (Condition(name, source, crop), Condition(name, source, BOX), "crop")
        for name, source, crop in product(trained_on, sources, crops)
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


def clutter_effect(levels: Sequence[SetResults], first: Condition, second: Condition, seed: int) -> Estimate | None:
    """Return the change of a difference in recall@1 from least to most clutter; None if the queries are not the same."""
    plain, cluttered = levels[0], levels[-1]
    if plain.units != cluttered.units:
        return None
    change = [(one.scores(first) - one.scores(second))[0] for one in (cluttered, plain)]
    return mean_estimate(change[0] - change[1], numbered(plain.units), seed=seed, floor=-2.0)
