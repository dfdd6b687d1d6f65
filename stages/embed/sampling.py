"""Samplers, which choose the photos of each batch, and the batches of views that they give.

Every draw is a function of the seed and the step, so that an interrupted run can be resumed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, TypeAlias

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from stages.embed.augmentation import View
from stages.embed.data import Dataset, Ints
from stages.embed.layers import check_name
from stages.embed.losses import Relations, semi_hard, squared
from stages.files import replacing
from stages.types import Image, Vectors


@dataclass(frozen=True, slots=True, eq=False)
class Draw:
    """The rows of a dataset that make up a batch, and which of them are compared, see :meth:`Relations.of`."""

    rows: Ints
    groups: Ints | None = None
    anchors: NDArray[np.bool_] | None = None
    partners: NDArray[np.bool_] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """The input of one training step; without a draw, all photos are compared with each other."""

    views: NDArray[np.uint8]  # (n, side, side, 3)
    identities: Ints  # (n,)
    styles: Ints  # (n,)
    draw: Draw | None = None

    def relations(self, device: str | torch.device = "cpu", *, by_style: bool = False) -> Relations:
        """Return positives and negatives by identity, or by style."""
        given = (self.draw.groups, self.draw.anchors, self.draw.partners) if self.draw else (None, None, None)
        groups, anchors, partners = (None if one is None else torch.from_numpy(one).to(device) for one in given)
        labels = self.styles if by_style else self.identities
        return Relations.of(torch.from_numpy(labels).to(device), groups, anchors, partners)


BatchSource: TypeAlias = Callable[[int], Batch]
"""Returns the batch of a step, counted from 0; called from threads, a few steps ahead."""

Sampler: TypeAlias = Callable[[int], Draw]
"""Returns the draw of a step, counted from 0."""


class Batches:
    """Makes the batch of each step from views of the photos that a sampler draws.

    Args:
        data: loaded.
        sampler: draws the rows.
        views: the view for each domain; the one under ``""`` is for all other domains.
        side: of the views, in pixels.
        seed: of the views.
        turned: show all photos of a batch in the same of the eight symmetries of the square, as if other items were in it.
    """

    def __init__(
        self,
        data: Dataset,
        sampler: Sampler,
        views: Mapping[str, View],
        side: int,
        seed: int = 0,
        *,
        turned: bool = False,
    ) -> None:
        self._data, self._sampler, self._side, self._seed, self._turned = data, sampler, side, seed, turned
        self._views = [views.get(sample.domain, views[""]) for sample in data.samples]

    def __call__(self, step: int) -> Batch:
        """Return the batch of a step."""
        draw = self._sampler(step)
        rng = np.random.default_rng((self._seed, step, 2))
        images, pixels = self._data.images, []
        symmetry = int(rng.integers(8)) if self._turned else 0
        for row in draw.rows.tolist():
            scenery = images[int(rng.integers(len(images)))]
            pixels.append(self._views[row](_turned(images[row], symmetry), self._side, rng, scenery))
        return Batch(np.stack(pixels), self._data.item_ids[draw.rows], self._data.style_ids[draw.rows], draw)


def _turned(image: Image, symmetry: int) -> Image:
    """Return an image turned by ``symmetry`` times 90°, and mirrored from 4 on."""
    image = np.rot90(image, symmetry % 4)
    return np.ascontiguousarray(image[:, ::-1] if symmetry >= 4 else image)


class Pools:
    """The rows of each item that can be anchors, and those that can be compared with anchors.

    With an anchor domain, such as street, anchors are from that domain and their partners from all others; otherwise,
    any row can be both. Items without anchors or partners are left out.

    Raises:
        ValueError: fewer than two items are left, or no photo is of the anchor domain.
    """

    def __init__(self, data: Dataset, anchor_domain: str = "") -> None:
        everything = np.ones(len(data), np.bool_)
        first = data.in_domain(anchor_domain) if anchor_domain else everything
        second = ~first if anchor_domain else everything
        by_item = np.argsort(data.item_ids, kind="stable")
        parts = np.split(by_item, np.flatnonzero(np.diff(data.item_ids[by_item])) + 1)
        pools = [(part[first[part]], part[second[part]]) for part in parts]
        pools = [(anchors, partners) for anchors, partners in pools if len(anchors) and len(partners)]
        if len(pools) < 2:
            raise ValueError(f"training needs at least two items with anchors and positives, got {len(pools)}")
        self.anchors = [anchors for anchors, _ in pools]
        self.partners = [partners for _, partners in pools]
        self.crossed = bool(anchor_domain)
        self.data = data

    def __len__(self) -> int:
        return len(self.anchors)

    def positive_pair(self, item: int, rng: Generator) -> tuple[int, int]:
        """Draw an anchor of an item and another of its photos; the same photo twice if it has no other."""
        anchor = int(rng.choice(self.anchors[item]))
        others = self.partners[item][self.partners[item] != anchor]
        return anchor, int(rng.choice(others)) if len(others) else anchor

    def negative(self, item: int, rng: Generator) -> int:
        """Draw a photo of another item."""
        number = int(rng.integers(len(self) - 1))
        return int(rng.choice(self.partners[number + (number >= item)]))


class PK:
    """Draws ``items`` items with ``photos`` photos each; all photos are compared with each other.

    Each epoch draws every item once. Photos of an item are different as far as it has enough. With an anchor domain,
    half of an item's photos are anchors and half partners, and only anchors are compared with partners. ``together``
    ``(n,)`` keeps items with the same number, such as the colours of a style, in one batch as far as they fit: they are
    hard to tell apart.
    """

    def __init__(self, pools: Pools, items: int, photos: int, seed: int = 0, together: Ints | None = None) -> None:
        if items < 2 or photos < 2:
            raise ValueError(f"a batch needs at least 2 items with 2 photos each, got {items} with {photos}")
        self._pools, self._items, self._photos, self._seed = pools, min(items, len(pools)), photos, seed
        groups: dict[int, list[int]] = {}
        for item, anchors in enumerate(pools.anchors):
            groups.setdefault(item if together is None else int(together[anchors[0]]), []).append(item)
        self._groups = [np.array(group) for group in groups.values()]

    def __call__(self, step: int) -> Draw:
        """Return ``items * photos`` rows, the photos of an item side by side."""
        rng = np.random.default_rng((self._seed, step, 0))
        rows = np.concatenate([self._photos_of(item, rng) for item in self._items_of(step)])
        if not self._pools.crossed:
            return Draw(rows)
        anchors = np.arange(len(rows)) % self._photos < self._photos // 2
        return Draw(rows, anchors=anchors, partners=~anchors)

    def _items_of(self, step: int) -> list[int]:
        """Return the next items of the epoch's order; a batch across two epochs has no item twice."""
        places = [divmod(step * self._items + offset, len(self._pools)) for offset in range(self._items)]
        orders = {epoch: self._order(epoch) for epoch, _ in places}
        items = dict.fromkeys(int(orders[epoch][place]) for epoch, place in places)
        spare = (item for item in orders[places[-1][0]].tolist() if item not in items)
        return [*items, *(next(spare) for _ in range(self._items - len(items)))]

    def _order(self, epoch: int) -> Ints:
        rng = np.random.default_rng((self._seed, epoch, 1))
        groups = [self._groups[place] for place in rng.permutation(len(self._groups))]
        return np.concatenate([rng.permutation(group) for group in groups])

    def _photos_of(self, item: int, rng: Generator) -> Ints:
        anchors, partners = self._pools.anchors[item], self._pools.partners[item]
        if not self._pools.crossed:
            return _repeated(anchors, self._photos, rng)
        half = self._photos // 2
        return np.concatenate([_repeated(anchors, half, rng), _repeated(partners, self._photos - half, rng)])


class RandomPairs:
    """Draws pairs, half of the same item and half of different items; only the two photos of a pair are compared."""

    def __init__(self, pools: Pools, pairs: int, seed: int = 0) -> None:
        if pairs < 2:
            raise ValueError(f"a batch needs at least 2 pairs, half of them of the same item, got {pairs}")
        self._pools, self._pairs, self._seed = pools, pairs, seed

    def __call__(self, step: int) -> Draw:
        """Return the rows of the pairs, those of the same item first."""
        rng = np.random.default_rng((self._seed, step))
        rows: list[int] = []
        for place in range(self._pairs):
            item = int(rng.integers(len(self._pools)))
            left, right = self._pools.positive_pair(item, rng)
            rows += (left, right if place < self._pairs // 2 else self._pools.negative(item, rng))
        return _in_groups(rows, 2)


class RandomTriplets:
    """Draws triplets: an anchor, another photo of its item, and a photo of any other item."""

    def __init__(self, pools: Pools, triplets: int, seed: int = 0) -> None:
        if triplets < 1:
            raise ValueError(f"a batch needs at least 1 triplet, got {triplets}")
        self._pools, self._triplets, self._seed = pools, triplets, seed

    def __call__(self, step: int) -> Draw:
        """Return the rows of the triplets."""
        rng = np.random.default_rng((self._seed, step))
        rows: list[int] = []
        for item in rng.integers(len(self._pools), size=self._triplets).tolist():
            rows += (*self._pools.positive_pair(item, rng), self._pools.negative(item, rng))
        return _in_groups(rows, 3)


class OfflineTriplets:
    """Draws semi-hard triplets, mined every ``mine_steps`` steps in at most ``photos`` photos with the current network.

    For machines that cannot hold batches large enough to contain hard negatives. Call :meth:`prepare` before the draw of
    every step that ``mine_steps`` divides.
    """

    def __init__(self, pools: Pools, triplets: int, mine_steps: int, photos: int, seed: int = 0) -> None:
        if min(triplets, mine_steps) < 1 or photos < 4:
            raise ValueError(
                "offline mining needs at least 1 triplet in a batch, 1 step and 4 photos;"
                f" got {triplets}, {mine_steps} and {photos}"
            )
        self._pools, self._triplets, self._photos, self._seed = pools, triplets, photos, seed
        self.mine_steps = mine_steps
        self.mined: Ints = np.empty((0, 3), np.int64)  # rows: anchors, positives, negatives

    def prepare(self, step: int, path: Path, embed: Callable[[Ints], Vectors]) -> None:
        """Mine triplets for the steps until the next mining, or read them if a resumed run has mined them already.

        Args:
            step: the next to be taken.
            path: of the file that keeps the triplets.
            embed: maps rows to vectors ``(n, dim)``.
        """
        since = step - step % self.mine_steps
        if (len(self.mined) and step != since) or self._restored(path, since):
            return
        self.mine(step, embed)
        with replacing(path) as part:
            save_file({"mined": self.mined}, part, metadata={"step": str(since)})

    def mine(self, step: int, embed: Callable[[Ints], Vectors]) -> None:
        """Mine triplets in a sample of the photos."""
        rng = np.random.default_rng((self._seed, step, 0))
        anchors, partners = self._sample(rng)
        rows = np.unique(np.concatenate([anchors, partners]))
        labels = torch.from_numpy(self._pools.data.item_ids[rows])
        relations = Relations.of(labels, None, *(torch.from_numpy(np.isin(rows, each)) for each in (anchors, partners)))
        scores = torch.from_numpy(rng.random(relations.positive.shape, np.float32)) * relations.positive
        one_each = (scores == scores.amax(dim=1, keepdim=True)) & relations.positive
        chosen = semi_hard(squared(torch.from_numpy(embed(rows))), replace(relations, positive=one_each))
        self.mined = rows[torch.stack(chosen, dim=1).numpy()]
        if not len(self.mined):
            raise ValueError("offline mining found no triplet: no sampled item has two photos; raise mine_photos")

    def __call__(self, step: int) -> Draw:
        """Return mined triplets, each once before any is repeated."""
        if not len(self.mined):
            raise RuntimeError("no triplets: call prepare first")
        since = step % self.mine_steps
        places = [divmod(since * self._triplets + offset, len(self.mined)) for offset in range(self._triplets)]
        orders = {
            epoch: np.random.default_rng((self._seed, step - since, epoch, 1)).permutation(len(self.mined))
            for epoch, _ in places
        }
        return _in_groups(self.mined[[orders[epoch][place] for epoch, place in places]].reshape(-1).tolist(), 3)

    def _restored(self, path: Path, step: int) -> bool:
        """Read the triplets that were mined at a step; return whether the file has them."""
        try:
            with safe_open(path, framework="np") as file:
                if int(file.metadata()["step"]) != step:
                    return False
                self.mined = file.get_tensor("mined")
        except (OSError, SafetensorError, KeyError, TypeError, ValueError):
            return False
        return True

    def _sample(self, rng: Generator) -> tuple[Ints, Ints]:
        """Return the anchors and partners of random items; an item with very many photos contributes an equal share."""
        share = max(2, self._photos // len(self._pools))
        anchors: list[Ints] = []
        partners: list[Ints] = []
        for item in rng.permutation(len(self._pools)).tolist():
            if len(anchors) >= 2 and sum(map(len, anchors + partners)) >= self._photos:
                break
            of_item, others = self._pools.anchors[item], self._pools.partners[item]
            anchors.append(rng.permutation(of_item)[:share])
            partners.append(rng.permutation(others)[:share] if self._pools.crossed else anchors[-1])
        return np.concatenate(anchors), np.concatenate(partners)


SAMPLERS: Final = ("pk", "pairs", "triplets", "offline")


@dataclass(frozen=True, slots=True)
class SamplerPlan:
    """A sampler by name, and its options; docs/recipes.md explains them."""

    name: str = "pk"
    batch_size: int = 64
    photos: int = 4
    together: str = ""
    anchor_domain: str = ""
    mine_steps: int = 200
    mine_photos: int = 1000
    turned: bool = False

    def __post_init__(self) -> None:
        check_name("sampler", self.name, SAMPLERS)
        if self.together not in ("", "style", "source"):
            raise ValueError(f"together must be style or source, got {self.together!r}")

    def build(self, data: Dataset, seed: int = 0) -> Sampler:
        """Return the sampler for a dataset."""
        pools = Pools(data, self.anchor_domain)
        if self.name == "pairs":
            return RandomPairs(pools, self.batch_size // 2, seed)
        if self.name == "triplets":
            return RandomTriplets(pools, self.batch_size // 3, seed)
        if self.name == "offline":
            return OfflineTriplets(pools, self.batch_size // 3, self.mine_steps, self.mine_photos, seed)
        together = {"style": data.style_ids, "source": data.source_ids}.get(self.together)
        return PK(pools, self.batch_size // self.photos, self.photos, seed, together)


def _in_groups(rows: list[int], size: int) -> Draw:
    """Return rows in groups, in each of which the first is the anchor and the others its partners."""
    places = np.arange(len(rows))
    anchors = places % size == 0
    return Draw(np.array(rows, np.int64), places // size, anchors, ~anchors)


def _repeated(rows: Ints, count: int, rng: Generator) -> Ints:
    """Return ``count`` random rows, each once before any is repeated."""
    rounds = [rng.permutation(rows) for _ in range(-(-count // len(rows)))]
    return np.concatenate(rounds)[:count]
