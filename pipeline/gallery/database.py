"""The SQLite database of a gallery: schema, manifest, checksums, connections, errors, and the lock of the writer."""

from __future__ import annotations

import json
import os
import socket
import sqlite3
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from zlib import crc32

from filelock import FileLock, Timeout

from pipeline.gallery.vectors import STORAGE
from stages.errors import GalleryBusy, GalleryCorrupt, GalleryError
from stages.files import read_whole, sync_folder

DATABASE: Final = "gallery.sqlite"
FORMAT: Final = 3
APPLICATION: Final = 0x6F757466
"""SQLite's application id of a gallery: the letters "outf"."""

FIELDS: Final = (
    "id", "item", "photo", "sha256", "detector", "found", "label", "score", "x1", "y1", "x2", "y2", "stamp",
)  # fmt: skip
SCHEMA: Final = {
    "gallery": """CREATE TABLE gallery (identity TEXT, dim INTEGER, embedder TEXT, crop TEXT, "index" TEXT, storage TEXT,
 settings TEXT, columns TEXT, generation INTEGER, next_id INTEGER, checksum INTEGER)""",
    "photos": """CREATE TABLE photos (id INTEGER PRIMARY KEY, item TEXT, photo TEXT, sha256 TEXT, detector TEXT, found TEXT,
 label TEXT, score REAL, x1 INTEGER, y1 INTEGER, x2 INTEGER, y2 INTEGER, stamp TEXT, checksum INTEGER)""",
    "items": "CREATE VIEW items AS SELECT item, count(*) AS photos FROM photos GROUP BY item",
    "blocks": "CREATE TABLE blocks (number INTEGER PRIMARY KEY, ids BLOB, items BLOB, live BLOB, checksum INTEGER)",
    "vectors": "CREATE TABLE vectors (block INTEGER PRIMARY KEY, digest BLOB, data BLOB)",
}
SIDE_FILES: Final = tuple(f"{DATABASE}{ending}" for ending in ("-wal", "-shm", "-journal"))
_WRITER: Final = "writer.json"
_MAX_VALUE_BYTES: Final = 1 << 29
_MAX_COUNT: Final = 1 << 62
_MAX_DIM: Final = 1 << 20
_UNWRITABLE: Final = ("SQLITE_CANTOPEN", "SQLITE_READONLY_DIRECTORY", "SQLITE_IOERR_SHMSIZE", "SQLITE_IOERR_SHMMAP",
                      "SQLITE_IOERR_SHMOPEN", "SQLITE_FULL")  # fmt: skip
"""Errors of a folder that is read-only, or of a disk that is full, where SQLite cannot make its side files."""

_CORRUPT: Final = ("SQLITE_CORRUPT", "SQLITE_NOTADB", "SQLITE_IOERR_SHORT_READ", "SQLITE_ERROR", "SQLITE_TOOBIG",
                   "SQLITE_MISMATCH", "SQLITE_SCHEMA", "SQLITE_FORMAT")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Manifest:
    """What made a gallery, and its current generation.

    ``identity`` is drawn when a gallery is created: ids of one gallery mean nothing in another. ``storage`` is a name in
    :data:`pipeline.gallery.vectors.STORAGE`. ``columns`` are the catalogue's columns, each with its name in the table
    of photos. ``generation`` grows with each save, ``next_id`` with each photo.

    Raises:
        ValueError: a part is of the wrong type or size.
    """

    identity: str
    dim: int
    embedder: str
    crop: str
    index: str
    storage: str = "float32"
    settings: dict[str, str] = field(default_factory=dict)
    columns: tuple[tuple[str, str], ...] = ()
    generation: int = 0
    next_id: int = 0

    def __post_init__(self) -> None:
        texts = [self.identity, self.embedder, self.crop, self.index, self.storage]
        texts += [text for pair in (*self.settings.items(), *self.columns) for text in pair]
        if not all(isinstance(text, str) for text in texts) or not all(len(pair) == 2 for pair in self.columns):
            raise ValueError("a name in it is not text")
        counts = self.dim, self.generation, self.next_id
        if not all(type(count) is int and 0 <= count < _MAX_COUNT for count in counts) or not 1 <= self.dim <= _MAX_DIM:
            raise ValueError(f"dim, generation and next_id are {', '.join(map(str, counts))}")
        if self.storage not in STORAGE:
            raise ValueError(f"it stores vectors as {self.storage!r}")


def create(folder: Path, manifest: Manifest) -> None:
    """Write an empty gallery, whole or not at all; the caller holds the folder for writing.

    Raises:
        GalleryError: it cannot be written.
    """
    part = folder / f"{DATABASE}.part"
    with gallery_errors(folder, "written"):
        for left in folder.glob(f"{part.name}*"):
            left.unlink()
        connection = connect(part, "rwc")
        try:
            connection.execute("PRAGMA page_size = 8192")
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("BEGIN")
            for sql in SCHEMA.values():
                connection.execute(sql)
            connection.execute(f"PRAGMA application_id = {APPLICATION}")
            connection.execute(f"PRAGMA user_version = {FORMAT}")
            write_manifest_row(connection, manifest)
            connection.execute("COMMIT")
        finally:
            connection.close()
        part.replace(folder / DATABASE)
        sync_folder(folder)


_LOCKS: Final[dict[tuple[int, str], FileLock]] = {}
"""The lock of each gallery that this process has written, so that it may hold one again within."""


@contextmanager
def writing(folder: Path | str, wait_s: float = 0.0) -> Iterator[None]:
    """Hold a gallery for writing; readers go on. The process that holds it may hold it again within.

    Raises:
        GalleryBusy: another process is writing it, ``wait_s`` seconds later still.
        GalleryError: it cannot be written.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        check_files(folder, "lock", _WRITER, to_write=True)
        path = os.path.realpath(folder / "lock")
        lock = _LOCKS.setdefault((os.getpid(), path), FileLock(path, timeout=0))  # a lock is void after a fork
        outermost = not lock.is_locked
        lock.acquire(timeout=wait_s)
    except Timeout:  # for ever, if the lock was copied to a file system where its existence is what counts
        raise GalleryBusy(f"{_busy(folder)}, or delete {folder / 'lock'} if nobody is writing") from None
    except (OSError, NotImplementedError) as error:
        raise GalleryError(f"gallery {folder} cannot be written: {_reason(error)}") from error
    note = folder / _WRITER
    try:
        if outermost:
            since = datetime.now(UTC).isoformat("T", "seconds")
            with suppress(OSError):  # the lock counts, not the note
                note.write_text(json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": since}))
        yield
    finally:
        if outermost:
            with suppress(OSError):
                note.unlink(missing_ok=True)
        lock.release()


def decoded(value: object) -> str:
    """Return a stored text; one that is no valid Unicode, such as an odd file name, is stored as bytes."""
    if isinstance(value, str):
        return value
    try:
        return bytes.decode(value, "utf-8", "surrogatepass")  # type: ignore[arg-type]
    except (UnicodeDecodeError, TypeError) as error:
        raise GalleryCorrupt(f"the gallery is damaged: a text in it is none ({error})") from error


def encoded(text: str) -> str | bytes:
    """Return a text as it is stored, for :func:`decoded` to read."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogatepass")
    return text


def checksum_of(values: tuple[Any, ...], cells: Sequence[tuple[str, Any]] = ()) -> int:
    """Return the CRC-32 of a row, as Python writes it in ASCII; columns without a value do not count."""
    return crc32(ascii((values, [cell for cell in cells if cell[1] is not None])).encode("ascii"))


def write_manifest_row(connection: sqlite3.Connection, manifest: Manifest) -> None:
    """Write the manifest in place of the last."""
    values = (manifest.identity, manifest.dim, *map(encoded, (manifest.embedder, manifest.crop, manifest.index)),
              manifest.storage, json.dumps(manifest.settings), json.dumps(manifest.columns), manifest.generation,
              manifest.next_id)  # fmt: skip
    connection.execute("DELETE FROM gallery")
    connection.execute(f"INSERT INTO gallery VALUES ({', '.join('?' * 11)})", (*values, checksum_of(values)))


def read_manifest_row(connection: sqlite3.Connection) -> Manifest:
    """Read the manifest.

    Raises:
        GalleryCorrupt: it is damaged.
    """
    try:
        ((*values, checksum),) = connection.execute("SELECT * FROM gallery").fetchall()
        if checksum != checksum_of(tuple(values)):
            raise ValueError("its checksum is not the saved one")  # noqa: TRY301
        identity, dim, embedder, crop, index, storage, settings, columns, generation, next_id = values
        return Manifest(identity, dim, decoded(embedder), decoded(crop), decoded(index), storage,
                        dict(json.loads(settings)), tuple((name, column) for name, column in json.loads(columns)),
                        generation, next_id)  # fmt: skip
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise GalleryCorrupt(f"the gallery is damaged: its manifest: {error}") from error


def open_to_read(folder: Path) -> sqlite3.Connection:
    """Open a gallery's database for reading.

    Raises:
        GalleryError: there is none.
    """
    path, wal = folder / DATABASE, folder / SIDE_FILES[0]
    check_files(folder, DATABASE)
    check_files(folder, *SIDE_FILES, to_write=True)  # a reader, too, may write them
    if not path.exists():
        if (folder / "manifest.json").exists():
            raise GalleryError(too_old(folder))
        raise GalleryError(f"there is no gallery at {folder}; make one with: outfinder index {folder} CATALOGUE")
    try:
        connection = connect(path, "ro")
        connection.execute("SELECT count(*) FROM sqlite_master").fetchall()
    except sqlite3.OperationalError as error:
        if error.sqlite_errorname not in _UNWRITABLE or (wal.exists() and wal.stat().st_size):
            raise
        connection = connect(path, "ro&immutable=1")  # no one writes there
    return connection


def connect(path: Path, mode: str) -> sqlite3.Connection:
    """Open a database in an SQLite mode, with limits for files that come from anyone."""
    check_mapping(path.parent)
    uri = f"{path.absolute().as_uri()}?mode={mode}"
    connection = sqlite3.connect(uri, uri=True, timeout=2, isolation_level=None, check_same_thread=False)
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _MAX_VALUE_BYTES)
    for pragma in ("mmap_size = 0", "trusted_schema = OFF", "cell_size_check = ON", "temp_store = MEMORY"):
        connection.execute(f"PRAGMA {pragma}")
    return connection


def check_files(folder: Path, *names: str, to_write: bool = False) -> None:
    """Refuse links, pipes and devices among a gallery's files: they may have been put there to do harm elsewhere.

    Raises:
        OSError: one is of that kind or, to be written, has a second name.
    """
    for name in names:
        try:
            status = (folder / name).lstat()
        except FileNotFoundError:
            continue
        if not stat.S_ISREG(status.st_mode):
            kind = "a link, which is not followed" if stat.S_ISLNK(status.st_mode) else "not a regular file"
            raise OSError(None, f"{name} is {kind}")
        if to_write and status.st_nlink > 1:
            raise OSError(None, f"{name} is a hard link, and its other file would change too; copy the gallery")


_MAPPED: Final[dict[int, tuple[int, int]]] = {}
"""The inode and size of the file that SQLite has mapped into memory for each owner of a connection, by the owner's id."""


def note_mapping(owner: int, folder: Path) -> None:
    """Remember the size of the only file that SQLite maps; all connections of a process share the mapping."""
    _MAPPED[owner] = _mapped_file(folder)


def close_connection(owner: int, connection: sqlite3.Connection) -> None:
    """Close an owner's connection."""
    _MAPPED.pop(owner, None)
    connection.close()


def check_mapping(folder: Path) -> None:
    """Refuse to use a file that is shorter than when it was mapped into memory: reading it would end the process.

    Raises:
        GalleryCorrupt: it is shorter.
    """
    inode, size = _mapped_file(folder)
    if any(inode == mapped and size < before for mapped, before in list(_MAPPED.values())):
        raise GalleryCorrupt(f"gallery {folder} was overwritten while it was open; open it again in a new process")


def _mapped_file(folder: Path) -> tuple[int, int]:
    try:
        status = (folder / f"{DATABASE}-shm").stat()
    except OSError:
        return 0, 0
    return status.st_ino, status.st_size


@contextmanager
def gallery_errors(folder: Path, action: str) -> Iterator[None]:
    """Turn what SQLite and the file system say into a GalleryError."""
    unharmed = "; what was saved before is unharmed" if action == "written" else ""
    try:
        yield
    except sqlite3.Error as error:
        name = getattr(error, "sqlite_errorname", "SQLITE_CORRUPT")
        if name.startswith("SQLITE_BUSY"):
            raise GalleryBusy(_busy(folder)) from error
        if name.startswith(_CORRUPT):
            raise GalleryCorrupt(f"gallery {folder} is damaged: {error}") from error
        raise GalleryError(f"gallery {folder} cannot be {action}: {_reason(error)}{unharmed}") from error
    except UnicodeDecodeError as error:  # Python cannot decode the message, which quotes damaged text
        raise GalleryCorrupt(f"gallery {folder} is damaged: a text in it is none ({error})") from error
    except OSError as error:
        raise GalleryError(f"gallery {folder} cannot be {action}: {_reason(error)}{unharmed}") from error


def _reason(error: Exception) -> str:
    name = getattr(error, "sqlite_errorname", "")
    full = " (is the disk full?)" if name.startswith("SQLITE_IOERR") else ""
    return (getattr(error, "strerror", None) or str(error)) + full


def too_old(folder: Path) -> str:
    """Return the message about a gallery of an older format."""
    return f"gallery {folder} was made by an older outfinder; index the catalogue again: outfinder index NEW_FOLDER CATALOGUE"


def _busy(folder: Path) -> str:
    holder = "another process"
    with suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
        check_files(folder, _WRITER)
        note = json.loads(read_whole(folder / _WRITER, 10_000))
        holder = f"process {note['pid']} on {note['host']} since {note['since']}"
    return f"gallery {folder} is being written by {holder}; wait until it has finished"
