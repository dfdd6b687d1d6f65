"""The gallery: catalogue photos and their vectors in a folder, searched by similarity and by filters."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final
from uuid import uuid4

import numpy as np

from pipeline.config import build_index, trust
from pipeline.gallery.database import Manifest, create, writing
from pipeline.gallery.filters import BUILT_IN, METADATA, can_mean_thousands, compile_filter, is_unordered_date, number
from pipeline.gallery.graphs import GraphCache
from pipeline.gallery.search import Searcher, match_items, near_duplicates
from pipeline.gallery.store import Row, Store, is_gallery
from pipeline.gallery.vectors import CHUNK, STORAGE, Ids, PhotoTable, item_key
from stages.errors import GalleryCorrupt, GalleryError, GalleryMismatch, StageError
from stages.index.checks import check_vectors
from stages.protocols import Cropper, Embedder, Index
from stages.types import Match, Vectors

BLOCK: Final = 1024
"""Photos whose vectors are stored together."""

REMEMBERED_FILTERS: Final = 16
REMEMBERED_MATCHES: Final = 1 << 16

_log = logging.getLogger(__name__)


class Gallery:
    """Items, their photos' vectors and an index of them; made by :meth:`create`, opened by :meth:`open`.

    A gallery keeps the generation that it opened until it saves its own changes, which no one else sees before
    :meth:`save`. From the first change on no one else can write.
    """

    def __init__(self, folder: Path, opened: Store) -> None:
        self.folder, self._store = folder, opened
        self._load()
        self._use_new_searcher()

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
            index: the name of an index for :func:`pipeline.config.build_index`.
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
            create(folder, Manifest(uuid4().hex, embedder.dim, embedder.fingerprint, cropper.fingerprint, index,
                                          storage, settings or {}, generation=1))  # fmt: skip
            return cls.open(folder)

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
        return len(self.ids)

    @property
    def ids(self) -> Ids:
        """The ids of its photos, rising."""
        return self.vectors.live

    @property
    def rows(self) -> list[Row]:
        """Every row, in the order of addition."""
        return list(self._store.all_rows(self.ids))

    @property
    def items(self) -> list[str]:
        """Every item id once, in the order of addition."""
        return list(self.values("item"))

    @property
    def item_count(self) -> int:
        """How many items it holds."""
        return self.vectors.item_count

    @property
    def labels(self) -> dict[str, int]:
        """Every garment group with the count of its photos, the most frequent first."""
        return dict(sorted(self.values("label").items(), key=lambda pair: -pair[1]))

    @property
    def columns(self) -> list[str]:
        """The columns that filters know: the gallery's own, then the catalogue's."""
        return list(self._store.names)

    @property
    def removed(self) -> int:
        """How many removed photos still take space, until :meth:`compact`."""
        return self.vectors.removed_count

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
        if embedder.dim != self.manifest.dim:
            raise GalleryMismatch(
                f"gallery {self.folder} holds vectors of {self.manifest.dim} numbers, and {embedder.fingerprint} now makes"
                f" {embedder.dim}, as after a label was added; index the catalogue into another gallery"
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
        return self.vectors.take(np.array([photo for photo, _ in self._of_item(item)], np.int64))

    def values(self, column: str) -> dict[str, int]:
        """Return the values of a column with the count of their rows, in the order of addition; see :attr:`columns`.

        Raises:
            ValueError: there is no such column.
        """
        names = self._store.names
        if column not in names:
            raise ValueError(f"there is no column {column!r}; there are {', '.join(names)}")
        self._store.verify_rows(self.ids)
        return self._store.distinct(names[column])

    def notes(self) -> list[str]:
        """Return what a user of filters should know of the catalogue's columns, a sentence each."""
        notes = []
        for name in self.columns:
            if name.startswith(METADATA):
                notes.append(f"the catalogue's column {name.removeprefix(METADATA)!r} is {name} in filters,"
                             " because the gallery has a column of that name")  # fmt: skip
            numbers, others, example, _ = self._numbers(name)
            if name not in BUILT_IN and others and (numbers > others or "price" in name.casefold()):
                notes.append(
                    f"{others} of {numbers + others} values of the column {name!r} are not numbers, such as {example!r}"
                )
            if name not in BUILT_IN and numbers:
                notes += [
                    f"the point of {value!r} in the column {name!r} is taken for a decimal point, not for thousands"
                    for value in list(filter(can_mean_thousands, self.values(name)))[:1]
                ]
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
        with self._changing():
            for row, vector in zip(rows, vectors, strict=True):
                self._remove([photo for photo, old in self._of_item(row.item) if old.photo == row.photo])
                self._store.put(self._next_id, row)
                self.vectors.append(self._next_id, item_key(row.item), vector[None])
                self._next_id += 1

    def redescribe(self, old: Row, new: Row) -> None:
        """Give a photo of an item another place or other metadata; its vector stays.

        Raises:
            ValueError: there is no such photo.
            GalleryError: as :meth:`add`.
        """
        found = [photo for photo, row in self._of_item(old.item) if row.photo == old.photo]
        if not found:
            raise ValueError(f"gallery {self.folder} has no photo {old.photo!r} of item {old.item!r}")
        with self._changing():
            self._store.put(found[-1], replace(new, item=old.item))

    def remove(self, items: Iterable[str]) -> int:
        """Remove items with all their photos; returns how many photos went.

        Raises:
            ValueError: an item is not in the gallery; nothing is removed.
            GalleryError: as :meth:`add`.
        """
        photos = {item: [photo for photo, _ in self._of_item(item)] for item in items}
        if unknown := sorted(item for item, ids in photos.items() if not ids):
            raise ValueError(f"gallery {self.folder} has no item {', '.join(unknown[:5])}; nothing was removed")
        return self._discard([photo for ids in photos.values() for photo in ids])

    def discard(self, photos: Iterable[Row]) -> int:
        """Remove single photos; returns how many went."""
        return self._discard(
            [photo for row in photos for photo, old in self._of_item(row.item) if old.photo == row.photo]
        )

    def save(self) -> None:
        """Make the changes durable, all or none, and add them to the index if many photos are not in it.

        An index that cannot take them, such as a Milvus server that is down, is a warning: a later save or search adds them.

        Raises:
            GalleryError: the disk is full or the folder cannot be written; what was saved before is unharmed, and the
                changes are lost.
        """
        if self._store.writing:
            self._write()
            try:
                self._searcher.keep_index()
            except StageError as error:
                _log.warning("the photos are saved, but the index lacks some until the next save or search: %s", error)

    def compact(self) -> None:
        """Rewrite the vectors without the removed ones, to give their space back; raises as :meth:`save`."""
        rewrite = self.removed > 0 or len(self.vectors.blocks) > -(-len(self) // BLOCK)
        self._write(rewrite=rewrite)
        self._store.vacuum()
        if rewrite:
            self._use_new_searcher()
        self._searcher.keep_index()

    def rebuild(self) -> bool:
        """Rebuild the index from the vectors and keep it; return whether the gallery needs one."""
        self._graphs.forget()
        self._use_new_searcher()
        return self._searcher.keep_index()

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
        pools = [None if known[label] is self.ids else known[label] for label in every]
        return match_items(self._searcher, queries, k, pools, min_similarity, self._matches)

    def duplicates(self, similarity: float = 0.97, where: str | None = None) -> list[list[tuple[Row, float]]]:
        """Return groups of near-duplicate photos, the largest first: each photo with its similarity to the nearest other.

        Raises:
            ValueError: the filter is wrong.
        """
        groups = near_duplicates(self._searcher, self._pool(None, where) if where else None, similarity)
        return [
            list(zip(self._store.rows([photo for photo, _ in group]), (near for _, near in group), strict=True))
            for group in groups
        ]

    def index(self) -> tuple[Index, Ids] | None:
        """Return the index with the ids of the photos in it, as searches use it; None where they need none."""
        return self._searcher.index()

    # -- verification

    @property
    def kept_index(self) -> Path | None:
        """The file of its index in the cache folder, if one is kept that holds its photos."""
        kept = self._graphs.find(self.vectors)
        return kept.path if kept else None

    def verify(self) -> list[str]:
        """Verify every row and vector, and that they belong together; return what is wrong with the kept index.

        Raises:
            GalleryCorrupt: a row or a vector is damaged, or they contradict each other.
        """
        for row, key in zip(self.rows, self.vectors.keys_of(self.ids).tolist(), strict=True):
            if item_key(row.item) != key:
                raise GalleryCorrupt(f"gallery {self.folder} is damaged: a photo of item {row.item!r} is filed wrongly")
        for start in range(0, len(self), CHUNK):
            self.vectors.take(self.ids[start : start + CHUNK])
        kept = self._graphs.find(self.vectors)
        if kept is None or kept.is_sound:
            return []
        return [f"{kept.path} is damaged (it is made again when it is needed: outfinder gallery rebuild)"]

    # -- within

    def _load(self) -> None:
        """Hold what is saved, and no changes."""
        self.vectors = PhotoTable(
            self.manifest.dim, self.manifest.storage, self._store.read_blocks(), self._store.read_vectors
        )
        self._next_id = self.manifest.next_id
        self._forget_answers()

    def _use_new_searcher(self) -> None:
        self._graphs = GraphCache(self.manifest)
        self._searcher = Searcher(self.vectors, None if self.manifest.index == "exact" else self._graphs)

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """Begin to write, and after an error drop every change since the last save."""
        self._store.begin()
        try:
            yield
        except BaseException:
            self._store.rollback()
            self._load()
            self._searcher.table = self.vectors
            raise
        self._forget_answers()

    def _discard(self, photos: list[int]) -> int:
        if photos:
            with self._changing():
                self._remove(photos)
        return len(photos)

    def _remove(self, photos: list[int]) -> None:
        self._store.delete(photos)
        self.vectors.remove(photos)

    def _write(self, *, rewrite: bool = False) -> None:
        with writing(self.folder), self._changing():
            for block, stored in self.vectors.changed_blocks(BLOCK, rewrite=rewrite):
                self._store.write_block(block, stored)
            self._store.commit(self._next_id)
        try:
            self._store.read_saved()
            self._load()
        except GalleryError as error:
            raise GalleryError(f"{error} (the changes were saved; open the gallery again)") from error
        self._searcher.table = self.vectors

    def _of_item(self, item: str) -> list[tuple[int, Row]]:
        photos = self.vectors.of_key(item_key(item))
        rows = zip(photos, self._store.rows(photos), strict=True)
        return [(photo, row) for photo, row in rows if row.item == item]

    def _forget_answers(self) -> None:
        self._pools: dict[tuple[str | None, str | None, frozenset[str] | None], Ids] = {}
        self._counts_of_numbers: dict[str, tuple[int, int, str, str]] = {}
        self._described: dict[int, tuple[str, str, str, tuple[tuple[str, str], ...]]] = {}

    def _pool(self, label: str | None, where: str | None, columns: frozenset[str] | None = None) -> Ids:
        """Return the ids of a garment group's photos, or of all, that a filter lets through."""
        if label is None and where is None:
            return self.ids
        key = label, where, columns
        chosen = self._pools.get(key)
        if chosen is None:
            chosen = self._select(label, where, columns)
            if len(self._pools) >= REMEMBERED_FILTERS:
                self._pools.clear()
            self._pools[key] = chosen
        return chosen

    def _select(self, label: str | None, where: str | None, columns: frozenset[str] | None) -> Ids:
        sql, parameters = ("1", list[str]()) if label is None else ("label = ?", [label])
        if where is not None:
            names = {name: column for name, column in self._store.names.items() if columns is None or name in columns}
            compiled = compile_filter(where, names)
            self._check_numbers(compiled.ordered)
            self._check_texts(compiled.texts)
            sql, parameters = f"{sql} AND {compiled.sql}", [*parameters, *compiled.parameters]
        self._store.verify_rows(self.ids)
        return self._store.select(sql, parameters)

    def _check_numbers(self, columns: Sequence[str]) -> None:
        """Report columns whose numbers a filter orders where some values, or all, are not numbers."""
        for name in columns:
            numbers, others, example, _ = self._numbers(name)
            if others and not numbers:
                raise ValueError(
                    f"column {name!r} has no numbers to compare with, its values are such as {example!r};"
                    " put the value in quotes to compare as text"
                )
            if others:
                _log.warning("%d of %d values of the column %r are not numbers, such as %r: a filter leaves them out",
                             others, numbers + others, name, example)  # fmt: skip

    def _check_texts(self, texts: Sequence[tuple[str, str, bool]]) -> None:
        """Refuse to order a column of numbers by a misspelled one, and report numbers and dates that are ordered as text."""
        for name, text, quoted in texts:
            numbers, others, _, date = self._numbers(name)
            date = text if is_unordered_date(text) else date
            if numbers > others and not quoted:
                raise ValueError(
                    f"column {name!r} holds numbers, and {text[:40]!r} is not one; put it in quotes to compare as text"
                )
            if numbers > others and number(text) is not None:
                _log.warning(
                    "%r is in quotes, so the numbers of the column %r are compared with it as text", text, name
                )
            elif date:
                _log.warning("the dates of the column %r are compared as text, such as %r: only dates like 2024-01-31 are"
                             " in the order of time", name, date[:40])  # fmt: skip

    def _numbers(self, column: str) -> tuple[int, int, str, str]:
        """Return how many values of a column are numbers, how many are not, one that is not, and one that is a date.

        The date is one whose order is not that of its text; both texts are empty if there is none.
        """
        if column not in self._counts_of_numbers:
            counts = self.values(column)
            others = {value: count for value, count in counts.items() if number(value) is None}
            example, date = min(others, default=""), next(filter(is_unordered_date, counts), "")
            count = sum(others.values())
            self._counts_of_numbers[column] = sum(counts.values()) - count, count, example, date
        return self._counts_of_numbers[column]

    def _matches(self, photos: Ids, similarities: Sequence[float]) -> list[Match]:
        """Return photos as matches; what was read stays in memory."""
        if len(self._described) > REMEMBERED_MATCHES:
            self._described = {}
        described, numbers = self._described, photos.tolist()
        unread = [photo for photo in numbers if photo not in described]
        for photo, row in zip(unread, self._store.rows(unread) if unread else (), strict=True):
            described[photo] = row.item, row.photo, row.group, row.metadata
        matches = []
        for photo, similarity in zip(numbers, similarities, strict=True):
            item, path, label, metadata = described[photo]
            matches.append(Match(item, path, similarity, label, metadata))
        return matches
