"""What is measured: a photo set with its distractors, in memory, and its vectors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Final

import numpy as np

import weights
from stages.embed.items import PhotoSet, Sample
from stages.embed.likeness import Likeness
from stages.embed.loading import KEPT_PX, load
from stages.errors import CatalogueError
from stages.protocols import Embedder
from stages.types import Image, Vectors

_BATCH: Final = 64


@dataclass(frozen=True, slots=True, eq=False)
class Embedded:
    """Photos that could be read, with their vectors; the last ``distractors`` of them only stand in the way."""

    photos: PhotoSet
    images: Sequence[Image]
    vectors: Vectors
    distractors: int
    seconds: float

    @property
    def samples(self) -> tuple[Sample, ...]:
        """What each photo shows."""
        return self.photos.samples


def embed(
    embedder: Embedder,
    photos: PhotoSet,
    distractors: PhotoSet | None = None,
    tell: Callable[[int], None] = lambda _: None,
) -> Embedded:
    """Read and embed a set, and photos of other items that may be found by mistake.

    What cannot be read is a problem of the set that comes back.

    Args:
        embedder: that is measured.
        photos: to measure it on.
        distractors: more photos for the gallery.
        tell: called with the number of photos of each batch.

    Raises:
        CatalogueError: nothing could be read.
    """
    keep_px = max(KEPT_PX, embedder.input_px)
    own, images = load(photos, keep_px)
    if not own.samples:
        raise CatalogueError(f"{own.describe()}\nNone of its photos can be read.")
    count = 0
    if distractors is not None:
        others, more = load(distractors, keep_px)
        count, images = len(others.samples), images + more
        own = own.joined([others])
    vectors = np.zeros((len(images), embedder.dim), np.float32)
    began = perf_counter()
    for start in range(0, len(images), _BATCH):
        batch = images[start : start + _BATCH]
        vectors[start : start + len(batch)] = embedder(batch)
        tell(len(batch))
    return Embedded(own, images, vectors, count, perf_counter() - began)


def likeness_by_pair_head(checkpoint: Path | None, images: Sequence[Image], device: str = "cpu") -> Likeness:
    """How alike photos are for the pair head of a checkpoint: the chance that they show the same.

    Raises:
        ValueError: there is no checkpoint.
        WeightsError: it has no pair head.
    """
    from stages.embed.verifier import PairVerifier  # noqa: PLC0415  torch, which not every embedder needs

    if checkpoint is None:
        raise ValueError("a pair head is part of weights of your own; name them with --embedder-weights")
    verifier = PairVerifier(weights.read(checkpoint), device)
    features = verifier.features(images)
    return lambda rows, others: verifier.similarities(features[rows], features[others])
