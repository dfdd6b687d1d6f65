"""The stages that crops are compared with, and what each combination of them costs."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Final

import weights
from pipeline.config import EMBEDDERS, Config, build_detector, build_embedder
from stages.crop import BoxCrop, MaskCrop, WholeCrop
from stages.protocols import Cropper, Detector, Embedder
from stages.types import Detection, Image

NONE: Final = "none"
"""The source of detections of whole photos, which need none."""

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

PARTS: Final[Mapping[str, tuple[str, ...]]] = {crop: (crop,) for crop in CROPS} | {AVERAGE: (MASK, BOX)}
"""The crops that each kind of crop consists of."""

DETECTORS: Final = ("maskrcnn_mobilenet_v2", "fasterrcnn_mobilenet_v2")
UNKNOWN: Final = "unknown"


@dataclass(frozen=True, slots=True, eq=False)
class CropStages:
    """The detectors and embedders that are compared, by name.

    ``sources`` are the specifications of the embedders, from which another process can build them; ``trained_on`` is the
    crop that each embedder's weights say they were trained on. The verdict is about the first embedder.
    """

    detectors: dict[str, Detector]
    embedders: dict[str, Embedder]
    sources: dict[str, str]
    trained_on: dict[str, str]

    @classmethod
    def build(cls, detectors: Sequence[str] = DETECTORS, embedders: Sequence[str] = ()) -> CropStages:
        """Build stages by name; an embedder is ``NAME`` or ``NAME=WEIGHTS``, by default all with shipped weights.

        Raises:
            ValueError: a name is unknown or given twice.
            StageError, WeightsError: a stage cannot be built.
        """
        named = [
            (spec.partition("=")[0], spec)
            for spec in embedders or [name for name in EMBEDDERS if name in weights.manifest()]
        ]
        for name, count in [*Counter(name for name, _ in named).items(), *Counter(detectors).items()]:
            if count > 1:
                raise ValueError(f"two stages are called {name!r}; give each its own name: NAME=WEIGHTS")
        return cls(
            {name: build_detector(Config(detector=name)) for name in detectors},
            {name: build_embedder(_config(spec)) for name, spec in named},
            dict(named),
            {name: _trained_on(name, _config(spec)) for name, spec in named},
        )


@dataclass(frozen=True, slots=True)
class CropCost:
    """What one photo costs with a detector, a crop and an embedder.

    Milliseconds are medians over photos, one at a time, all candidates taking turns. ``peak_mb`` is the growth of a
    process that analyses some photos, networks included; None if it was not measured. ``garments`` are per photo.
    """

    detections: str
    crop: str
    embedder: str
    garments: float
    detect_ms: float
    crop_ms: float
    embed_ms: float
    peak_mb: float | None

    @property
    def total_ms(self) -> float:
        """The sum of the three stages."""
        return self.detect_ms + self.crop_ms + self.embed_ms


def costs(
    images: Sequence[Image],
    stages: CropStages,
    rounds: int = 2,
    *,
    memory: bool = True,
    progress: Callable[[str], None] = lambda _: None,
) -> list[CropCost]:
    """Measure what each combination of detector, crop and embedder costs on some photos."""
    progress("timing")
    detections = {name: [detector([image])[0] for image in images] for name, detector in stages.detectors.items()}
    masked = {name: all(one.mask is not None for some in found for one in some) for name, found in detections.items()}
    ways = [(NONE, WHOLE)] + [
        (source, crop)
        for source in detections
        for crop in PARTS
        if crop != WHOLE and (masked[source] or crop not in (*MASKS, AVERAGE))
    ]
    ms = _timings(images, stages, detections, ways, rounds)
    peaks = _peaks(ways, images, stages, progress) if memory else {}
    rows = []
    for source, crop in ways:
        kind = MASK if crop in (*MASKS, AVERAGE) else WHOLE if crop == WHOLE else BOX
        garments = 1.0 if source == NONE else round(sum(map(len, detections[source])) / len(images), 1)
        for embedder in stages.embedders:
            detect_ms = ms.get(source, 0.0)
            crop_ms = round(sum(ms.get(f"{source} {part}", 0.0) for part in PARTS[crop]), 2)
            embed_ms = round(len(PARTS[crop]) * ms[f"{source} {embedder}"], 2)
            peak_mb = peaks.get((source, kind))
            rows.append(CropCost(source, crop, embedder, garments, detect_ms, crop_ms, embed_ms, peak_mb))
    return rows


def _timings(
    images: Sequence[Image],
    stages: CropStages,
    detections: Mapping[str, list[list[Detection]]],
    ways: Sequence[tuple[str, str]],
    rounds: int,
) -> dict[str, float]:
    """Return median milliseconds per photo of detectors, of crops (`SOURCE CROP`) and embedders (`SOURCE EMBEDDER`)."""
    jobs: list[list[tuple[str, Callable[[], object]]]] = []
    for place, image in enumerate(images):
        found = {source: each[place] for source, each in detections.items()}
        boxes = {source: CROPS[BOX]([image], [some])[0] for source, some in found.items()}
        pixels = {NONE: [image]} | {source: [one.image for one in crops] for source, crops in boxes.items()}
        turns: dict[str, Callable[[], object]] = {
            name: partial(detector, [image]) for name, detector in stages.detectors.items()
        }
        for source, crop in ways:
            if crop in CROPS and source != NONE:
                turns[f"{source} {crop}"] = partial(CROPS[crop], [image], [found[source]])
        for source, each in pixels.items():
            turns |= {f"{source} {name}": partial(embedder, each) for name, embedder in stages.embedders.items()}
        jobs.append(list(turns.items()))
    for _, job in jobs[0]:
        job()  # not counted: the first call of a network is slow
    times: dict[str, list[float]] = defaultdict(list)
    draw = random.Random(0)  # noqa: S311  the order of turns, no secret
    for _ in range(rounds):
        for named in jobs:
            for name, job in draw.sample(named, len(named)):
                start = perf_counter()
                job()
                times[name].append(1000 * (perf_counter() - start))
    return {name: round(median(values), 2) for name, values in times.items()}


def _peaks(
    ways: Sequence[tuple[str, str]], images: Sequence[Image], stages: CropStages, progress: Callable[[str], None]
) -> dict[tuple[str, str], float | None]:
    """Return peak memory in MB of whole photos, boxes and masks with the first embedder; others need as much."""
    spec = next(iter(stages.sources.values()))
    peaks: dict[tuple[str, str], float | None] = {}
    for source, crop in (way for way in ways if way[1] in (WHOLE, BOX, MASK)):
        progress(f"memory: {source} {crop}")
        with ProcessPoolExecutor(1, get_context("spawn")) as process:
            peaks[source, crop] = process.submit(_memory_growth, source, crop, spec, list(images)).result()
    return peaks


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
