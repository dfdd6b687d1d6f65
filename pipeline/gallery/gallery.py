"""The gallery: catalogue photos and their vectors in a folder, searched by similarity and by filters."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final
from uuid import uuid4

import numpy as np

from pipeline.config import build_index, check_trusted, trust
from pipeline.gallery import search, store
from pipeline.gallery.filters import METADATA, compile_filter
from pipeline.gallery.graphs import GraphCache
from pipeline.gallery.search import Searcher, match_items, near_duplicates, tail_limit
from pipeline.gallery.store import BUILT_IN, Manifest, Row, Store, is_gallery, text_of, writing
from pipeline.gallery.vectors import STORAGE, Ids, PhotoTable, item_key
from stages.errors import GalleryError, GalleryMismatch
from stages.index.checks import check_vectors
from stages.protocols import Cropper, Embedder, Index
from stages.types import Match, Vectors

BLOCK: Final = 1024
"""Photos whose vectors are stored together."""

REMEMBERED_FILTERS: Final = 16
REMEMBERED_MATCHES: Final = 1 << 16

_EXACT: Final = frozenset(["item", "photo"])
_log = logging.getLogger(__name__)

Found = tuple[str, str, str, tuple[tuple[str, str], ...]]


class Gallery:
    """Items, their photos' vectors and an index of them; made by :meth:`create`, opened by :meth:`open`.

    A gallery keeps the generation that it opened until it saves its own changes, which no one else sees before
    :meth:`save`. From the first change on no one else can write.
    """

    def __init__(self, folder: Path, opened: Store) -> None:
        self.folder, self._store = folder, opened
        self._searcher: Searcher | None = None
        self._load()

    @classmethod
    def create(
        cls,
        folder: Path | str,
        embedder: Embedder,
        cropper: Cropper,
        index: str = "hnsw",
        settings: dict[str, str] | None = None,
        storage: str = "float32",
    ) -> Gallery:
        """Make an empty gallery.

        Args:
            folder: made if absent.
            embedder: what makes the vectors: others will be refused.
            cropper: what makes the crops: likewise.
            index: the name of an index for :func:`pipeline.build.build_index`.
            settings: what is to be remembered.
            storage: how vectors are kept: float32, float16 or int8.

        Raises:
            GalleryError: there is one already, or the folder cannot be written.
            ValueError: no index or storage has that name.
        """
        folder = Path(folder)
        trust(index)
        build_index(index, embedder.dim)  # an unknown name is reported before anything is written
        if storage not in STORAGE:
            raise ValueError(f"vectors are stored as {', '.join(STORAGE)}, not as {storage!r}")
        with writing(folder):
            if is_gallery(folder):
                raise GalleryError(f"there is a gallery at {folder} already; open it, or choose another folder")
            store.create(folder, Manifest(uuid4().hex, embedder.dim, embedder.fingerprint, cropper.fingerprint, index,
                                          storage, settings or {}, generation=1))  # fmt: skip
            return cls(folder, Store(folder))

    @classmethod
    def open(cls, folder: Path | str) -> Gallery:
        """Open the current generation of a gallery; its rows and vectors are read and verified as they are needed.

        Raises:
            GalleryError: there is none, or it is of another format.
            GalleryCorrupt: it is damaged, here or later.
        """
        return cls(Path(folder), Store(Path(folder)))

    def close(self) -> None:
        """Close the gallery's file, without saving."""
        self._store.close()

    # -- what it holds

    @property
    def manifest(self) -> Manifest:
        """What made the gallery, and its generation."""
        return self._store.manifest

    def __len__(self) -> int:
        """How many photos it holds."""
        return len(self._table.live)

    @property
    def rows(self) -> list[Row]:
        """Every row, in the order of addition."""
        self._store.verify_rows(self._table.live)
        return [row for _, row in self._store.all_rows()]

    @property
    def items(self) -> list[str]:
        """Every item id once, in the order of addition."""
        return list(self.values("item"))

    @property
    def item_count(self) -> int:
        """How many items it holds."""
        return self._table.item_count

    @property
    def labels(self) -> dict[str, int]:
        """Every garment group with the count of its photos, the most frequent first."""
        return dict(sorted(self.values("label").items(), key=lambda pair: -pair[1]))

    @property
    def columns(self) -> list[str]:
        """The columns that filters know: the gallery's own, then the catalogue's."""
        return list(self._store.names)

    @property
    def ids(self) -> Ids:
        """The ids of its photos, rising."""
        return self._table.live

    @property
    def vectors(self) -> PhotoTable:
        """Its vectors by id."""
        return self._table

    @property
    def removed(self) -> int:
        """How many removed photos still take space, until :meth:`compact`."""
        return self._table.removed_count

    @property
    def size(self) -> int:
        """The bytes of its file."""
        return self._store.size

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
        """Return the row of an item's photo: the one of that file name, else one of the same content."""
        rows = self.of_item(item)
        found = [row for row in rows if row.photo == photo] or [row for row in rows if sha256 and row.sha256 == sha256]
        return found[-1] if found else None

    def of_item(self, item: str) -> list[Row]:
        """Return an item's rows."""
        return [row for _, row in self._of_item(item)]

    def vectors_of(self, item: str) -> Vectors:
        """Return the vectors of an item's photos, in the order of :meth:`of_item`."""
        return self._table.take(np.array([number for number, _ in self._of_item(item)], np.int64))

    def values(self, column: str) -> dict[str, int]:
        """Return the values of a column with the count of their rows, in the order of addition; see :attr:`columns`.

        Raises:
            ValueError: there is no such column.
        """
        names = self._store.names
        if column not in names:
            raise ValueError(f"there is no column {column!r}; there are {', '.join(names)}")
        self._store.verify_rows(self._table.live)
        return self._store.distinct(names[column])

    def notes(self) -> list[str]:
        """Return what a user of filters should know of the catalogue's columns, a sentence each."""
        notes = []
        for name, sql in self._store.names.items():
            if name in BUILT_IN:
                continue
            if name.startswith(METADATA):
                notes.append(f"the catalogue's column {name.removeprefix(METADATA)!r} is {name} in filters,"
                             " because the gallery has a column of that name")  # fmt: skip
            numbers, others, example = self._numbers(sql)
            if numbers > others > 0:
                notes.append(
                    f"{others} of {numbers + others} values of the column {name!r} are not numbers, such as {example!r}"
                )
        return notes

    # -- changes

    def add(self, rows: Sequence[Row], vectors: Vectors) -> None:
        """Add photos; one that is present, by item and photo, is replaced.

        Raises:
            ValueError: not a unit row of the gallery's width for each photo; nothing is added.
            GalleryError: someone else is writing the gallery or has written it since it was opened.
        """
        check_vectors(vectors, self.manifest.dim)
        if len(vectors) != len(rows):
            raise ValueError(f"wanted a vector for each of {len(rows)} rows, got {len(vectors)}")
        self._begin()
        for row, vector in zip(rows, vectors, strict=True):
            self._remove([number for number, old in self._of_item(row.item) if old.photo == row.photo])
            self._change(lambda row=row: self._store.put(self._next_id, row))  # type: ignore[misc]
            self._table.append([self._next_id], [item_key(row.item)], vector[None])
            self._next_id += 1
        self._forget_answers()

    def redescribe(self, old: Row, new: Row) -> None:
        """Give a photo of an item another place or other metadata; its vector stays.

        Raises:
            ValueError: there is no such photo.
            GalleryError: as :meth:`add`.
        """
        found = [number for number, row in self._of_item(old.item) if row.photo == old.photo]
        if not found:
            raise ValueError(f"gallery {self.folder} has no photo {old.photo!r} of item {old.item!r}")
        self._begin()
        self._change(lambda: self._store.put(found[-1], replace(new, item=old.item)))
        self._forget_answers()

    def remove(self, items: Iterable[str]) -> int:
        """Remove items with all their photos; returns how many photos went.

        Raises:
            ValueError: an item is not in the gallery; nothing is removed.
            GalleryError: as :meth:`add`.
        """
        found = {item: [number for number, _ in self._of_item(item)] for item in items}
        unknown = sorted(item for item, ids in found.items() if not ids)
        if unknown:
            raise ValueError(f"gallery {self.folder} has no item {', '.join(unknown[:5])}; nothing was removed")
        return self._discard([number for ids in found.values() for number in ids])

    def discard(self, photos: Iterable[Row]) -> int:
        """Remove single photos; returns how many went."""
        ids = [number for row in photos for number, old in self._of_item(row.item) if old.photo == row.photo]
        return self._discard(ids)

    def save(self) -> None:
        """Make the changes durable, all or none, and the index anew where many photos are not in it.

        Raises:
            GalleryError: the disk is full or the folder cannot be written; what was saved before is unharmed, and the
                changes are lost.
        """
        if self._store.writing:
            self._write()
            self._keep_graph()

    def compact(self) -> None:
        """Write the vectors anew without the removed ones and give their space back; raises as :meth:`save`."""
        self._begin()
        anew = self._table.removed_count > 0
        self._write(anew=anew)
        if anew:
            self._searcher = None
        self._store.vacuum()
        self._keep_graph()

    def rebuild(self) -> bool:
        """Make the index anew from the vectors and keep it; returns whether it needs one."""
        self._searcher = None
        self._graphs.forget()
        self._keep_graph()
        return len(self) > search.TAIL and self._searching.storable

    @property
    def kept_index(self) -> Path | None:
        """The file of its index in the cache folder, if one is kept that holds its photos."""
        return self._graphs.path(self._store, self._table)

    def cache_problems(self) -> list[str]:
        """Return which kept indexes are damaged; they are made again when they are needed."""
        return self._graphs.problems(self._store, self._table)

    # -- searches

    def select(self, where: str) -> list[Row]:
        """Return the rows that a filter lets through, in the order of addition.

        Raises:
            ValueError: the filter cannot be read, names a column that there is not, or takes too long.
        """
        return self._store.rows(self._pool(None, where).tolist())

    def count(self, where: str) -> int:
        """Return how many rows a filter lets through; raises as :meth:`select`."""
        return len(self._pool(None, where))

    def search(
        self,
        queries: Vectors,
        k: int = 10,
        *,
        labels: Sequence[str | None] | None = None,
        where: str | None = None,
        min_similarity: float = -1.0,
        columns: frozenset[str] | None = None,
    ) -> list[list[Match]]:
        """Return for each query the k most similar items, each by its best photo, best first.

        Args:
            queries: ``(n, dim)`` unit rows.
            k: items wanted.
            labels: one per query; only photos of that garment group are searched, or all for None.
            where: a filter, such as ``category = boots and price < 200``; see :mod:`pipeline.gallery.filters`.
            min_similarity: matches below it are left out.
            columns: those that the filter may name; None for all.

        Raises:
            ValueError: k is less than 1, the queries are not unit rows of the gallery's width, or the filter is wrong.
        """
        if k < 1:
            raise ValueError(f"k is at least 1, got {k}")
        if labels is not None and len(labels) != len(queries):
            raise ValueError(f"wanted a label for each of {len(queries)} queries, got {len(labels)}")
        every = labels if labels is not None else [None] * len(queries)
        known = {label: self._pool(label, where, columns) for label in dict.fromkeys(every)}
        live = self._table.live
        pools = [None if known[label] is live else known[label] for label in every]
        return match_items(self._searching, queries, k, pools, min_similarity, self._matches)

    def range_search(
        self,
        queries: Vectors,
        min_similarity: float,
        *,
        labels: Sequence[str | None] | None = None,
        where: str | None = None,
    ) -> list[list[Match]]:
        """Return for each query all items at least as similar as that, best first; otherwise as :meth:`search`."""
        return self.search(queries, max(1, len(self)), labels=labels, where=where, min_similarity=min_similarity)

    def duplicates(self, similarity: float = 0.97, where: str | None = None) -> list[list[tuple[Row, float]]]:
        """Return groups of near-duplicate photos, the largest first: each photo with its similarity to the nearest other.

        Raises:
            ValueError: the filter is wrong.
        """
        pool = self._pool(None, where)
        groups = near_duplicates(self._searching, None if pool is self._table.live else pool, similarity)
        return [
            list(zip(self._store.rows([number for number, _ in group]), (near for _, near in group), strict=True))
            for group in groups
        ]

    def index(self) -> tuple[Index, Ids] | None:
        """Return the index with the ids of the photos in it, as searches use it; None where they need none."""
        return self._searching.index(self._table.live) if len(self) > search.TAIL else None

    # -- within

    def _load(self) -> None:
        """Hold what is saved, and no changes."""
        self._table = PhotoTable(
            self.manifest.dim, self.manifest.storage, self._store.read_blocks(), self._store.read_vectors
        )
        self._next_id = self.manifest.next_id
        if self._searcher:
            self._searcher.table = self._table
        self._forget_answers()

    def _begin(self) -> None:
        self._store.begin()

    def _change(self, change: Callable[[], None]) -> None:
        """Make a change; where it fails, none since the last save is left."""
        try:
            change()
        except BaseException:
            self._store.rollback()
            self._load()
            raise

    def _discard(self, ids: list[int]) -> int:
        if ids:
            self._begin()
            self._remove(ids)
            self._forget_answers()
        return len(ids)

    def _remove(self, ids: list[int]) -> None:
        self._change(lambda: self._store.delete(ids))
        self._table.remove(ids)

    def _write(self, *, anew: bool = False) -> None:
        def write() -> None:
            for block, stored in self._table.blocks_to_write(BLOCK, anew=anew):
                self._store.write_block(block, stored)
            self._store.commit(replace(self.manifest, next_id=self._next_id))

        with writing(self.folder):
            self._change(write)
        self._load()

    def _keep_graph(self) -> None:
        """Make and keep an index, unless one is kept that holds most photos and few removed ones."""
        if len(self) <= search.TAIL or not self._searching.storable:
            return
        live, held = self._table.live, self._graphs.held(self._store, self._table)
        common = len(np.intersect1d(held, live, assume_unique=True))
        if len(live) - common > tail_limit(len(held)) or len(held) - common > len(held) // 2:
            self._searching.index(live)

    def _of_item(self, item: str) -> list[tuple[int, Row]]:
        ids = self._table.of_key(item_key(item))
        rows = zip(ids, self._store.rows(ids), strict=True)
        return [(number, row) for number, row in rows if row.item == item]

    def _forget_answers(self) -> None:
        self._pools: dict[tuple[str | None, str | None, frozenset[str] | None], Ids] = {}
        self._found: dict[int, Found] = {}

    def _pool(self, label: str | None, where: str | None, columns: frozenset[str] | None = None) -> Ids:
        """Return the ids of a garment group's photos, or of all, that a filter lets through."""
        if label is None and where is None:
            return self._table.live
        key = label, where, columns
        if key not in self._pools:
            chosen = self._select(label, where, columns)
            if len(self._pools) >= REMEMBERED_FILTERS:
                self._pools.clear()
            self._pools[key] = chosen
        return self._pools[key]

    def _select(self, label: str | None, where: str | None, columns: frozenset[str] | None) -> Ids:
        sql, parameters = "1", list[str]()
        if label is not None:
            sql, parameters = "label = ?", [label]
        if where is not None:
            names = self._store.names
            known = {name: column for name, column in names.items() if columns is None or name in columns}
            parsed = compile_filter(where, known, _EXACT, frozenset(names) - frozenset(BUILT_IN))
            self._check_numbers(parsed.ordered)
            sql, parameters = f"{sql} AND {parsed.sql}", [*parameters, *parsed.parameters]
        self._store.verify_rows(self._table.live)
        return self._store.select(sql, parameters)

    def _check_numbers(self, columns: dict[str, str]) -> None:
        """Report columns whose numbers a filter orders where some values, or all, are not numbers."""
        for name, sql in columns.items():
            numbers, others, example = self._numbers(sql)
            if others and not numbers:
                raise ValueError(
                    f"column {name!r} has no numbers to compare with, its values are such as {example!r};"
                    " put the value in quotes to compare as text"
                )
            if others:
                _log.warning("%d of %d values of the column %r are not numbers, such as %r: a filter leaves them out",
                             others, numbers + others, name, example)  # fmt: skip

    def _numbers(self, sql: str) -> tuple[int, int, str]:
        """Return how many values of a column are numbers, how many are not, and one that is not."""
        self._store.verify_rows(self._table.live)
        return self._store.count_numbers(sql)

    def _matches(self, ids: Ids, similarities: Sequence[float]) -> list[Match]:
        """Return photos as matches; what was read stays in memory."""
        numbers = ids.tolist()
        unread = [number for number in numbers if number not in self._found]
        if unread:
            if len(self._found) > REMEMBERED_MATCHES:
                self._found = {}
                unread = numbers
            for values in self._store.raw_rows(unread):
                told = self._store.metadata_of(values)
                self._found[values[0]] = text_of(values[1]), text_of(values[2]), text_of(values[6]), told
        matches = []
        for number, similarity in zip(numbers, similarities, strict=True):
            item, photo, label, metadata = self._found[number]
            matches.append(Match(item, photo, similarity, label, metadata))
        return matches

    @property
    def _graphs(self) -> GraphCache:
        return GraphCache(self.manifest, self._empty_index)

    def _empty_index(self) -> Index:
        check_trusted(self.manifest.index, "the gallery", "index")
        return build_index(self.manifest.index, self.manifest.dim)

    @property
    def _searching(self) -> Searcher:
        if self._searcher is None:
            self._searcher = Searcher(
                self._table,
                None if self.manifest.index == "exact" else self._empty_index,
                lambda: self._graphs.load(self._store, self._table),
                lambda index, held: self._graphs.keep(self._store, self._table, index, held),
            )
        return self._searcher
