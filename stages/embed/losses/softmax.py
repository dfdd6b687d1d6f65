"""Losses in which every anchor of a batch weighs all of its positives against all of its negatives."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from stages.embed.losses.masked import masked, softplus_sum
from stages.embed.relations import Relations


class InfoNCE(nn.Module):
    """In-batch softmax: each positive has to win against all negatives of its anchor.

    Van den Oord et al. 2018, eq. 4, for several positives: each has a softmax of its own, from which the anchor's
    other positives, and whatever is in neither mask, are left out; so positives never push each other away. Anchors
    count alike, however many positives they have.
    """

    def __init__(self, temperature: float = 0.07) -> None:
        super().__init__()
        self._temperature = temperature

    def forward(self, vectors: Tensor, relations: Relations) -> Tensor:
        """The mean over anchors that have a positive; 0 where none has."""
        logits = vectors @ vectors.T / self._temperature
        rivals = masked(logits, relations.negative).logsumexp(dim=1, keepdim=True)
        return _mean(torch.logaddexp(logits, rivals) - logits, relations.positive)


class SupCon(nn.Module):
    """Supervised contrastive (Khosla et al. 2020, eq. 2): each positive against all other rows of its anchor.

    Other positives stand in the denominator too, unlike in :class:`InfoNCE`.
    """

    def __init__(self, temperature: float = 0.07) -> None:
        super().__init__()
        self._temperature = temperature

    def forward(self, vectors: Tensor, relations: Relations) -> Tensor:
        """The mean over anchors that have a positive; 0 where none has."""
        logits = vectors @ vectors.T / self._temperature
        others = masked(logits, relations.positive | relations.negative).logsumexp(dim=1, keepdim=True)
        return _mean(others - logits, relations.positive)


class MultiSimilarity(nn.Module):
    """Wang et al. 2019: pairs that the batch makes hard (eq. 11 and 12), each weighed by all others (eq. 15).

    The constants are those of the paper's own code.
    """

    def __init__(self, alpha: float = 2.0, beta: float = 50.0, base: float = 0.5, epsilon: float = 0.1) -> None:
        super().__init__()
        self._alpha, self._beta, self._base, self._epsilon = alpha, beta, base, epsilon

    def forward(self, vectors: Tensor, relations: Relations) -> Tensor:
        """The mean over all anchors; 0 where no pair is hard."""
        similar = vectors @ vectors.T
        positive, negative = self._hard(similar.detach(), relations)
        pull = softplus_sum(-self._alpha * (similar - self._base), positive) / self._alpha
        push = softplus_sum(self._beta * (similar - self._base), negative) / self._beta
        anchors = (relations.positive | relations.negative).any(dim=1).sum().clamp(min=1)
        return (pull + push).sum() / anchors

    def _hard(self, similar: Tensor, relations: Relations) -> tuple[Tensor, Tensor]:
        """Negatives nearer than the worst positive, positives further than the best negative, by a little."""
        worst = similar.masked_fill(~relations.positive, math.inf).amin(dim=1, keepdim=True)
        best = similar.masked_fill(~relations.negative, -math.inf).amax(dim=1, keepdim=True)
        has_both = worst.isfinite() & best.isfinite()
        positive = relations.positive & (similar - self._epsilon < best) & has_both
        return positive, relations.negative & (similar + self._epsilon > worst) & has_both


def _mean(per_pair: Tensor, positive: Tensor) -> Tensor:
    """The mean over anchors of the mean over their positives."""
    positives = positive.sum(dim=1)
    per_anchor = per_pair.masked_fill(~positive, 0.0).sum(dim=1) / positives.clamp(min=1)
    return per_anchor.sum() / (positives > 0).sum().clamp(min=1)
