"""Metric-learning losses and their parts: relations within a batch, distances and miners.

The parts are orthogonal: a sampler composes the batch, relations define positives and negatives, a miner selects triplets,
a distance measures, and a loss combines them. A loss takes vectors ``(n, dim)`` and :class:`Relations`, and returns a
scalar.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, Self, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stages.embed.layers import check_name
from stages.embed.network import SiameseNetwork


class Triplets(NamedTuple):
    """Row numbers of a batch, ``(t,)`` int64 each."""

    anchors: Tensor
    positives: Tensor
    negatives: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Relations:
    """The positives and negatives of each row of a batch.

    Attributes:
        labels: ``(n,)`` int64, the identity of each row.
        positive: ``(n, n)`` bool, whether the column is a positive of the row; never true on the diagonal.
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
        """Relate the rows of a batch by their labels.

        Args:
            labels: ``(n,)`` integers, equal for rows of the same identity.
            groups: ``(n,)`` integers; only rows of the same group are related. None: all rows.
            anchors: ``(n,)`` bool, rows that have positives and negatives. None: all rows.
            partners: ``(n,)`` bool, rows that may be positives and negatives. None: all rows.
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
        """Return relations one level up: other identities of the same style are positives, other styles negatives.

        Rows of the same identity are not related, so a loss on styles never opposes a loss on identities. ``styles``
        ``(n,)`` are integers; all rows of an identity have the same style.
        """
        same_style = styles[:, None] == styles[None, :]
        other_identity = self.labels[:, None] != self.labels[None, :]
        related = self.positive | self.negative
        return Relations(styles, same_style & other_identity & related, ~same_style & related)

    def triplets(self) -> Triplets:
        """Return every combination of an anchor, a positive and a negative."""
        anchors, positives = self.positive.nonzero(as_tuple=True)
        which, negatives = self.negative[anchors].nonzero(as_tuple=True)
        return Triplets(anchors[which], positives[which], negatives)


Distance: TypeAlias = Callable[[Tensor], Tensor]
"""Maps vectors ``(n, dim)`` to non-negative distances ``(n, n)`` with finite gradients."""


def squared(vectors: Tensor) -> Tensor:
    """Return squared Euclidean distances; 2 − 2 cos for unit vectors."""
    lengths = vectors.square().sum(dim=1)
    return (lengths[:, None] + lengths[None, :] - 2 * vectors @ vectors.T).clamp(min=0.0)


def euclidean(vectors: Tensor) -> Tensor:
    """Return Euclidean distances, computed from differences: matrix products lose small distances in float32."""
    return torch.cdist(vectors, vectors, compute_mode="donot_use_mm_for_euclid_dist")


def cosine(vectors: Tensor) -> Tensor:
    """Return 1 − cos, in [0, 2]."""
    unit = F.normalize(vectors)
    return 1 - unit @ unit.T


DISTANCES: Final[Mapping[str, Distance]] = {"euclidean": euclidean, "squared": squared, "cosine": cosine}

Miner: TypeAlias = Callable[[Tensor, Relations], Triplets]
"""Selects triplets by distances ``(n, n)`` without gradients."""


def batch_hard(distances: Tensor, relations: Relations) -> Triplets:
    """Return each anchor with its furthest positive and its nearest negative (Hermans, Beyer, Leibe 2017, eq. 5)."""
    anchors = (relations.positive.any(dim=1) & relations.negative.any(dim=1)).nonzero().squeeze(1)
    furthest = distances.masked_fill(~relations.positive, -math.inf)[anchors].argmax(dim=1)
    nearest = distances.masked_fill(~relations.negative, math.inf)[anchors].argmin(dim=1)
    return Triplets(anchors, furthest, nearest)


def semi_hard(distances: Tensor, relations: Relations) -> Triplets:
    """Return each anchor and positive with the nearest negative that is further away than the positive.

    Schroff, Kalenichenko, Philbin 2015 (FaceNet), eq. 4. If all negatives are nearer than the positive, the furthest is
    taken: the nearest would collapse the network early in training.
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
    "all": lambda _, relations: relations.triplets(),
    "semi-hard": semi_hard,
    "batch-hard": batch_hard,
}
"""Miners within a batch; mining over the whole dataset is a sampler."""


def masked(logits: Tensor, mask: Tensor) -> Tensor:
    """Replace logits outside a mask by the lowest finite number, which keeps gradients finite if the mask is empty."""
    return logits.masked_fill(~mask, torch.finfo(logits.dtype).min)


def softplus_sum(logits: Tensor, mask: Tensor) -> Tensor:
    """Return ``log(1 + Σ exp(logits))`` over the mask of each row, ``(n, m)`` to ``(n,)``; 0 for an empty mask."""
    return torch.cat([torch.zeros_like(logits[:, :1]), masked(logits, mask)], dim=1).logsumexp(dim=1)


def _balanced(losses: Tensor, same: Tensor) -> Tensor:
    """Return the mean of the mean over positive pairs and the mean over negative pairs; an empty one is left out."""
    counts = torch.stack([same.sum(), (~same).sum()])
    sums = torch.stack([losses[same].sum(), losses[~same].sum()])
    return (sums / counts.clamp(min=1)).sum() / (counts > 0).sum().clamp(min=1)


class Contrastive(nn.Module):
    """Contrastive loss (Hadsell, Chopra, LeCun 2006, eq. 4): ``½ d²`` for positives, ``½ max(0, margin − d)²`` for negatives.

    Positive and negative pairs each have half of the weight, however many there are. If all pairs have the same
    distance, the loss is at least ``margin² / 8``: at that value, nothing has been learned. The pairs are those of a
    miner's triplets, or all pairs.
    """

    def __init__(self, margin: float, distance: Distance, miner: Miner | None = None) -> None:
        super().__init__()
        self._margin, self._distance, self._miner = margin, distance, miner

    def forward(self, vectors: Tensor, relations: Relations) -> Tensor:
        """Return the loss of a batch; 0 if it has no pairs."""
        distances = self._distance(vectors)
        if self._miner is None:
            left, right = (relations.positive | relations.negative).nonzero(as_tuple=True)
        else:
            anchors, positives, negatives = self._miner(distances.detach(), relations)
            left, right = anchors.repeat(2), torch.cat([positives, negatives])
        apart, same = distances[left, right], relations.positive[left, right]
        return _balanced(0.5 * torch.where(same, apart, (self._margin - apart).clamp(min=0.0)).square(), same)


class PairEntropy(nn.Module):
    """Binary cross-entropy of a pair head (Koch, Zemel, Salakhutdinov 2015, section 3.2), with both classes balanced.

    The pairs are those of a miner's triplets, or all pairs. The miner uses the head's logits: mining by distances would
    show the head far positives and near negatives, and teach it that far means same.

    Args:
        compare: the network's symmetric pair head, from two batches of vectors to logits.
        miner: None for all pairs.
    """

    def __init__(self, compare: Callable[[Tensor, Tensor], Tensor], miner: Miner | None = None) -> None:
        super().__init__()
        self._compare, self._miner = compare, miner

    def forward(self, vectors: Tensor, relations: Relations) -> Tensor:
        """Return the loss of a batch; 0 if it has no pairs."""
        if self._miner is None:
            same, related = relations.positive, relations.positive | relations.negative
            left, right = (related | related.T).triu().nonzero(as_tuple=True)  # each pair once
            same = (same | same.T)[left, right]
        else:
            with torch.no_grad():  # a row at a time, which fits into a processor's cache
                logits = torch.stack([self._compare(row.expand_as(vectors), vectors) for row in vectors])
            anchors, positives, negatives = self._miner(-logits, relations)
            left, right = anchors.repeat(2), torch.cat([positives, negatives])
            same = relations.positive[left, right]
        logits = self._compare(vectors[left], vectors[right])
        return _balanced(F.binary_cross_entropy_with_logits(logits, same.float(), reduction="none"), same)


class Triplet(nn.Module):
    """Triplet loss: ``max(0, d(anchor, positive) − d(anchor, negative) + margin)``, the mean over a miner's triplets.

    Schroff, Kalenichenko, Philbin 2015 (FaceNet), eq. 3, use squared Euclidean distances, Hermans et al. 2017 Euclidean
    ones.
    """

    def __init__(self, margin: float, distance: Distance, miner: Miner) -> None:
        super().__init__()
        self._margin, self._distance, self._miner = margin, distance, miner

    def forward(self, vectors: Tensor, relations: Relations) -> Tensor:
        """Return the loss of a batch; 0 if it has no triplets."""
        distances = self._distance(vectors)
        triplets = self._miner(distances.detach(), relations)
        return self._losses(distances, triplets, relations.labels).sum() / max(1, len(triplets.anchors))

    def _losses(self, distances: Tensor, triplets: Triplets, _labels: Tensor) -> Tensor:
        """Return the loss of each triplet, ``(t,)``."""
        anchors, positives, negatives = triplets
        return (distances[anchors, positives] - distances[anchors, negatives] + self._margin).clamp(min=0.0)


class Quadruplet(Triplet):
    """Quadruplet loss (Chen, Chen, Zhang, Huang 2017, eq. 3): a triplet loss that also pushes two negatives apart.

    ``max(0, d(a, p) − d(a, n₁) + margin) + max(0, d(a, p) − d(n₁, n₂) + margin / 2)``, where n₁ is the triplet's
    negative and n₂ the row nearest to n₁ of a third identity. Without such a row, the second term is 0.
    """

    def _losses(self, distances: Tensor, triplets: Triplets, labels: Tensor) -> Tensor:
        anchors, positives, first = triplets
        third = (labels[None, :] != labels[anchors][:, None]) & (labels[None, :] != labels[first][:, None])
        second = distances.detach()[first].masked_fill(~third, math.inf).argmin(dim=1)
        excess = distances[anchors, positives] - distances[first, second] + self._margin / 2
        others = excess.clamp(min=0.0).masked_fill(~third.any(dim=1), 0.0)
        return super()._losses(distances, triplets, labels) + others


class InfoNCE(nn.Module):
    """In-batch softmax (van den Oord et al. 2018, eq. 4): each positive against all negatives of its anchor.

    With several positives, each has its own softmax, which leaves out the anchor's other positives: positives never repel
    each other. All anchors have the same weight, however many positives they have.
    """

    def __init__(self, temperature: float = 0.07) -> None:
        super().__init__()
        self._temperature = temperature

    def forward(self, vectors: Tensor, relations: Relations) -> Tensor:
        """Return the mean over the anchors that have positives; 0 if there are none."""
        logits = vectors @ vectors.T / self._temperature
        positives = relations.positive.sum(dim=1)
        losses = (self._denominators(logits, relations) - logits).masked_fill(~relations.positive, 0.0)
        return (losses.sum(dim=1) / positives.clamp(min=1)).sum() / (positives > 0).sum().clamp(min=1)

    def _denominators(self, logits: Tensor, relations: Relations) -> Tensor:
        """Return the logarithm of each softmax's denominator, broadcastable to ``(n, n)``."""
        return torch.logaddexp(logits, masked(logits, relations.negative).logsumexp(dim=1, keepdim=True))


class SupCon(InfoNCE):
    """Supervised contrastive loss (Khosla et al. 2020, eq. 2): other positives are in the denominator as well."""

    def _denominators(self, logits: Tensor, relations: Relations) -> Tensor:
        return masked(logits, relations.positive | relations.negative).logsumexp(dim=1, keepdim=True)


class MultiSimilarity(nn.Module):
    """Multi-similarity loss (Wang et al. 2019): hard pairs (eq. 11 and 12), each weighted by all others (eq. 15)."""

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
        """Return positives less similar than the nearest negative, and negatives more similar than the furthest positive."""
        worst = similar.masked_fill(~relations.positive, math.inf).amin(dim=1, keepdim=True)
        best = similar.masked_fill(~relations.negative, -math.inf).amax(dim=1, keepdim=True)
        has_both = worst.isfinite() & best.isfinite()
        positive = relations.positive & (similar - self._epsilon < best) & has_both
        return positive, relations.negative & (similar + self._epsilon > worst) & has_both


class _Proxies(nn.Module):
    """A learned vector, the proxy, for each class."""

    def __init__(self, classes: int, dim: int) -> None:
        super().__init__()
        if classes < 2:
            raise ValueError(f"proxies need at least 2 classes to tell apart, got {classes}")
        self.proxies = nn.Parameter(torch.empty(classes, dim))
        nn.init.kaiming_normal_(self.proxies, mode="fan_out")

    def _compared(self, vectors: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return cosine similarities to the proxies, and whether the proxy is of the row's class, ``(n, classes)``."""
        classes = len(self.proxies)
        if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
            raise ValueError(f"there are proxies of {classes} classes, got labels up to {int(labels.max())}")
        return F.normalize(vectors) @ F.normalize(self.proxies).T, F.one_hot(labels, classes).bool()


class ProxyNCA(_Proxies):
    """Proxy-NCA (Movshovitz-Attias et al. 2017, eq. 4): ``−log(exp(−d(x, p)) / Σ exp(−d(x, q)))``.

    p is the proxy of the row's class and q are all others; d is three times the squared Euclidean distance of unit
    vectors. The loss can be negative.
    """

    def forward(self, vectors: Tensor, relations: Relations) -> Tensor:
        """Return the mean over all rows."""
        similar, same = self._compared(vectors, relations.labels)
        distances = 3.0 * (2 - 2 * similar)
        return (distances[same] + masked(-distances, ~same).logsumexp(dim=1)).mean()


class ProxyAnchor(_Proxies):
    """Proxy-anchor (Kim et al. 2020, eq. 4): each proxy attracts and repels the rows of a batch by their hardness."""

    def __init__(self, classes: int, dim: int, margin: float = 0.1, alpha: float = 32.0) -> None:
        super().__init__(classes, dim)
        self._margin, self._alpha = margin, alpha

    def forward(self, vectors: Tensor, relations: Relations) -> Tensor:
        """Return the mean attraction over classes in the batch plus the mean repulsion over all proxies."""
        similar, same = (each.T for each in self._compared(vectors, relations.labels))
        pull = softplus_sum(-self._alpha * (similar - self._margin), same)
        push = softplus_sum(self._alpha * (similar + self._margin), ~same)
        return pull.sum() / same.any(dim=1).sum().clamp(min=1) + push.mean()


LOSSES: Final[Mapping[str, tuple[Callable[..., nn.Module], Mapping[str, Any]]]] = {
    "contrastive": (Contrastive, {"margin": 1.0, "distance": "euclidean", "miner": None}),
    "bce": (PairEntropy, {"miner": None}),
    "triplet": (Triplet, {"margin": 0.2, "distance": "squared", "miner": "all"}),
    "quadruplet": (Quadruplet, {"margin": 0.2, "distance": "squared", "miner": "all"}),
    "multi-similarity": (MultiSimilarity, {}),
    "proxy-nca": (ProxyNCA, {}),
    "proxy-anchor": (ProxyAnchor, {"margin": 0.1}),
    "infonce": (InfoNCE, {"temperature": 0.07}),
    "supcon": (SupCon, {"temperature": 0.07}),
}
"""Losses by name, each with the defaults of its options."""

OF_WHOLE_VECTORS: Final = frozenset({"bce", "proxy-nca", "proxy-anchor"})
"""Losses with parameters for vectors of one width, which therefore cannot compare parts of vectors."""


@dataclass(frozen=True, slots=True)
class LossPlan:
    """A loss by name, and its options; None stands for the default in :data:`LOSSES`."""

    name: str = "infonce"
    distance: str | None = None
    miner: str | None = None
    margin: float | None = None
    temperature: float | None = None

    def __post_init__(self) -> None:
        check_name("loss", self.name, LOSSES)
        check_name("distance", self.distance, (None, *DISTANCES))
        check_name("miner", self.miner, (None, *MINERS))
        if unused := self._given.keys() - LOSSES[self.name][1].keys():
            raise ValueError(f"the loss {self.name} has no {' or '.join(sorted(unused))}; leave it out")
        if any(number is not None and number <= 0 for number in (self.margin, self.temperature)):
            raise ValueError(f"margin and temperature must be above 0, got {self.margin} and {self.temperature}")

    @property
    def _given(self) -> dict[str, Any]:
        options = {name: getattr(self, name) for name in ("distance", "miner", "margin", "temperature")}
        return {name: value for name, value in options.items() if value is not None}

    def build(self, network: SiameseNetwork, classes: int) -> nn.Module:
        """Return the loss for a network and a number of classes."""
        if (self.name == "bce") != (network.pair_head is not None):
            raise ValueError("the loss bce and a pair head need each other; set both or neither")
        build, defaults = LOSSES[self.name]
        options = {**defaults, **self._given}
        for kind, known in (("distance", DISTANCES), ("miner", MINERS)):
            if options.get(kind) is not None:
                options[kind] = known[options[kind]]
        if self.name in ("proxy-nca", "proxy-anchor"):
            options |= {"classes": classes, "dim": network.dim}
        if network.pair_head is not None:
            options["compare"] = (
                network.pair_head.__call__
            )  # a method, so that the loss does not register its parameters
        return build(**options)
