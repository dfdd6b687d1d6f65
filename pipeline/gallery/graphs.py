"""Indexes kept in the user's cache folder: made here from a gallery's vectors, and made again whenever one is missing.

An index is never part of a gallery, so that none that was made elsewhere is ever read. Each is kept with the digests of
the blocks of vectors that it was made from, and used only for a gallery that has the same.
"""

from __future__ import annotations

import logging
import os
import platform
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from hashlib import file_digest, sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final
from uuid import uuid4
from zipfile import BadZipFile

import numpy as np

from pipeline.gallery.store import Manifest, Store, block_digest
from pipeline.gallery.vectors import Ids, PhotoTable
from stages.errors import GalleryError
from stages.protocols import Index, StorableIndex

KEPT: Final = 2
"""Indexes of one gallery that are kept: processes that opened it earlier may still want the last but one."""

_log = logging.getLogger(__name__)


def cache_folder() -> Path:
    """Return the user's cache folder for outfinder; the environment variable OUTFINDER_CACHE names another."""
    if named := os.environ.get("OUTFINDER_CACHE"):
        return Path(named)
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "outfinder"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "outfinder"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "outfinder"


@dataclass(frozen=True, slots=True, eq=False)
class _Entry:
    """A kept index: its file and that file's SHA-256, the ids that it holds, and the blocks that those were in."""

    path: Path
    digest: str
    held: Ids
    blocks: dict[int, tuple[int, bytes]]


class GraphCache:
    """The kept indexes of one gallery, by the name of its index and the width of its vectors.

    Args:
        manifest: the gallery's.
        make: makes an empty index.
    """

    def __init__(self, manifest: Manifest, make: Callable[[], Index]) -> None:
        self._make = make
        try:
            library = version("hnswlib")
        except PackageNotFoundError:
            library = ""
        names = manifest.identity, manifest.index, str(manifest.dim), manifest.storage, library, platform.machine()
        self.folder = (
            cache_folder() / "graphs" / sha256("\0".join(names).encode("utf-8", "surrogatepass")).hexdigest()[:32]
        )

    def load(self, store: Store, table: PhotoTable) -> tuple[Index, Ids] | None:
        """Return the newest index that was made from a gallery's vectors, with the ids that it holds, or None."""
        for entry in self._entries(store, table):
            index = self._make()
            try:
                if isinstance(index, StorableIndex) and _digest(entry.path) == entry.digest:
                    index.load(entry.path, entry.held)
                    return index, entry.held
                _log.warning("the index %s is damaged and is made again", entry.path)
            except (GalleryError, OSError) as error:
                _log.warning("the index %s cannot be loaded and is made again: %s", entry.path, error)
        return None

    def path(self, store: Store, table: PhotoTable) -> Path | None:
        """Return the file of the index that :meth:`load` would return."""
        return next((entry.path for entry in self._entries(store, table)), None)

    def held(self, store: Store, table: PhotoTable) -> Ids:
        """Return the ids in the index that :meth:`load` would return, without loading it."""
        return next((entry.held for entry in self._entries(store, table)), np.zeros(0, np.int64))

    def keep(self, store: Store, table: PhotoTable, index: Index, held: Ids) -> None:
        """Keep an index; one that cannot be kept is made again by the next process, and a warning says so."""
        if not isinstance(index, StorableIndex):
            return
        name, digests = uuid4().hex, store.digests()
        blocks = [(block.number, len(block.ids), digests.get(block.number, b"")) for block in table.blocks]
        try:
            self._make_folder()
            path = self.folder / f"{name}.graph"
            index.save(path)
            part = self.folder / f"{name}.part"
            with part.open("wb") as file:
                np.savez(
                    file,
                    held=held,
                    digest=np.array(_digest(path)),
                    numbers=np.array([number for number, _, _ in blocks], np.int64),
                    counts=np.array([count for _, count, _ in blocks], np.int64),
                    digests=np.frombuffer(b"".join(digest for _, _, digest in blocks), np.uint8).reshape(-1, 32),
                )
            part.replace(self.folder / f"{name}.npz")
        except (OSError, GalleryError, ValueError) as error:
            _log.warning(
                "the index cannot be kept in %s, so that the next process makes it again: %s", self.folder, error
            )
            return
        self._delete(self._files()[KEPT:])

    def forget(self) -> None:
        """Delete every kept index of the gallery."""
        self._delete(self._files())

    def problems(self, store: Store, table: PhotoTable) -> list[str]:
        """Return which kept indexes of a gallery are damaged; they are made again when they are needed."""
        return [
            f"{entry.path} is damaged (it is made again when it is needed: outfinder gallery rebuild)"
            for entry in self._entries(store, table)
            if not entry.path.exists() or _digest(entry.path) != entry.digest
        ]

    def _entries(self, store: Store, table: PhotoTable) -> list[_Entry]:
        """Return the kept indexes that were made from a gallery's vectors, the newest first."""
        digests = store.digests()
        entries = (_read(path) for path in self._files())
        return [entry for entry in entries if entry and _is_of(entry, store, table, digests)]

    def _files(self) -> list[Path]:
        """Return the descriptions of the kept indexes, the newest first; none where others may write the folder."""
        try:
            status = self.folder.lstat()
            foreign = hasattr(os, "getuid") and (status.st_uid != os.getuid() or status.st_mode & 0o022)
            if foreign:
                _log.warning("%s is not used: others may write there", self.folder)
                return []
            return sorted(self.folder.glob("*.npz"), key=lambda path: path.stat().st_mtime_ns, reverse=True)
        except OSError:
            return []

    def _make_folder(self) -> None:
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        self.folder.mkdir(mode=0o700, exist_ok=True)

    def _delete(self, descriptions: list[Path]) -> None:
        for path in descriptions:
            for each in (path, path.with_suffix(".graph")):
                with suppress(OSError):
                    each.unlink()


def _read(path: Path) -> _Entry | None:
    try:
        with path.open("rb") as file, np.load(file) as saved:
            blocks = {
                number: (count, digest.tobytes())
                for number, count, digest in zip(
                    saved["numbers"].tolist(), saved["counts"].tolist(), saved["digests"], strict=True
                )
            }
            return _Entry(path.with_suffix(".graph"), str(saved["digest"]), saved["held"].astype(np.int64), blocks)
    except (OSError, ValueError, KeyError, EOFError, BadZipFile):
        return None


def _is_of(entry: _Entry, store: Store, table: PhotoTable, digests: dict[int, bytes]) -> bool:
    """Return whether an index was made from a gallery's vectors, of which blocks may have grown since or be gone."""
    live = np.intersect1d(entry.held, table.live, assume_unique=True)
    for block in table.blocks:
        count, digest = entry.blocks.get(block.number, (0, b""))
        if count == 0:
            same = not np.isin(block.ids, live).any()
        elif count == len(block.ids):
            same = digests.get(block.number) == digest
        else:  # the block has grown, unless it is another one
            data = store.read_vectors(block)[:count].tobytes()
            same = block_digest(block.ids[:count], data) == digest
        if not same:
            return False
    return True


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()
