"""Datasets of embedders: samples, problems, pixels in memory, and splits."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import Final, Literal, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from stages.background import trimmed
from stages.disjoint import DisjointSets
from stages.errors import CatalogueError, ImageError
from stages.images import enough_px, read_photo
from stages.problems import Problem, described, plural
from stages.types import Image

Ints: TypeAlias = NDArray[np.int64]
By: TypeAlias = Literal["item", "style", "source", "label"]

KEPT_PX: Final = 256  # the default long side of photos in memory
_THREADS: Final = 2


class DatasetIssue(StrEnum):
    """Kinds of problem in a dataset; each value is the heading of its list."""

    ROW = "rows that name no photo"
    UNREADABLE = "photos that cannot be read"
    TWICE = "photos listed more than once"
    FEW = "too few items"


@dataclass(frozen=True, slots=True)
class Sample:
    """A photo of an item."""

    path: Path
    item: str
    style: str = ""  # shared by the colours of an item; empty if it comes in one colour
    label: str = ""  # the kind of garment
    domain: str = ""  # such as street or shop
    source: str = ""  # the photographer, or whatever else photos with a common background share

    @property
    def style_or_item(self) -> str:
        """The style, or the item if it comes in one colour."""
        return self.style or self.item


@dataclass(frozen=True, eq=False)
class Dataset:
    """The usable samples of a source, the problems of the rest, and remarks that are not problems.

    ``images`` holds the pixels of each sample once they are loaded.
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
        """``(n,)``, a number for each style; an item without a style counts as one."""
        return numbered([sample.style_or_item for sample in self.samples])

    @cached_property
    def source_ids(self) -> Ints:
        """``(n,)``, a number for each source; a photo without a source counts as one."""
        return numbered([sample.source or sample.path for sample in self.samples])

    @cached_property
    def domain_ids(self) -> Ints:
        """``(n,)``, a number for each domain, from 0."""
        return numbered([sample.domain for sample in self.samples])

    def in_domain(self, domain: str) -> NDArray[np.bool_]:
        """Return which samples are of a domain, ``(n,)``; raise a ValueError if none or all are."""
        mask = np.array([sample.domain == domain for sample in self.samples], np.bool_)
        if not mask.any() or mask.all():
            given = ", ".join(sorted({sample.domain for sample in self.samples} - {""})) or "none"
            raise ValueError(f"the domain {domain!r} needs photos inside and outside of it; domains: {given}")
        return mask

    def only(self, keep: Callable[[Sample], bool]) -> Dataset:
        """Return the dataset with some of its samples; problems and notes stay."""
        kept = [row for row, sample in enumerate(self.samples) if keep(sample)]
        images = [self.images[row] for row in kept] if self.images else ()
        return replace(self, samples=tuple(self.samples[row] for row in kept), images=images)

    def joined(self, other: Dataset) -> Dataset:
        """Return both datasets as one, under this one's name; equal item names are one item."""
        return Dataset(
            self.name,
            self.samples + other.samples,
            self.problems + other.problems,
            self.notes + other.notes,
            [*self.images, *other.images],
        )

    def for_training(self, *, cross_domain: bool = False) -> Dataset:
        """Return the dataset with the problems and notes that matter for training.

        A photo that is listed twice is a problem. An item with one photo stays, with a note: two views of the photo are
        its positive pair. With ``cross_domain``, items in a single domain are left out, with a note.
        """
        first = {sample.path: sample for sample in reversed(self.samples)}
        problems = [
            Problem(DatasetIssue.TWICE, str(path), f"is listed {count} times")
            for path, count in Counter(sample.path for sample in self.samples).items()
            if count > 1
        ]
        result, notes = self.only(lambda sample: sample is first[sample.path]) if problems else self, []
        if cross_domain:
            domains: defaultdict[str, set[str]] = defaultdict(set)
            for sample in result.samples:
                domains[sample.item].add(sample.domain)
            if stuck := {item for item, names in domains.items() if len(names) == 1}:
                notes.append(f"{plural(len(stuck), 'item')} with photos in one domain only, left out")
                result = result.only(lambda sample: sample.item not in stuck)
        elif single := sum(count == 1 for count in Counter(sample.item for sample in result.samples).values()):
            notes.append(f"{plural(single, 'item')} with one photo, of which two views are a pair")
        if len(result.items) < 2:
            wanted = f"training needs at least 2 items, got {len(result.items)}"
            problems.append(Problem(DatasetIssue.FEW, self.name, wanted))
        return replace(result, problems=(*self.problems, *problems), notes=(*self.notes, *notes))

    def describe(self) -> str:
        """Return how much can be used, the problems by kind, and the notes, in lines."""
        usable = f"{plural(len(self.samples), 'photo')} of {plural(len(self.items), 'item')}"
        return described(self.name, usable, self.problems, self.notes)

    def raise_on_problems(self, *, skip_bad: bool = False) -> None:
        """Raise a CatalogueError if there are fewer than two items, or, without ``skip_bad``, any problems."""
        if len(self.items) < 2:
            raise CatalogueError(f"{self.describe()}\nThere are no two items to tell apart.")
        if self.problems and not skip_bad:
            raise CatalogueError(f"{self.describe()}\nFix the source, or pass --skip-bad to use the rest.")


def merged(sets: Sequence[Dataset]) -> Dataset:
    """Return loaded datasets as one; items, styles and sources of different datasets stay different.

    Problems and notes are dropped.
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
    """Return a number for each name, equal for equal names, in order of first appearance."""
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
    return np.array([numbers[name] for name in names], np.int64)


def load(dataset: Dataset, keep_px: int = KEPT_PX, *, trim: bool = False) -> Dataset:
    """Return the dataset with its pixels; photos that cannot be read become problems.

    Args:
        dataset: to read.
        keep_px: the maximum long side of the images.
        trim: cut white borders off before scaling down, which keeps more detail of the garment.
    """

    def read(path: Path) -> Image | str:
        try:
            image = read_photo(path, enough_px(keep_px) if trim else keep_px).image
        except ImageError as error:
            return str(error)
        return small(trimmed(image) if trim else image, keep_px)

    with ThreadPoolExecutor(_THREADS) as pool:
        results = list(pool.map(read, [sample.path for sample in dataset.samples]))
    problems = {
        str(sample.path): result
        for sample, result in zip(dataset.samples, results, strict=True)
        if isinstance(result, str)
    }
    return replace(
        dataset,
        samples=tuple(sample for sample in dataset.samples if str(sample.path) not in problems),
        problems=(*dataset.problems, *(Problem(DatasetIssue.UNREADABLE, *problem) for problem in problems.items())),
        images=[result for result in results if not isinstance(result, str)],
    )


def small(image: Image, keep_px: int = KEPT_PX) -> Image:
    """Scale an image down so that its long side is at most ``keep_px``."""
    height, width = image.shape[:2]
    scale = keep_px / max(height, width)
    if scale >= 1:
        return np.ascontiguousarray(image)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)


def percentile_of(name: str) -> int:
    """Return a hash of a name in 0..99, for splits that are the same on every machine."""
    return int(hashlib.sha256(name.encode()).hexdigest(), 16) % 100


def split(dataset: Dataset, val: int, by: By = "style") -> tuple[Dataset, Dataset]:
    """Split a dataset into training and ``val`` percent of validation by the hash of a name.

    No item is in both parts; neither is a style, a source or a label, by ``by``. Problems and notes stay with the
    training part.
    """

    def key(sample: Sample) -> str:
        keys = {"item": sample.item, "style": sample.style_or_item, "source": sample.source, "label": sample.label}
        return keys[by] or sample.item

    names = DisjointSets[str]()
    first_key: dict[str, str] = {}
    for sample in dataset.samples:  # an item of several sources or labels joins them
        names.join(*sorted((names.leader(key(sample)), names.leader(first_key.setdefault(sample.item, key(sample))))))
    held_out = {each for each in map(key, dataset.samples) if percentile_of(names.leader(each)) < val}
    return (
        dataset.only(lambda sample: key(sample) not in held_out),
        replace(dataset.only(lambda sample: key(sample) in held_out), problems=(), notes=()),
    )
