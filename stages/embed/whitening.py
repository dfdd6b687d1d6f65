"""Whitening of a trained network's vectors: what varies most from photo to photo no longer drowns what varies less.

Jégou and Chum 2012 whiten descriptors by the principal components of some photos, here to a power, as a part of it; and
since the last layers are linear, whitening is only other weights for them: nothing is added to the network.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor, nn

from stages.embed.heads import UNIT
from stages.embed.inputs import Normalise, letterboxed
from stages.embed.network import Design, SiameseNetwork
from stages.types import Image

POWER: Final = 0.4
"""Of variances; 0.5 would make all components vary alike."""

_LEAST: Final = 0.02
"""Of the largest variance, added to each: noise is not blown up."""

_BATCH: Final = 32


@torch.no_grad()
def whiten(network: SiameseNetwork, sets: Sequence[Sequence[Image]], power: float = POWER) -> None:
    """Give a network vectors whose components vary more alike, in place.

    The components are ordered by how much they varied, the most first, in shapes and in colours each; so the first
    numbers of a vector are the ones to keep where it is cut off.

    Args:
        network: trained; in evaluation mode afterwards.
        sets: photos to learn the components from, as the network is given them; each set counts alike.
        power: by which variances are divided.

    Raises:
        ValueError: see :func:`check_whitens`.
    """
    check_whitens(network.design, sum(map(len, sets)))
    ends = _ends(network.eval())
    outputs = [_outputs(network, ends, images) for images in sets if images]
    for end, of_sets in zip(ends, zip(*outputs, strict=True), strict=True):
        _whiten(end, of_sets, power)


def check_whitens(design: Design, photos: int) -> None:
    """Whether so many photos can whiten the vectors of a network.

    Raises:
        ValueError: they have no unit length, or a pair head is trained on them as they are; or there are too few photos.
    """
    if design.head not in UNIT or design.pair_head:
        raise ValueError("whitening is for vectors of unit length that no pair head compares")
    if photos <= design.dim:
        raise ValueError(f"whitening {design.dim} numbers takes more than {design.dim} photos, got {photos}")


def _ends(network: SiameseNetwork) -> list[nn.Linear]:
    """The layers after which vectors are scaled to unit length."""
    modules = [*network.head.modules()] + ([network.colours.project] if network.colours is not None else [])
    linear = [module for module in modules if isinstance(module, nn.Linear)]
    return linear[-1:] if network.colours is None else linear[-2:]


def _outputs(network: SiameseNetwork, ends: Sequence[nn.Linear], images: Sequence[Image]) -> list[Tensor]:
    """What each end makes of the images, ``(n, width)`` float64."""
    design, device = network.design, next(network.parameters()).device
    normalise = Normalise(*design.stats)
    found: list[list[Tensor]] = [[] for _ in ends]
    hooks = [
        end.register_forward_hook(lambda _, __, output, kept=kept: kept.append(output.double().cpu()))
        for end, kept in zip(ends, found, strict=True)
    ]
    try:
        for start in range(0, len(images), _BATCH):
            batch = letterboxed(images[start : start + _BATCH], design.input_px, normalise, trim=design.trim)
            network(batch.to(device))
    finally:
        for hook in hooks:
            hook.remove()
    return [torch.cat(kept) for kept in found]


def _whiten(end: nn.Linear, of_sets: Sequence[Tensor], power: float) -> None:
    middle = torch.stack([rows.mean(dim=0) for rows in of_sets]).mean(dim=0)
    spread = torch.stack([(rows - middle).T @ (rows - middle) / len(rows) for rows in of_sets]).mean(dim=0)
    variances, components = torch.linalg.eigh(spread)
    variances, components = variances.flip(0).clamp(min=0), components.flip(1)
    scales = (variances / variances[0].clamp(min=torch.finfo(variances.dtype).tiny) + _LEAST) ** -power
    turned = (components * scales).T
    weight, bias = end.weight.double().cpu(), end.bias.double().cpu()
    end.weight.copy_(turned @ weight)
    end.bias.copy_(turned @ (bias - middle))
