"""Datasets of embedders: samples with their labels, problems of the rest, pixels in memory, and splits."""

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

from stages.disjoint import DisjointSets
from stages.embed.inputs import trimmed
from stages.errors import CatalogueError, ImageError
from stages.images import enough_px, read_photo
from stages.problems import Problem, described, plural
from stages.types import Image

Ints: TypeAlias = NDArray[np.int64]
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


@dataclass(frozen=True, slots=True)
class Sample:
    """A photo of an item.

    Attributes:
        path: of the photo.
        item: equal for photos of one item.
        style: equal for an item's colours; empty if it comes in one colour only.
        label: what kind of thing it is.
        domain: where the photo is from, such as street or shop.
        source: who took the photo, or what photos that share a background have in common.
    """

    path: Path
    item: str
    style: str = ""
    label: str = ""
    domain: str = ""
    source: str = ""

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
        """Return which samples are of a domain, ``(n,)``.

        Raises:
            ValueError: none is, or all are.
        """
        mask = np.array([sample.domain == domain for sample in self.samples], np.bool_)
        if not mask.any() or mask.all():
            given = ", ".join(sorted({sample.domain for sample in self.samples} - {""})) or "none"
            raise ValueError(f"anchors of the domain {domain!r} need photos in it and in another; domains: {given}")
        return mask

    def only(self, keep: Callable[[Sample], bool]) -> Dataset:
        """Return the dataset with some of its samples; problems and notes stay."""
        kept = [row for row, sample in enumerate(self.samples) if keep(sample)]
        images = [self.images[row] for row in kept] if self.images else ()
        return replace(self, samples=tuple(self.samples[row] for row in kept), images=images)

    def joined(self, other: Dataset) -> Dataset:
        """Return this dataset and another as one, under its name; equal item names are one item."""
        return Dataset(
            self.name,
            self.samples + other.samples,
            self.problems + other.problems,
            self.notes + other.notes,
            [*self.images, *other.images],
        )

    def for_training(self, *, cross_domain: bool = False) -> Dataset:
        """Return the dataset as training data.

        A photo that is listed twice is a problem. An item with one photo stays, with a note: two views of the photo
        are its positive pair. With ``cross_domain``, items in one domain are left out, with a note.
        """
        counts = Counter(sample.path for sample in self.samples)
        problems = [
            Problem(DatasetIssue.TWICE, str(path), f"is listed {count} times")
            for path, count in counts.items()
            if count > 1
        ]
        seen: set[Path] = set()

        def is_first(sample: Sample) -> bool:
            first = sample.path not in seen
            seen.add(sample.path)
            return first

        result, notes = self.only(is_first) if problems else self, []
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
            wanted = f"wanted at least 2 items to tell apart, got {len(result.items)}"
            problems.append(Problem(DatasetIssue.FEW, self.name, wanted))
        return replace(result, problems=(*self.problems, *problems), notes=(*self.notes, *notes))

    def describe(self) -> str:
        """Return how much can be used, the problems by kind, and the notes, in lines."""
        usable = f"{plural(len(self.samples), 'photo')} of {plural(len(self.items), 'item')}"
        return described(self.name, usable, self.problems, self.notes)

    def raise_on_problems(self, *, skip_bad: bool = False) -> None:
        """Raise a CatalogueError that lists the problems, if there are some, or fewer than two items.

        With ``skip_bad``, problems are accepted as long as two items are left.
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
    """Return the dataset with its pixels, without photos that cannot be read, which become problems.

    Args:
        dataset: to read.
        keep_px: the long side of the images, at most.
        trim: cut away white borders before images are scaled down, so that more is kept of what they show.
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
    """Return a number in 0..99 that depends on the name alone; splits are drawn by it."""
    return int(hashlib.sha256(name.encode()).hexdigest(), 16) % 100


def split(dataset: Dataset, val: int, by: By = "style") -> tuple[Dataset, Dataset]:
    """Split a dataset into training and ``val`` percent of validation by the hash of a name, the same on every machine.

    No item is in both; what stays together is an item, all colours of a style, all photos of a source, or all items of a
    label. Problems and notes go to the training part.
    """
    keys = [_key(sample, by) for sample in dataset.samples]
    names = DisjointSets[str]()
    first_key: dict[str, str] = {}
    for sample, key in zip(dataset.samples, keys, strict=True):  # an item of several sources or labels joins them
        names.join(*sorted((names.leader(key), names.leader(first_key.setdefault(sample.item, key)))))
    held_out = {key for key in keys if percentile_of(names.leader(key)) < val}
    return (
        dataset.only(lambda sample: _key(sample, by) not in held_out),
        replace(dataset.only(lambda sample: _key(sample, by) in held_out), problems=(), notes=()),
    )


def _key(sample: Sample, by: By) -> str:
    keys = {"item": sample.item, "style": sample.style_or_item, "source": sample.source, "label": sample.label}
    return keys[by] or sample.item
