"""The photos that are trained on, one row each, with what samplers and losses want to know of them as numbers."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Self

import numpy as np
from numpy.typing import NDArray

from stages.embed.items import PhotoSet
from stages.types import Image

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """Photos and what they show; all arrays are ``(n,)`` int64 and number what is equal alike, from 0.

    Attributes:
        images: the pixels; indexed from threads, and so may be read when they are.
        items: what is on each photo; photos of one item are positives of each other.
        styles: shared by the colours of a thing.
        sources: shared by photos with one ground: a photographer, a sender.
        kinds: the photo set that each came from.
        domains: places in ``domain_names``.
        kind_names: names of the photo sets.
        domain_names: ``street``, ``shop`` …
    """

    images: Sequence[Image]
    items: Ints
    styles: Ints
    sources: Ints
    kinds: Ints
    domains: Ints
    kind_names: tuple[str, ...]
    domain_names: tuple[str, ...]

    @classmethod
    def of(cls, sets: Iterable[tuple[PhotoSet, Sequence[Image]]]) -> Self:
        """The rows of loaded photo sets; things of different sets are different, whatever their names."""
        loaded = list(sets)
        samples = [(photos.name, sample) for photos, _ in loaded for sample in photos.samples]
        images = loaded[0][1] if len(loaded) == 1 else list(chain.from_iterable(images for _, images in loaded))
        if len(images) != len(samples):
            raise ValueError(f"wanted an image for each of {len(samples)} samples, got {len(images)}")
        kinds = [kind for kind, _ in samples]
        domains = [sample.domain for _, sample in samples]
        return cls(
            images,
            numbered([(kind, sample.item) for kind, sample in samples]),
            numbered([(kind, sample.thing) for kind, sample in samples]),
            numbered([(kind, sample.source or sample.path) for kind, sample in samples]),
            numbered(kinds),
            numbered(domains),
            tuple(dict.fromkeys(kinds)),
            tuple(dict.fromkeys(domains)),
        )

    def __len__(self) -> int:
        return len(self.items)

    @property
    def classes(self) -> int:
        """How many items there are."""
        return int(self.items.max()) + 1 if len(self) else 0

    def in_domain(self, name: str) -> NDArray[np.bool_]:
        """Which rows are of a domain, ``(n,)``.

        Raises:
            ValueError: none is, or all are.
        """
        if name not in self.domain_names or len(self.domain_names) < 2:
            there = ", ".join(filter(None, self.domain_names)) or "none"
            raise ValueError(f"anchors of the domain {name!r} need photos in it and in another; domains: {there}")
        return np.asarray(self.domains == self.domain_names.index(name), np.bool_)


def numbered(names: Sequence[Hashable]) -> Ints:
    """A number for each name, equal for equal names, by first appearance."""
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
    return np.array([numbers[name] for name in names], np.int64)
