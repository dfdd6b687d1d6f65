"""What is measured side by side: our gallery and index, bare hnswlib, exact search, and faiss and usearch if installed."""

from __future__ import annotations

import importlib
import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, Protocol

import hnswlib
import numpy as np
from numpy.typing import NDArray

from pipeline.gallery import Gallery, Row
from stages.cores import cores
from stages.crop import BoxCrop
from stages.index import HnswIndex, exact_search
from stages.testing import FakeEmbedder
from stages.types import Box, Match, Neighbors, Vectors

Ids = NDArray[np.int64]

M: Final = 16
EF_CONSTRUCTION: Final = 200
EF: Final = 128
"""What :class:`stages.index.HnswIndex` takes by default, and every other engine here."""

BLOCK: Final = 100_000
"""Photos that are added to the gallery at once."""


class Engine(Protocol):
    """An index of vectors 0, 1, 2 …, built into files, opened from them, and searched."""

    name: str
    files_of: str
    """The engine whose files it opens: its own name, or another's and nothing is built."""
    has_ef: bool
    """Whether :meth:`tune` does anything."""

    def build(self, vectors: Vectors, folder: Path) -> None:
        """Write files for these vectors into an empty folder."""

    def open(self, folder: Path, dim: int) -> None:
        """Become ready to search, from the files."""

    def search(self, queries: Vectors, k: int) -> Any:
        """The nearest, in the engine's own form."""

    def rows(self, found: Any) -> Ids:
        """The numbers of what was found, ``(n, k)``."""

    def tune(self, ef: int) -> None:
        """Look at more candidates: slower, and better."""


def available() -> tuple[list[Engine], list[str]]:
    """Every engine that there is here, those that open another's files after it, and the names of those that are not installed."""
    own: list[Engine] = [GalleryEngine(), HnswEngine(), HnswlibEngine(), ExactEngine()]
    others: list[Engine] = [FaissEngine(), UsearchEngine()]
    there = [engine for engine in others if find_spec(engine.name) is not None]
    return own + there, [engine.name for engine in others if engine not in there]


def fill(gallery: Gallery, vectors: Vectors) -> None:
    """Add an item for each vector, whose id is its number, and save."""
    for start in range(0, len(vectors), BLOCK):
        part = vectors[start : start + BLOCK]
        gallery.add([_row(number) for number in range(start, start + len(part))], part)
    gallery.save()


class GalleryEngine:
    """The whole gallery: an item for each vector, matches with all that is known of them."""

    name = files_of = "gallery"
    has_ef = False

    def build(self, vectors: Vectors, folder: Path) -> None:
        """Add, index and save."""
        embedder = FakeEmbedder()
        embedder.dim = vectors.shape[1]
        fill(Gallery.create(folder, embedder, BoxCrop()), vectors)

    def open(self, folder: Path, _dim: int) -> None:
        """Open it."""
        self._gallery = Gallery.open(folder)

    def search(self, queries: Vectors, k: int) -> list[list[Match]]:
        """Matches per query."""
        return self._gallery.search(queries, k)

    def rows(self, found: list[list[Match]]) -> Ids:
        """An item's id is its number."""
        return np.array([[int(match.item) for match in matches] for matches in found], np.int64)

    def tune(self, ef: int) -> None:
        """It has no such setting."""


class HnswEngine:
    """Our index by itself, from the gallery's file."""

    name, files_of = "HnswIndex", "gallery"
    has_ef = True

    def build(self, vectors: Vectors, folder: Path) -> None:
        """The gallery does."""

    def open(self, folder: Path, dim: int) -> None:
        """Load the gallery's graph."""
        self._path, self._dim = graph_file(folder), dim
        self.tune(EF)

    def search(self, queries: Vectors, k: int) -> Neighbors:
        """Rows and similarities."""
        return self._index.search(queries, k)

    def rows(self, found: Neighbors) -> Ids:
        """As they are."""
        return found.rows

    def tune(self, ef: int) -> None:
        """The parameter is given when an index is made: load it anew."""
        self._index = HnswIndex(self._dim, ef_search=ef)
        self._index.load(self._path)


class HnswlibEngine:
    """Bare hnswlib on the same graph, to see what our guards cost."""

    name, files_of = "hnswlib", "gallery"
    has_ef = True

    def build(self, vectors: Vectors, folder: Path) -> None:
        """The gallery does."""

    def open(self, folder: Path, dim: int) -> None:
        """Load the gallery's graph."""
        self._index: Any = hnswlib.Index(space="ip", dim=dim)
        self._index.load_index(os.fsencode(graph_file(folder)))
        self._index.set_num_threads(cores())
        self.tune(EF)

    def search(self, queries: Vectors, k: int) -> tuple[NDArray[np.uint64], NDArray[np.float32]]:
        """Labels and distances."""
        found: tuple[NDArray[np.uint64], NDArray[np.float32]] = self._index.knn_query(queries, k=k)
        return found

    def rows(self, found: tuple[NDArray[np.uint64], NDArray[np.float32]]) -> Ids:
        """The labels."""
        return found[0].astype(np.int64)

    def tune(self, ef: int) -> None:
        """Set it."""
        self._index.set_ef(ef)


class ExactEngine:
    """Every query against every vector."""

    name = files_of = "exact"
    has_ef = False

    def build(self, vectors: Vectors, folder: Path) -> None:
        """Write the vectors, as they are."""
        np.save(folder / "vectors.npy", vectors)

    def open(self, folder: Path, _dim: int) -> None:
        """Read them."""
        self._vectors: Vectors = np.load(folder / "vectors.npy")

    def search(self, queries: Vectors, k: int) -> Neighbors:
        """Rows and similarities."""
        return exact_search(self._vectors, queries, k)

    def rows(self, found: Neighbors) -> Ids:
        """As they are."""
        return found.rows

    def tune(self, ef: int) -> None:
        """It has no such setting."""


class FaissEngine:
    """faiss' HNSW of flat vectors."""

    name = files_of = "faiss"
    has_ef = True

    def build(self, vectors: Vectors, folder: Path) -> None:
        """Build and write it."""
        faiss = importlib.import_module(self.name)
        faiss.omp_set_num_threads(cores())
        index = faiss.IndexHNSWFlat(vectors.shape[1], M, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = EF_CONSTRUCTION
        index.add(vectors)
        faiss.write_index(index, str(folder / "index.faiss"))

    def open(self, folder: Path, _dim: int) -> None:
        """Read it."""
        self._index: Any = importlib.import_module(self.name).read_index(str(folder / "index.faiss"))
        self.tune(EF)

    def search(self, queries: Vectors, k: int) -> tuple[NDArray[np.float32], Ids]:
        """Similarities and numbers."""
        found: tuple[NDArray[np.float32], Ids] = self._index.search(queries, k)
        return found

    def rows(self, found: tuple[NDArray[np.float32], Ids]) -> Ids:
        """The numbers."""
        return found[1]

    def tune(self, ef: int) -> None:
        """Set it."""
        self._index.hnsw.efSearch = ef


class UsearchEngine:
    """usearch's HNSW."""

    name = files_of = "usearch"
    has_ef = True

    def build(self, vectors: Vectors, folder: Path) -> None:
        """Build and write it."""
        index = self._empty(vectors.shape[1])
        index.add(np.arange(len(vectors)), vectors, threads=cores())
        index.save(str(folder / "index.usearch"))

    def open(self, folder: Path, dim: int) -> None:
        """Read it."""
        self._index: Any = self._empty(dim)
        self._index.load(str(folder / "index.usearch"))
        self.tune(EF)

    def search(self, queries: Vectors, k: int) -> Any:
        """Its own matches."""
        return self._index.search(queries, k, threads=cores())

    def rows(self, found: Any) -> Ids:
        """Their keys; of a single query they come flat."""
        return np.atleast_2d(np.asarray(found.keys)).astype(np.int64)

    def tune(self, ef: int) -> None:
        """Set it."""
        self._index.expansion_search = ef

    def _empty(self, dim: int) -> Any:
        return importlib.import_module(f"{self.name}.index").Index(
            ndim=dim, metric="ip", dtype="f32", connectivity=M, expansion_add=EF_CONSTRUCTION, expansion_search=EF
        )


def _row(number: int) -> Row:
    return Row(str(number), f"{number}.jpg", "", "whole", "top", 1.0, Box(0, 0, 1, 1))


def graph_file(folder: Path) -> Path:
    """The index of a gallery."""
    graph = Gallery.open(folder).manifest.graph
    if graph is None:
        raise ValueError(f"gallery {folder} is small enough to be searched without an index")
    return folder / graph.name
