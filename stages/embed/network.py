"""The Siamese network: two towers that share one set of weights."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import mobilenet_v2

ARCHITECTURE = "siamese-mobilenet_v2"
"""What the metadata of a checkpoint of this network says."""

BACKBONE_CHANNELS = 1280
"""Channels of the last feature map of MobileNetV2 at width 1.0."""


class GeM(nn.Module):
    """Generalised-mean pooling (Radenovic, Tolias, Chum 2018, eq. 3): ``(mean(x ** p)) ** (1 / p)``.

    p = 1 is the average, p → ∞ the maximum; p is learned. Always computed in float32: powers overflow in less.
    ``(n, channels, h, w)`` → ``(n, channels)``.
    """

    def __init__(self, p: float = 3.0, eps: float = 1e-6) -> None:
        super().__init__()
        self.p = nn.Parameter(torch.tensor(p))
        self.eps = eps

    def forward(self, features: Tensor) -> Tensor:
        """Pool each channel over its positions."""
        with torch.autocast(features.device.type, enabled=False):
            powers = features.float().clamp(min=self.eps).pow(self.p)
            return powers.mean(dim=(-2, -1)).pow(1.0 / self.p)


class SiameseNetwork(nn.Module):
    """MobileNetV2 features → GeM pooling → linear head → unit vectors.

    Siamese (Bromley et al. 1993): the two towers are this one network, applied twice with shared weights. The two
    photos of a pair, anchor and positive, simply stand in one batch, and each loss compares rows of its output;
    so the network that is trained on pairs is the network that embeds single photos.

    ``(n, 3, h, w)`` normalised float → ``(n, dim)`` float32 unit rows. The weights start random, but for the
    backbone's by :meth:`load_backbone`.
    """

    def __init__(self, dim: int = 128) -> None:
        super().__init__()
        self.features: nn.Module = mobilenet_v2(weights=None).features
        self.pool = GeM()
        self.head = nn.Linear(BACKBONE_CHANNELS, dim)
        nn.init.orthogonal_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    @property
    def dim(self) -> int:
        """The width of its vectors."""
        return self.head.out_features

    def forward(self, images: Tensor) -> Tensor:
        """Embed one side of the pairs, or both at once."""
        pooled = self.pool(self.features(images))
        return F.normalize(self.head(pooled).float())

    def load_backbone(self, tensors: Mapping[str, Tensor]) -> None:
        """Take the backbone of a torchvision ``mobilenet_v2`` classifier, whatever its number of classes.

        Raises:
            RuntimeError: from torch, where a tensor is missing or has another shape.
        """
        prefix = "features."
        backbone = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
        self.features.load_state_dict(backbone)
