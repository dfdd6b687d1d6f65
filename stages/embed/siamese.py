"""The embedder and the pair verifier that a checkpoint of a Siamese network makes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import nn

from stages.checkpoints import check_unit_rows
from stages.cpu import (
    FixedBatch,
    fast_dtype,
    fold_batch_norms,
    in_precision,
    keep_memory,
    parallel_map,
    split_batch,
    split_first_blocks,
)
from stages.embed.inputs import Normalise, letterboxed
from stages.embed.layers import UNIT, PairHead
from stages.embed.network import SiameseNetwork, read_network
from stages.errors import WeightsError
from stages.types import Image, Vectors, check_batch
from weights import Checkpoint

FLOAT32_BLOCKS: Final = {"mobilenet_v2": (0, 1, 4, 5, 6)}
"""Backbones that run in bfloat16 with vectors within cosine 0.999, and their blocks that need float32 for that.

The first blocks of MobileNetV2 have few channels, whose values span too wide a range once batch norms are folded; of the
other blocks, these gain most from float32.
"""

_BATCH_ON_CPU: Final = 8  # as fast as more, in less memory
_BATCH_ELSEWHERE: Final = 32
_LARGE_BLOCKS: Final = 3, 2
"""The number of first blocks with the largest feature maps, and how many images a CPU takes through them at once."""

_NUMBERS_ON_ACCELERATOR: Final = 64_000_000  # compared by a pair head at once: a quarter of a gigabyte
_NUMBERS_ON_CPU: Final = 250_000  # a megabyte, which fits into the cache: ten times faster


class SiameseEmbedder:
    """Embeds images of garments as unit vectors, which are close if the garments look alike.

    A vector does not depend on the batch of its image. The backbones in :data:`FLOAT32_BLOCKS` compute mostly in the
    device's fastest type; their vectors are within cosine 0.999 of those in float32, so that vectors from different
    machines can be compared.

    Args:
        checkpoint: trained weights, from ``weights.load`` or ``weights.read``.
        device: torch's name of the device.
        batch_size: images per batch; None for a good number on the device.
        dtype: of most arithmetic, in the backbones that support it; None for the device's fastest.

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
        batch_size = batch_size_for(device) if batch_size is None else batch_size
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        network = read_network(checkpoint).eval().requires_grad_(requires_grad=False)
        self._network = network.to(device).to(memory_format=torch.channels_last)
        dtype, backbone = dtype or fast_dtype(device), network.design.backbone
        network.features = faster(network.features, backbone, dtype, device, batch_size)
        self._device, self._batch_size = device, batch_size
        self._normalise = Normalise(*stats_of(checkpoint))
        design = network.design
        self.dim, self.input_px = design.dim, design.input_px
        self.fingerprint = f"{design.architecture}-{checkpoint.sha256[:12]}-{design.input_px}px"

    def __call__(self, images: Sequence[Image]) -> Vectors:
        """``(len(images), dim)`` float32 unit rows."""
        check_batch(images)
        vectors = vectors_of(self._network, images, self._normalise, self._device, self._batch_size, unit=True)
        return check_unit_rows(vectors, self.fingerprint)


def batch_size_for(device: str) -> int:
    """Return a good batch size for a device."""
    return _BATCH_ON_CPU if torch.device(device).type == "cpu" else _BATCH_ELSEWHERE


def faster(features: nn.Module, backbone: str, dtype: torch.dtype, device: str, batch_size: int) -> nn.Module:
    """Optimise a backbone for inference, in place and for good, and return it."""
    keep_memory()
    fold_batch_norms(features)
    exact, on_cpu = FLOAT32_BLOCKS.get(backbone), torch.device(device).type == "cpu"
    if exact is None or not isinstance(features, nn.Sequential):
        return features
    blocks = in_precision(features, dtype, exact)
    if dtype != torch.float32:
        return FixedBatch(blocks, 1 if on_cpu else batch_size)
    if on_cpu:
        split_first_blocks(blocks, *_LARGE_BLOCKS)
    return blocks


def vectors_of(
    network: SiameseNetwork, images: Sequence[Image], normalise: Normalise, device: str, batch_size: int, *, unit: bool
) -> Vectors:
    """Embed images by a network, ``(n, dim)`` float32; with ``unit``, as unit rows whatever the head."""
    design = network.design

    @torch.inference_mode()
    def embed(few: Sequence[Image]) -> Vectors:
        embedded = network(letterboxed(few, design.input_px, normalise, trim=design.trim).to(device))
        if unit and design.head not in UNIT:
            embedded = F.normalize(embedded)
        rows: Vectors = embedded.cpu().numpy()
        return rows

    parts = split_batch(images, batch_size)
    return np.concatenate([np.empty((0, network.dim), np.float32), *parallel_map(embed, parts, device)])


def stats_of(checkpoint: Checkpoint) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return a checkpoint's mean and standard deviation of each channel; raise a WeightsError if they are invalid."""
    try:
        mean, std = (tuple(map(float, checkpoint.describes(name).split())) for name in ("mean", "std"))
    except ValueError as error:
        raise WeightsError(f"{checkpoint.name} has invalid metadata: {error}") from error
    if not (len(mean) == len(std) == 3 and min(std) > 0):
        raise WeightsError(f"{checkpoint.name} needs the mean and std of 3 channels, std above 0; got {mean} and {std}")
    return mean, std


class PairVerifier:
    """Gives the probability that two images show the same item, by a network with a pair head.

    Raises:
        WeightsError: the checkpoint has no pair head.
    """

    def __init__(self, checkpoint: Checkpoint, device: str = "cpu", batch_size: int = 32) -> None:
        network = read_network(checkpoint)
        if network.pair_head is None:
            raise WeightsError(f"{checkpoint.name} has no pair head; its vectors are compared by cosine similarity")
        network.eval().requires_grad_(requires_grad=False).to(device)
        self._network = network.to(memory_format=torch.channels_last)
        self._head: PairHead = network.pair_head
        self._device, self._batch_size = device, batch_size
        self._normalise = Normalise(*stats_of(checkpoint))

    def features(self, images: Sequence[Image]) -> Vectors:
        """Return the network's output for each image, ``(len(images), dim)`` float32, not normalised."""
        return vectors_of(self._network, images, self._normalise, self._device, self._batch_size, unit=False)

    def similarities(self, left: Vectors, right: Vectors) -> NDArray[np.float32]:
        """Return the probability, in [0, 1], for all pairs of features: ``(len(left), len(right))``."""
        return pair_similarities(self._head, left, right, self._device)


@torch.inference_mode()
def pair_similarities(head: PairHead, left: Vectors, right: Vectors, device: str) -> NDArray[np.float32]:
    """Return the sigmoid of a pair head's logits for all pairs, ``(len(left), len(right))`` float32."""
    probabilities = np.empty((len(left), len(right)), np.float32)
    columns = torch.from_numpy(right).to(device)
    at_once = _NUMBERS_ON_CPU if torch.device(device).type == "cpu" else _NUMBERS_ON_ACCELERATOR
    high = max(1, min(16, at_once // max(1, right.size)))
    wide = max(1, at_once // (high * max(1, right.shape[1])))
    for top in range(0, len(left), high):
        rows = torch.from_numpy(left[top : top + high]).to(device)
        for start in range(0, len(right), wide):
            logits = head(rows[:, None], columns[None, start : start + wide])
            probabilities[top : top + high, start : start + wide] = logits.sigmoid().cpu().numpy()
    return probabilities
