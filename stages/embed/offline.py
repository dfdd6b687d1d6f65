"""Offline semi-hard mining: triplets chosen now and then from many photos, trained on in small batches.

For machines on which a batch that is large enough to hold hard negatives does not fit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from stages.embed.drawing import Draw, Pools, in_groups
from stages.embed.inputs import Normalise
from stages.embed.losses.distances import squared
from stages.embed.mining import semi_hard
from stages.embed.network import SiameseNetwork
from stages.embed.relations import Relations
from stages.embed.rows import Ints, Rows
from stages.embed.siamese import vectors_of
from stages.files import replacing
from stages.types import Vectors

_BATCH = 32


class OfflineTriplets:
    """Semi-hard triplets of a sample of the photos, by vectors that the network gave them some steps ago.

    :meth:`mine` has to be called at every step that :attr:`mine_steps` divides, before the draw; :class:`Mining` does so.

    Args:
        pools: to draw from.
        triplets: in a batch.
        mine_steps: steps between two minings.
        photos: how many, at most, are embedded for one.
        seed: of everything random.
    """

    def __init__(self, pools: Pools, triplets: int, mine_steps: int, photos: int, seed: int = 0) -> None:
        if min(triplets, mine_steps) < 1 or photos < 4:
            raise ValueError(
                "offline mining takes at least 1 triplet in a batch, 1 step and 4 photos;"
                f" got {triplets}, {mine_steps} and {photos}"
            )
        self._pools, self._triplets, self._photos, self._seed = pools, triplets, photos, seed
        self.mine_steps = mine_steps
        self.mined: Ints = np.empty((0, 3), np.int64)
        """``(t, 3)`` rows: anchors, positives, negatives. Set it to what it was, to go on with a run."""

    def mine(self, step: int, embed: Callable[[Ints], Vectors]) -> None:
        """Choose triplets anew; a ValueError where there are none.

        Args:
            step: of the run; photos are sampled by it.
            embed: rows to vectors, ``(n, dim)``.
        """
        rng = np.random.default_rng((self._seed, step, 0))
        anchors, partners = self._sample(rng)
        rows = np.unique(np.concatenate([anchors, partners]))
        labels = torch.from_numpy(self._pools.rows.items[rows])
        relations = Relations.of(labels, None, *(torch.from_numpy(np.isin(rows, some)) for some in (anchors, partners)))
        one_each = torch.from_numpy(rng.random(relations.positive.shape, np.float32)) * relations.positive
        first = one_each == one_each.amax(dim=1, keepdim=True)
        chosen = semi_hard(
            squared(torch.from_numpy(embed(rows))), replace(relations, positive=first & relations.positive)
        )
        self.mined = rows[torch.stack(chosen, dim=1).numpy()]
        if not len(self.mined):
            raise ValueError("offline mining found no triplet: no sampled item has two photos; sample more photos")

    def __call__(self, step: int) -> Draw:
        """Rows in threes: triplets of the last mining, each once before any comes again.

        Raises:
            RuntimeError: nothing has been mined.
        """
        if not len(self.mined):
            raise RuntimeError("no triplets: call mine first; Mining does")
        since = step % self.mine_steps
        places = [divmod(since * self._triplets + offset, len(self.mined)) for offset in range(self._triplets)]
        orders = {
            each: np.random.default_rng((self._seed, step - since, each, 1)).permutation(len(self.mined))
            for each, _ in places
        }
        return in_groups(self.mined[[orders[each][place] for each, place in places]].reshape(-1), 3)

    def save(self, path: Path, step: int) -> None:
        """Write down what was mined at a step, atomically."""
        with replacing(path) as part:
            save_file({"mined": self.mined}, part, metadata={"step": str(step)})

    def restore(self, path: Path, step: int) -> bool:
        """Take over what :meth:`save` wrote of a step; whether it is there."""
        try:
            with safe_open(path, framework="np") as file:
                if int(file.metadata()["step"]) != step:
                    return False
                self.mined = file.get_tensor("mined")
        except (OSError, SafetensorError, KeyError, TypeError, ValueError):
            return False
        return True

    def _sample(self, rng: np.random.Generator) -> tuple[Ints, Ints]:
        """Anchors and partners of random items, until there are photos enough; two items at least, never cut short.

        An item of very many photos brings an equal share of the whole.
        """
        share = max(2, self._photos // len(self._pools))
        anchors: list[Ints] = []
        partners: list[Ints] = []
        for item in rng.permutation(len(self._pools)).tolist():
            if len(anchors) >= 2 and sum(map(len, anchors + partners)) >= self._photos:
                break
            mine, theirs = self._pools.anchors[item], self._pools.partners[item]
            anchors.append(rng.permutation(mine)[:share])
            partners.append(rng.permutation(theirs)[:share] if self._pools.crossed else anchors[-1])
        return np.concatenate(anchors), np.concatenate(partners)


class Mining:
    """Mines when it is due, with the weights of that step; a run that goes on has what was mined then.

    Args:
        sampler: that is to have triplets.
        network: in training.
        rows: of the photos.
        path: where what was mined is kept.
    """

    def __init__(self, sampler: OfflineTriplets, network: SiameseNetwork, rows: Rows, path: Path) -> None:
        self._sampler, self._network, self._rows, self._path = sampler, network, rows, path
        self.every = sampler.mine_steps

    def prepare(self, step: int) -> None:
        """Have triplets for the steps until the next mining; the state of the run is saved at each one."""
        since = step - step % self.every
        if len(self._sampler.mined) and step != since:
            return
        if not self._sampler.restore(self._path, since):
            self._sampler.mine(step, self._embed)
            self._sampler.save(self._path, since)

    def _embed(self, rows: Ints) -> Vectors:
        network = self._network.eval()
        device = str(next(network.parameters()).device)
        images = [self._rows.images[row] for row in rows.tolist()]
        return vectors_of(network, images, Normalise(*network.design.stats), device, _BATCH, unit=False)
