"""What is measured: a photo set with its distractors, in memory, and its vectors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from time import perf_counter
from typing import Final

import numpy as np

import weights
from stages.embed.items import PhotoSet, Sample
from stages.embed.loading import KEPT_PX, load, small
from stages.embed.metrics import SimilarityFunction
from stages.errors import CatalogueError
from stages.images import enough_px
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
    *,
    keep_large: bool = False,
) -> Embedded:
    """Read and embed a set, and photos of other items that may be found by mistake.

    What cannot be read is a problem of the set that comes back.

    Args:
        embedder: that is measured.
        photos: to measure it on.
        distractors: more photos for the gallery.
        keep_large: keep images as large as they are embedded, which takes four times the memory.

    Raises:
        CatalogueError: nothing could be read.
    """
    own = _embed(embedder, photos, keep_large=keep_large)
    if not own.samples:
        raise CatalogueError(f"{own.photos.describe()}\nNone of its photos can be read.")
    if distractors is None:
        return own
    others = _embed(embedder, distractors, keep_large=keep_large)
    return Embedded(
        own.photos.joined([others.photos]),
        [*own.images, *others.images],
        np.concatenate([own.vectors, others.vectors]),
        len(others.samples),
        own.seconds + others.seconds,
    )


def _embed(embedder: Embedder, photos: PhotoSet, *, keep_large: bool) -> Embedded:
    """A set with its vectors, of which each photo is embedded as search would see it, and kept small."""
    look_px = max(KEPT_PX, enough_px(embedder.input_px))
    samples: list[Sample] = []
    problems = [*photos.problems]
    images: list[Image] = []
    vectors = [np.zeros((0, embedder.dim), np.float32)]
    seconds = 0.0
    for few in _whole_photos(photos.samples):
        read, large = load(replace(photos, samples=few, problems=()), look_px)
        samples += read.samples
        problems += read.problems
        images += large if keep_large else map(small, large)
        began = perf_counter()
        vectors.append(embedder(large))
        seconds += perf_counter() - began
    left = replace(photos, samples=tuple(samples), problems=tuple(problems))
    return Embedded(left, images, np.concatenate(vectors), 0, seconds)


def _whole_photos(samples: Sequence[Sample]) -> Iterator[tuple[Sample, ...]]:
    """The samples in order, a batch or more at a time, all of one photo together."""
    batch: list[Sample] = []
    for _, of_photo in groupby(samples, key=lambda sample: sample.path):
        batch += of_photo
        if len(batch) >= _BATCH:
            yield tuple(batch)
            batch = []
    if batch:
        yield tuple(batch)


def likeness_by_pair_head(checkpoint: Path | None, images: Sequence[Image], device: str = "cpu") -> SimilarityFunction:
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
