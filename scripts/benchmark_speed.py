"""Time the pipeline beside what a tutorial would write: photos per second, milliseconds of each part, and memory."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from random import Random
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter, process_time
from typing import Final

import click
import cv2
import numpy as np
import torch

import weights
from benchmark_index import around, clustered, fill
from naive_search import Naive
from pipeline.cli.common import ANYWHERE, FOLDER, friendly
from pipeline.config import Config, build_cropper, build_detector, build_embedder
from pipeline.demo import FOLDER as DEMO
from pipeline.gallery import Gallery
from pipeline.outputs import Options
from pipeline.pipeline import Pipeline
from pipeline.plots import figure, require_matplotlib
from pipeline.search import PhotoResult, search_batch
from pipeline.writers import open_outputs
from stages.cores import cores
from stages.crop import BoxCrop
from stages.embed.siamese import SiameseEmbedder
from stages.errors import CatalogueError, OutfinderError
from stages.files import write_whole
from stages.images import read_image, walk, write_jpeg
from stages.timing import listening, timed
from stages.types import Detection, Vectors
from timing import peak_bytes

NAIVE: Final = "naive"
MASK: Final = "maskrcnn_mobilenet_v2"
BOX: Final = "fasterrcnn_mobilenet_v2"
CONTENDERS: Final = (NAIVE, MASK, BOX)
PARTS: Final = ("decode", "detect", "mask", "crop", "embed", "search", "write")
AS_THEY_ARE: Final = "as they are"
LARGE: Final = "12 megapixels"
LARGE_PX: Final = 12_000_000
K: Final = 5
CHUNK: Final = 48
"""Photos of one turn."""

FEW: Final = 100
"""Photos whose memory the memory for many is compared with."""

MODELS: Final = 200
"""Photos, at most, whose garments the items of the gallery resemble."""

ALIKE: Final = 0.45
"""Length of what an item's vector adds to that of the garment that it resembles: their cosine is 0.91."""

SAME_IOU: Final = 0.9
CONFIDENT: Final = 0.7
"""Garments of the baseline with a lower score are not compared: near the threshold, rounding decides."""

CROPPED: Final = 12
"""Photos whose crops are embedded in both precisions."""

STARTS: Final = 3
"""Processes whose time to the first line is measured."""

Answer = tuple[PhotoResult, Vectors]
"""The garments of a photo with their matches, and their vectors."""

Report = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured.

    ``photos`` of each size, ``items`` of the gallery, ``rounds`` of turns; ``many`` is for how many photos memory is
    measured as well as for :data:`FEW`, 0 for none.
    """

    photos: int = 96
    items: int = 100_000
    rounds: int = 2
    many: int = 0


@dataclass(frozen=True, slots=True)
class Setup:
    """One of :data:`CONTENDERS` by its name, the gallery that it searches, and the file that it writes."""

    name: str
    gallery: Path
    output: Path

    def build(self) -> Callable[[Sequence[Path]], Iterator[Answer]]:
        """Load everything; the result detects, searches and writes, photo by photo."""
        gallery = Gallery.open(self.gallery)
        search = _naive(gallery) if self.name == NAIVE else _ours(self.name, gallery)
        gallery.search(np.eye(1, gallery.manifest.dim, dtype=np.float32), K)  # loads the graph

        def run(photos: Sequence[Path]) -> Iterator[Answer]:
            with open_outputs(self.output, None, Options(matches=True), overwrite=True) as writer:
                for result, vectors in search(photos):
                    with timed("write"):
                        writer.write(result)
                    small = tuple(replace(one, mask=None, matches=None) for one in result.garments)
                    yield replace(result, garments=small), vectors  # memory does not depend on the size of the photo

        return run


def _naive(gallery: Gallery) -> Callable[[Sequence[Path]], Iterator[Answer]]:
    return partial(map, Naive(weights.load(MASK), weights.load("siamese"), weights.load("attributes"), gallery, K))


def _ours(detector: str, gallery: Gallery) -> Callable[[Sequence[Path]], Iterator[Answer]]:
    config = Config(detector=detector, device="cpu")
    pipeline = Pipeline(build_detector(config), build_cropper(config), build_embedder(config))

    def search(photos: Sequence[Path]) -> Iterator[Answer]:
        with closing(pipeline.batches(photos)) as batches:
            for batch in batches:
                for result, analysis in zip(search_batch(gallery, batch, K), batch, strict=True):
                    yield result, analysis.vectors

    return search


def items_like(photos: Sequence[Path], count: int) -> Vectors:
    """Return vectors that resemble garments of some photos, as those of a shop do.

    Among vectors that resemble no garment, a search would visit more of the graph than it does in a real gallery.
    """
    config = Config(detector=BOX, device="cpu")
    embedder = build_embedder(config)
    pipeline = Pipeline(build_detector(config), build_cropper(config), embedder)
    garments = [analysis.vectors for analysis in pipeline(photos) if len(analysis.vectors)]
    if not garments:
        return clustered(count, embedder.dim, seed=0)
    return around(np.concatenate(garments), count, ALIKE, np.random.default_rng(0))


def make_gallery(folder: Path, vectors: Vectors) -> Path:
    """Write a gallery for the shipped embedder with an item for each vector."""
    fill(Gallery.create(folder, build_embedder(Config(device="cpu")), build_cropper(Config())), vectors)
    return folder


def enlarged(photos: Sequence[Path], folder: Path) -> list[Path]:
    """Write each photo, scaled to 12 megapixels, as a JPEG into a new folder; a repeated one is written once."""
    folder.mkdir()
    names: dict[Path, Path] = {}
    for photo in photos:
        if photo not in names:
            names[photo] = folder / f"{len(names):05}.jpg"
            image = read_image(photo)
            height, width = image.shape[:2]
            scale = (LARGE_PX / (height * width)) ** 0.5
            size = round(width * scale), round(height * scale)
            write_jpeg(names[photo], np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_CUBIC), np.uint8))
    return [names[photo] for photo in photos]


@dataclass(frozen=True, slots=True)
class Turn:
    """The answers of a contender to some photos, wall and CPU seconds, and the seconds of each part.

    ``search_cpu_s`` is the CPU time of the part ``search``; ``peak_bytes`` the most memory that the process has had
    so far, None where the system does not tell.
    """

    answers: list[Answer]
    photos: int
    wall_s: float
    cpu_s: float
    parts: dict[str, float]
    search_cpu_s: float
    peak_bytes: int | None

    @property
    def per_s(self) -> float:
        """Photos per second."""
        return self.photos / self.wall_s


TakeTurn = Callable[[Sequence[Path], bool], Turn]
"""Takes photos, and whether to keep the answers."""


def in_this_process(setup: Setup) -> TakeTurn:
    """Load a contender; its turns are taken in this process."""
    run = setup.build()

    def turn(photos: Sequence[Path], keep: bool) -> Turn:
        parts, cpu_parts = defaultdict[str, float](float), defaultdict[str, float](float)

        def listen(name: str, seconds: float, cpu_s: float) -> None:
            parts[name] += seconds
            cpu_parts[name] += cpu_s

        with listening(listen):
            cpu, wall = process_time(), perf_counter()
            answers = [answer for answer in run(photos) if keep]
            wall_s, cpu_s = perf_counter() - wall, process_time() - cpu
        return Turn(answers, len(photos), wall_s, cpu_s, dict(parts), cpu_parts["search"], peak_bytes())

    return turn


@contextmanager
def in_own_process(setup: Setup) -> Iterator[TakeTurn]:
    """Start a process for a contender, which loads it and takes turns until the block ends.

    Raises:
        OutfinderError: in a turn: the process has ended.
    """
    spawn = get_context("spawn")
    here, there = spawn.Pipe()
    process = spawn.Process(target=_take_turns, args=(there, setup), daemon=True)
    process.start()
    there.close()

    def turn(photos: Sequence[Path], keep: bool) -> Turn:
        try:
            here.send((photos, keep))
            result = here.recv()
        except (EOFError, OSError) as error:
            raise OutfinderError(f"the process of {setup.name} has ended; was there too little memory?") from error
        if isinstance(result, Exception):
            raise result
        assert isinstance(result, Turn)
        return result

    try:
        yield turn
    finally:
        here.close()
        process.terminate()
        process.join()


def _take_turns(there: Connection, setup: Setup) -> None:
    turn: TakeTurn | None = None
    while True:
        try:
            photos, keep = there.recv()
        except EOFError:
            return
        try:
            turn = turn or in_this_process(setup)
            there.send(turn(photos, keep))
        except Exception as error:  # noqa: BLE001  raised again by whoever asked
            there.send(error)


def seconds_to_first_result(gallery: Path, photo: Path) -> float:
    """Return the median seconds of ``outfinder search`` until its first line, less those of importing torch."""
    search = "from pipeline.cli import main; main()"
    imports = [_seconds_to_line("import torch; print()") for _ in range(STARTS)]
    searches = [_seconds_to_line(search, "search", str(gallery), str(photo)) for _ in range(STARTS)]
    return median(searches) - median(imports)


def _seconds_to_line(code: str, *arguments: str) -> float:
    start = perf_counter()
    with subprocess.Popen(  # noqa: S603  this Python
        [sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        seconds = perf_counter() - start
        _, errors = process.communicate()
    if not line:
        raise OutfinderError(f"outfinder search gave no result: {errors.strip().splitlines()[-1:]}")
    return seconds


@dataclass(frozen=True, slots=True)
class Sameness:
    """How the pipeline's output compares with the baseline's on the same photos.

    ``garments`` is the number of confident ones of the baseline, ``same`` the share of them that the pipeline finds
    with the same label and an IoU above 0.9, ``cosine`` the median similarity of their vectors, which includes the
    difference of the crops, and ``cosine_of_crops`` the least similarity for identical crops.
    """

    garments: int
    same: float
    cosine: float
    cosine_of_crops: float


def compare(plain: Sequence[Answer], fast: Sequence[Answer]) -> Sameness:
    """Compare answers to the same photos in the same order."""
    overlaps, cosines = [], []
    for (theirs, their_vectors), (ours, our_vectors) in zip(plain, fast, strict=True):
        for place, garment in enumerate(theirs.garments):
            if garment.score < CONFIDENT:
                continue
            ious = [garment.box.iou(one.box) if one.label == garment.label else 0.0 for one in ours.garments]
            overlaps.append(max(ious, default=0.0))
            if overlaps[-1] > SAME_IOU:
                cosines.append(float(their_vectors[place] @ our_vectors[int(np.argmax(ious))]))
    same = float(np.mean(np.array(overlaps) > SAME_IOU)) if overlaps else 1.0
    return Sameness(len(overlaps), round(same, 4), round(float(np.median(cosines or [1.0])), 5), _least_cosine(plain))


def _least_cosine(answers: Sequence[Answer]) -> float:
    """Return the least cosine between the vectors of the same crops in float32 and in the pipeline's precision."""
    checkpoint, least = weights.load("siamese"), 1.0
    exact, fast = SiameseEmbedder(checkpoint, dtype=torch.float32), SiameseEmbedder(checkpoint)
    for result, _ in answers[:CROPPED]:
        detections = [Detection(one.label, one.score, one.box) for one in result.garments]
        images = [crop.image for crop in BoxCrop()([read_image(result.photo)], [detections])[0]]
        least = min(least, *(exact(images) * fast(images)).sum(1).tolist(), 1.0)
    return round(least, 5)


@dataclass(frozen=True, slots=True)
class SpeedFigures:
    """One contender at photos of one size.

    ``photos_per_s`` and ``over_naive`` are medians over turns, the latter of the ratio at the same photos. ``ms`` is
    the milliseconds of each part per photo; parts overlap, so that they add up to more than a photo takes.
    ``search_cpu_share`` is the share of CPU time that goes into searching the gallery, ``cores_busy`` the mean number
    of cores that compute, and ``peak_mb`` the most memory that the process has had.
    """

    contender: str
    size: str
    photos: int
    cores: int
    photos_per_s: float
    over_naive: float
    ms: dict[str, float]
    search_cpu_share: float
    cores_busy: float
    peak_mb: float | None


@dataclass(frozen=True, slots=True)
class Growth:
    """The most memory, in MB, that each pipeline takes for few photos and for many."""

    few: int
    many: int
    few_mb: dict[str, float]
    many_mb: dict[str, float]

    @property
    def ratios(self) -> dict[str, float]:
        """The memory for many photos over that for few, by contender."""
        return {name: round(self.many_mb[name] / few, 3) for name, few in self.few_mb.items() if name in self.many_mb}


@dataclass(frozen=True, slots=True)
class Speed:
    """All figures of one run.

    ``search_share`` is the wall time of searching the gallery over that of a photo, in Mask R-CNN's pipeline;
    ``first_result_s`` the seconds of ``outfinder search`` until its first line, less those of importing torch.
    """

    figures: list[SpeedFigures]
    sameness: Sameness
    search_share: float
    first_result_s: float
    growth: Growth | None = None


def benchmark_speed(photos: Sequence[Path], plan: Plan = Plan(), report: Report = lambda _: None) -> Speed:
    """Time the pipeline beside the baseline, with the same weights.

    Args:
        photos: files; the first are taken, and repeated where the plan wants more.
        plan: how much is measured.
        report: called with a line about each step.

    Raises:
        CatalogueError: there are no photos.
    """
    with TemporaryDirectory(prefix="outfinder-") as name:
        folder = Path(name)
        setups = _setups(photos, folder, plan, report)
        chosen = [photos[place % len(photos)] for place in range(plan.photos)]
        report("photos of 12 megapixels")
        sizes = {AS_THEY_ARE: chosen, LARGE: enlarged(chosen, folder / "large")}
        figures, answers = _figures(setups, sizes, plan, report)
        report("comparing the outputs")
        sameness = compare(answers[NAIVE], answers[MASK])
        report("the time to the first result")
        first_s = seconds_to_first_result(setups[0].gallery, chosen[0])
        growth = memory_growth(setups, chosen, plan.many, report) if plan.many else None
    ours = next(one for one in figures if (one.contender, one.size) == (MASK, AS_THEY_ARE))
    share = ours.ms["search"] * ours.photos_per_s / 1000
    return Speed(figures, sameness, round(share, 4), round(first_s, 2), growth)


def benchmark_memory(photos: Sequence[Path], plan: Plan, report: Report = lambda _: None) -> Growth:
    """Measure only memory, for :data:`FEW` photos and for as many as the plan says; raises as benchmark_speed does."""
    with TemporaryDirectory(prefix="outfinder-") as name:
        return memory_growth(_setups(photos, Path(name), plan, report), photos, plan.many, report)


def _setups(photos: Sequence[Path], folder: Path, plan: Plan, report: Report) -> list[Setup]:
    """Write the gallery; its items resemble garments of photos that are not timed, if there are others."""
    if not photos:
        raise CatalogueError("there are no photos to measure with (looked for .jpg, .png, .webp and the like)")
    report(f"a gallery of {plan.items:,} items")
    vectors = items_like((photos[plan.photos :] or photos)[:MODELS], plan.items)
    gallery = make_gallery(folder / "gallery", vectors)
    return [Setup(name, gallery, folder / f"{name}.jsonl") for name in CONTENDERS]


def memory_growth(setups: Sequence[Setup], photos: Sequence[Path], many: int, report: Report) -> Growth:
    """Measure the memory of all but the baseline, each count in a new process; photos are repeated as needed."""
    peaks: dict[int, dict[str, float]] = {FEW: {}, many: {}}
    for setup in setups:
        for count in peaks if setup.name != NAIVE else ():
            report(f"memory of {setup.name} for {count:,} photos")
            with in_own_process(setup) as turn:
                peak = turn([photos[place % len(photos)] for place in range(count)], False).peak_bytes
            if peak is not None:
                peaks[count][setup.name] = round(peak / 1e6, 1)
    return Growth(FEW, many, peaks[FEW], peaks[many])


def _figures(
    setups: Sequence[Setup], sizes: dict[str, list[Path]], plan: Plan, report: Report
) -> tuple[list[SpeedFigures], dict[str, list[Answer]]]:
    """Let the contenders take turns at each chunk of photos, in an order that is drawn anew for each."""
    figures: list[SpeedFigures] = []
    answers: dict[str, list[Answer]] = {}
    draw = Random(0)  # noqa: S311  turns, not secrets
    with ExitStack() as processes:
        contenders = {setup.name: processes.enter_context(in_own_process(setup)) for setup in setups}
        for size, photos in sizes.items():
            chunks = [photos[start : start + CHUNK] for start in range(0, len(photos), CHUNK)]
            for name, turn in contenders.items():
                report(f"photos {size}: {name} warms up")
                turn(chunks[0], False)
            turns: dict[str, list[Turn]] = {name: [] for name in contenders}
            for chunk in chunks * plan.rounds:
                for name in draw.sample(list(contenders), len(contenders)):
                    turns[name].append(contenders[name](chunk, not answers))
                    report(f"photos {size}: {name}: {turns[name][-1].per_s:.1f} photos/s")
            figures += [_figure(name, size, len(photos), own, turns[NAIVE]) for name, own in turns.items()]
            answers = answers or {
                name: [one for turn in own[: len(chunks)] for one in turn.answers] for name, own in turns.items()
            }
    return figures, answers


def _figure(name: str, size: str, photos: int, turns: Sequence[Turn], naive: Sequence[Turn]) -> SpeedFigures:
    done, peak, cpu_s = sum(turn.photos for turn in turns), turns[-1].peak_bytes, sum(turn.cpu_s for turn in turns)
    ms = {part: 1000 * sum(turn.parts.get(part, 0) for turn in turns) / done for part in PARTS}
    ms["detect"] -= ms["mask"]  # masks are made within detection
    return SpeedFigures(
        contender=name,
        size=size,
        photos=photos,
        cores=cores(),
        photos_per_s=round(median(turn.per_s for turn in turns), 2),
        over_naive=round(median(own.per_s / other.per_s for own, other in zip(turns, naive, strict=True)), 2),
        ms={part: round(value, 2) for part, value in ms.items()},
        search_cpu_share=round(sum(turn.search_cpu_s for turn in turns) / cpu_s, 4),
        cores_busy=round(cpu_s / sum(turn.wall_s for turn in turns), 2),
        peak_mb=peak and round(peak / 1e6, 1),
    )


_HEADINGS = ("photos", "contender              ", "photos/s", "× naive", *(f"{part:>7}" for part in PARTS), "cores",
             "peak MB")  # fmt: skip


def table(speed: Speed) -> str:
    """Return the figures, milliseconds per photo and part, and what follows from them, as lines."""
    same, by_name = speed.sameness, {one.contender: one for one in speed.figures if one.size == AS_THEY_ARE}
    mask, box = by_name[MASK], by_name[BOX]
    detection = (mask.ms["detect"] + mask.ms["mask"]) / box.ms["detect"]
    return "\n".join(
        [
            _line(_HEADINGS),
            *(_line(_cells(one)) for one in speed.figures),
            "",
            f"The same garments: {same.same:.1%} of {same.garments} confident ones of the baseline, with IoU above 0.9.",
            f"Cosine of their vectors: {same.cosine:.4f} (median), and at least {same.cosine_of_crops:.4f} for equal crops.",
            (
                f"Faster R-CNN is {box.photos_per_s / mask.photos_per_s:.2f} times as fast as Mask R-CNN,"
                f" its detection alone {detection:.2f} times."
            ),
            (
                f"Searching the gallery takes {speed.search_share:.1%} of a photo's wall time,"
                f" and {mask.search_cpu_share:.1%} of its CPU time."
            ),
            f"`outfinder search` gives its first line {speed.first_result_s:.1f} s after what importing torch takes.",
            *(growth_lines(speed.growth) if speed.growth else []),
        ]
    )


def growth_lines(growth: Growth) -> list[str]:
    """Return a line about the memory of each contender."""
    return [
        f"{name}: at most {growth.many_mb[name]:,.0f} MB for {growth.many:,} photos, {growth.few_mb[name]:,.0f} MB for"
        f" {growth.few:,}: {ratio:.3f} times as much."
        for name, ratio in growth.ratios.items()
    ]


def _line(cells: Sequence[str]) -> str:
    return "  ".join(cell.rjust(len(heading)) for cell, heading in zip(cells, _HEADINGS, strict=True))


def _cells(one: SpeedFigures) -> list[str]:
    return [
        str(one.photos),
        f"{one.contender}, {'12 MP' if one.size == LARGE else 'as is'}",
        f"{one.photos_per_s:.2f}",
        f"{one.over_naive:.2f}",
        *(f"{one.ms[part]:.1f}" for part in PARTS),
        f"{one.cores_busy:.2f}",
        "–" if one.peak_mb is None else f"{one.peak_mb:.0f}",
    ]


def write(speed: Speed, folder: Path) -> None:
    """Write ``speed.json``, every figure, and ``speed.png``, where the time goes."""
    write_whole(folder / "speed.json", json.dumps(asdict(speed), indent=2) + "\n")
    with figure(folder / "speed.png") as page:
        page.set_size_inches(8.0, 0.5 + sum(0.7 + 0.45 * len(CONTENDERS) for _ in (AS_THEY_ARE, LARGE)))
        for axes, size in zip(page.subplots(2, 1), (AS_THEY_ARE, LARGE), strict=True):
            chosen = [one for one in speed.figures if one.size == size]
            names = [f"{one.contender}\n{one.photos_per_s:.1f} photos/s" for one in chosen]
            left = np.zeros(len(chosen))
            for part in PARTS:
                lengths = np.array([one.ms[part] for one in chosen])
                axes.barh(names, lengths, left=left, label=part, height=0.62)
                left += lengths
            axes.set(title=f"photos {size}", xlabel="milliseconds of each part per photo")
            axes.invert_yaxis()
            axes.grid(visible=False, axis="y")
        handles, names = page.axes[0].get_legend_handles_labels()
        page.legend(handles, names, loc="outside upper center", ncols=8)


@click.command()
@click.argument("photos", metavar="[PHOTO]...", nargs=-1, type=ANYWHERE)
@click.option("--count", type=click.IntRange(1), default=96, show_default=True, help="Photos of each size.")
@click.option("--items", type=click.IntRange(5000), default=100_000, show_default=True, help="Items of the gallery.")
@click.option("--rounds", type=click.IntRange(1), default=2, show_default=True, help="Turns at the same photos.")
@click.option("--many", type=click.IntRange(0), default=0, help="Measure memory for so many photos too, such as 10000.")
@click.option("--memory-only", is_flag=True, help="With --many: measure nothing else.")
@click.option("--quick", is_flag=True, help="12 photos, one turn, 10,000 items: a minute, and rough.")
@click.option("-o", "--output", type=FOLDER, help="Write speed.json and speed.png (where the time goes) there.")
@friendly
def main(
    photos: tuple[Path, ...],
    count: int,
    items: int,
    rounds: int,
    many: int,
    memory_only: bool,
    quick: bool,
    output: Path | None,
) -> None:
    r"""Time the pipeline beside what a tutorial would write, each in a process of its own, taking turns.

    Both have the same weights. The baseline decodes each photo at full size, runs torchvision's detector in float32
    on one photo at a time, pastes its masks to the photo's size and calls the embedder for each crop. Photos are
    searched as they are and then enlarged to 12 megapixels; without any PHOTO the packaged scenes are taken. Measure
    on an idle machine: two cores take about seven minutes.

    \b
    Examples:
      python scripts/benchmark_speed.py --quick
      python scripts/benchmark_speed.py photos/ -o benchmark
      python scripts/benchmark_speed.py photos/ --many 10000 --memory-only
    """
    if memory_only and (output or not many):
        raise click.UsageError("--memory-only goes with --many and without --output.")
    if output:
        require_matplotlib()
        output.mkdir(parents=True, exist_ok=True)
    report = partial(click.echo, err=True)
    plan = Plan(12, 10_000, 1, many) if quick else Plan(count, items, rounds, many)
    files = list(walk(photos or (DEMO / "street", DEMO / "clutter")))
    if memory_only:
        click.echo("\n".join(growth_lines(benchmark_memory(files, plan, report))))
        return
    speed = benchmark_speed(files, plan, report)
    click.echo(table(speed))
    if output:
        write(speed, output)
        click.echo(f"where the time goes: {output / 'speed.png'}", err=True)


if __name__ == "__main__":
    main()
