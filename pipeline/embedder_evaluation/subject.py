"""What is measured: a photo set with its distractors, in memory, and its vectors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Final

import numpy as np

import weights
from stages.embed.items import PhotoSet, Sample
from stages.embed.likeness import Likeness
from stages.embed.loading import KEPT_PX, load, small
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
    own = _embed(embedder, photos, tell)
    if not own.samples:
        raise CatalogueError(f"{own.photos.describe()}\nNone of its photos can be read.")
    if distractors is None:
        return own
    others = _embed(embedder, distractors, tell)
    return Embedded(
        own.photos.joined([others.photos]),
        [*own.images, *others.images],
        np.concatenate([own.vectors, others.vectors]),
        len(others.samples),
        own.seconds + others.seconds,
    )


def _embed(embedder: Embedder, photos: PhotoSet, tell: Callable[[int], None]) -> Embedded:
    """A set with its vectors, of which each photo is embedded as search would see it, and kept small."""
    keep_px = max(KEPT_PX, embedder.input_px)
    look_px = max(KEPT_PX, enough_px(embedder.input_px))
    samples: list[Sample] = []
    problems = [*photos.problems]
    images: list[Image] = []
    vectors = [np.zeros((0, embedder.dim), np.float32)]
    seconds = 0.0
    for start in range(0, len(photos.samples), _BATCH):
        few = replace(photos, samples=photos.samples[start : start + _BATCH], problems=())
        read, large = load(few, look_px)
        samples += read.samples
        problems += read.problems
        images += [small(image, keep_px) for image in large]
        began = perf_counter()
        vectors.append(embedder(large))
        seconds += perf_counter() - began
        tell(len(large))
    left = replace(photos, samples=tuple(samples), problems=tuple(problems))
    return Embedded(left, images, np.concatenate(vectors), 0, seconds)


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
