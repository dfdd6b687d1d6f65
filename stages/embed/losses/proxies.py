"""Losses with a learnt vector for each class to train on, its proxy; they read labels alone, which name the proxies."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stages.embed.losses.masked import masked, softplus_sum
from stages.embed.relations import Relations


class ProxyNCA(nn.Module):
    """Movshovitz-Attias et al. 2017, eq. 4: nearer to one's own proxy than to the others'.

    ``−log(exp(−d(x, own)) / Σ exp(−d(x, other)))`` with squared Euclidean distances of unit vectors times ``scale``;
    the own proxy is not in the sum. The loss can be less than 0.
    """

    def __init__(self, classes: int, dim: int, scale: float = 3.0) -> None:
        super().__init__()
        self.proxies = _proxies(classes, dim)
        self._scale = scale

    def forward(self, vectors: Tensor, relations: Relations) -> Tensor:
        """The mean over all rows."""
        distances = self._scale * (2 - 2 * F.normalize(vectors) @ F.normalize(self.proxies).T)
        own = F.one_hot(_checked(relations.labels, len(self.proxies)), len(self.proxies)).bool()
        others = masked(-distances, ~own).logsumexp(dim=1)
        return (distances[own] + others).mean()


class ProxyAnchor(nn.Module):
    """Kim et al. 2020, eq. 4: each proxy is an anchor, and pulls and pushes the rows of the batch by how hard they are.

    Args:
        classes: how many there are to train on.
        dim: of the vectors.
        alpha: scale of the softmax.
        margin: of the cosine similarity.
    """

    def __init__(self, classes: int, dim: int, alpha: float = 32.0, margin: float = 0.1) -> None:
        super().__init__()
        self.proxies = _proxies(classes, dim)
        self._alpha, self._margin = alpha, margin

    def forward(self, vectors: Tensor, relations: Relations) -> Tensor:
        """Pulls are a mean over the proxies of classes in the batch, pushes over all proxies."""
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
