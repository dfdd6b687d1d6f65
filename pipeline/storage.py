"""A gallery's folder: immutable generations of files, and one manifest that names the current one.

::

    GALLERY/
        manifest.json       what made the gallery, and the current files with their sha256
        photos-N.jsonl      a line per catalogue photo: the truth, with
        vectors-N.npy       (rows, dim) float32, in the order of the photos
        graph-N.bin         the index, where it is one worth keeping
        lock                held by whoever writes

A save writes new files, syncs them, and replaces the manifest by a rename: a kill at any moment leaves the old
generation or the new one. Every file is checked against its sha256 before it is parsed.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from stages.errors import GalleryCorrupt, GalleryError

FORMAT = 1
MANIFEST = "manifest.json"
_OURS = re.compile(r"(photos|vectors|graph)-[0-9]+\.(jsonl|npy|bin)")


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file of the current generation.

    Raises:
        ValueError: it lies outside the gallery.
    """

    name: str
    sha256: str

    def __post_init__(self) -> None:
        if Path(self.name).name != self.name:
            raise ValueError(f"{self.name!r} lies outside the gallery")


@dataclass(frozen=True, slots=True)
class Manifest:
    """What made a gallery, and its current files by role (``photos``, ``vectors``, ``graph``)."""

    dim: int
    embedder: str
    crop: str
    index: str
    settings: dict[str, str] = field(default_factory=dict)
    generation: int = 0
    files: dict[str, StoredFile] = field(default_factory=dict)


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a gallery.

    Raises:
        GalleryError: there is no gallery.
        GalleryCorrupt: the manifest does not make sense.
    """
    path = folder / MANIFEST
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        if raw.pop("format") != FORMAT:
            raise GalleryError(f"{folder} was written by another version of outfinder; index the catalogue again")
        files = {role: StoredFile(**stored) for role, stored in raw.pop("files").items()}
        return Manifest(**raw, files=files)
    except FileNotFoundError:
        raise GalleryError(
            f"there is no gallery at {folder}; make one with: outfinder index {folder} CATALOGUE"
        ) from None
    except OSError as error:
        raise GalleryError(f"gallery {folder} cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise GalleryCorrupt(f"{path} is damaged: {error!r}") from error


def checked(folder: Path, stored: StoredFile) -> Path:
    """The path of a current file, its checksum verified.

    Raises:
        GalleryCorrupt: the file is missing or is not what was saved.
    """
    path = folder / stored.name
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise GalleryCorrupt(f"{path} cannot be read: {error.strerror}") from error
    if digest != stored.sha256:
        raise GalleryCorrupt(f"{path} is damaged: its sha256 is not what was saved")
    return path


def write_generation(
    folder: Path, manifest: Manifest, writers: dict[str, tuple[str, Callable[[Path], None]]]
) -> Manifest:
    """Write a new generation and make it the current one; earlier files are deleted afterwards.

    Args:
        folder: the gallery.
        manifest: the current manifest; its generation is counted on.
        writers: by role, the file's name stem with suffix, and what writes it to a path.

    Raises:
        GalleryError: the disk is full or the folder cannot be written; the current generation is unharmed.
    """
    number = manifest.generation + 1
    written: list[Path] = []
    try:
        files = {}
        for role, (suffix, write) in writers.items():
            path = folder / f"{role}-{number}{suffix}"
            written.append(path)
            write(path)
            files[role] = StoredFile(path.name, _synced(path))
        current = Manifest(**(_plain(manifest) | {"generation": number, "files": files}))
        partial = folder / f"{MANIFEST}.partial"
        partial.write_text(json.dumps({"format": FORMAT} | asdict(current), indent=1), encoding="utf-8")
        _synced(partial)
        partial.replace(folder / MANIFEST)
        written.clear()  # the new generation is the current one
        _sync_folder(folder)
    except (OSError, GalleryError) as error:
        for path in written:
            path.unlink(missing_ok=True)
        reason = getattr(error, "strerror", None) or error
        raise GalleryError(f"gallery {folder} cannot be written: {reason}; nothing was changed") from error
    _delete_all_but({stored.name for stored in files.values()}, folder)
    return current


def _delete_all_but(current: set[str], folder: Path) -> None:
    """Delete earlier generations, and no file of anyone else's; one that resists is left to the next save."""
    for path in folder.iterdir():
        if _OURS.fullmatch(path.name) and path.name not in current:
            with suppress(OSError):
                path.unlink()


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Hold the gallery for writing; readers go on.

    Raises:
        GalleryError: someone else is writing it, or it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / "lock").acquire(timeout=0)
    except Timeout:
        raise GalleryError(f"another outfinder is writing gallery {folder}; wait until it has finished") from None
    except OSError as error:
        raise GalleryError(f"gallery {folder} cannot be written: {error.strerror}") from error
    with lock:
        yield


def _plain(manifest: Manifest) -> dict[str, Any]:
    return {name: getattr(manifest, name) for name in ("dim", "embedder", "crop", "index", "settings")}


def _synced(path: Path) -> str:
    with path.open("rb+") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        os.fsync(file.fileno())
    return digest


def _sync_folder(folder: Path) -> None:
    """Make a rename durable, where the system and the file system know how."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        with suppress(OSError):
            os.fsync(descriptor)
        os.close(descriptor)
