"""Photos per second, where the time goes, and memory: the contenders take turns at the same photos."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from random import Random
from statistics import median
from tempfile import TemporaryDirectory
from typing import Final

from pipeline.benchmark.speed.apart import Turn, apart, seconds_to_first_result
from pipeline.benchmark.speed.contenders import CONTENDERS, MASK, NAIVE, Answer, Setup, items_like, make_gallery
from pipeline.benchmark.speed.photos import enlarged
from pipeline.benchmark.speed.sameness import Sameness, compare
from stages.cores import cores
from stages.errors import CatalogueError

PARTS: Final = ("decode", "detect", "mask", "crop", "embed", "search", "write")
AS_THEY_ARE: Final = "as they are"
LARGE: Final = "12 megapixels"
CHUNK: Final = 48
"""Photos that are looked at in one turn."""

FEW: Final = 100
"""Photos that the memory for many is compared with that for."""

MODELS: Final = 200
"""Photos whose garments the gallery's items are like, at most."""

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Plan:
    """What is measured.

    ``photos`` is how many, of each size; ``items`` how many the gallery has; ``rounds`` how often the contenders
    take turns at them; ``many`` for how many photos the memory is measured beside that for :data:`FEW`, 0 for none.
    """

    photos: int = 96
    items: int = 100_000
    rounds: int = 2
    many: int = 0


@dataclass(frozen=True, slots=True)
class SpeedFigures:
    """One contender at photos of one size.

    ``photos_per_s`` and ``over_naive`` are medians over turns, the latter of the ratio at the same photos;
    ``ms`` is how many milliseconds each part takes a photo (parts overlap, and several threads may be at one, so
    that they add up to more than a photo takes), ``search_cpu_share`` the part of the processor time that goes into
    searching the gallery, ``cores_busy`` how many cores compute on average, and ``peak_mb`` the most memory that its
    process has had when it had looked at them.
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
class Speed:
    """All that is found out in one run."""

    figures: list[SpeedFigures]
    sameness: Sameness
    search_share: float
    """What searching the gallery takes over what a photo takes, both by the clock, Mask R-CNN's pipeline.

    From when the search has its turn until the matches are there: the thread's waiting for a core is in it, its
    waiting for the turn is not, as the networks compute meanwhile.
    """
    first_result_s: float
    """Seconds of ``outfinder search`` until its first line, beyond those of importing torch."""
    growth: Growth | None = None


@dataclass(frozen=True, slots=True)
class Growth:
    """The most memory, in MB, that processes of their own have had for few photos and for many."""

    few: int
    many: int
    few_mb: dict[str, float]
    many_mb: dict[str, float]

    @property
    def ratios(self) -> dict[str, float]:
        """Of each contender, how many times the memory for few photos it has had for many."""
        return {
            name: round(self.many_mb[name] / least, 3) for name, least in self.few_mb.items() if name in self.many_mb
        }


def benchmark_speed(photos: Sequence[Path], plan: Plan = Plan(), tell: Tell = lambda _: None) -> Speed:
    """Time the pipeline beside the baseline, with the same weights.

    Args:
        photos: files; the first ones are taken, again from the start where there are fewer than the plan wants.
        plan: how much is measured.
        tell: is told what is being done.

    Raises:
        CatalogueError: there are no photos.
    """
    _check(photos)
    chosen = [photos[place % len(photos)] for place in range(plan.photos)]
    with TemporaryDirectory(prefix="outfinder-") as name:
        folder = Path(name)
        gallery = _gallery(photos, folder, plan, tell)
        tell("photos of 12 megapixels")
        large = enlarged(chosen, folder / "large")
        setups = _setups(gallery, folder)
        figures, answers = _figures(setups, {AS_THEY_ARE: chosen, LARGE: large}, plan, tell)
        tell("the outputs compared")
        sameness = compare(answers[NAIVE], answers[MASK])
        tell("the time to the first result")
        first_s = seconds_to_first_result(gallery, chosen[0])
        growth = memory_growth(setups, chosen, plan.many, tell) if plan.many else None
    ours = next(one for one in figures if (one.contender, one.size) == (MASK, AS_THEY_ARE))
    share = ours.ms["search"] * ours.photos_per_s / 1000
    return Speed(figures, sameness, round(share, 4), round(first_s, 2), growth)


def benchmark_memory(photos: Sequence[Path], plan: Plan, tell: Tell = lambda _: None) -> Growth:
    """Measure nothing but the pipelines' memory, for :data:`FEW` photos and for as many as the plan says.

    Raises:
        CatalogueError: there are no photos.
    """
    _check(photos)
    with TemporaryDirectory(prefix="outfinder-") as name:
        folder = Path(name)
        gallery = _gallery(photos, folder, plan, tell)
        return memory_growth(_setups(gallery, folder), photos, plan.many, tell)


def memory_growth(setups: Sequence[Setup], photos: Sequence[Path], many: int, tell: Tell) -> Growth:
    """The memory of all but the baseline, photos being taken again from the start where there are not so many."""
    peaks: dict[int, dict[str, float]] = {FEW: {}, many: {}}
    for setup in setups:
        for count in peaks if setup.name != NAIVE else ():
            tell(f"memory of {setup.name} for {count:,} photos")
            with apart(setup) as contender:
                peak = contender.peak_bytes([photos[place % len(photos)] for place in range(count)])
            if peak is not None:
                peaks[count][setup.name] = round(peak / 1e6, 1)
    return Growth(FEW, many, peaks[FEW], peaks[many])


def _gallery(photos: Sequence[Path], folder: Path, plan: Plan, tell: Tell) -> Path:
    """A gallery of items like the garments of other photos than those that are measured, where there are others."""
    tell(f"a gallery of {plan.items:,} items")
    return make_gallery(folder / "gallery", items_like((photos[plan.photos :] or photos)[:MODELS], plan.items))


def _setups(gallery: Path, folder: Path) -> list[Setup]:
    return [Setup(each, gallery, folder / f"{each}.jsonl") for each in CONTENDERS]


def _check(photos: Sequence[Path]) -> None:
    if not photos:
        raise CatalogueError("there are no photos to measure with (looked for .jpg, .png, .webp and the like)")


def _figures(
    setups: Sequence[Setup], sizes: dict[str, list[Path]], plan: Plan, tell: Tell
) -> tuple[list[SpeedFigures], dict[str, list[Answer]]]:
    figures: list[SpeedFigures] = []
    answers: dict[str, list[Answer]] = {}
    with ExitStack() as alive:
        contenders = {setup.name: alive.enter_context(apart(setup)) for setup in setups}
        for size, photos in sizes.items():
            chunks = _chunks(photos)
            for name, contender in contenders.items():
                tell(f"photos {size}: {name} warms up")
                contender.turn(chunks[0])
            turns: dict[str, list[Turn]] = {name: [] for name in contenders}
            order = list(_order(len(chunks), plan.rounds, list(contenders)))
            for told, (number, name) in enumerate(order, 1):
                turn = contenders[name].turn(chunks[number])
                turns[name].append(turn)
                tell(f"photos {size}: {told} of {len(order)}, {name}: {turn.per_s:.1f} photos/s")
            figures += [_figure(name, size, len(photos), own, turns[NAIVE]) for name, own in turns.items()]
            if not answers:
                answers = {
                    name: [one for turn in own[: len(chunks)] for one in turn.answers] for name, own in turns.items()
                }
    return figures, answers


def _chunks(photos: Sequence[Path]) -> list[Sequence[Path]]:
    return [photos[start : start + CHUNK] for start in range(0, len(photos), CHUNK)]


def _order(chunks: int, rounds: int, names: Sequence[str]) -> Iterator[tuple[int, str]]:
    """All take each chunk before the next comes, in an order that is drawn anew each time."""
    draw = Random(0)  # noqa: S311  turns, not secrets
    for _ in range(rounds):
        for chunk in range(chunks):
            for name in draw.sample(names, len(names)):
                yield chunk, name


def _figure(name: str, size: str, photos: int, turns: Sequence[Turn], naive: Sequence[Turn]) -> SpeedFigures:
    looked_at, peak = sum(len(turn.answers) for turn in turns), turns[-1].peak_bytes
    cpu_s = sum(turn.cpu_s for turn in turns)
    ms = {part: 1000 * sum(turn.parts.get(part, 0) for turn in turns) / looked_at for part in PARTS}
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
