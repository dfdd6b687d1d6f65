"""Keeping what a network knew at the start: photos that it found alike stay alike, while it learns to tell items apart.

Probabilistic knowledge transfer: Passalis, Tefas, ECCV 2018; from the backbone's own start, so that few items to learn
from do not cost what ImageNet has taught about all others.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

TEMPERATURE = 0.1


class Teacher:
    """A backbone as it is now, which stays that way.

    Args:
        features: the backbone: ``(n, 3, h, w)`` → ``(n, channels, h', w')`` or ``(n, channels)``.
    """

    def __init__(self, features: nn.Module) -> None:
        self._features = copy.deepcopy(features).eval().requires_grad_(requires_grad=False)

    def loss(self, images: Tensor, vectors: Tensor) -> Tensor:
        """How far the vectors' neighbourhoods in a batch are from the teacher's: a KL divergence, 0 where they agree.

        Each image sees all others of the batch by the softmax of their cosine similarities; the teacher's features
        are averages over positions, less the batch's mean, which is most of what any two photos share.

        Args:
            images: ``(n, 3, h, w)`` normalised float, n at least 2.
            vectors: ``(n, dim)``, what the network that learns makes of them.
        """
        with torch.no_grad():
            features = self._features(images).float()
            pooled = features.mean(dim=(-2, -1)) if features.ndim > 2 else features
            known = _neighbours(pooled - pooled.mean(dim=0))
        return F.kl_div(_neighbours(vectors.float()), known, reduction="batchmean", log_target=True)


def _neighbours(vectors: Tensor) -> Tensor:
    """``(n, n - 1)`` logarithms of how much each row looks at each of the others."""
    unit = F.normalize(vectors)
    others = ~torch.eye(len(unit), dtype=torch.bool, device=unit.device)
    similar = (unit @ unit.T)[others].view(len(unit), -1)
    return (similar / TEMPERATURE).log_softmax(dim=1)
