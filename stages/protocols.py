"""One law for all stages, as structural types: an implementation inherits nothing.

Every stage is a callable on a batch (an index is searched by one): as many results as inputs, in the same
order; an empty batch gives an empty result; inputs are left untouched. ``stages.testing.check_*`` prove it.
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
        """Every label that a detection of this detector can have."""

    @property
    def input_px(self) -> int | None:
        """The long side that photos are looked at in; larger ones may be decoded smaller. None: full size."""

    def __call__(self, images: Sequence[Image]) -> list[list[Detection]]:
        """One list of detections per image, each box within its image, by falling score."""


@runtime_checkable
class Cropper(Protocol):
    """Cuts detections out of their photos."""

    @property
    def fingerprint(self) -> str:
        """Names the way of cutting, options included: equal where the same crops come out."""

    def __call__(self, images: Sequence[Image], detections: Sequence[Sequence[Detection]]) -> list[list[Crop]]:
        """One list of crops per image, one crop per detection."""


@runtime_checkable
class Embedder(Protocol):
    """Turns images into unit vectors. It takes images, not crops: it serves anyone's."""

    @property
    def dim(self) -> int:
        """The width of its vectors."""

    @property
    def input_px(self) -> int:
        """The side of the square that it looks at; crops much smaller than it lose detail."""

    @property
    def fingerprint(self) -> str:
        """Names the network, its weights and its input: equal where vectors can be compared."""

    def __call__(self, images: Sequence[Image]) -> Vectors:
        """``(len(images), dim)`` float32 unit rows."""


@runtime_checkable
class Index(Protocol):
    """Finds the stored vectors nearest to a query, by inner product of unit rows."""

    @property
    def dim(self) -> int:
        """The width of its vectors."""

    def __len__(self) -> int:
        """How many rows are live."""

    def add(self, rows: NDArray[np.int64], vectors: Vectors) -> None:
        """Store vectors under row numbers of the caller's; a row number that is there is a ValueError."""

    def remove(self, rows: NDArray[np.int64]) -> None:
        """Forget rows; one that is not there is a ValueError."""

    def search(self, queries: Vectors, k: int) -> Neighbors:
        """The k nearest live rows of each query, best first, padded with -1 where there are fewer."""


@runtime_checkable
class StorableIndex(Index, Protocol):
    """An index that is worth keeping on disk, since building it takes long."""

    def save(self, path: Path) -> None:
        """Write the index to a new file."""

    def load(self, path: Path) -> NDArray[np.int64]:
        """Become what :meth:`save` wrote; returns the live rows, rising. The file may be anyone's."""
