"""Losses: each takes vectors ``(n, dim)`` and :class:`~stages.embed.relations.Relations`, and gives a scalar.

What is orthogonal stays so: a sampler arranges the batch, relations say who may be compared, a miner chooses, a
distance measures, and a loss asks for an order.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from torch import Tensor, nn

from stages.embed.losses.distances import DISTANCES, Distance
from stages.embed.losses.pairs import Contrastive, PairEntropy
from stages.embed.losses.proxies import ProxyAnchor, ProxyNCA
from stages.embed.losses.softmax import InfoNCE, MultiSimilarity, SupCon
from stages.embed.losses.triplets import Quadruplet, Triplet
from stages.embed.mining import MINERS, Miner
from stages.embed.network import SiameseNetwork


@dataclass(frozen=True, slots=True)
class LossPlan:
    """A loss by its name, and what it is made of; None stands for what suits the loss.

    Attributes:
        name: of :data:`LOSSES`.
        distance: of :data:`~stages.embed.losses.distances.DISTANCES`; for losses of distances.
        miner: of :data:`~stages.embed.mining.MINERS`; for losses of pairs (None: all pairs) and of triplets (all).
        margin: for losses that have one, in units of the distance.
        temperature: for those that divide similarities by one.

    Raises:
        ValueError: there is nothing of such a name, or the loss has no use for what it is given.
    """

    name: str = "infonce"
    distance: str | None = None
    miner: str | None = None
    margin: float | None = None
    temperature: float | None = None

    def __post_init__(self) -> None:
        named = (("loss", self.name, LOSSES), ("distance", self.distance, DISTANCES), ("miner", self.miner, MINERS))
        for kind, name, known in named:
            if name is not None and name not in known:
                raise ValueError(f"no {kind} is called {name!r}; there are {', '.join(known)}")
        useless = [
            part for part in OPTIONS if getattr(self, part) is not None and part not in LOSSES[self.name].options
        ]
        if useless:
            raise ValueError(f"{self.name} has no use for a {' or a '.join(useless)}; leave it out")
        if any(number is not None and number <= 0 for number in (self.margin, self.temperature)):
            raise ValueError(f"margin and temperature are above 0, got {self.margin} and {self.temperature}")

    def build(self, network: SiameseNetwork, classes: int) -> nn.Module:
        """The loss, for a network and a number of classes to train on.

        Raises:
            ValueError: the loss needs a pair head, and the network has none; or the other way round.
        """
        if (self.name == "bce") != (network.pair_head is not None):
            raise ValueError("the loss bce and a pair head need each other; name both or neither")
        return LOSSES[self.name].build(self, network, classes)

    def measure(self, usual: str) -> Distance:
        """The distance, or the usual one."""
        return DISTANCES[self.distance or usual]

    def mine(self) -> Miner:
        """The miner, or all triplets."""
        return MINERS[self.miner or "all"]

    def mine_pairs(self) -> Miner | None:
        """The miner, or None for all pairs."""
        return MINERS[self.miner] if self.miner else None


OPTIONS: Final = ("distance", "miner", "margin", "temperature")


@dataclass(frozen=True, slots=True)
class LossKind:
    """How a loss is built, and which options of :class:`LossPlan` it has."""

    build: Callable[[LossPlan, SiameseNetwork, int], nn.Module]
    options: tuple[str, ...] = ()


LOSSES: Final[Mapping[str, LossKind]] = {
    "contrastive": LossKind(
        lambda plan, _net, _n: Contrastive(plan.margin or 1.0, plan.measure("euclidean"), plan.mine_pairs()),
        ("distance", "miner", "margin"),
    ),
    "bce": LossKind(lambda plan, net, _n: PairEntropy(_pair_head(net), plan.mine_pairs()), ("miner",)),
    "triplet": LossKind(
        lambda plan, _net, _n: Triplet(plan.margin or 0.2, plan.measure("squared"), plan.mine()),
        ("distance", "miner", "margin"),
    ),
    "quadruplet": LossKind(
        lambda plan, _net, _n: Quadruplet(plan.margin or 0.2, plan.measure("squared"), plan.mine()),
        ("distance", "miner", "margin"),
    ),
    "multi-similarity": LossKind(lambda _plan, _net, _n: MultiSimilarity()),
    "proxy-nca": LossKind(lambda _plan, net, classes: ProxyNCA(classes, net.dim)),
    "proxy-anchor": LossKind(
        lambda plan, net, classes: ProxyAnchor(classes, net.dim, margin=plan.margin or 0.1), ("margin",)
    ),
    "infonce": LossKind(lambda plan, _net, _n: InfoNCE(plan.temperature or 0.07), ("temperature",)),
    "supcon": LossKind(lambda plan, _net, _n: SupCon(plan.temperature or 0.07), ("temperature",)),
}
"""Every loss by its name."""


def _pair_head(network: SiameseNetwork) -> Callable[[Tensor, Tensor], Tensor]:
    if network.pair_head is None:
        raise ValueError("bce compares by a pair head; give the network one")
    return network.pair_head.__call__  # a method, so that the head's parameters stay the network's alone
