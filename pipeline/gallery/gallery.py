"""The gallery: catalogue photos and their vectors in a folder, searched by similarity, matched per item."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final
from uuid import uuid4

import numpy as np

from pipeline.config import build_index, trust
from pipeline.gallery.reading import Reading
from pipeline.gallery.rows import Row
from pipeline.gallery.saving import Saving
from pipeline.gallery.storage import Manifest, is_gallery, read_manifest, write_generation, writing
from pipeline.gallery.vectors import STORAGE
from stages.errors import GalleryCorrupt, GalleryError
from stages.index.checks import check_vectors
from stages.protocols import Cropper, Embedder
from stages.types import Vectors

_OPEN_TRIES: Final = 5


class Gallery(Reading):
    """Items, their photos' vectors and an index of them; made by :meth:`create`, read by :meth:`open`.

    Changes are in memory until :meth:`save`. A row's id is never given to another.
    """

    @classmethod
    def create(
        cls,
        folder: Path,
        embedder: Embedder,
        cropper: Cropper,
        index: str = "hnsw",
        settings: dict[str, str] | None = None,
        storage: str = "float32",
    ) -> Gallery:
        """A new, empty gallery, on disk at once; ``settings`` are kept in its manifest for whoever opens it.

        Args:
            folder: made if absent.
            embedder: what makes the vectors: others will be refused.
            cropper: what makes the crops: likewise.
            index: the name of an index for :func:`pipeline.config.build_index`.
            settings: whatever is to be remembered.
            storage: how vectors are kept: float32, float16 or int8.

        Raises:
            GalleryError: there is one already, or the folder cannot be written.
            ValueError: no index or storage has that name.
        """
        trust(index)
        build_index(index, embedder.dim)  # an unknown name is told before anything is written
        if storage not in STORAGE:
            raise ValueError(f"vectors are stored as {', '.join(STORAGE)}, not as {storage!r}")
        with writing(folder):
            if is_gallery(folder):
                raise GalleryError(f"there is a gallery at {folder} already; open it, or choose another folder")
            manifest = Manifest(uuid4().hex, embedder.dim, embedder.fingerprint, cropper.fingerprint, index, storage,
                                settings or {}, generation=1)  # fmt: skip
            return cls(folder, write_generation(folder, 1, lambda: manifest))

    @classmethod
    def open(cls, folder: Path) -> Gallery:
        """The gallery's current generation; what is touched of it is verified, now and later.

        Raises:
            GalleryError: there is none.
            GalleryCorrupt: a file is missing or damaged. A damaged index is none: it is made anew when needed.
        """
        manifest = read_manifest(folder)
        for _ in range(_OPEN_TRIES):
            try:
                return cls(folder, manifest)
            except GalleryCorrupt:  # perhaps a writer has moved on since the manifest was read
                newer = read_manifest(folder)
                if newer == manifest:
                    raise
                manifest = newer
        return cls(folder, manifest)

    def add(self, rows: Sequence[Row], vectors: Vectors) -> None:
        """Add photos; one that is there, by item and photo, is replaced.

        Raises:
            ValueError: not a unit row of the gallery's width for each photo; nothing is added.
        """
        check_vectors(vectors, self.manifest.dim)
        if len(vectors) != len(rows):
            raise ValueError(f"wanted a vector for each of {len(rows)} rows, got {len(vectors)}")
        ids = np.arange(self._next_id, self._next_id + len(rows))
        self._next_id += len(rows)
        self._vectors.append(ids, vectors)
        for number, row in zip(ids.tolist(), rows, strict=True):
            for old in self._rows.find(row.item, photo=row.photo):
                self._rows.remove(old)
            self._rows.put(number, row)
        self._matcher.forget()

    def redescribe(self, old: Row, new: Row) -> None:
        """Give a photo of an item another place or other metadata; its vector stays.

        Raises:
            ValueError: there is no such photo.
        """
        found = self._rows.find(old.item, photo=old.photo)
        if not found:
            raise ValueError(f"gallery {self.folder} has no photo {old.photo!r} of item {old.item!r}")
        self._rows.put(found[-1], new)
        self._matcher.forget()

    def remove(self, items: Iterable[str]) -> int:
        """Remove items with all their photos; returns how many photos went.

        Raises:
            ValueError: an item is not there; nothing is removed.
        """
        going = {item: self._rows.of_item(item) for item in items}
        unknown = sorted(item for item, ids in going.items() if not ids)
        if unknown:
            raise ValueError(f"gallery {self.folder} has no item {', '.join(unknown[:5])}; nothing was removed")
        gone = [number for ids in going.values() for number in ids]
        for number in gone:
            self._rows.remove(number)
        self._matcher.forget()
        return len(gone)

    def discard(self, photos: Iterable[Row]) -> int:
        """Remove single photos; returns how many went."""
        gone = [number for row in photos for number in self._rows.find(row.item, photo=row.photo)]
        for number in gone:
            self._rows.remove(number)
        self._matcher.forget()
        return len(gone)

    def save(self) -> None:
        """Make the changes durable, all or none.

        Raises:
            GalleryError: the disk is full, the folder cannot be written, someone is writing the gallery or has
                written it since it was opened; what was saved before is unharmed.
        """
        if self._rows.changed or self._next_id != self.manifest.next_id:  # ids that are used up stay so
            self._write_generation()

    def compact(self) -> None:
        """Merge what many saves have left into one file each, without the removed rows; raises as :meth:`save`."""
        self._write_generation(anew=True)

    def rebuild(self) -> None:
        """Make the index anew from the vectors and save it; raises as :meth:`save`."""
        self._searcher = None
        self.manifest = replace(self.manifest, graph=None, graph_ids=None)
        self._write_generation()

    def _write_generation(self, *, anew: bool = False) -> None:
        with writing(self.folder):
            there = read_manifest(self.folder)
            if (there.identity, there.generation) != (self.manifest.identity, self.manifest.generation):
                raise GalleryError(
                    f"gallery {self.folder} was written by someone else since it was opened; open it again"
                )
            saving = Saving(self.folder, self.manifest, self._rows, self._vectors, self._searching, self._next_id)
            self._adopt(write_generation(self.folder, saving.number, partial(saving, anew=anew)))
