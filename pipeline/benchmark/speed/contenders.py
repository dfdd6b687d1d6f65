"""What is timed: the tutorial's way and the pipeline's, from files to written lines."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np

import weights
from pipeline.benchmark.engines import fill
from pipeline.benchmark.speed.naive import Naive
from pipeline.benchmark.vectors import around, clustered
from pipeline.config import Config, build_cropper, build_detector, build_embedder
from pipeline.gallery import Gallery
from pipeline.pipeline import Pipeline
from pipeline.search import PhotoResult, search_batch
from pipeline.writers import Options, open_outputs
from stages.parts import part
from stages.types import Vectors

NAIVE: Final = "naive"
MASK: Final = "maskrcnn_mobilenet_v2"
BOX: Final = "fasterrcnn_mobilenet_v2"
CONTENDERS: Final = (NAIVE, MASK, BOX)
K: Final = 5

ALIKE: Final = 0.45
"""The length of what an item's vector adds to that of the garment that it is like: they have cosine 0.91."""

Answer = tuple[PhotoResult, Vectors]
"""A photo's garments with their matches, and their vectors."""

Contender = Callable[[Sequence[Path]], Iterator[Answer]]
"""Looks at photos and searches for their garments, one answer after the other."""


@dataclass(frozen=True, slots=True)
class Setup:
    """One of :data:`CONTENDERS` by its name, the gallery that it searches, and the file that it writes to."""

    name: str
    gallery: Path
    written: Path

    def build(self) -> Contender:
        """Load all that it needs; then it looks at photos, searches for their garments and writes lines."""
        gallery = Gallery.open(self.gallery)
        contender = _naive(gallery) if self.name == NAIVE else _ours(self.name, gallery)
        gallery.search(np.eye(1, gallery.manifest.dim, dtype=np.float32), K)  # the graph is loaded

        def run(photos: Sequence[Path]) -> Iterator[Answer]:
            with open_outputs(self.written, None, Options(matches=True), overwrite=True) as writer:
                for result, vectors in contender(photos):
                    with part("write"):
                        writer.write(result)
                    yield _without_masks(result), vectors

        return run


def _naive(gallery: Gallery) -> Contender:
    look = Naive(weights.load(MASK), weights.load("siamese"), gallery, K)
    return lambda photos: map(look, photos)


def _ours(detector: str, gallery: Gallery) -> Contender:
    config = Config(detector=detector, device="cpu")
    pipeline = Pipeline(build_detector(config), build_cropper(config), build_embedder(config))

    def look(photos: Sequence[Path]) -> Iterator[Answer]:
        with closing(pipeline.batches(photos)) as batches:
            for batch in batches:
                for result, analysis in zip(search_batch(gallery, batch, K), batch, strict=True):
                    yield result, analysis.vectors

    return look


def _without_masks(result: PhotoResult) -> PhotoResult:
    """An answer to keep: memory does not follow the photos' size."""
    return replace(result, garments=tuple(replace(one, mask=None, matches=None) for one in result.garments))


def items_like(photos: Sequence[Path], count: int) -> Vectors:
    """A vector for each of so many items, all of which look like a garment of some photos, as a shop's do.

    Their searches are those of a shop's gallery: among vectors that are like no garment's a walk goes further, astray.
    """
    config = Config(detector=BOX, device="cpu")
    embedder = build_embedder(config)
    pipeline = Pipeline(build_detector(config), build_cropper(config), embedder)
    found = [analysis.vectors for analysis in pipeline(photos) if len(analysis.vectors)]
    if not found:
        return clustered(count, embedder.dim, seed=0)
    return around(np.concatenate(found), count, ALIKE, np.random.default_rng(0))


def make_gallery(folder: Path, vectors: Vectors) -> Path:
    """A gallery of made-up items for the shipped embedder, an item for each vector."""
    fill(Gallery.create(folder, build_embedder(Config(device="cpu")), build_cropper(Config())), vectors)
    return folder
