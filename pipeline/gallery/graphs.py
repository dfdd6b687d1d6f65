"""Indexes kept in the user's cache folder: made here from a gallery's vectors, and made again whenever one is missing.

An index is never part of a gallery, so that none that was made elsewhere is ever read. It is kept with the digests of the
blocks of vectors that it was made from, and used only for a gallery that has the same.
"""

from __future__ import annotations

import logging
import os
import platform
import sys
from contextlib import suppress
from dataclasses import dataclass
from hashlib import file_digest, sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final
from zipfile import BadZipFile

import numpy as np

from pipeline.config import build_index, check_trusted
from pipeline.gallery.database import Manifest
from pipeline.gallery.vectors import Ids, PhotoTable
from stages.errors import GalleryError
from stages.files import replacing
from stages.protocols import Index, StorableIndex

_DESCRIPTION: Final = "index.npz"
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
class KeptIndex:
    """A kept index: its file, which is named by its SHA-256, and the ids that it holds."""

    path: Path
    held: Ids

    @property
    def is_sound(self) -> bool:
        """Whether the file is what was kept."""
        return self.path.exists() and _digest(self.path) == self.path.stem


class GraphCache:
    """The kept index of a gallery, by the name of its index and the width of its vectors."""

    def __init__(self, manifest: Manifest) -> None:
        self._manifest = manifest
        try:
            library = version("hnswlib")
        except (PackageNotFoundError, OSError):  # OSError: too many open files
            library = ""
        names = manifest.identity, manifest.index, str(manifest.dim), manifest.storage, library, platform.machine()
        digest = sha256("\0".join(names).encode("utf-8", "surrogatepass")).hexdigest()
        self.folder = cache_folder() / "graphs" / digest[:32]

    def make(self) -> Index:
        """Return an empty index.

        Raises:
            StageError: the gallery names code, or a server, that the caller has not named.
        """
        check_trusted(self._manifest.index, "the gallery", "index")
        return build_index(self._manifest.index, self._manifest.dim)

    def find(self, table: PhotoTable) -> KeptIndex | None:
        """Return the kept index if it was made from a gallery's vectors; it may hold photos that were removed since."""
        try:
            status = self.folder.lstat()
            if hasattr(os, "getuid") and (status.st_uid != os.getuid() or status.st_mode & 0o022):
                _log.warning("%s is not used: others may write there", self.folder)
                return None
            with (self.folder / _DESCRIPTION).open("rb") as file, np.load(file) as saved:
                held, name = saved["held"].astype(np.int64), str(saved["digest"])
                digests = dict(zip(saved["numbers"].tolist(), map(bytes, saved["digests"]), strict=True))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, EOFError, BadZipFile, RuntimeError) as error:
            _log.warning("the index in %s is damaged and is made again: %s", self.folder, error)
            return None
        same = [block.ids for block in table.blocks if digests.get(block.number) == block.digest]
        live = np.intersect1d(held, table.live, assume_unique=True)
        if not np.isin(live, np.concatenate([held[:0], *same])).all():
            return None
        return KeptIndex(self.folder / f"{Path(name).name}.graph", held)

    def load(self, table: PhotoTable) -> tuple[Index, Ids] | None:
        """Return the kept index, with the ids that it holds, if it was made from a gallery's vectors."""
        kept = self.find(table)
        if kept is None or not isinstance(index := self.make(), StorableIndex):
            return None
        try:
            if kept.is_sound:
                index.load(kept.path, kept.held)
                return index, kept.held
            _log.warning("the index %s is damaged and is made again", kept.path)
        except (GalleryError, OSError) as error:
            _log.warning("the index %s cannot be loaded and is made again: %s", kept.path, error)
        return None

    def keep(self, table: PhotoTable, index: Index, held: Ids) -> None:
        """Keep an index in place of the last; one that cannot be kept is made again by the next process."""
        if not isinstance(index, StorableIndex):
            return
        try:
            self.folder.parent.mkdir(parents=True, exist_ok=True)
            self.folder.mkdir(mode=0o700, exist_ok=True)
            part = self.folder / f"{os.getpid()}.part"
            index.save(part)
            path = part.replace(self.folder / f"{_digest(part)}.graph")
            numbers = np.array([block.number for block in table.blocks], np.int64)
            digests = np.frombuffer(b"".join(block.digest for block in table.blocks), np.uint8).reshape(-1, 32)
            with replacing(self.folder / _DESCRIPTION) as part, part.open("wb") as file:
                np.savez(file, held=held, digest=np.array(path.stem), numbers=numbers, digests=digests)
            self._delete(keep=path)
        except (OSError, GalleryError, ValueError) as error:
            _log.warning(
                "the index cannot be kept in %s, so that the next process makes it again: %s", self.folder, error
            )

    def forget(self) -> None:
        """Delete the kept index of the gallery."""
        (self.folder / _DESCRIPTION).unlink(missing_ok=True)
        self._delete()

    def _delete(self, keep: Path | None = None) -> None:
        for path in self.folder.glob("*.graph"):
            if path != keep:
                with suppress(OSError):
                    path.unlink()


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()
