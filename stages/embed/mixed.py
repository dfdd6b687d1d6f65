"""Batches that hold what is hard to tell apart: all colours of a style, several items of one photographer."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from stages.embed.augment import Tint, view
from stages.embed.batches import Batch
from stages.embed.loading import Item
from stages.embed.rows import numbered
from stages.types import Image

QUOTA: Mapping[str, int] = {"luma": 4, "shoes": 2, "clothing": 5, "garments": 7}
"""Groups of each kind in a batch: styles of luma and garments, photographers of shoes, photos of clothing."""

_ITEMS_PER_GROUP = 4
_TINTED = {"luma": 0.6, "shoes": 0.0, "clothing": 0.5, "garments": 0.25}


@dataclass(frozen=True, slots=True, eq=False)
class Shot:
    """One place in a batch: a photo of an item, perhaps in a made-up colour, which makes it another item."""

    item: Item
    photo: int
    tint: Tint | None = None

    @property
    def identity(self) -> tuple[str, str, bool]:
        """Equal for positives."""
        return *self.item.identity, self.tint is not None


class MixedSampler:
    """Batches of several kinds of items, each a pure function of the seed and the step.

    So a run that was killed goes on with the batches that it would have had. Within a kind, each group comes once
    before any comes again. Every identity of a batch has two views, from two photos where it has them.

    Args:
        items: of any kinds.
        side: of the views, pixels.
        seed: of everything random.
        quota: groups of each kind in a batch; items of other kinds are left out.
    """

    def __init__(self, items: Sequence[Item], side: int, seed: int = 0, quota: Mapping[str, int] = QUOTA) -> None:
        self._side, self._seed, self._quota = side, seed, dict(quota)
        groups: dict[str, dict[str, list[Item]]] = {kind: defaultdict(list) for kind in quota}
        wanted = [item for item in items if item.kind in quota]
        for item in wanted:
            groups[item.kind][item.source if item.kind == "shoes" else item.style].append(item)
        self._groups = {kind: list(of_kind.values()) for kind, of_kind in groups.items() if of_kind}
        self._scenery = [item.photos[0] for item in items if item.kind in ("shoes", "clothing", "garments")]
        if not self._groups:
            raise ValueError("a sampler needs items, got none")

    def __call__(self, step: int) -> Batch:
        """The batch of a step, from 0."""
        shots = self.shots(step)
        rng = np.random.default_rng((self._seed, step, 1))
        return Batch(
            np.stack([self._render(shot, rng) for shot in shots]),
            numbered([shot.identity for shot in shots]),
            numbered([shot.item.style for shot in shots]),
        )

    def shots(self, step: int) -> list[Shot]:
        """What the batch of a step shows; views of one identity follow each other."""
        rng = np.random.default_rng((self._seed, step))
        shots = []
        for kind in self._groups:
            for group in self._turn(kind, step):
                shots += _shots_of(group, rng, _TINTED[kind])
        return shots

    def _turn(self, kind: str, step: int) -> list[list[Item]]:
        """The groups whose turn it is, none twice, though an epoch may end within the step."""
        groups, quota = self._groups[kind], self._quota[kind]
        places = [divmod(step * quota + offset, len(groups)) for offset in range(min(quota, len(groups)))]
        order = {
            epoch: np.random.default_rng((self._seed, epoch, *kind.encode())).permutation(len(groups))
            for epoch in {epoch for epoch, _ in places}
        }
        return [groups[row] for row in dict.fromkeys(int(order[epoch][place]) for epoch, place in places)]

    def _render(self, shot: Shot, rng: Generator) -> Image:
        image = shot.item.photos[shot.photo]
        if shot.tint is not None:
            image = shot.tint.apply(image)
        scenery = self._scenery[int(rng.integers(len(self._scenery)))] if self._scenery else None
        return view(image, self._side, rng, scenery)


def _shots_of(group: Sequence[Item], rng: Generator, tinted: float) -> list[Shot]:
    """Two shots of each item, of four at most, and sometimes two of one item in a made-up colour."""
    chosen = [group[row] for row in rng.permutation(len(group))[:_ITEMS_PER_GROUP]]
    shots = [Shot(item, photo) for item in chosen for photo in _two_photos(item, rng)]
    if rng.random() < tinted:
        item = max(chosen, key=lambda item: len(item.photos))
        tint = Tint.draw(item.photos[-1], rng)
        shots += [Shot(item, photo, tint) for photo in _two_photos(item, rng)]
    return shots


def _two_photos(item: Item, rng: Generator) -> tuple[int, int]:
    count = len(item.photos)
    if count == 1:
        return 0, 0
    first, second = rng.permutation(count)[:2].tolist()
    return first, second
