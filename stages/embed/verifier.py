"""Verification by a pair head: a network trained to tell *same* from *different*, instead of an inner product."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from stages.embed.inputs import Normalise
from stages.embed.layers import PairHead
from stages.embed.network import read_network
from stages.embed.siamese import stats_of, vectors_of
from stages.errors import WeightsError
from stages.types import Image, Vectors
from weights import Checkpoint

_NUMBERS_ON_ACCELERATOR = 64_000_000  # compared at once: a quarter of a gigabyte
_NUMBERS_ON_CPU = 250_000  # a megabyte, which stays in the cache: ten times as fast as what does not


class PairVerifier:
    """Returns the probability that two images show the same thing, by a network with a pair head.

    Args:
        checkpoint: weights of such a network.
        device: where to run, as torch names it.
        batch_size: images per batch.

    Raises:
        WeightsError: the checkpoint has no pair head.
    """

    def __init__(self, checkpoint: Checkpoint, device: str = "cpu", batch_size: int = 32) -> None:
        network = read_network(checkpoint)
        if network.pair_head is None:
            raise WeightsError(f"{checkpoint.name} has no pair head; compare its vectors by cosine similarity")
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
