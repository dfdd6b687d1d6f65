"""A gallery's folder: immutable files, and one manifest that names the current ones.

::

    GALLERY/
        manifest.json             what made the gallery, and its current files with their checksums
        manifest-copy.json        the same, read where that is damaged or lost
        vectors-N.safetensors     ids and vectors: the truth, with
        rows-N.safetensors        what is known of each catalogue photo, by column
        removed-N.safetensors     ids that are removed and not yet compacted away
        graph-N.bin               the index, where it is one worth keeping: a cache, made anew at need
        graph-ids-N.safetensors   the ids in it
        lock, writer.json         held by whoever writes, and who that is

A save writes new files beside the old, syncs them, and replaces the manifest by a rename: a kill at any moment leaves
the old generation or the new one. The manifest has a checksum within, all others are named in it with theirs. Its copy
is written next, and only then are the old files deleted: what the copy names is always there.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import re
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from filelock import FileLock, Timeout

from pipeline.gallery.arrays import StoredFile
from pipeline.gallery.vectors import STORAGE
from stages.errors import GalleryCorrupt, GalleryError
from stages.files import read_whole

FORMAT: Final = 2
MANIFEST: Final = "manifest.json"
COPY: Final = "manifest-copy.json"
_MANIFEST_BYTES: Final = 100_000_000
_MOST: Final = 1 << 62
_MOST_DIM: Final = 1 << 20
_WRITER: Final = "writer.json"
_OURS: Final = re.compile(r"(vectors|rows|removed|graph|graph-ids)-[0-9]+\.(safetensors|bin)(\.part)?")
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Manifest:
    """What made a gallery, and its current files.

    ``identity`` is drawn when a gallery is made: ids of one mean nothing in another. ``storage`` is how vectors are kept: float32, float16 or int8. ``next_id`` only ever grows.
    """

    identity: str
    dim: int
    embedder: str
    crop: str
    index: str
    storage: str = "float32"
    settings: dict[str, str] = field(default_factory=dict)
    generation: int = 0
    next_id: int = 0
    vectors: tuple[StoredFile, ...] = ()
    rows: tuple[StoredFile, ...] = ()
    removed: StoredFile | None = None
    graph: StoredFile | None = None
    graph_ids: StoredFile | None = None

    @property
    def files(self) -> list[StoredFile]:
        """Every current file."""
        single = (self.removed, self.graph, self.graph_ids)
        return [*self.vectors, *self.rows, *(stored for stored in single if stored)]


def checked(manifest: Manifest) -> Manifest:
    """The manifest itself, where it is of the right types and sizes: a checksum does not make it true.

    Raises:
        ValueError: it is not.
    """
    texts = [manifest.identity, manifest.embedder, manifest.crop, manifest.index, manifest.storage]
    texts += [*manifest.settings.keys(), *manifest.settings.values()]
    if not all(isinstance(text, str) for text in texts):
        raise ValueError("it names what is no name")
    counts = manifest.dim, manifest.generation, manifest.next_id
    if not all(isinstance(count, int) and 0 <= count < _MOST for count in counts) or not 1 <= manifest.dim <= _MOST_DIM:
        raise ValueError(f"dim, generation and next_id are {', '.join(map(str, counts))}")
    if manifest.storage not in STORAGE:
        raise ValueError(f"it stores vectors as {manifest.storage!r}")
    return manifest


def is_gallery(folder: Path) -> bool:
    """Whether a folder has a manifest, or at least its copy."""
    return any((folder / name).exists() for name in (MANIFEST, COPY))


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a gallery, or its copy where it is damaged or lost, which is told as a warning.

    Raises:
        GalleryError: there is no gallery.
        GalleryCorrupt: the manifest is damaged, and there is no sound copy.
    """
    try:
        return read_manifest_file(folder, MANIFEST)
    except GalleryError as damage:
        try:
            manifest = read_manifest_file(folder, COPY)
        except GalleryError:
            raise damage from None
        _log.warning("%s; its copy is read, of generation %s; to mend it: outfinder gallery rebuild %s",
                     damage, manifest.generation, folder)  # fmt: skip
        return manifest


def read_manifest_file(folder: Path, name: str) -> Manifest:
    """The manifest, or its copy.

    Raises:
        GalleryError: there is none.
        GalleryCorrupt: it is damaged.
    """
    path = folder / name
    try:
        raw = json.loads(read_whole(path, _MANIFEST_BYTES))
        told = raw.pop("sha256", None)
        sound = told == _checksum(raw)
        if raw["format"] != FORMAT and (sound or told is None):
            raise GalleryError(
                f"gallery {folder} is of format {raw['format']}, this outfinder reads {FORMAT};"
                " delete it and index the catalogue again"
            )
        if not sound:
            raise GalleryCorrupt(f"{path} is damaged: its checksum is not what was saved")
        del raw["format"]
        for role in ("vectors", "rows"):
            raw[role] = tuple(StoredFile(**stored) for stored in raw[role])
        for role in ("removed", "graph", "graph_ids"):
            raw[role] = StoredFile(**raw[role]) if raw[role] else None
        return checked(Manifest(**raw))
    except FileNotFoundError:
        raise GalleryError(
            f"there is no gallery at {folder}; make one with: outfinder index {folder} CATALOGUE"
        ) from None
    except OSError as error:
        raise GalleryError(f"gallery {folder} cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise GalleryCorrupt(f"{path} is damaged: {error!r}") from error


def write_generation(folder: Path, number: int, write: Callable[[], Manifest]) -> Manifest:
    """Write a new generation and make it the current one; earlier files are deleted afterwards.

    Args:
        folder: the gallery.
        number: of the new generation.
        write: writes its new files, durably, and gives its manifest.

    Raises:
        GalleryError: the disk is full or the folder cannot be written; the current generation is unharmed.
    """
    try:
        manifest = write()
        _write_manifest(folder, manifest, MANIFEST)
    except (OSError, GalleryError) as error:
        for path in folder.glob(f"*-{number}.*"):
            if _OURS.fullmatch(path.name):
                with suppress(OSError):
                    path.unlink()
        reason = getattr(error, "strerror", None) or error
        raise GalleryError(f"gallery {folder} cannot be written: {reason}; nothing was changed") from error
    with suppress(OSError):  # what was written is current already; what fails now is left to the next save
        _sync_folder(folder)
        _write_manifest(folder, manifest, COPY)
        _sync_folder(folder)
        for path in leftovers(folder, manifest):
            with suppress(OSError):
                path.unlink()
    return manifest


def _write_manifest(folder: Path, manifest: Manifest, name: str) -> None:
    """Replace the manifest, or its copy, whole or not at all."""
    plain = json.loads(json.dumps({"format": FORMAT} | asdict(manifest)))
    partial = folder / f"{name}.partial"
    try:
        with partial.open("w", encoding="ascii") as file:
            json.dump(plain | {"sha256": _checksum(plain)}, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        _sync_folder(folder)
        partial.replace(folder / name)
    except OSError:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise


def leftovers(folder: Path, manifest: Manifest) -> list[Path]:
    """Files of earlier generations and of saves that did not finish; never a file of anyone else's."""
    current = {stored.name for stored in manifest.files}
    return sorted(path for path in folder.iterdir() if _OURS.fullmatch(path.name) and path.name not in current)


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Hold the gallery for writing; readers go on. Whoever holds it may hold it again within.

    Raises:
        GalleryError: someone else is writing it, or it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(os.path.realpath(folder / "lock"), timeout=0, is_singleton=True)
        outermost = not lock.is_locked
        lock.acquire()
    except Timeout:
        raise GalleryError(
            f"gallery {folder} is being written by {_holder(folder)}; wait until it has finished"
        ) from None
    except OSError as error:
        raise GalleryError(f"gallery {folder} cannot be written: {error.strerror}") from error
    note = folder / _WRITER
    try:
        if outermost:
            told = {
                "pid": os.getpid(),
                "host": socket.gethostname(),
                "since": datetime.now(UTC).isoformat("T", "seconds"),
            }
            with suppress(OSError):  # the lock counts, not the note
                note.write_text(json.dumps(told), encoding="ascii")
        yield
    finally:
        if outermost:
            with suppress(OSError):
                note.unlink(missing_ok=True)
        lock.release()


def _holder(folder: Path) -> str:
    try:
        told = json.loads(read_whole(folder / _WRITER, 10_000))
        return f"process {told['pid']} on {told['host']} since {told['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"


def _checksum(plain: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode("ascii")).hexdigest()


def _sync_folder(folder: Path) -> None:
    """Make new names and renames durable, where the system and the file system know how."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOTSUP):
                raise
        finally:
            os.close(descriptor)
