"""Losses of vectors, and what they are made of: relations of a batch, distances and miners.

Each part is orthogonal to the others: a sampler arranges the batch, relations say which rows may be compared, a miner
chooses among them, a distance measures, and a loss asks for an order. A loss takes vectors ``(n, dim)`` and
:class:`Relations`, and returns a scalar.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple, Self, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stages.embed.network import SiameseNetwork


class Triplets(NamedTuple):
    """Rows of a batch, ``(t,)`` int64 each: an anchor, a photo of the same identity, and a photo of another one."""

    anchors: Tensor
    positives: Tensor
    negatives: Tensor


class Pairs(NamedTuple):
    """Rows of a batch, ``(p,)`` int64 each, and whether both show the same identity, ``(p,)`` bool."""

    left: Tensor
    right: Tensor
    same: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Relations:
    """The positives and negatives of each row of a batch.

    Attributes:
        labels: ``(n,)`` int64, the identity on each row.
        positive: ``(n, n)`` bool, whether the column is a positive of the row; a row is never its own positive.
        negative: ``(n, n)`` bool, whether the column is a negative of the row.
    """

    labels: Tensor
    positive: Tensor
    negative: Tensor

    @classmethod
    def of(
        cls,
        labels: Tensor,
        groups: Tensor | None = None,
        anchors: Tensor | None = None,
        partners: Tensor | None = None,
    ) -> Self:
        """Relate all pairs of a batch, or some.

        Args:
            labels: ``(n,)`` integers, equal on rows of the same identity.
            groups: ``(n,)`` integers; only rows of one group are related. None: all rows are one group.
            anchors: ``(n,)`` bool, rows that have positives and negatives. None: all.
            partners: ``(n,)`` bool, rows that may be a positive or negative. None: all.
        """
        same = labels[:, None] == labels[None, :]
        related = ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)
        if groups is not None:
            related &= groups[:, None] == groups[None, :]
        if anchors is not None:
            related &= anchors[:, None]
        if partners is not None:
            related &= partners[None, :]
        return cls(labels, same & related, ~same & related)

    def above(self, styles: Tensor) -> Relations:
        """Return the same pairs one level up: other identities of a row's style are positives, other styles negatives.

        Photos of the same identity are left out, so a loss on these relations never opposes one on identities.

        Args:
            styles: ``(n,)`` integers; rows of one identity have one style.
        """
        same_style = styles[:, None] == styles[None, :]
        other_identity = self.labels[:, None] != self.labels[None, :]
        related = self.positive | self.negative
        return Relations(styles, same_style & other_identity & related, ~same_style & related)

    def pairs(self) -> Pairs:
        """Return every positive and every negative as a pair."""
        left, right = (self.positive | self.negative).nonzero(as_tuple=True)
        return Pairs(left, right, self.positive[left, right])

    def triplets(self) -> Triplets:
        """Return every anchor with each of its positives and each of its negatives."""
        anchors, positives = self.positive.nonzero(as_tuple=True)
        which, negatives = self.negative[anchors].nonzero(as_tuple=True)
        return Triplets(anchors[which], positives[which], negatives)


Distance: TypeAlias = Callable[[Tensor], Tensor]
"""From vectors ``(n, dim)`` to distances ``(n, n)``, at least 0, with finite gradients everywhere."""


def squared(vectors: Tensor) -> Tensor:
    """Return squared Euclidean distances; 2 − 2 cos for unit vectors."""
    lengths = vectors.square().sum(dim=1)
    return (lengths[:, None] + lengths[None, :] - 2 * vectors @ vectors.T).clamp(min=0.0)


def euclidean(vectors: Tensor) -> Tensor:
    """Return Euclidean distances, from differences: from products, small distances would be lost in float32."""
    return torch.cdist(vectors, vectors, compute_mode="donot_use_mm_for_euclid_dist")


def cosine(vectors: Tensor) -> Tensor:
    """Return 1 − cos, in [0, 2]."""
    unit = F.normalize(vectors)
    return 1 - unit @ unit.T


DISTANCES: Final[Mapping[str, Distance]] = {"euclidean": euclidean, "squared": squared, "cosine": cosine}
"""Distances by name."""

Miner: TypeAlias = Callable[[Tensor, Relations], Triplets]
"""Chooses the triplets to learn from, by distances ``(n, n)`` without gradients."""


def every(_distances: Tensor, relations: Relations) -> Triplets:
    """Return all triplets; those that the sampler arranged, if it did."""
    return relations.triplets()


def batch_hard(distances: Tensor, relations: Relations) -> Triplets:
    """Return each anchor with its furthest positive and its nearest negative (Hermans, Beyer, Leibe 2017, eq. 5)."""
    anchors = _complete(relations)
    furthest = distances.masked_fill(~relations.positive, -math.inf)[anchors].argmax(dim=1)
    nearest = distances.masked_fill(~relations.negative, math.inf)[anchors].argmin(dim=1)
    return Triplets(anchors, furthest, nearest)


def semi_hard(distances: Tensor, relations: Relations) -> Triplets:
    """Return each anchor and positive with the nearest negative that is further away than the positive.

    Schroff, Kalenichenko, Philbin 2015 (FaceNet), eq. 4. If all negatives are nearer than the positive, it is the
    furthest of them: the hardest one would collapse the network early on.
    """
    anchors, positives = relations.positive.nonzero(as_tuple=True)
    has_negative = relations.negative.any(dim=1)[anchors]
    anchors, positives = anchors[has_negative], positives[has_negative]
    rows, negative = distances[anchors], relations.negative[anchors]
    beyond = negative & (rows > distances[anchors, positives][:, None])
    nearest_beyond = rows.masked_fill(~beyond, math.inf).argmin(dim=1)
    furthest = rows.masked_fill(~negative, -math.inf).argmax(dim=1)
    return Triplets(anchors, positives, torch.where(beyond.any(dim=1), nearest_beyond, furthest))


MINERS: Final[Mapping[str, Miner]] = {
    "all": every,
    "semi-hard": semi_hard,
    "batch-hard": batch_hard,
}
"""Miners within a batch by name; offline mining is a sampler."""


def _complete(relations: Relations) -> Tensor:
    """Return the rows that have a positive and a negative."""
    return (relations.positive.any(dim=1) & relations.negative.any(dim=1)).nonzero().squeeze(1)


def masked(logits: Tensor, mask: Tensor) -> Tensor:
    """Return logits that are the lowest finite number outside a mask, so that gradients stay finite if it is empty."""
    return logits.masked_fill(~mask, torch.finfo(logits.dtype).min)


def softplus_sum(logits: Tensor, mask: Tensor) -> Tensor:
    """Return ``log(1 + Σ exp(logits))`` over each row's mask, from ``(n, m)`` to ``(n,)``; 0 if the mask is empty."""
    return torch.cat([torch.zeros_like(logits[:, :1]), masked(logits, mask)], dim=1).logsumexp(dim=1)


class Contrastive(nn.Module):
    """Contrastive loss: ``½ d²`` for the same identity, ``½ max(0, margin − d)²`` for different ones.

    Hadsell, Chopra, LeCun 2006, eq. 4. Positive and negative pairs each weigh half, however many there are. A network
    with one distance for all pairs has a loss of at least ``margin² / 8``: at that value nothing has been learned.

    Args:
        margin: the distance beyond which different identities add no loss.
        distance: between vectors.
        miner: chooses triplets whose pairs are learned from. None: all pairs.
    """

    def __init__(self, margin: float, distance: Distance, miner: Miner | None = None) -> None:
        super().__init__()
        self._margin, self._distance, self._miner = margin, distance, miner

    def forward(self, vectors: Tensor, relations: Relations) -> Tensor:
        """Return the loss of a batch; 0 if it has no pairs."""
        distances = self._distance(vectors)
        left, right, same = _chosen(distances, relations, self._miner)
        apart = distances[left, right]
        return _balanced(0.5 * torch.where(same, apart, (self._margin - apart).clamp(min=0.0)).square(), same)


class PairEntropy(nn.Module):
    """Binary cross-entropy of a pair head (Koch, Zemel, Salakhutdinov 2015, section 3.2), both classes weighing alike.

    A miner uses the head's logits: mining by the distance of vectors would show the head far positives and near
    negatives, and teach it that far means same.

    Args:
        compare: from two batches of vectors to logits; the network's pair head, which is symmetric.
        miner: chooses triplets whose pairs are learned from. None: all pairs.
    """

    def __init__(self, compare: Callable[[Tensor, Tensor], Tensor], miner: Miner | None = None) -> None:
        super().__init__()
        self._compare, self._miner = compare, miner

    def forward(self, vectors: Tensor, relations: Relations) -> Tensor:
        """Return the loss of a batch; 0 if it has no pairs."""
        same, related = relations.positive, relations.positive | relations.negative
        left, right = (related | related.T).triu().nonzero(as_tuple=True)  # each pair once
        logits = self._compare(vectors[left], vectors[right])
        same = (same | same.T)[left, right]
        if self._miner is not None:
            places = torch.zeros(related.shape, dtype=torch.int64, device=left.device)
            places[left, right] = places[right, left] = torch.arange(len(left), device=left.device)
            anchors, positives, negatives = self._miner(-logits.detach()[places], relations)
            chosen = torch.cat([places[anchors, positives], places[anchors, negatives]])
            logits, same = logits[chosen], same[chosen]
        return _balanced(F.binary_cross_entropy_with_logits(logits, same.float(), reduction="none"), same)


def _chosen(distances: Tensor, relations: Relations, miner: Miner | None) -> Pairs:
    if miner is None:
        return relations.pairs()
    anchors, positives, negatives = miner(distances.detach(), relations)
    same = torch.arange(2 * len(anchors), device=anchors.device) < len(anchors)
    return Pairs(anchors.repeat(2), torch.cat([positives, negatives]), same)


def _balanced(losses: Tensor, same: Tensor) -> Tensor:
    """Return the mean of the mean over positive pairs and the mean over negative pairs, if there are any."""
    counts = torch.stack([same.sum(), (~same).sum()])
    sums = torch.stack([losses[same].sum(), losses[~same].sum()])
    return (sums / counts.clamp(min=1)).sum() / (counts > 0).sum().clamp(min=1)


class Triplet(nn.Module):
    """Triplet loss: ``max(0, d(anchor, positive) − d(anchor, negative) + margin)``, averaged over a miner's triplets.

    Schroff, Kalenichenko, Philbin 2015 (FaceNet), eq. 3, with squared Euclidean distances; Hermans et al. 2017 use
    Euclidean ones.
    """

    def __init__(self, margin: float, distance: Distance, miner: Miner) -> None:
        super().__init__()
        self._margin, self._distance, self._miner = margin, distance, miner

    def forward(self, vectors: Tensor, relations: Relations) -> Tensor:
        """Return the loss of a batch; 0 if it has no triplet."""
        distances = self._distance(vectors)
        anchors, positives, negatives = self._miner(distances.detach(), relations)
        excess = distances[anchors, positives] - distances[anchors, negatives] + self._margin
        return excess.clamp(min=0.0).sum() / max(1, len(anchors))


class Quadruplet(nn.Module):
    """Quadruplet loss (Chen, Chen, Zhang, Huang 2017, eq. 3): a triplet, and a pair of negatives to push apart too.

    ``max(0, d(a, p) − d(a, n₁) + margin) + max(0, d(a, p) − d(n₁, n₂) + margin / 2)``, where n₁ is the triplet's
    negative, and n₂ the row nearest to it of neither its identity nor the anchor's. Without such a row the second
    part is 0.
    """

    def __init__(self, margin: float, distance: Distance, miner: Miner) -> None:
        super().__init__()
        self._margin, self._distance, self._miner = margin, distance, miner

    def forward(self, vectors: Tensor, relations: Relations) -> Tensor:
        """Return the loss of a batch; 0 if it has no triplet."""
        distances, labels = self._distance(vectors), relations.labels
        anchors, positives, first = self._miner(distances.detach(), relations)
        third = (labels[None, :] != labels[anchors][:, None]) & (labels[None, :] != labels[first][:, None])
        second = distances.detach()[first].masked_fill(~third, math.inf).argmin(dim=1)
        near, far, across = distances[anchors, positives], distances[anchors, first], distances[first, second]
        triplet = (near - far + self._margin).clamp(min=0.0)
        others = (near - across + self._margin / 2).clamp(min=0.0).masked_fill(~third.any(dim=1), 0.0)
        return (triplet + others).sum() / max(1, len(anchors))


class InfoNCE(nn.Module):
    """In-batch softmax: each positive against all negatives of its anchor.

    Van den Oord et al. 2018, eq. 4, extended to several positives: each has its own softmax, without the anchor's
    other positives and rows that are neither, so positives never repel each other. All anchors weigh the same,
    however many positives they have.
    """

    def __init__(self, temperature: float = 0.07) -> None:
        super().__init__()
        self._temperature = temperature

    def forward(self, vectors: Tensor, relations: Relations) -> Tensor:
        """Return the mean over anchors that have a positive; 0 if none has."""
        logits = vectors @ vectors.T / self._temperature
        rivals = masked(logits, relations.negative).logsumexp(dim=1, keepdim=True)
        return _mean(torch.logaddexp(logits, rivals) - logits, relations.positive)


class SupCon(nn.Module):
    """Supervised contrastive loss (Khosla et al. 2020, eq. 2): each positive against all other rows of its anchor.

    Unlike in :class:`InfoNCE`, other positives are in the denominator too.
    """

    def __init__(self, temperature: float = 0.07) -> None:
        super().__init__()
        self._temperature = temperature

    def forward(self, vectors: Tensor, relations: Relations) -> Tensor:
        """Return the mean over anchors that have a positive; 0 if none has."""
        logits = vectors @ vectors.T / self._temperature
        others = masked(logits, relations.positive | relations.negative).logsumexp(dim=1, keepdim=True)
        return _mean(others - logits, relations.positive)


class MultiSimilarity(nn.Module):
    """Multi-similarity loss (Wang et al. 2019): hard pairs (eq. 11 and 12), each weighted by all others (eq. 15).

    The constants are those of the paper's code.
    """

    def __init__(self, alpha: float = 2.0, beta: float = 50.0, base: float = 0.5, epsilon: float = 0.1) -> None:
        super().__init__()
        self._alpha, self._beta, self._base, self._epsilon = alpha, beta, base, epsilon

    def forward(self, vectors: Tensor, relations: Relations) -> Tensor:
        """Return the mean over all anchors; 0 if no pair is hard."""
        similar = vectors @ vectors.T
        positive, negative = self._hard(similar.detach(), relations)
        pull = softplus_sum(-self._alpha * (similar - self._base), positive) / self._alpha
        push = softplus_sum(self._beta * (similar - self._base), negative) / self._beta
        anchors = (relations.positive | relations.negative).any(dim=1).sum().clamp(min=1)
        return (pull + push).sum() / anchors

    def _hard(self, similar: Tensor, relations: Relations) -> tuple[Tensor, Tensor]:
        """Return the positives that are further than the best negative, and the negatives nearer than the worst positive."""
        worst = similar.masked_fill(~relations.positive, math.inf).amin(dim=1, keepdim=True)
        best = similar.masked_fill(~relations.negative, -math.inf).amax(dim=1, keepdim=True)
        has_both = worst.isfinite() & best.isfinite()
        positive = relations.positive & (similar - self._epsilon < best) & has_both
        return positive, relations.negative & (similar + self._epsilon > worst) & has_both


def _mean(per_pair: Tensor, positive: Tensor) -> Tensor:
    """Return the mean over anchors of the mean over their positives."""
    positives = positive.sum(dim=1)
    per_anchor = per_pair.masked_fill(~positive, 0.0).sum(dim=1) / positives.clamp(min=1)
    return per_anchor.sum() / (positives > 0).sum().clamp(min=1)


class ProxyNCA(nn.Module):
    """Proxy-NCA (Movshovitz-Attias et al. 2017, eq. 4), with a learned vector, the proxy, for each class.

    ``−log(exp(−d(x, p)) / Σ exp(−d(x, q)))`` with squared Euclidean distances of unit vectors times ``scale``, where p
    is the proxy of the row's class and q all others. The loss can be negative.
    """

    def __init__(self, classes: int, dim: int, scale: float = 3.0) -> None:
        super().__init__()
        self.proxies = _proxies(classes, dim)
        self._scale = scale

    def forward(self, vectors: Tensor, relations: Relations) -> Tensor:
        """Return the mean over all rows."""
        distances = self._scale * (2 - 2 * F.normalize(vectors) @ F.normalize(self.proxies).T)
        own = F.one_hot(_checked(relations.labels, len(self.proxies)), len(self.proxies)).bool()
        others = masked(-distances, ~own).logsumexp(dim=1)
        return (distances[own] + others).mean()


class ProxyAnchor(nn.Module):
    """Proxy-anchor (Kim et al. 2020, eq. 4): each proxy attracts and repels the rows of a batch by their hardness.

    Args:
        classes: number of classes to train on.
        dim: width of the vectors.
        alpha: scale of the softmax.
        margin: of the cosine similarity.
    """

    def __init__(self, classes: int, dim: int, alpha: float = 32.0, margin: float = 0.1) -> None:
        super().__init__()
        self.proxies = _proxies(classes, dim)
        self._alpha, self._margin = alpha, margin

    def forward(self, vectors: Tensor, relations: Relations) -> Tensor:
        """Average attraction over the proxies of classes in the batch, and repulsion over all proxies."""
        similar = F.normalize(self.proxies) @ F.normalize(vectors).T
        own = F.one_hot(_checked(relations.labels, len(self.proxies)), len(self.proxies)).bool().T
        pull = softplus_sum(-self._alpha * (similar - self._margin), own)
        push = softplus_sum(self._alpha * (similar + self._margin), ~own)
        return pull.sum() / own.any(dim=1).sum().clamp(min=1) + push.mean()


def _proxies(classes: int, dim: int) -> nn.Parameter:
    if classes < 2:
        raise ValueError(f"proxies need at least 2 classes to tell apart, got {classes}")
    proxies = torch.empty(classes, dim)
    nn.init.kaiming_normal_(proxies, mode="fan_out")
    return nn.Parameter(proxies)


def _checked(labels: Tensor, classes: int) -> Tensor:
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        raise ValueError(f"there are proxies of {classes} classes, got labels up to {int(labels.max())}")
    return labels


@dataclass(frozen=True, slots=True)
class LossPlan:
    """A loss by name with its options; None stands for the usual value of the loss.

    Attributes:
        name: a key of :data:`LOSSES`.
        distance: a key of :data:`DISTANCES`, for losses of distances.
        miner: a key of :data:`MINERS`, for losses of pairs (None: all pairs) and of triplets (None: all triplets).
        margin: for losses that have one, in units of the distance.
        temperature: for losses that divide similarities by one.

    Raises:
        ValueError: a name is unknown, or the loss does not have an option.
    """

    name: str = "infonce"
    distance: str | None = None
    miner: str | None = None
    margin: float | None = None
    temperature: float | None = None

    def __post_init__(self) -> None:
        for kind, name, known in (
            ("loss", self.name, LOSSES),
            ("distance", self.distance, DISTANCES),
            ("miner", self.miner, MINERS),
        ):
            if name is not None and name not in known:
                raise ValueError(f"no {kind} is called {name!r}; there are {', '.join(known)}")
        options = ("distance", "miner", "margin", "temperature")
        unused = [each for each in options if getattr(self, each) is not None and each not in LOSSES[self.name][1]]
        if unused:
            raise ValueError(f"the loss {self.name} has no {' or '.join(unused)}; leave it out")
        if any(number is not None and number <= 0 for number in (self.margin, self.temperature)):
            raise ValueError(f"margin and temperature are above 0, got {self.margin} and {self.temperature}")

    def build(self, network: SiameseNetwork, classes: int) -> nn.Module:
        """Build the loss for a network and a number of classes to train on.

        Raises:
            ValueError: the loss needs a pair head, and the network has none; or the other way round.
        """
        if (self.name == "bce") != (network.pair_head is not None):
            raise ValueError("the loss bce and a pair head need each other; name both or neither")
        return LOSSES[self.name][0](self, network, classes)

    def distance_or(self, usual: str) -> Distance:
        """Return the distance, or the usual one."""
        return DISTANCES[self.distance or usual]

    @property
    def pair_miner(self) -> Miner | None:
        """The miner, or None for all pairs."""
        return MINERS[self.miner] if self.miner else None

    @property
    def triplet_miner(self) -> Miner:
        """The miner, or the one that keeps all triplets."""
        return MINERS[self.miner or "all"]


LOSSES: Final[Mapping[str, tuple[Callable[[LossPlan, SiameseNetwork, int], nn.Module], tuple[str, ...]]]] = {
    "contrastive": (
        lambda plan, _net, _n: Contrastive(plan.margin or 1.0, plan.distance_or("euclidean"), plan.pair_miner),
        ("distance", "miner", "margin"),
    ),
    "bce": (lambda plan, net, _n: PairEntropy(_pair_head(net), plan.pair_miner), ("miner",)),
    "triplet": (
        lambda plan, _net, _n: Triplet(plan.margin or 0.2, plan.distance_or("squared"), plan.triplet_miner),
        ("distance", "miner", "margin"),
    ),
    "quadruplet": (
        lambda plan, _net, _n: Quadruplet(plan.margin or 0.2, plan.distance_or("squared"), plan.triplet_miner),
        ("distance", "miner", "margin"),
    ),
    "multi-similarity": (lambda _plan, _net, _n: MultiSimilarity(), ()),
    "proxy-nca": (lambda _plan, net, classes: ProxyNCA(classes, net.dim), ()),
    "proxy-anchor": (lambda plan, net, classes: ProxyAnchor(classes, net.dim, margin=plan.margin or 0.1), ("margin",)),
    "infonce": (lambda plan, _net, _n: InfoNCE(plan.temperature or 0.07), ("temperature",)),
    "supcon": (lambda plan, _net, _n: SupCon(plan.temperature or 0.07), ("temperature",)),
}
"""Losses by name: how each is built, and which options of :class:`LossPlan` it has."""


def _pair_head(network: SiameseNetwork) -> Callable[[Tensor, Tensor], Tensor]:
    if network.pair_head is None:
        raise ValueError("the loss bce compares by a pair head, and the network has none")
    return network.pair_head.__call__  # a method, so that the head's parameters stay the network's alone
