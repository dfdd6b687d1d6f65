"""What a gallery answers: rows, searches, filters, near-duplicates."""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from pipeline.gallery import searcher
from pipeline.gallery.arrays import FileArrays
from pipeline.gallery.contents import check_files, read_ids
from pipeline.gallery.duplicates import near_duplicates
from pipeline.gallery.graph import empty_index, load_graph
from pipeline.gallery.matching import Matcher
from pipeline.gallery.rows import Row
from pipeline.gallery.rowstore import Ids, RowStore
from pipeline.gallery.searcher import Searcher
from pipeline.gallery.storage import Manifest
from pipeline.gallery.vectors import VectorStore
from stages.errors import GalleryMismatch
from stages.protocols import Cropper, Embedder, Index
from stages.types import Match, Vectors


class Reading:
    """A generation of a gallery, with what has changed since and is not saved; see :class:`pipeline.gallery.Gallery`.

    Raises:
        GalleryCorrupt: a file is missing or damaged, here or where it is first touched.
    """

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder, self.manifest = folder, manifest
        self._searcher: Searcher | None = None
        self._adopt(manifest)

    def __len__(self) -> int:
        """How many photos it holds."""
        return len(self._rows.live)

    @property
    def rows(self) -> list[Row]:
        """Every row, in the order of addition."""
        return [self._rows.get(number) for number in self._rows.live.tolist()]

    @property
    def items(self) -> list[str]:
        """Every item id once, in the order of addition."""
        return list(self._rows.distinct("item"))

    @property
    def labels(self) -> dict[str, int]:
        """Every garment group with the count of its photos, the most frequent first."""
        return dict(sorted(self._rows.distinct("label").items(), key=lambda pair: -pair[1]))

    @property
    def columns(self) -> list[str]:
        """The columns that filters know: the rows' own, then the catalogue's."""
        return list(self._rows.names())

    @property
    def ids(self) -> Ids:
        """The ids of its rows, rising."""
        return self._rows.live

    @property
    def vectors(self) -> VectorStore:
        """Its vectors by id."""
        return self._vectors

    @property
    def removed(self) -> int:
        """How many vectors are on disk whose rows were removed or replaced: :meth:`compact` drops them."""
        return len(np.setdiff1d(self._vectors.ids, self._rows.live, assume_unique=True))

    def check_made_with(self, embedder: Embedder, cropper: Cropper) -> None:
        """Refuse an embedder or a cropper that is not the gallery's own.

        Raises:
            GalleryMismatch: naming both.
        """
        for part, own, other in (
            ("embedder", self.manifest.embedder, embedder.fingerprint),
            ("crop", self.manifest.crop, cropper.fingerprint),
        ):
            if own != other:
                raise GalleryMismatch(
                    f"gallery {self.folder} was made with {part} {own!r}, asked for is {other!r};"
                    f" use the gallery's {part}, or index the catalogue into another gallery"
                )

    def photo_of(self, item: str, photo: str, sha256: str = "") -> Row | None:
        """The row of the same photo of an item: of the same file name, else of the same content."""
        found = self._rows.find(item, photo=photo) or (self._rows.find(item, sha256=sha256) if sha256 else [])
        return self._rows.get(found[-1]) if found else None

    def of_item(self, item: str) -> list[Row]:
        """An item's rows."""
        return [self._rows.get(number) for number in self._rows.of_item(item)]

    def vectors_of(self, item: str) -> Vectors:
        """The vectors of an item's photos, in the order of :meth:`of_item`."""
        return self._vectors.take(np.array(self._rows.of_item(item), np.int64))

    def values(self, column: str) -> dict[str, int]:
        """The values of a column with the count of their rows, in the order of addition; see :attr:`columns`.

        Raises:
            ValueError: there is no such column.
        """
        names = self._rows.names()
        if column not in names:
            raise ValueError(f"there is no column {column!r}; there are {', '.join(names)}")
        return self._rows.distinct(names[column])

    def select(self, where: str) -> list[Row]:
        """The rows that a filter lets through, in the order of addition.

        Raises:
            ValueError: the filter cannot be read, or names a column that there is not.
        """
        return [self._rows.get(number) for number in self._matcher.pool(None, where).tolist()]

    def count(self, where: str) -> int:
        """How many rows a filter lets through; raises as :meth:`select`."""
        return len(self._matcher.pool(None, where))

    def search(
        self,
        queries: Vectors,
        k: int = 10,
        *,
        labels: Sequence[str | None] | None = None,
        where: str | None = None,
        min_similarity: float = -1.0,
        columns: Container[str] | None = None,
    ) -> list[list[Match]]:
        """For each query the k most similar items, each by its best photo, best first.

        Args:
            queries: ``(n, dim)`` unit rows.
            k: items wanted.
            labels: one per query; only photos of that garment group are searched, or all for None.
            where: a filter, such as ``category = boots and price < 200``; see :mod:`pipeline.gallery.where`.
            min_similarity: matches below it are left out.
            columns: those that the filter may name; None for all.

        Raises:
            ValueError: k is less than 1, the queries are not unit rows of the gallery's width, or the filter is wrong.
        """
        if k < 1:
            raise ValueError(f"k is at least 1, got {k}")
        return self._matcher(queries, k, labels, where, min_similarity, columns)

    def range_search(
        self,
        queries: Vectors,
        min_similarity: float,
        *,
        labels: Sequence[str | None] | None = None,
        where: str | None = None,
    ) -> list[list[Match]]:
        """For each query all items at least as similar as that, best first; otherwise as :meth:`search`."""
        return self._matcher(queries, max(1, len(self)), labels, where, min_similarity)

    def duplicates(self, similarity: float = 0.97, where: str | None = None) -> list[list[tuple[Row, float]]]:
        """Groups of near-duplicate photos, the largest first: each photo with its similarity to the nearest other.

        Raises:
            ValueError: the filter is wrong.
        """
        live = self._rows.live
        groups = near_duplicates(self._searching, live, self._matcher.pool(None, where), similarity)
        return [[(self._rows.get(number), near) for number, near in group] for group in groups]

    def index(self) -> tuple[Index, Ids] | None:
        """The index with the ids of the rows in it, as searches use it; None where they need none."""
        return self._searching.index(self._rows.live) if len(self) > searcher.TAIL else None

    def _adopt(self, manifest: Manifest) -> None:
        """Hold the files of a generation, and no changes."""
        files = {stored: FileArrays(self.folder, stored) for stored in (*manifest.vectors, *manifest.rows)}
        removed = read_ids(self.folder, manifest.removed) if manifest.removed else np.zeros(0, np.int64)
        check_files(
            [files[stored] for stored in manifest.vectors], [files[stored] for stored in manifest.rows], manifest
        )
        self._rows = RowStore([files[stored] for stored in manifest.rows], removed)
        self._vectors = VectorStore([files[stored] for stored in manifest.vectors], manifest.dim, manifest.storage)
        self.manifest, self._next_id = manifest, manifest.next_id
        self._matcher = Matcher(self._rows, lambda: self._searching, manifest.dim)
        if self._searcher:
            self._searcher.vectors = self._vectors

    @property
    def _searching(self) -> Searcher:
        if self._searcher is None:
            make: Callable[[], Index] = partial(empty_index, self.manifest)
            self._searcher = Searcher(
                self._vectors,
                None if self.manifest.index == "exact" else make,
                lambda: load_graph(self.folder, self.manifest),
            )
        return self._searcher
