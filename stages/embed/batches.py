"""Batches as a trainer takes them: views of photos, and who is compared with whom."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from stages.embed.drawing import Sampler
from stages.embed.relations import Relations
from stages.embed.rows import Ints, Rows
from stages.embed.views import View


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Views ``(n, side, side, 3)`` uint8, and of each the number of its identity and of its style, ``(n,)``.

    ``groups``, ``anchors`` and ``partners`` are those of :meth:`~stages.embed.relations.Relations.of`.
    """

    views: NDArray[np.uint8]
    identities: Ints
    styles: Ints
    groups: Ints | None = None
    anchors: NDArray[np.bool_] | None = None
    partners: NDArray[np.bool_] | None = None

    def relations(self, device: str | torch.device = "cpu", *, by_style: bool = False) -> Relations:
        """Positives and negatives by identity, or by style."""
        given = (self.groups, self.anchors, self.partners)
        groups, anchors, partners = (None if one is None else torch.from_numpy(one).to(device) for one in given)
        labels = self.styles if by_style else self.identities
        return Relations.of(torch.from_numpy(labels).to(device), groups, anchors, partners)


class Source(Protocol):
    """The batch of each step, from 0; called from threads, a few steps ahead."""

    def __call__(self, step: int) -> Batch:
        """The batch of a step, the same whenever it is asked for."""


class Batches:
    """Rows of a sampler as views.

    Args:
        rows: the photos.
        sampler: draws rows.
        views: how a photo of each domain is looked at, by the domain's name; under an empty name that of all others.
        side: of the views, pixels.
        seed: of the views.
    """

    def __init__(self, rows: Rows, sampler: Sampler, views: Mapping[str, View], side: int, seed: int = 0) -> None:
        if "" not in views:
            raise ValueError("views need one under an empty name, for domains that have none of their own")
        self.rows, self.sampler, self.side = rows, sampler, side
        self._views = [views.get(name, views[""]) for name in rows.domain_names]
        self._seed = seed

    def __call__(self, step: int) -> Batch:
        """The batch of a step."""
        draw = self.sampler(step)
        rng = np.random.default_rng((self._seed, step, 2))
        pixels = []
        for row in draw.rows.tolist():
            scenery = self.rows.images[int(rng.integers(len(self.rows)))]
            pixels.append(self._views[self.rows.domains[row]](self.rows.images[row], self.side, rng, scenery))
        return Batch(
            np.stack(pixels),
            self.rows.items[draw.rows],
            self.rows.styles[draw.rows],
            draw.groups,
            draw.anchors,
            draw.partners,
        )
