"""The shipped embedder: a trained Siamese network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from stages.embed.inputs import Normalise, letterboxed
from stages.embed.network import ARCHITECTURE, SiameseNetwork
from stages.errors import WeightsError
from stages.types import Image, Vectors
from weights import Checkpoint


class SiameseEmbedder:
    """Garment images → unit vectors, near where the garments look alike.

    Runs in float32 on every machine, so that the vectors of a gallery and of a query made elsewhere agree.
    A vector does not depend on the batch that its image came in.

    Args:
        checkpoint: trained weights, from ``weights.load`` or ``weights.read``.
        device: where to run, as torch names it.
        batch_size: images that are run at once; memory follows it.

    Raises:
        WeightsError: the checkpoint is not of this network.
    """

    def __init__(self, checkpoint: Checkpoint, device: str = "cpu", batch_size: int = 32) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size is at least 1, got {batch_size}")
        about = Description.read(checkpoint)
        network = _network(checkpoint, about.dim)
        self._network = (
            network.eval().requires_grad_(requires_grad=False).to(device).to(memory_format=torch.channels_last)
        )
        self._device, self._batch_size = device, batch_size
        self._input_px = about.input_px
        self._normalise = Normalise(about.mean, about.std)
        self._fingerprint = f"{ARCHITECTURE}-{checkpoint.sha256[:12]}-{about.input_px}px"

    @property
    def dim(self) -> int:
        """The width of its vectors."""
        return self._network.dim

    @property
    def input_px(self) -> int:
        """The side of the white square that images are letterboxed into."""
        return self._input_px

    @property
    def fingerprint(self) -> str:
        """The architecture, the start of the weights' sha256, the input size."""
        return self._fingerprint

    @torch.inference_mode()
    def __call__(self, images: Sequence[Image]) -> Vectors:
        """``(len(images), dim)`` float32 unit rows."""
        vectors = np.empty((len(images), self.dim), np.float32)
        start = 0
        for batch in letterboxed(images, self._input_px, self._batch_size, self._normalise):
            vectors[start : start + len(batch)] = self._network(batch.to(self._device)).cpu().numpy()
            start += len(batch)
        return vectors


class Description(NamedTuple):
    """What a checkpoint says of its network's shape and input."""

    dim: int
    input_px: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def read(cls, checkpoint: Checkpoint) -> Description:
        """From the metadata.

        Raises:
            WeightsError: an entry is missing, no number, or names another network.
        """
        architecture = checkpoint.describes("architecture")
        if architecture != ARCHITECTURE:
            raise WeightsError(
                f"{checkpoint.name} holds {architecture!r} weights; SiameseEmbedder needs {ARCHITECTURE!r}"
            )
        try:
            about = cls(
                int(checkpoint.describes("dim")),
                int(checkpoint.describes("input_px")),
                tuple(map(float, checkpoint.describes("mean").split())),
                tuple(map(float, checkpoint.describes("std").split())),
            )
        except ValueError as error:
            raise WeightsError(f"{checkpoint.name} describes itself with what is no number: {error}") from error
        if not (len(about.mean) == len(about.std) == 3 and min(about.dim, about.input_px, *about.std) > 0):
            raise WeightsError(f"{checkpoint.name} needs dim, input_px and std above 0 and 3 channels, says {about}")
        return about


def _network(checkpoint: Checkpoint, dim: int) -> SiameseNetwork:
    network = SiameseNetwork(dim)
    try:
        network.load_state_dict(checkpoint.tensors)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise WeightsError(f"{checkpoint.name} does not fit {ARCHITECTURE} of dim {dim}: {reason}") from error
    return network
