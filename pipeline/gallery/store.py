"""A gallery's file: an SQLite database that any SQLite tool can open, and how it is read and written safely.

::

    GALLERY/
        gallery.sqlite          the tables below; while it is open, SQLite keeps -wal and -shm files beside it
        lock, writer.json       held by the process that writes, and which one that is

    gallery     one row: what made the gallery, its generation, the names of the catalogue's columns
    photos      one row for each photo: item, file, label, box, … and the catalogue's columns as text
    items       a view: the items with the count of their photos
    blocks      up to a thousand photos each: ids, hashes of item ids, and which are live, as little-endian arrays
    vectors     the vectors of each block, and the SHA-256 of the block's ids and vectors

Every row has a checksum that is verified when it is read. A save is one transaction; a reader keeps the generation that
it opened. The file may come from anyone: nothing that it names is imported or opened, a schema that is not exactly the
one below is refused, and links in the folder are not followed.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from time import monotonic, sleep, thread_time
from typing import Any, Final
from weakref import finalize
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from pipeline.gallery.database import (
    APPLICATION,
    DATABASE,
    FIELDS,
    FORMAT,
    SCHEMA,
    SIDE_FILES,
    Manifest,
    check_files,
    check_mapping,
    checksum_of,
    close_connection,
    connect,
    decoded,
    encoded,
    gallery_errors,
    note_mapping,
    open_to_read,
    read_manifest_row,
    too_old,
    write_manifest_row,
)
from pipeline.gallery.filters import BUILT_IN, FUNCTIONS, METADATA
from pipeline.gallery.vectors import STORAGE, Block, Ids
from stages.errors import GalleryCorrupt, GalleryError
from stages.types import LABELS, Box

FILTER_S: Final = 5.0
"""Seconds after which a filter is stopped."""

FILTER_ROWS: Final = 2048
"""Rows that a filter checks at once at most; then other threads have their turn."""

FILTER_TURN_S: Final = 0.01
"""Seconds of the processor that a turn should take: where each row takes long, a turn has fewer."""

_CALLABLE: Final = frozenset([*FUNCTIONS, "ifnull", "instr"])
_AMONG: Final = "id IN (SELECT value FROM json_each(?))"
MAX_CATALOGUE_COLUMNS: Final = 1500


@dataclass(frozen=True, slots=True)
class Row:
    """One catalogue photo: what it shows and what it was made from.

    ``sha256`` is the photo file's; ``detector`` names what found ``box``, in full-size pixels; ``stamp`` is the file's
    size and modification time, by which it is recognised without reading it.
    """

    item: str
    photo: str
    sha256: str
    detector: str
    label: str
    score: float
    box: Box
    metadata: tuple[tuple[str, str], ...] = ()
    stamp: str = ""

    @property
    def group(self) -> str:
        """The garment group: a column ``label`` or ``category`` of the catalogue, if it names one, else the detector's."""
        named = [value.casefold() for key, value in self.metadata if key.casefold() in ("label", "category")]
        return next((value for value in named if value in LABELS), self.label)


def is_gallery(folder: str | Path) -> bool:
    """Return whether a folder holds a gallery, of this format or an older one."""
    return any(Path(folder, name).exists() for name in (DATABASE, "manifest.json"))


def read_manifest(folder: str | Path) -> Manifest:
    """Read the current manifest of a gallery; raises as :class:`Store`."""
    store = Store(Path(folder))
    store.close()
    return store.manifest


class Store:
    """One generation of a gallery's database; with :meth:`begin`, a transaction that writes the next.

    Threads may share it.

    Raises:
        GalleryError: there is no gallery, it is of another format, or it cannot be read.
        GalleryCorrupt: it is damaged, here or where a row is read.
    """

    manifest: Manifest

    def __init__(self, folder: Path) -> None:
        self.folder, self.writing = folder, False
        self._lock = threading.RLock()
        self._rows_verified = False
        self._open()

    def close(self) -> None:
        """End the transaction, without saving, and close the database."""
        self._close()

    def begin(self) -> None:
        """Begin to write, unless that is done already.

        Raises:
            GalleryError: another process is writing, or has saved another generation since this one was opened.
        """
        if self.writing:
            return
        with self._lock, gallery_errors(self.folder, "written"):
            check_files(self.folder, DATABASE, *SIDE_FILES, to_write=True)
            connection = connect(self.folder / DATABASE, "rw")
            try:
                connection.execute("BEGIN IMMEDIATE")
                if read_manifest_row(connection) != self.manifest:
                    raise GalleryError(  # noqa: TRY301
                        f"gallery {self.folder} was written by someone else since it was opened; open it again"
                    )
            except BaseException:
                connection.close()
                raise
            self._close()
            self._use(connection)
            self.writing = True

    def commit(self, next_id: int) -> None:
        """Make everything durable that was written since :meth:`begin`, as a new generation.

        Raises:
            GalleryError: the disk is full or cannot be written; the generation before is unharmed.
        """
        with self._lock, gallery_errors(self.folder, "written"):
            manifest = replace(self.manifest, generation=self.manifest.generation + 1, next_id=next_id)
            write_manifest_row(self._connection, manifest)
            self._connection.execute("COMMIT")
            self.writing, self.manifest = False, manifest

    def read_saved(self) -> None:
        """Read what :meth:`commit` has saved, from now on.

        Raises:
            GalleryError: it cannot be read.
        """
        with self._lock, gallery_errors(self.folder, "read"):
            self._checkpoint()
            self._begin_reading()

    def rollback(self) -> None:
        """Forget everything that was written since :meth:`begin`, and read the last generation again."""
        with self._lock:
            self._close()
            self.writing = False
            self._open()

    def vacuum(self) -> None:
        """Give the space of deleted rows back to the file system.

        Raises:
            GalleryError: the disk is too full for it; nothing is lost.
        """
        with self._lock, gallery_errors(self.folder, "written"):
            self._connection.execute("COMMIT")
            try:
                self._connection.execute("VACUUM")
                self._checkpoint()
            finally:
                self._begin_reading()

    @property
    def size(self) -> int:
        """The bytes of the database's files."""
        paths = (self.folder / name for name in (DATABASE, SIDE_FILES[0]))
        return sum(path.stat().st_size for path in paths if path.exists())

    def integrity(self) -> list[str]:
        """Return what SQLite finds wrong with its file."""
        found = [str(values[0]) for values in self._run("PRAGMA integrity_check(20)")]
        return [] if found == ["ok"] else found

    # -- photos

    def rows(self, ids: Sequence[int]) -> list[Row]:
        """Read and verify the rows of some photos, in their order."""
        sql = f"SELECT {self._columns} FROM photos WHERE {_AMONG}"
        found = {values[0]: self._row(self._verified(values)) for values in self._run(sql, (json.dumps(ids),))}
        if missing := set(ids) - found.keys():
            raise self._corrupt(f"{len(missing)} of its rows are missing")
        return [found[number] for number in ids]

    def all_rows(self, live: Ids) -> Iterator[Row]:
        """Read and verify every photo, in the order of addition, and that they are those of the vectors."""
        return map(self._row, self._all_rows(live))

    def verify_rows(self, live: Ids) -> None:
        """Verify every row and that there is one for each live photo, once: before the table is searched as a whole."""
        if not self._rows_verified:
            deque(self._all_rows(live), maxlen=0)

    def put(self, number: int, row: Row) -> None:
        """Write the row of a photo."""
        metadata = {self._column(name): encoded(value) for name, value in dict(row.metadata).items()}
        values = (number, *map(encoded, (row.item, row.photo, row.sha256, row.detector, row.label, row.group)),
                  float(row.score), *row.box.corners, encoded(row.stamp))  # fmt: skip
        cells = [(column, metadata.get(column)) for _, column in self.manifest.columns]
        row_values = (*values, checksum_of(values, cells), *(value for _, value in cells))
        marks = ", ".join("?" * len(row_values))
        self._run(f"INSERT OR REPLACE INTO photos ({self._columns}) VALUES ({marks})", row_values, "written")

    def delete(self, ids: Sequence[int]) -> None:
        """Delete the rows of some photos."""
        self._run(f"DELETE FROM photos WHERE {_AMONG}", (json.dumps(ids),), "written")

    @property
    def names(self) -> dict[str, str]:
        """The columns that filters know, each with its name in SQL: the gallery's own, then the catalogue's."""
        return {name: name for name in BUILT_IN} | {
            METADATA + name if name.casefold() in BUILT_IN else name: _quoted(column)
            for name, column in self.manifest.columns
        }

    def distinct(self, column: str) -> dict[str, int]:
        """Return the values of a column, in SQL, with the count of their rows, in the order of addition."""
        sql = f"SELECT {column}, count(*) FROM photos WHERE {column} IS NOT NULL GROUP BY 1 ORDER BY min(id)"
        return {decoded(value): count for value, count in self._run(sql)}

    def select(self, sql: str, parameters: Sequence[object]) -> Ids:
        """Return the ids of the photos for which a user's filter, in SQL, is true, rising.

        It can read the table of photos, call the functions of filters and a few of SQLite's, and nothing else.

        Raises:
            ValueError: it takes longer than :data:`FILTER_S`.
        """
        end, last, chosen, count = monotonic() + FILTER_S, -1, list[int](), 1
        started = thread_time()
        page = f"SELECT id, {sql} FROM photos WHERE id > ? ORDER BY id LIMIT ?"
        while rows := self._restricted(page, (*parameters, last, count), end):
            chosen += [number for number, fulfilled in rows if fulfilled]
            took, started, last = thread_time() - started, thread_time(), rows[-1][0]
            count = min(2 * count, FILTER_ROWS) if took < FILTER_TURN_S else max(count // 2, 1)
            sleep(0.0005)  # a lock that is taken again at once would never reach the threads that wait for it
        return np.array(chosen, np.int64)

    def _restricted(self, sql: str, parameters: Sequence[object], end: float) -> list[tuple[Any, ...]]:
        def authorize(action: int, first: str | None, second: str | None, *_: object) -> int:
            reads = action == sqlite3.SQLITE_READ and first == "photos"
            calls = action == sqlite3.SQLITE_FUNCTION and second in _CALLABLE
            return sqlite3.SQLITE_OK if action == sqlite3.SQLITE_SELECT or reads or calls else sqlite3.SQLITE_DENY

        with self._lock:
            self._connection.set_authorizer(authorize)
            self._connection.set_progress_handler(lambda: monotonic() > end, 1000)
            try:
                return self._run(sql, parameters)
            except GalleryError as error:
                if getattr(error.__cause__, "sqlite_errorname", "") == "SQLITE_INTERRUPT":
                    raise ValueError(f"the filter takes more than {FILTER_S:g} s; make it simpler") from error
                raise
            finally:
                self._connection.set_progress_handler(None, 0)
                self._connection.set_authorizer(None)

    # -- blocks

    def read_blocks(self) -> list[Block]:
        """Read and verify which photos there are.

        Raises:
            GalleryCorrupt: their ids do not rise, or something is damaged.
        """
        blocks, last = [], -1
        sql = "SELECT blocks.*, digest FROM blocks LEFT JOIN vectors ON block = number ORDER BY number"
        for number, ids, keys, live, checksum, digest in self._run(sql):
            parts = ids, keys, live
            if not all(isinstance(part, bytes) for part in parts) or checksum != _block_sum(number, *parts):
                raise self._corrupt(f"the checksum of block {number} is not the saved one")
            count = len(live)
            if count == 0 or len(ids) != 8 * count or len(keys) != 8 * count:
                raise self._corrupt(f"block {number} has arrays of different lengths")
            block = Block(number, np.frombuffer(ids, "<i8"), np.frombuffer(keys, "<i8"), np.frombuffer(live, np.bool_),
                          digest if isinstance(digest, bytes) else b"")  # fmt: skip
            if block.ids[0] <= last or (np.diff(block.ids) <= 0).any():
                raise self._corrupt(f"the ids of block {number} do not rise")
            last = int(block.ids[-1])
            blocks.append(block)
        if last >= self.manifest.next_id:
            raise self._corrupt(f"it has photo {last} and should not")
        return blocks

    def read_vectors(self, block: Block) -> NDArray[Any]:
        """Read and verify the vectors of a block as they are stored."""
        dtype = STORAGE[self.manifest.storage]
        found = self._run("SELECT data FROM vectors WHERE block = ?", (block.number,))
        data = found[0][0] if found else None
        if not isinstance(data, bytes) or block.digest != _block_digest(block.ids, data):
            raise self._corrupt(f"the vectors of block {block.number} are not what was saved")
        if len(data) != len(block.ids) * self.manifest.dim * dtype.itemsize:
            raise self._corrupt(f"block {block.number} has no vector for some photos")
        return np.frombuffer(data, dtype).reshape(-1, self.manifest.dim)

    def write_block(self, block: Block, stored: NDArray[Any] | None) -> None:
        """Write a block, with its vectors unless those are the same as before; one without ids is deleted."""
        if len(block.ids) == 0:
            self._run("DELETE FROM blocks WHERE number = ?", (block.number,), "written")
            self._run("DELETE FROM vectors WHERE block = ?", (block.number,), "written")
            return
        parts = block.ids.astype("<i8").tobytes(), block.keys.astype("<i8").tobytes(), block.live.tobytes()
        values = (block.number, *parts, _block_sum(block.number, *parts))
        self._run("INSERT OR REPLACE INTO blocks VALUES (?, ?, ?, ?, ?)", values, "written")
        if stored is not None:
            data = stored.tobytes()
            digest = _block_digest(block.ids, data)
            self._run("INSERT INTO vectors VALUES (?, ?, ?)", (block.number, digest, data), "written")

    # -- within

    def _open(self) -> None:
        with gallery_errors(self.folder, "read"):
            self._use(open_to_read(self.folder))
            self._begin_reading()
            self.manifest = self._checked_manifest()

    def _use(self, connection: sqlite3.Connection) -> None:
        self._connection, self._close = connection, finalize(self, close_connection, id(self), connection)
        note_mapping(id(self), self.folder)
        for name, (count, function) in FUNCTIONS.items():
            connection.create_function(name, count, function, deterministic=True)

    def _begin_reading(self) -> None:
        """Keep the present generation until the next transaction, whatever others save meanwhile."""
        self._connection.execute("BEGIN")
        self._connection.execute("SELECT count(*) FROM sqlite_master").fetchall()
        note_mapping(id(self), self.folder)

    def _checkpoint(self) -> None:
        """Move what was saved into the database's main file, as far as readers of older generations allow."""
        with suppress(sqlite3.Error):  # the save has succeeded; a later one does it
            self._connection.execute("PRAGMA busy_timeout = 0")
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            self._connection.execute("PRAGMA busy_timeout = 2000")

    def _checked_manifest(self) -> Manifest:
        """Read the manifest, once the schema is known to be a gallery's: another could hold surprises."""
        ((application,),) = self._connection.execute("PRAGMA application_id").fetchall()
        ((version,),) = self._connection.execute("PRAGMA user_version").fetchall()
        if application != APPLICATION:
            raise GalleryCorrupt(f"{self.folder / DATABASE} is damaged, or not a gallery")
        if version > FORMAT:
            raise GalleryError(
                f"gallery {self.folder} has format {version} and this outfinder reads {FORMAT}: update outfinder"
            )
        if version < FORMAT:
            raise GalleryError(too_old(self.folder))
        manifest = read_manifest_row(self._connection)
        columns = [_quoted(column) for _, column in manifest.columns]
        photos = SCHEMA["photos"].removesuffix(")") + "".join(f", {column} TEXT" for column in columns) + ")"
        if dict(self._connection.execute("SELECT name, sql FROM sqlite_master")) != SCHEMA | {"photos": photos}:
            raise self._corrupt("its tables are not those of a gallery")
        self._columns = ", ".join((*FIELDS, "checksum", *columns))
        return manifest

    def _run(self, sql: str, parameters: Sequence[object] = (), action: str = "read") -> list[tuple[Any, ...]]:
        with self._lock, gallery_errors(self.folder, action):
            check_mapping(self.folder)
            return self._connection.execute(sql, parameters).fetchall()

    def _all_rows(self, live: Ids) -> Iterator[tuple[Any, ...]]:
        last, count = -1, 0
        sql = f"SELECT {self._columns} FROM photos WHERE id > ? ORDER BY id LIMIT 5000"
        while rows := self._run(sql, (last,)):
            if not np.array_equal([values[0] for values in rows], live[count : count + len(rows)]):
                break
            yield from map(self._verified, rows)
            last, count = rows[-1][0], count + len(rows)
        if count < len(live) or rows:
            raise self._corrupt("its photos are not those of its vectors")
        self._rows_verified = True

    def _verified(self, values: tuple[Any, ...]) -> tuple[Any, ...]:
        own = len(FIELDS)
        names = (column for _, column in self.manifest.columns)
        if values[own] != checksum_of(values[:own], list(zip(names, values[own + 1 :], strict=True))):
            raise self._corrupt(f"the checksum of photo {values[0]} is not the saved one")
        return values

    def _row(self, values: tuple[Any, ...]) -> Row:
        _, item, photo, digest, detector, found, _, score, *corners, stamp = values[: len(FIELDS)]
        cells = zip(self.manifest.columns, values[len(FIELDS) + 1 :], strict=True)
        try:
            metadata = tuple((name, decoded(value)) for (name, _), value in cells if value is not None)
            return Row(decoded(item), decoded(photo), decoded(digest), decoded(detector), decoded(found),
                       float(score), Box(*corners), metadata, decoded(stamp))  # fmt: skip
        except (ValueError, TypeError) as error:
            raise self._corrupt(f"photo {values[0]}: {error}") from error

    def _column(self, name: str) -> str:
        """Return the SQL name of a catalogue's column, which is added where it is new."""
        known = dict(self.manifest.columns)
        if name in known:
            return known[name]
        if len(known) >= MAX_CATALOGUE_COLUMNS:
            raise GalleryError(f"a gallery has at most {MAX_CATALOGUE_COLUMNS} columns of a catalogue; leave some out")
        taken = {column.lower() for column in (*FIELDS, "checksum", *known.values())}
        candidates = (name, f"{METADATA}{name}", f"{METADATA}{len(known)}")
        column = next(each for each in candidates if each and each.isprintable() and each.lower() not in taken)
        self._run(f"ALTER TABLE photos ADD COLUMN {_quoted(column)} TEXT", (), "written")
        self.manifest = replace(self.manifest, columns=(*self.manifest.columns, (name, column)))
        self._columns = f"{self._columns}, {_quoted(column)}"
        return column

    def _corrupt(self, problem: str) -> GalleryCorrupt:
        return GalleryCorrupt(f"gallery {self.folder} is damaged: {problem}")


def _block_sum(number: int, *parts: bytes) -> int:
    return crc32(b"".join(parts), number & 0xFFFFFFFF)


def _block_digest(ids: Ids, data: bytes) -> bytes:
    digest = sha256(ids.astype("<i8").tobytes())
    digest.update(data)
    return digest.digest()


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
