"""The gallery: catalogue photos and their vectors in a folder, searched by similarity, matched per item."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.build import build_index
from pipeline.rows import Row, read_rows, write_rows
from pipeline.storage import Manifest, checked, read_manifest, write_generation
from stages.errors import GalleryCorrupt, GalleryError, GalleryMismatch
from stages.protocols import Cropper, Embedder, Index, StorableIndex
from stages.types import Match, Vectors

_OPEN_TRIES = 3


class Gallery:
    """Items, their photos' vectors and an index of them; made by :meth:`create`, read by :meth:`open`.

    Changes are in memory until :meth:`save`. Rows keep their numbers; a removed one leaves a gap.
    """

    def __init__(self, folder: Path, manifest: Manifest, rows: list[Row | None], vectors: Vectors) -> None:
        self.folder, self.manifest = folder, manifest
        self._rows = rows
        self._vectors, self._added = vectors, list[Vectors]()
        self._by_photo = {(row.item, row.photo): place for place, row in enumerate(rows) if row}
        self._by_content = {(row.item, row.sha256): place for place, row in enumerate(rows) if row}
        self._index: Index | None = None
        self._by_group: dict[str, NDArray[np.int64]] | None = None
        self._dirty = False

    @classmethod
    def create(
        cls,
        folder: Path,
        embedder: Embedder,
        cropper: Cropper,
        index: str = "hnsw",
        settings: dict[str, str] | None = None,
    ) -> Gallery:
        """A new, empty gallery, on disk at once; ``settings`` are kept in its manifest for whoever opens it.

        Raises:
            GalleryError: there is one already, or the folder cannot be written.
        """
        if (folder / "manifest.json").exists():
            raise GalleryError(f"there is a gallery at {folder} already; open it, or choose another folder")
        build_index(index, embedder.dim)  # an unknown name is told before anything is written
        manifest = Manifest(embedder.dim, embedder.fingerprint, cropper.fingerprint, index, settings or {})
        gallery = cls(folder, manifest, [], np.zeros((0, embedder.dim), np.float32))
        gallery._dirty = True
        gallery.save()
        return gallery

    @classmethod
    def open(cls, folder: Path) -> Gallery:
        """The gallery's current generation, its checksums verified.

        Raises:
            GalleryError: there is none.
            GalleryCorrupt: a file is missing or damaged.
        """
        for attempt in range(_OPEN_TRIES):
            manifest = read_manifest(folder)
            try:
                rows = read_rows(checked(folder, manifest.files["photos"]))
                vectors = np.load(checked(folder, manifest.files["vectors"]), mmap_mode="r", allow_pickle=False)
                break
            except (GalleryCorrupt, OSError) as error:  # perhaps a writer has moved on since the manifest was read
                if attempt == _OPEN_TRIES - 1 or read_manifest(folder).generation == manifest.generation:
                    raise error if isinstance(error, GalleryCorrupt) else GalleryCorrupt(str(error)) from error
            except (ValueError, KeyError, TypeError) as error:
                raise GalleryCorrupt(f"gallery {folder} is damaged: {error!r}") from error
        if vectors.dtype != np.float32 or vectors.shape != (len(rows), manifest.dim):
            raise GalleryCorrupt(f"gallery {folder} is damaged: {len(rows)} rows, but vectors {vectors.shape}")
        return cls(folder, manifest, rows, vectors)

    def __len__(self) -> int:
        """How many photos it holds."""
        return len(self._by_photo)

    @property
    def rows(self) -> list[Row]:
        """Every live row, in the order of addition."""
        return [row for row in self._rows if row]

    @property
    def items(self) -> list[str]:
        """Every item id once, in the order of addition."""
        return list(dict.fromkeys(row.item for row in self.rows))

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

    def photo_of(self, item: str, photo: str, sha256: str) -> Row | None:
        """The row of the same photo of an item: of the same file name, else of the same content."""
        place = self._by_photo.get((item, photo))
        if place is None:
            place = self._by_content.get((item, sha256))
        return None if place is None else self._rows[place]

    def add(self, rows: Sequence[Row], vectors: Vectors) -> None:
        """Add photos; one that is there, by item and photo, is replaced.

        Raises:
            ValueError: not a unit row of the gallery's width for each photo.
        """
        if vectors.shape != (len(rows), self.manifest.dim):
            raise ValueError(f"wanted vectors ({len(rows)}, {self.manifest.dim}), got {vectors.shape}")
        self._load_index().add(np.arange(len(self._rows), len(self._rows) + len(rows)), vectors)
        self._added.append(np.array(vectors, np.float32))
        for row in rows:
            self._forget((row.item, row.photo))
            self._by_photo[row.item, row.photo] = self._by_content[row.item, row.sha256] = len(self._rows)
            self._rows.append(row)
            self._changed()

    def redescribe(self, old: Row, new: Row) -> None:
        """Give a photo of an item another place or other metadata; its vector stays."""
        place = self._by_photo.pop((old.item, old.photo))
        self._by_photo[new.item, new.photo] = place
        self._rows[place] = new
        self._changed()

    def remove(self, items: Iterable[str]) -> int:
        """Remove items with all their photos; returns how many photos went.

        Raises:
            ValueError: an item is not there; nothing is removed.
        """
        going = set(items)
        unknown = sorted(going - set(self.items))
        if unknown:
            raise ValueError(f"gallery {self.folder} has no item {', '.join(unknown[:5])}; nothing was removed")
        keys = [key for key in self._by_photo if key[0] in going]
        for key in keys:
            self._forget(key)
        return len(keys)

    def search(
        self, queries: Vectors, k: int = 10, *, labels: Sequence[str | None] | None = None, min_similarity: float = -1.0
    ) -> list[list[Match]]:
        """For each query the k most similar items, each by its best photo, best first.

        Args:
            queries: ``(n, dim)`` unit rows.
            k: items wanted.
            labels: one per query; only photos of that garment group are searched, or all for None.
            min_similarity: matches below it are left out.

        Raises:
            ValueError: k is less than 1, or the queries are not unit rows of the gallery's width.
        """
        if k < 1:
            raise ValueError(f"k is at least 1, got {k}")
        if labels is not None and len(labels) != len(queries):
            raise ValueError(f"wanted a label for each of {len(queries)} queries, got {len(labels)}")
        found = self._load_index().search(queries, min(max(len(self), 1), 4 * k))
        results = []
        for place, query in enumerate(queries):
            label = labels[place] if labels is not None else None
            matches = self._items(found.rows[place], found.similarities[place], k, label)
            if len(matches) < k and len(found.rows[place]) < len(self):  # many photos of few items, or a rare label
                matches = self._items(*self._by_similarity(query, label), k, label)
            results.append([match for match in matches if match.similarity >= min_similarity])
        return results

    def save(self) -> None:
        """Make the changes durable, all or none.

        Raises:
            GalleryError: the disk is full or the folder cannot be written; what was saved before is unharmed.
        """
        if not self._dirty:
            return
        index, vectors = self._load_index(), self._all_vectors()
        writers = {
            "photos": (".jsonl", lambda path: write_rows(path, self._rows)),
            "vectors": (".npy", lambda path: np.save(path, vectors, allow_pickle=False)),
        }
        if isinstance(index, StorableIndex):
            writers["graph"] = (".bin", index.save)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise GalleryError(f"gallery {self.folder} cannot be made: {error.strerror}") from error
        self.manifest = write_generation(self.folder, self.manifest, writers)
        self._dirty = False

    def _forget(self, key: tuple[str, str]) -> None:
        if key not in self._by_photo:
            return
        index = self._load_index()  # while it agrees with the rows
        place = self._by_photo.pop(key)
        index.remove(np.array([place]))
        row, self._rows[place] = self._rows[place], None
        self._changed()
        if row and self._by_content.get((row.item, row.sha256)) == place:
            del self._by_content[row.item, row.sha256]

    def _items(
        self, rows: NDArray[np.int64], similarities: NDArray[np.float32], k: int, label: str | None
    ) -> list[Match]:
        best: dict[str, Match] = {}
        for place, similarity in zip(rows.tolist(), similarities.tolist(), strict=True):
            row = self._rows[place] if place >= 0 else None
            if row is None or row.item in best or (label is not None and row.group != label):
                continue
            best[row.item] = Match(row.item, row.photo, min(1.0, similarity), row.group, row.metadata)
            if len(best) == k:
                break
        return list(best.values())

    def _by_similarity(
        self, query: NDArray[np.float32], label: str | None
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Every row of a garment group, or of all, and its similarity, best first."""
        rows = np.arange(len(self._rows)) if label is None else self._rows_of(label)
        similarities = (self._all_vectors() if label is None else self._all_vectors()[rows]) @ query
        order = np.argsort(-similarities, kind="stable")
        return rows[order], similarities[order]

    def _rows_of(self, label: str) -> NDArray[np.int64]:
        if self._by_group is None:
            groups = np.array([row.group if row else "" for row in self._rows], dtype=np.str_)
            self._by_group = {str(group): np.flatnonzero(groups == group) for group in np.unique(groups)}
        return self._by_group.get(label, np.zeros(0, np.int64))

    def _changed(self) -> None:
        self._dirty, self._by_group = True, None

    def _all_vectors(self) -> Vectors:
        if self._added:
            self._vectors, self._added = np.concatenate([self._vectors, *self._added]), []
        return self._vectors

    def check(self) -> None:
        """Hold rows, vectors and index against each other.

        Raises:
            GalleryCorrupt: they do not agree.
        """
        self._load_index()
        lengths = np.linalg.norm(self._all_vectors(), axis=1)
        crooked = int((~np.isclose(lengths, 1, atol=1e-3)).sum())
        if crooked:
            raise GalleryCorrupt(f"gallery {self.folder}: {crooked} vectors are not unit rows")

    def _load_index(self) -> Index:
        """The index as it was saved, else made anew from the vectors."""
        if self._index is None:
            index = build_index(self.manifest.index, self.manifest.dim)
            if not self._load_graph(index) and self._by_photo:
                live = np.array(sorted(self._by_photo.values()), np.int64)
                index.add(live, np.ascontiguousarray(self._all_vectors()[live]))
            if len(index) != len(self):
                raise GalleryCorrupt(f"gallery {self.folder}: the index holds {len(index)} of {len(self)} photos")
            self._index = index
        return self._index

    def _load_graph(self, index: Index) -> bool:
        """Load the saved index; False where there is none, or none any more since someone has saved the gallery."""
        if "graph" not in self.manifest.files or not isinstance(index, StorableIndex):
            return False
        try:
            index.load(checked(self.folder, self.manifest.files["graph"]))
        except GalleryCorrupt:
            if read_manifest(self.folder).generation == self.manifest.generation:
                raise
            return False
        return True
