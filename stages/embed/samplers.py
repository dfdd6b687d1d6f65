"""Samplers: which photos make a batch, and how they stand in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.random import Generator

from stages.embed.drawing import Draw, Pools, Sampler, in_groups, some
from stages.embed.offline import OfflineTriplets
from stages.embed.rows import Ints, Rows


class PK:
    """P items with K photos each; every photo is an anchor, and every other one its positive or negative.

    Items come once each before any comes again. Photos of one item are different ones as far as it has so many. With an
    anchor domain, half of the K are of it, the other half of others, and only pairs across are compared.

    Args:
        pools: to draw from.
        items: P.
        photos: K, at least 2.
        seed: of everything random.
        together: ``(n,)`` a number for each row of the pools' rows; items that share it come in one batch as far as
            they fit, since they are hard to tell apart: colours of a style, pairs of one photographer. None: at random.
    """

    def __init__(self, pools: Pools, items: int, photos: int, seed: int = 0, together: Ints | None = None) -> None:
        if items < 2 or photos < 2:
            raise ValueError(f"a batch has at least 2 items with 2 photos each, got {items} with {photos}")
        self._pools, self._items, self._photos, self._seed = pools, min(items, len(pools)), photos, seed
        groups: dict[int, list[int]] = {}
        for item, anchors in enumerate(pools.anchors):
            groups.setdefault(item if together is None else int(together[anchors[0]]), []).append(item)
        self._groups = [np.array(group) for group in groups.values()]

    def __call__(self, step: int) -> Draw:
        """P x K rows, the photos of an item one after the other."""
        rng = np.random.default_rng((self._seed, step, 0))
        found = [self._photos_of(item, rng) for item in self._turn(step)]
        rows = np.concatenate(found)
        if not self._pools.crossed:
            return Draw(rows)
        anchors = np.concatenate([np.arange(self._photos) < self._photos // 2 for _ in found])
        return Draw(rows, anchors=anchors, partners=~anchors)

    def _turn(self, step: int) -> list[int]:
        """The items of a step: those of a round stand in a row, group by group, and each step takes the next."""
        places = [divmod(step * self._items + offset, len(self._pools)) for offset in range(self._items)]
        orders = {each: self._order(each) for each, _ in places}
        found = dict.fromkeys(int(orders[each][place]) for each, place in places)
        spare = (item for item in orders[places[-1][0]].tolist() if item not in found)
        return [*found, *(next(spare) for _ in range(self._items - len(found)))]

    def _order(self, each: int) -> Ints:
        rng = np.random.default_rng((self._seed, each, 1))
        groups = [self._groups[place] for place in rng.permutation(len(self._groups))]
        return np.concatenate([rng.permutation(group) for group in groups])

    def _photos_of(self, item: int, rng: Generator) -> Ints:
        anchors, partners = self._pools.anchors[item], self._pools.partners[item]
        if not self._pools.crossed:
            return some(anchors, self._photos, rng)
        half = self._photos // 2
        return np.concatenate([some(anchors, half, rng), some(partners, self._photos - half, rng)])


class RandomPairs:
    """Pairs, one half of the same item and one half of two; each pair is compared by itself."""

    def __init__(self, pools: Pools, pairs: int, seed: int = 0) -> None:
        if pairs < 2:
            raise ValueError(f"half same and half different takes at least 2 pairs, got {pairs}")
        self._pools, self._pairs, self._seed = pools, pairs, seed

    def __call__(self, step: int) -> Draw:
        """Rows in twos, those of the same item first."""
        rng = np.random.default_rng((self._seed, step))
        rows: list[int] = []
        for place in range(self._pairs):
            item = int(rng.integers(len(self._pools)))
            left, right = self._pools.positive_pair(item, rng)
            if place >= self._pairs // 2:
                right = self._pools.partner(self._pools.other(item, rng), rng)
            rows += (left, right)
        return in_groups(np.array(rows, np.int64), 2)


class RandomTriplets:
    """Triplets: an anchor, another photo of its item, and a photo of any other item."""

    def __init__(self, pools: Pools, triplets: int, seed: int = 0) -> None:
        if triplets < 1:
            raise ValueError(f"a batch has at least 1 triplet, got {triplets}")
        self._pools, self._triplets, self._seed = pools, triplets, seed

    def __call__(self, step: int) -> Draw:
        """Rows in threes."""
        rng = np.random.default_rng((self._seed, step))
        rows: list[int] = []
        for item in rng.integers(len(self._pools), size=self._triplets).tolist():
            rows += (*self._pools.positive_pair(item, rng), self._pools.partner(self._pools.other(item, rng), rng))
        return in_groups(np.array(rows, np.int64), 3)


@dataclass(frozen=True, slots=True)
class SamplerPlan:
    """A sampler by its name, and what it is made of.

    Attributes:
        name: of :data:`SAMPLERS`.
        batch_size: photos in a batch, at most.
        photos: of each item in it, for ``pk``.
        together: ``style``, ``source`` or nothing: which items come in one batch, for ``pk``.
        anchor_domain: see :class:`~stages.embed.drawing.Pools`.
        mine_steps: after so many steps ``offline`` chooses its triplets anew.
        mine_photos: from so many photos.
        seed: of everything random.

    Raises:
        ValueError: there is nothing of such a name.
    """

    name: str = "pk"
    batch_size: int = 64
    photos: int = 4
    together: str = ""
    anchor_domain: str = ""
    mine_steps: int = 200
    mine_photos: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        if self.name not in SAMPLERS:
            raise ValueError(f"no sampler is called {self.name!r}; there are {', '.join(SAMPLERS)}")
        if self.together not in ("", "style", "source"):
            raise ValueError(f"items come together by style or source, got {self.together!r}")

    def build(self, rows: Rows) -> Sampler:
        """The sampler, for some rows."""
        return SAMPLERS[self.name](Pools(rows, self.anchor_domain), self)


def _pk(pools: Pools, plan: SamplerPlan) -> Sampler:
    together = {"style": pools.rows.styles, "source": pools.rows.sources}.get(plan.together)
    return PK(pools, plan.batch_size // plan.photos, plan.photos, plan.seed, together)


SAMPLERS: Final[Mapping[str, Callable[[Pools, SamplerPlan], Sampler]]] = {
    "pk": _pk,
    "pairs": lambda pools, plan: RandomPairs(pools, plan.batch_size // 2, plan.seed),
    "triplets": lambda pools, plan: RandomTriplets(pools, plan.batch_size // 3, plan.seed),
    "offline": lambda pools, plan: OfflineTriplets(
        pools, plan.batch_size // 3, plan.mine_steps, plan.mine_photos, plan.seed
    ),
}
"""Every sampler by its name."""
