"""Datasets of embedders: samples with their labels, problems of the rest, pixels in memory, and splits."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import Final, Literal, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from stages.disjoint import DisjointSets
from stages.embed.inputs import trimmed
from stages.errors import CatalogueError, ImageError
from stages.images import enough_px, read_photo
from stages.problems import Problem, described, plural
from stages.types import Box, Image

Ints: TypeAlias = NDArray[np.int64]
Background: TypeAlias = Literal["own", "white"] | Path
"""What is behind a cut-out garment: its own photo, white, or another photo."""

Split: TypeAlias = Literal["train", "val", "test"]
By: TypeAlias = Literal["item", "style", "source", "label"]

KEPT_PX: Final = 256
"""The long side that photos are kept in memory at."""

_THREADS: Final = 2


class DatasetIssue(StrEnum):
    """Kinds of problem in a dataset; each value is the heading that its problems are listed under."""

    ROW = "rows that name no photo"
    UNREADABLE = "photos that cannot be read"
    TWICE = "photos listed more than once"
    FEW = "too few items"
    EMPTY = "empty splits"


@dataclass(frozen=True, slots=True)
class Cut:
    """A garment to cut out of its photo.

    Attributes:
        box: the part to keep.
        background: what is behind the garment.
        rle: its mask as COCO's compressed run lengths over the whole photo; needed for another background.
    """

    box: Box
    background: Background = "own"
    rle: bytes | None = None

    def __post_init__(self) -> None:
        if self.background != "own" and self.rle is None:
            raise ValueError("another background needs a mask, got none; pass rle, or keep background='own'")


@dataclass(frozen=True, slots=True)
class Sample:
    """One photo of one item, not read yet; all labels but the item may be empty.

    Attributes:
        path: of the photo.
        item: its identity: two photos of one item are a positive pair.
        style: shared by the colours of one design.
        label: shared by items of a group, such as ``bag``.
        domain: shared by photos of one look, such as ``street`` or ``shop``.
        source: shared by photos with one background: a photographer, a sender, the photo that it was cut from.
        cut: the garment to cut out, or None for the whole photo.
    """

    path: Path
    item: str
    style: str = ""
    label: str = ""
    domain: str = ""
    source: str = ""
    cut: Cut | None = None

    @property
    def style_or_item(self) -> str:
        """The style, or the item if it comes in one colour only."""
        return self.style or self.item


@dataclass(frozen=True, eq=False)
class Dataset:
    """The usable samples of a source, and the problems of the rest.

    Attributes:
        name: for messages.
        samples: in order.
        problems: of what cannot be used.
        notes: remarks that are not problems.
        images: the pixels of each sample, once they are loaded; read from threads.
    """

    name: str
    samples: tuple[Sample, ...]
    problems: tuple[Problem, ...] = ()
    notes: tuple[str, ...] = ()
    images: Sequence[Image] = ()

    def __post_init__(self) -> None:
        if len(self.images) not in (0, len(self.samples)):
            raise ValueError(f"wanted an image for each of {len(self.samples)} samples, got {len(self.images)}")

    def __len__(self) -> int:
        return len(self.samples)

    @cached_property
    def items(self) -> tuple[str, ...]:
        """Every item once, in order."""
        return tuple(dict.fromkeys(sample.item for sample in self.samples))

    @cached_property
    def item_ids(self) -> Ints:
        """``(n,)``, a number for each item, from 0."""
        return numbered([sample.item for sample in self.samples])

    @cached_property
    def style_ids(self) -> Ints:
        """``(n,)``, a number for each style; an item without a style is its own."""
        return numbered([sample.style_or_item for sample in self.samples])

    @cached_property
    def source_ids(self) -> Ints:
        """``(n,)``, a number for each source; a photo without a source is its own."""
        return numbered([sample.source or sample.path for sample in self.samples])

    @cached_property
    def domains(self) -> tuple[str, ...]:
        """Every domain once, in order."""
        return tuple(dict.fromkeys(sample.domain for sample in self.samples))

    @cached_property
    def domain_ids(self) -> Ints:
        """``(n,)``, a number for each domain, from 0."""
        return numbered([sample.domain for sample in self.samples])

    def in_domain(self, domain: str) -> NDArray[np.bool_]:
        """Return which samples are of a domain, ``(n,)``.

        Raises:
            ValueError: none is, or all are.
        """
        if domain not in self.domains or len(self.domains) < 2:
            given = ", ".join(filter(None, self.domains)) or "none"
            raise ValueError(f"anchors of the domain {domain!r} need photos in it and in another; domains: {given}")
        return np.asarray(self.domain_ids == self.domains.index(domain), np.bool_)

    def only(self, keep: Callable[[Sample], bool]) -> Dataset:
        """Return the dataset with some of its samples; problems and notes stay."""
        kept = [place for place, sample in enumerate(self.samples) if keep(sample)]
        images = [self.images[place] for place in kept] if self.images else ()
        return replace(self, samples=tuple(self.samples[place] for place in kept), images=images)

    def joined(self, others: Iterable[Dataset]) -> Dataset:
        """Return this dataset and others as one, under its name; equal item names are one item."""
        sets = (self, *others)
        return Dataset(
            self.name,
            tuple(sample for each in sets for sample in each.samples),
            tuple(problem for each in sets for problem in each.problems),
            tuple(note for each in sets for note in each.notes),
            [image for each in sets for image in each.images],
        )

    def for_training(self, *, cross_domain: bool = False) -> Dataset:
        """Return the dataset as training data.

        A photo that is listed twice is a problem. An item with one photo stays, with a note: two views of the photo
        are its positive pair.

        Args:
            cross_domain: positive pairs have photos of two domains; items in one domain are left out, with a note.
        """
        problems, notes, result = list(self.problems), list(self.notes), self
        counts = Counter((sample.path, sample.cut) for sample in self.samples)
        if twice := [(path, count) for (path, _), count in counts.items() if count > 1]:
            problems += [Problem(DatasetIssue.TWICE, str(path), f"is listed {count} times") for path, count in twice]
            seen: set[tuple[Path, Cut | None]] = set()
            result = result.only(
                lambda sample: (sample.path, sample.cut) not in seen and not seen.add((sample.path, sample.cut))  # type: ignore[func-returns-value]
            )
        if cross_domain:
            domains: defaultdict[str, set[str]] = defaultdict(set)
            for sample in result.samples:
                domains[sample.item].add(sample.domain)
            if stuck := {item for item, names in domains.items() if len(names) == 1}:
                notes.append(f"{plural(len(stuck), 'item')} with photos in one domain only, left out")
                result = result.only(lambda sample: sample.item not in stuck)
        else:
            single = sum(count == 1 for count in Counter(sample.item for sample in result.samples).values())
            if single:
                notes.append(f"{plural(single, 'item')} with one photo, of which two views are a pair")
        if len(result.items) < 2:
            wanted = f"wanted at least 2 items to tell apart, got {len(result.items)}"
            problems.append(Problem(DatasetIssue.FEW, self.name, wanted))
        return replace(result, problems=tuple(problems), notes=tuple(notes))

    def describe(self) -> str:
        """Return how much can be used, the problems by kind, and the notes, in lines."""
        usable = f"{plural(len(self.samples), 'photo')} of {plural(len(self.items), 'item')}"
        return described(self.name, usable, self.problems, self.notes)

    def raise_on_problems(self, *, skip_bad: bool = False) -> None:
        """Raise if the dataset has problems or fewer than two items.

        Args:
            skip_bad: accept problems as long as two items are left.

        Raises:
            CatalogueError: the message lists the problems.
        """
        if len(self.items) < 2:
            raise CatalogueError(f"{self.describe()}\nThere are no two items to tell apart.")
        if self.problems and not skip_bad:
            raise CatalogueError(f"{self.describe()}\nFix the source, or pass --skip-bad to use the rest.")


def merged(sets: Sequence[Dataset]) -> Dataset:
    """Return loaded datasets as one, in which items, styles and sources of different sets are different.

    Problems and notes are left behind.
    """
    if len(sets) == 1:
        return replace(sets[0], problems=(), notes=())
    samples = [
        replace(
            sample,
            item=f"{number}/{sample.item}",
            style=sample.style and f"{number}/{sample.style}",
            source=sample.source and f"{number}/{sample.source}",
        )
        for number, each in enumerate(sets)
        for sample in each.samples
    ]
    images = [image for each in sets for image in each.images]
    return Dataset(", ".join(each.name for each in sets), tuple(samples), images=images)


def numbered(names: Sequence[Hashable]) -> Ints:
    """Return a number for each name, equal for equal names, by first appearance."""
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
    return np.array([numbers[name] for name in names], np.int64)


def load(dataset: Dataset, keep_px: int = KEPT_PX, *, trim: bool = False) -> Dataset:
    """Return the dataset with its pixels, without what cannot be read, which becomes a problem.

    A photo that several garments are cut from is decoded once.

    Args:
        dataset: to read.
        keep_px: the long side of the images, at most.
        trim: cut away white borders before images are scaled down, so that more is kept of what they show.
    """
    by_path: defaultdict[Path, list[int]] = defaultdict(list)
    for place, sample in enumerate(dataset.samples):
        by_path[sample.path].append(place)

    def read(places: list[int]) -> list[Image] | str:
        try:
            return list(_read_cuts([dataset.samples[place] for place in places], keep_px, trim=trim))
        except ImageError as error:
            return str(error)

    images: dict[int, Image] = {}
    problems: list[Problem] = []
    with ThreadPoolExecutor(_THREADS) as pool:
        for (path, places), result in zip(by_path.items(), pool.map(read, by_path.values()), strict=True):
            if isinstance(result, str):
                problems.append(Problem(DatasetIssue.UNREADABLE, str(path), result))
            else:
                images |= zip(places, result, strict=True)
    kept = sorted(images)
    return replace(
        dataset,
        samples=tuple(dataset.samples[place] for place in kept),
        problems=(*dataset.problems, *problems),
        images=[images[place] for place in kept],
    )


def read_sample(sample: Sample, at_least_px: int | None = None) -> Image:
    """Read one sample; a whole photo may come scaled down, with at least that long side.

    Raises:
        ImageError: its photo or its background cannot be read.
    """
    if sample.cut is None:
        return read_photo(sample.path, at_least_px).image
    return cut_out(read_photo(sample.path).image, sample.cut)


def cut_out(image: Image, cut: Cut) -> Image:
    """Cut a garment out of its full-size photo.

    Raises:
        ImageError: the box reaches out of the photo, or the background cannot be read.
    """
    height, width, _ = image.shape
    if cut.box.x2 > width or cut.box.y2 > height:
        raise ImageError(f"is {width}x{height}, too small for the box {cut.box.corners}; is it the annotated photo?")
    pixels = image[cut.box.slices]
    if cut.background == "own" or cut.rle is None:
        return np.ascontiguousarray(pixels)
    mask = coco_mask.decode({"size": [height, width], "counts": cut.rle})[cut.box.slices].astype(np.bool_)
    behind = _background(cut.background, *pixels.shape[:2]) if isinstance(cut.background, Path) else np.uint8(255)
    return np.where(mask[..., None], pixels, behind)


def small(image: Image, keep_px: int = KEPT_PX) -> Image:
    """Scale an image down so that its long side is at most ``keep_px``."""
    height, width = image.shape[:2]
    scale = keep_px / max(height, width)
    if scale >= 1:
        return np.ascontiguousarray(image)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)


def _read_cuts(samples: Sequence[Sample], keep_px: int, *, trim: bool) -> Iterator[Image]:
    """Yield the samples of one photo."""
    cuts = [sample.cut for sample in samples]
    at_least_px = enough_px(keep_px) if trim else keep_px
    image = read_photo(samples[0].path, at_least_px if not any(cuts) else None).image
    for cut in cuts:
        pixels = cut_out(image, cut) if cut else image
        yield small(trimmed(pixels) if trim else pixels, keep_px)


def _background(path: Path, height: int, width: int) -> Image:
    """Return the top of the left third of another photo, where people seldom stand, in the given shape."""
    try:
        photo = read_photo(path).image
    except ImageError as error:
        raise ImageError(f"cannot be set before {path}: that {error}") from error
    strip = photo[:, : max(1, photo.shape[1] // 3)]
    scale = min(strip.shape[0] / height, strip.shape[1] / width)
    window = strip[: max(1, int(height * scale)), : max(1, int(width * scale))]
    return np.asarray(cv2.resize(window, (width, height), interpolation=cv2.INTER_LINEAR), np.uint8)


def percentile_of(name: str) -> int:
    """Return a number in 0..99 that depends on the name alone; splits are drawn by it."""
    return int(hashlib.sha256(name.encode()).hexdigest(), 16) % 100


def split(
    dataset: Dataset, *, by: By = "style", val: int = 10, test: int = 0, together: Iterable[Iterable[str]] = ()
) -> dict[Split, Dataset]:
    """Split a dataset by the hash of a name, the same on every machine; no item is in two parts.

    A part that is empty although it has a share gets a problem; the dataset's problems and notes go to ``train``.

    Args:
        dataset: to split.
        by: what stays together: an item, all colours of a style, all photos of a source, all items of a label.
        val: the percentage for validation.
        test: the percentage for testing.
        together: groups of items, such as near-duplicates, that stay together as well.

    Raises:
        ValueError: the percentages leave nothing to train on, or are not percentages.
    """
    if min(val, test) < 0 or val + test >= 100:
        raise ValueError(f"wanted percentages of at least 0 that leave some for training, got val={val}, test={test}")
    leaders = _leaders(dataset.samples, by, together)
    parts: dict[Split, list[Sample]] = {"train": [], "val": [], "test": []}
    for sample in dataset.samples:
        percentile = percentile_of(leaders[sample.item])
        parts["test" if percentile < test else "val" if percentile < test + val else "train"].append(sample)
    shares = {"train": 100, "val": val, "test": test}
    result: dict[Split, Dataset] = {}
    for part, samples in parts.items():
        what = f"no {by} is in it; give it a larger share, or more data"
        empty = (Problem(DatasetIssue.EMPTY, part, what),) if shares[part] and not samples else ()
        first = part == "train"
        result[part] = Dataset(
            f"{dataset.name}, {part}",
            tuple(samples),
            (*dataset.problems, *empty) if first else empty,
            dataset.notes if first else (),
        )
    return result


def _leaders(samples: Iterable[Sample], by: By, together: Iterable[Iterable[str]]) -> dict[str, str]:
    """Return the name that each item's part is drawn by: the least name of everything that it is joined with."""
    keys = {sample.item: _key(sample, by) for sample in samples}
    names = DisjointSets[str]()

    def join(one: str, other: str) -> None:
        names.join(*sorted((names.leader(one), names.leader(other))))

    for sample in samples:  # an item of several sources or labels joins them
        join(keys[sample.item], _key(sample, by))
    for group in together:
        first, *rest = [keys[item] for item in group if item in keys] or [""]
        for other in rest:
            join(first, other)
    return {item: names.leader(key) for item, key in keys.items()}


def _key(sample: Sample, by: By) -> str:
    keys = {"item": sample.item, "style": sample.style_or_item, "source": sample.source, "label": sample.label}
    return keys[by] or sample.item
