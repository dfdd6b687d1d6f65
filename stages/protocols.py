"""The protocols of the stages: structural types, so that an implementation does not inherit from them.

Every stage is called on a batch. It returns as many results as inputs, in the same order; an empty batch gives an empty result;
inputs are not changed; a result does not depend on the rest of the batch, except for rounding. ``stages.testing.check_*``
verify this for any implementation.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from stages.types import Crop, Detection, Image, Neighbors, Vectors


@runtime_checkable
class Detector(Protocol):
    """Finds the garments of each photo, best first."""

    @property
    def labels(self) -> tuple[str, ...]:
        """All labels that a detection can have."""

    @property
    def input_px(self) -> int | None:
        """The long side that photos are resized to, so that larger ones can be decoded at a reduced size. None: full size."""

    def __call__(self, images: Sequence[Image]) -> list[list[Detection]]:
        """Return the detections of each image by falling score, each box within its image."""


@runtime_checkable
class Cropper(Protocol):
    """Cuts detections out of their photos."""

    @property
    def fingerprint(self) -> str:
        """Identifies the cropper and its options: equal if crops are equal."""

    def __call__(self, images: Sequence[Image], detections: Sequence[Sequence[Detection]]) -> list[list[Crop]]:
        """Return one crop per detection of each image."""


@runtime_checkable
class Embedder(Protocol):
    """Turns images into unit vectors."""

    @property
    def dim(self) -> int:
        """The number of dimensions of its vectors."""

    @property
    def input_px(self) -> int:
        """The side of the square that images are resized to."""

    @property
    def fingerprint(self) -> str:
        """Identifies the network, its weights and its input: equal if vectors can be compared."""

    def __call__(self, images: Sequence[Image]) -> Vectors:
        """Return ``(len(images), dim)`` float32 unit rows."""


@runtime_checkable
class TextEmbedder(Protocol):
    """Turns texts into vectors close to those of the images that they describe."""

    @property
    def dim(self) -> int:
        """The number of dimensions of its vectors."""

    def embed_text(self, texts: Sequence[str]) -> Vectors:
        """Return ``(len(texts), dim)`` float32 unit rows; a text without a known word is a ValueError."""


@runtime_checkable
class Index(Protocol):
    """Finds the stored vectors nearest to a query, by inner product of unit rows."""

    @property
    def dim(self) -> int:
        """The number of dimensions of its vectors."""

    def __len__(self) -> int:
        """Return the number of stored rows."""

    def add(self, rows: NDArray[np.int64], vectors: Vectors) -> None:
        """Store vectors under the caller's row numbers; one that is stored already is a ValueError."""

    def remove(self, rows: NDArray[np.int64]) -> None:
        """Remove rows; one that is not stored is a ValueError."""

    def search(self, queries: Vectors, k: int) -> Neighbors:
        """Return the k nearest rows of each query, best first, padded with row -1."""


@runtime_checkable
class StorableIndex(Index, Protocol):
    """An index that can be saved, since it takes long to build."""

    def save(self, path: Path) -> None:
        """Write the index to a new file."""

    def load(self, path: Path, rows: NDArray[np.int64]) -> None:
        """Restore what :meth:`save` wrote when these rows were stored; the file must come from this machine."""
