"""A 2-D map of an embedding: photos where their vectors lie, near ones of a crowd left out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from stages.errors import OutfinderError
from stages.images import letterbox
from stages.types import Image, Vectors

Projection: TypeAlias = Literal["pca", "tsne"]

WIDTH, HEIGHT, THUMB = 1680, 1050, 66
"""Of the picture and of a photo on it, in pixels."""

_MOST: Final = 4000
"""Photos that are projected; more are thinned evenly."""

_GROUND: Final = (246, 246, 244)


def projected(vectors: Vectors, by: Projection, seed: int = 0) -> NDArray[np.float64]:
    """Places in the plane, ``(n, 2)``, of which near ones have similar vectors.

    By ``pca``, the two directions in which the vectors differ most; by ``tsne`` neighbourhoods are kept rather than
    distances (van der Maaten and Hinton 2008; scikit-learn's).

    Raises:
        OutfinderError: tsne is wanted, and scikit-learn is not installed.
    """
    centred = vectors.astype(np.float64) - vectors.mean(axis=0)
    _, _, directions = np.linalg.svd(centred, full_matrices=False)
    if by == "pca" or len(vectors) < 4:
        plane: NDArray[np.float64] = centred @ directions[:2].T
        return np.pad(plane, ((0, 0), (0, 2 - plane.shape[1])))
    try:
        from sklearn.manifold import TSNE  # noqa: PLC0415  optional, and slow to import
    except ImportError as error:
        raise OutfinderError("a t-SNE map needs scikit-learn: pip install scikit-learn, or take --map pca") from error
    perplexity = min(30.0, (len(vectors) - 1) / 3)
    found: NDArray[np.float64] = TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(vectors)
    return found.astype(np.float64)


def atlas(images: Sequence[Image], vectors: Vectors, by: Projection, seed: int = 0) -> Image:
    """A picture of the map, :data:`HEIGHT` x :data:`WIDTH`."""
    rows = np.linspace(0, len(images) - 1, min(_MOST, len(images))).round().astype(np.int64)
    places = _spread(projected(vectors[rows], by, seed))
    canvas = np.full((HEIGHT, WIDTH, 3), _GROUND, np.uint8)
    taken = np.zeros((HEIGHT, WIDTH), np.bool_)
    for row, (x, y) in zip(rows.tolist(), places.tolist(), strict=True):
        left, top = int(x), int(y)
        window = (slice(top, top + THUMB), slice(left, left + THUMB))
        if taken[window].mean() > 0.2:
            continue
        taken[window] = True
        canvas[window] = cv2.copyMakeBorder(
            letterbox(images[row], THUMB - 2), 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=(214, 212, 208)
        )
    return canvas


def _spread(plane: NDArray[np.float64]) -> NDArray[np.int64]:
    """Upper left corners of photos on the picture; the outermost hundredth of the places is drawn in."""
    low, high = np.quantile(plane, [0.005, 0.995], axis=0)
    shares = np.clip((plane - low) / np.maximum(high - low, 1e-12), 0, 1)
    room = np.array([WIDTH - THUMB, HEIGHT - THUMB])
    corners: NDArray[np.int64] = (shares * room).astype(np.int64)
    return corners
