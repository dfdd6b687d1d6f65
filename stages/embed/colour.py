"""The colours of a garment as a soft histogram in OKLab over the pixels that the network attends to.

A classifier's features hardly distinguish shades, because garments of a class come in any colour. A histogram holds
shades and nothing else (Swain, Ballard 1991), which leaves the other dimensions of a vector to shape.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stages.colours import TO_CONES, TO_LAB

SIDE: Final = 56
"""Cells per side that colours are averaged in: smaller cells would resolve patterns, larger ones blend garments."""

BINS: Final = (8, 13, 13)  # bins of lightness, green to red, and blue to yellow
MOST_DIM: Final = math.prod(BINS)  # the number of bins
RANGES: Final = ((0.0, 1.0), (-0.15, 0.25), (-0.25, 0.20))
"""The centres of each axis's first and last bin; only the most saturated sRGB colours are outside."""

_LEAST: Final = 1e-5  # in each bin, so that the root has a finite gradient


class Colours(nn.Module):
    """Maps images and their features to unit vectors that describe the garments' colours.

    A 1 x 1 convolution of the features, which have ``width`` channels, attends to the garment. Bins hold square roots of
    shares, so that the product of two histograms is their Bhattacharyya coefficient; a linear layer reduces them to
    ``dim``. Always computed in float32. ``mean`` and ``std`` are those that the images are normalised by.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, width: int, dim: int, mean: Iterable[float], std: Iterable[float]) -> None:
        super().__init__()
        self.attention = nn.Conv2d(width, 1, 1)
        for parameter in self.attention.parameters():  # the whole image at first
            nn.init.zeros_(parameter)
        self.project = nn.Linear(MOST_DIM, dim)
        nn.init.orthogonal_(self.project.weight)
        nn.init.zeros_(self.project.bias)
        for name, values in (("mean", mean), ("std", std)):
            self.register_buffer(name, torch.tensor(list(values))[:, None, None], persistent=False)

    def forward(self, images: Tensor, shares: Tensor) -> Tensor:
        """Return ``(n, dim)`` for normalised images ``(n, 3, h, w)`` and the weights of their cells ``(n, SIDE, SIDE)``."""
        with torch.autocast(images.device.type, enabled=False):
            return F.normalize(self.project(self.roots(images, shares)))

    def where(self, features: Tensor) -> Tensor:
        """Return the logit of each cell to show the garment, ``(n, SIDE, SIDE)``."""
        with torch.autocast(features.device.type, enabled=False):
            logits = self.attention(features.float())
            return F.interpolate(logits, size=(SIDE, SIDE), mode="bilinear", align_corners=False)[:, 0]

    def roots(self, images: Tensor, shares: Tensor) -> Tensor:
        """Return the square roots of the histograms ``(n, bins)`` of cells with weights ``(n, SIDE, SIDE)``."""
        colours = oklab(self._cells(images)).flatten(2)
        lightness, red, yellow = (
            _memberships(axis, count, low, high)
            for axis, count, (low, high) in zip(colours.unbind(1), BINS, RANGES, strict=True)
        )
        weights = shares.flatten(1)
        weights = weights / weights.sum(dim=1, keepdim=True).clamp(min=1e-4)
        first = ((lightness * weights[:, None])[:, :, None] * red[:, None]).flatten(1, 2)
        held = yellow @ first.transpose(1, 2)  # the fastest order
        return (held.transpose(1, 2).flatten(1) + _LEAST).sqrt()

    @torch.no_grad()
    def fit(self, images: Iterable[Tensor]) -> None:
        """Initialise the linear layer by the principal components of the colours of normalised batches ``(n, 3, h, w)``.

        All pixels that are not white count as the garment. There must be more images than output dimensions.
        """
        cells = ((batch, (self._cells(batch).amin(dim=1) < 0.92) + 1e-3) for batch in images)
        roots = torch.cat([self.roots(batch, coloured) for batch, coloured in cells])
        middle, dim = roots.mean(dim=0), self.project.out_features
        if len(roots) <= dim:
            raise ValueError(
                f"colour_dim {dim} needs more than {dim} photos to start from, got {len(roots)}; lower colour_dim"
            )
        components = torch.linalg.svd(roots - middle, full_matrices=False)[2][:dim]
        self.project.weight.copy_(components)
        self.project.bias.copy_(-components @ middle)

    def _cells(self, images: Tensor) -> Tensor:
        return (_pooled(images.float()) * self.std + self.mean).clamp(0, 1)


def _pooled(images: Tensor) -> Tensor:
    """Return the mean of each cell; where the side is a multiple, sums over rows, then columns, are twice as fast."""
    count, channels, height, width = images.shape
    if height % SIDE or width % SIDE:
        return F.adaptive_avg_pool2d(images, SIDE)
    rows = images.view(count, channels, SIDE, height // SIDE, width).sum(dim=3)
    sums = rows.view(count, channels, SIDE, SIDE, width // SIDE).sum(dim=4)
    return sums * (SIDE * SIDE / (height * width))


def oklab(srgb: Tensor) -> Tensor:
    """Convert sRGB in [0, 1], ``(n, 3, h, w)``, to OKLab: lightness, green to red, blue to yellow.

    >>> [round(value, 3) for value in oklab(torch.tensor([1.0, 0.0, 0.0])[None, :, None, None]).flatten().tolist()]
    [0.628, 0.225, 0.126]
    """
    linear = torch.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    cones = torch.einsum("ij,njhw->nihw", srgb.new_tensor(TO_CONES), linear)
    return torch.einsum("ij,njhw->nihw", srgb.new_tensor(TO_LAB), cones.clamp(min=1e-6) ** (1 / 3))


def _memberships(values: Tensor, count: int, low: float, high: float) -> Tensor:
    """Return the memberships of values in evenly spaced bins, ``(n, count, cells)``, which sum to 1.

    Normalised Gaussians with a deviation of half a bin; the square of the value cancels.
    """
    middles = torch.linspace(low, high, count, device=values.device)[:, None]
    steepness = (2 * (count - 1) / (high - low)) ** 2
    return (values[:, None] * (steepness * middles) - steepness / 2 * middles**2).softmax(dim=1)
