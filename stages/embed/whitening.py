"""Whitening of a trained network's vectors, so that components with a large variance do not drown the others.

Jégou and Chum 2012 whiten descriptors by their principal components, here partly. As the last layers are linear, a
whitened network is the same network with other weights in them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn

from stages.embed.inputs import Normalise
from stages.embed.layers import UNIT
from stages.embed.network import Design, SiameseNetwork
from stages.embed.siamese import vectors_of
from stages.types import Image, Vectors

POWER: Final = 0.4
"""The power of the shipped embedder, chosen by training on halves."""

FULL: Final = 0.5
"""The power that gives all larger components the same variance."""

_LEAST: Final = 0.02
"""Share of the largest variance that is added to each: components that hardly vary are noise, and stay small."""

_BATCH: Final = 32


def whiten(network: SiameseNetwork, sets: Sequence[Sequence[Image]], power: float = POWER) -> Vectors:
    """Make the variances of a network's components more equal, in place.

    Each principal component, of shapes and of colours, is divided by ``(variance / largest variance + 0.02) ** power``.
    They come in the order of their variance, the largest first, so that a vector can be truncated.

    Args:
        network: trained; in evaluation mode afterwards.
        sets: photos to fit the components to; each set has the same weight.
        power: 0 only rotates vectors, :data:`FULL` whitens fully.

    Returns:
        The vectors of all these photos before whitening, ``(n, dim)``. If they are all equal, whitening only amplifies
        noise; if they are not finite, the network is left unchanged.

    Raises:
        ValueError: see :func:`check_whitens`.
    """
    design = network.design
    check_whitens(design, sum(map(len, sets)), power)
    device = str(next(network.parameters()).device)
    ends = _ends(network.eval())
    before, outputs = [], []
    for images in filter(len, sets):
        kept: list[list[Tensor]] = [[] for _ in ends]
        hooks = [
            end.register_forward_hook(lambda _, __, output, own=own: own.append(output.cpu().double()))
            for end, own in zip(ends, kept, strict=True)
        ]
        try:
            before.append(vectors_of(network, images, Normalise(*design.stats), device, _BATCH, unit=True))
        finally:
            for hook in hooks:
                hook.remove()
        outputs.append([torch.cat(own) for own in kept])
    vectors = np.concatenate(before)
    if np.isfinite(vectors).all():
        for end, of_sets in zip(ends, zip(*outputs, strict=True), strict=True):
            _whiten(end, of_sets, power)
    return vectors


def check_whitens(design: Design, photos: int | None = None, power: float = POWER) -> None:
    """Check that a network can be whitened by a number of photos; None: by enough photos.

    Raises:
        ValueError: its vectors have no unit length, or a pair head is trained on them; there are too few photos; or the
            power is out of range.
    """
    if not 0 <= power <= FULL:
        raise ValueError(f"vectors are whitened by a power of at least 0 and at most {FULL}, got {power}")
    if design.head not in UNIT or design.pair_head:
        raise ValueError("whitening is for vectors of unit length that no pair head compares")
    if photos is not None and photos <= design.dim:
        raise ValueError(f"whitening {design.dim} numbers takes more than {design.dim} photos, got {photos}")


def _ends(network: SiameseNetwork) -> list[nn.Linear]:
    """Return the layers whose output is scaled to unit length."""
    ends = [[module for module in network.head.modules() if isinstance(module, nn.Linear)][-1]]
    return ends if network.colours is None else [*ends, network.colours.project]


@torch.no_grad()
def _whiten(end: nn.Linear, of_sets: Sequence[Tensor], power: float) -> None:
    middle = torch.stack([rows.mean(dim=0) for rows in of_sets]).mean(dim=0)
    spread = torch.stack([(rows - middle).T @ (rows - middle) / len(rows) for rows in of_sets]).mean(dim=0)
    variances, components = torch.linalg.eigh(spread)  # rising
    variances, components = variances.flip(0).clamp(min=0), components.flip(1)
    least = torch.finfo(variances.dtype).tiny
    turned = components.T / ((variances / variances[0].clamp(min=least) + _LEAST) ** power)[:, None]
    weight, bias = (parameter.cpu().double() for parameter in (end.weight, end.bias))
    end.weight.copy_((turned @ weight).float())
    end.bias.copy_((turned @ (bias - middle)).float())
