"""The trained embedder: a Siamese network, the shipped one or anyone's own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from stages.embed.heads import UNIT
from stages.embed.inputs import Normalise, letterboxed
from stages.embed.kinds import KindPart
from stages.embed.network import SiameseNetwork, read_network
from stages.errors import WeightsError
from stages.inference import Shortened, fast_dtype, first_in_parts, fold_batch_norms, keep_memory
from stages.parallel import in_few_sizes, side_by_side
from stages.types import Image, Vectors, check_batch
from weights import Checkpoint

BEARS_SHORT: Final = {"mobilenet_v2": (0, 1, 4, 5, 6)}
"""Backbones whose vectors stay within cosine 0.999 in bfloat16, and the blocks that must stay in float32 for that.

MobileNetV2's first have few channels, which span too wide a range once the batch norms are folded; the others are where
float32 gains most for what it takes.
"""

_ON_CPU: Final = 8  # images at once: the same speed as more, in less memory
_WIDE: Final = 3, 2
"""Blocks of those backbones whose maps are the largest, and the images that a processor takes through them at once."""


class SiameseEmbedder:
    """Garment images → unit vectors, near where the garments look alike.

    A vector does not depend on the batch that its image came in. Where a network's backbone is known to bear it
    (:data:`BEARS_SHORT`), most of it computes in what the device multiplies fastest; its vectors are within 0.999
    of those in float32, so that a gallery and a query that was made elsewhere agree.

    Args:
        checkpoint: trained weights, from ``weights.load`` or ``weights.read``.
        device: where to run, as torch names it.
        batch_size: images that are run at once; memory follows it. None: what suits the device.
        dtype: what most of the network computes in, if it bears it. None: what the device multiplies fastest.

    Raises:
        WeightsError: the checkpoint is not of a Siamese network.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        device: str = "cpu",
        batch_size: int | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        if batch_size is None:
            batch_size = _ON_CPU if torch.device(device).type == "cpu" else 32
        if batch_size < 1:
            raise ValueError(f"batch_size is at least 1, got {batch_size}")
        network = read_network(checkpoint).eval().requires_grad_(requires_grad=False)
        self._network = network.to(device).to(memory_format=torch.channels_last)
        _quicken(network, dtype or fast_dtype(device))
        self._device, self._batch_size = device, batch_size
        self._normalise = Normalise(*stats_of(checkpoint))
        self._fingerprint = f"{network.design.architecture}-{checkpoint.sha256[:12]}-{self.input_px}px"

    @property
    def dim(self) -> int:
        """The width of its vectors."""
        return self._network.dim

    @property
    def input_px(self) -> int:
        """The side of the white square that images are letterboxed into."""
        return self._network.design.input_px

    @property
    def kinds(self) -> KindPart | None:
        """Where its vectors hold probabilities of kinds; None where they hold none."""
        return self._network.design.kind_part

    @property
    def fingerprint(self) -> str:
        """The architecture, the start of the weights' sha256, the input size."""
        return self._fingerprint

    def __call__(self, images: Sequence[Image]) -> Vectors:
        """``(len(images), dim)`` float32 unit rows."""
        check_batch(images)
        return vectors_of(self._network, images, self._normalise, self._device, self._batch_size, unit=True)


def _quicken(network: SiameseNetwork, dtype: torch.dtype) -> None:
    keep_memory()
    fold_batch_norms(network.features)
    exact = BEARS_SHORT.get(network.design.backbone)
    if exact is not None and isinstance(network.features, nn.Sequential):
        network.features = Shortened(network.features, exact, dtype)
        if next(network.parameters()).device.type == "cpu":
            first_in_parts(network.features, *_WIDE)


def vectors_of(
    network: SiameseNetwork, images: Sequence[Image], normalise: Normalise, device: str, batch_size: int, *, unit: bool
) -> Vectors:
    """What a network makes of images, ``(n, dim)`` float32; ``unit``: of unit length, whatever its head."""
    design = network.design

    @torch.inference_mode()
    def embed(few: Sequence[Image]) -> Vectors:
        found = network(letterboxed(few, design.input_px, normalise, trim=design.trim).to(device))
        if unit and design.head not in UNIT:
            found = F.normalize(found)
        rows: Vectors = found.cpu().numpy()
        return rows

    batches = in_few_sizes(images, batch_size)
    return np.concatenate([np.empty((0, network.dim), np.float32), *side_by_side(embed, batches, device)])


def stats_of(checkpoint: Checkpoint) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The mean and deviation of each channel that a checkpoint says its input is normalised by.

    Raises:
        WeightsError: they are missing, no numbers, or not of three channels.
    """
    try:
        mean, std = (tuple(map(float, checkpoint.describes(name).split())) for name in ("mean", "std"))
    except ValueError as error:
        raise WeightsError(f"{checkpoint.name} describes itself with what is no number: {error}") from error
    if not (len(mean) == len(std) == 3 and min(std) > 0):
        raise WeightsError(f"{checkpoint.name} needs mean and std of 3 channels, std above 0; says {mean} and {std}")
    return mean, std
