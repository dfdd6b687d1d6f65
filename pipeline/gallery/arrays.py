"""The file that the truth is kept in: named arrays, mapped into memory and checked piece by piece as they are touched.

A file is plain safetensors, so that anyone can read it. Its last array, ``digests``, holds the first 16 bytes of the
SHA-256 of every 64 KiB before it; the manifest holds the file's size and the SHA-256 of the digests. Opening a file of
any size thus reads little, a query verifies what it touches, and nothing is ever used unverified.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from stages.errors import GalleryCorrupt
from stages.files import check_regular

CHUNK: Final = 1 << 16
"""Bytes that are verified at once."""

DIGEST: Final = 16
"""Bytes of a chunk's digest."""

DTYPES: Final = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I8": "|i1", "U8": "|u1"}
_NAMES: Final = {np.dtype(code): name for name, code in DTYPES.items()}


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file of a gallery, as its manifest names it: ``digest`` is the hexadecimal SHA-256 of its chunks' digests.

    Raises:
        ValueError: it lies outside the gallery, or is none.
    """

    name: str
    size: int
    digest: str

    def __post_init__(self) -> None:
        if not re.fullmatch(r"\w[\w.-]*", self.name, re.ASCII):
            raise ValueError(f"{self.name!r} lies outside the gallery")
        if not isinstance(self.size, int) or not isinstance(self.digest, str):
            raise ValueError(f"{self.name} has no size and digest")  # noqa: TRY004  as all that is wrong with a manifest


@dataclass(frozen=True, slots=True)
class Blocks:
    """An array that is written block by block, so that it need never be in memory as a whole."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    blocks: Iterable[NDArray[Any]]


class Arrays(Protocol):
    """Named arrays with rows along the first axis, in a file or in memory."""

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """The shape of every array."""

    def part(self, name: str, start: int = 0, stop: int | None = None) -> NDArray[Any]:
        """Consecutive rows of an array, all by default; read-only."""

    def take(self, name: str, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Some rows of an array, copied."""

    def slices(self, name: str, starts: NDArray[np.int64], stops: NDArray[np.int64]) -> list[memoryview]:
        """Many stretches of an array of bytes, without a copy."""


class MemoryArrays:
    """Arrays that are not in a file yet."""

    def __init__(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        self._arrays = arrays
        self.shapes: Mapping[str, tuple[int, ...]] = {name: array.shape for name, array in arrays.items()}

    def part(self, name: str, start: int = 0, stop: int | None = None) -> NDArray[Any]:
        """Consecutive rows of an array."""
        return self._arrays[name][start:stop]

    def take(self, name: str, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Some rows of an array, copied."""
        taken: NDArray[Any] = self._arrays[name][rows]
        return taken

    def slices(self, name: str, starts: NDArray[np.int64], stops: NDArray[np.int64]) -> list[memoryview]:
        """Many stretches of an array of bytes, without a copy."""
        return _slices(self._arrays[name], starts, stops)


class FileArrays:
    """The arrays of a file, each chunk verified when it is first touched.

    The file stays open: whoever has opened it can read it when it has been deleted. It must not be cut short
    meanwhile, as with any file mapped into memory; a gallery never changes a file.

    Raises:
        GalleryCorrupt: here and later: the file is missing, cut short, or a chunk is not what was saved.
    """

    def __init__(self, folder: Path, stored: StoredFile) -> None:
        self._path = folder / stored.name
        try:
            status = self._path.stat()
            check_regular(status)
            size = status.st_size
            if size != stored.size or size == 0:
                raise GalleryCorrupt(f"{self._path} is damaged: it has {size} bytes of {stored.size}")
            self._bytes = np.memmap(self._path, dtype=np.uint8, mode="r").view(np.ndarray)
        except OSError as error:
            raise GalleryCorrupt(f"{self._path} cannot be read: {error.strerror}") from error
        chunks = -(-size // (CHUNK + DIGEST))
        self._payload = size - chunks * DIGEST
        self._digests = self._bytes[self._payload :].tobytes()
        if hashlib.sha256(self._digests).hexdigest() != stored.digest:
            raise GalleryCorrupt(f"{self._path} is damaged: its checksums are not what was saved")
        self._verified = np.zeros(chunks, np.bool_)
        self._sound = set[str]()  # arrays of which every chunk is verified
        try:
            self._layouts = self._read_header()
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise self.lie(f"its header makes no sense ({error})") from error
        self.shapes: Mapping[str, tuple[int, ...]] = {
            name: array.shape for name, (_, _, array) in self._layouts.items()
        }

    def part(self, name: str, start: int = 0, stop: int | None = None) -> NDArray[Any]:
        """Consecutive rows of an array, without a copy."""
        first, width, array = self._layouts[name]
        start, stop, _ = slice(start, stop).indices(len(array))
        self._raw(first + start * width, first + stop * width)
        return array[start:stop]

    def take(self, name: str, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Some rows of an array, copied; their chunks alone are verified."""
        first, width, array = self._layouts[name]
        try:
            taken: NDArray[Any] = array[rows]
        except IndexError as error:
            raise self.lie(f"{name} has {len(array)} rows and not those that others name") from error
        if name not in self._sound:
            starts = first + np.where(rows < 0, rows + len(array), rows) * width
            self._touch(name, starts, starts + width)
        return taken

    def slices(self, name: str, starts: NDArray[np.int64], stops: NDArray[np.int64]) -> list[memoryview]:
        """Many stretches of an array of bytes, without a copy; their chunks alone are verified."""
        first, _, array = self._layouts[name]
        if starts.size and not (starts.min() >= 0 and (starts <= stops).all() and stops.max() <= len(array)):
            raise self.lie(f"{name} has {len(array)} bytes and not those that others name")
        if name not in self._sound:
            self._touch(name, first + starts, first + stops)
        return _slices(array, starts, stops)

    def verify(self) -> None:
        """Verify every chunk, also those that were sound before.

        Raises:
            GalleryCorrupt: one is damaged.
        """
        self._verified[:] = False
        self._sound.clear()
        self._verify(np.arange(len(self._verified)))

    def dtype(self, name: str) -> np.dtype[Any]:
        """The type of an array's numbers."""
        return self._layouts[name][2].dtype

    def _read_header(self) -> dict[str, tuple[int, int, NDArray[Any]]]:
        """Where each array starts, the bytes of a row, and the array itself; a checksum does not make them true.

        Raises:
            ValueError, KeyError, TypeError, AttributeError, RecursionError: they are not.
        """
        length = int.from_bytes(self._raw(0, 8).tobytes(), "little")
        if not 0 < length <= self._payload - 8:
            raise ValueError("it is longer than the file")
        header, layouts = json.loads(self._raw(8, 8 + length).tobytes()), {}
        for name, told in header.items():
            if name == "digests":
                continue
            dtype, shape, (start, end) = DTYPES[told["dtype"]], tuple(told["shape"]), told["data_offsets"]
            if not shape or not all(isinstance(number, int) and number >= 0 for number in (*shape, start, end)):
                raise ValueError(f"{name} has no shape")
            width = np.dtype(dtype).itemsize * math.prod(shape[1:])
            if end - start != width * shape[0] or 8 + length + end > self._payload:
                raise ValueError(f"{name} is not where it says")
            array = self._bytes[8 + length + start : 8 + length + end].view(dtype).reshape(shape)
            layouts[name] = 8 + length + start, width, array
        return layouts

    def lie(self, what: str) -> GalleryCorrupt:
        """The error for what is as it was saved, and yet not right."""
        return GalleryCorrupt(f"{self._path} is damaged: {what}")

    def _raw(self, start: int, stop: int) -> NDArray[np.uint8]:
        if start < stop:
            first, last = start // CHUNK, (stop - 1) // CHUNK + 1
            sound = self._verified[first] if last - first == 1 else self._verified[first:last].all()  # mostly one
            if not sound:
                self._verify(np.arange(first, last))
        return self._bytes[start:stop]

    def _touch(self, name: str, starts: NDArray[np.int64], stops: NDArray[np.int64]) -> None:
        """Verify the chunks of many stretches of an array; they are told as places in the file."""
        last = (stops - 1) // CHUNK
        chunks = np.minimum(starts // CHUNK, last)  # an empty stretch at the end has none of its own
        while True:
            if not self._verified[chunks].all():
                self._verify(np.unique(chunks))
            more = chunks < last  # a stretch may span chunks
            if not more.any():
                break
            chunks, last = chunks[more] + 1, last[more]
        first, _, array = self._layouts[name]
        if self._verified[first // CHUNK : (first + array.nbytes - 1) // CHUNK + 1].all():
            self._sound.add(name)

    def _verify(self, chunks: NDArray[np.int64]) -> None:
        for number in chunks[~self._verified[chunks]].tolist():
            data = self._bytes[number * CHUNK : min((number + 1) * CHUNK, self._payload)]
            wanted = self._digests[number * DIGEST : (number + 1) * DIGEST]
            if hashlib.sha256(data.data).digest()[:DIGEST] != wanted:
                raise GalleryCorrupt(
                    f"{self._path} is damaged at byte {number * CHUNK}: its checksum is not the saved one"
                )
            self._verified[number] = True


def write_arrays(path: Path, arrays: Mapping[str, NDArray[Any] | Blocks]) -> StoredFile:
    """Write arrays to a new file and make it durable.

    Raises:
        OSError: it cannot be written.
    """
    blocks = {name: _blocks(array) for name, array in arrays.items()}
    order = sorted(blocks, key=lambda name: -blocks[name].dtype.itemsize)  # so that each is aligned
    header, at = dict[str, Any](), 0
    for name in order:
        array = blocks[name]
        end = at + array.dtype.itemsize * int(np.prod(array.shape, dtype=np.int64))
        header[name] = {"dtype": _NAMES[array.dtype], "shape": array.shape, "data_offsets": (at, end)}
        at = end
    with path.open("wb") as file:
        digests = _write_summed(file, _pieces(_preamble(header, at), (blocks[name] for name in order)))
        file.write(digests)
        file.flush()
        os.fsync(file.fileno())
        return StoredFile(path.name, file.tell(), hashlib.sha256(digests).hexdigest())


def file_digest(path: Path) -> StoredFile:
    """What a manifest says of a file that something else has written, its chunks digested as above but not told in it.

    Raises:
        OSError: it cannot be read.
    """
    digests, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digests.update(hashlib.sha256(chunk).digest()[:DIGEST])
            size += len(chunk)
    return StoredFile(path.name, size, digests.hexdigest())


def _slices(array: NDArray[Any], starts: NDArray[np.int64], stops: NDArray[np.int64]) -> list[memoryview]:
    raw = array.data
    return [raw[start:stop] for start, stop in zip(starts.tolist(), stops.tolist(), strict=True)]


def _blocks(array: NDArray[Any] | Blocks) -> Blocks:
    return array if isinstance(array, Blocks) else Blocks(array.dtype, array.shape, (array,))


def _preamble(header: dict[str, Any], payload: int) -> bytes:
    """The file up to its first array: how many digests there are depends on its own length, which it tells."""
    chunks = 0
    while True:
        end = payload + chunks * DIGEST
        told = header | {"digests": {"dtype": "U8", "shape": (chunks, DIGEST), "data_offsets": (payload, end)}}
        text = json.dumps(told, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        needed = -(-(8 + len(text) + payload) // CHUNK)
        if needed <= chunks:
            return len(text).to_bytes(8, "little") + text
        chunks = needed


def _pieces(preamble: bytes, arrays: Iterable[Blocks]) -> Iterator[memoryview]:
    yield memoryview(preamble)
    for array in arrays:
        for block in array.blocks:
            if block.size:
                yield np.ascontiguousarray(block, array.dtype).data.cast("B")


def _write_summed(file: BinaryIO, pieces: Iterable[memoryview]) -> bytes:
    """Write pieces one after the other; the digests of their chunks."""
    digests, digest, room = bytearray(), hashlib.sha256(), CHUNK
    for piece in pieces:
        file.write(piece)
        for start in range(room - CHUNK, len(piece), CHUNK):  # the first chunk may have begun before the piece
            part = piece[max(0, start) : start + CHUNK]
            digest.update(part)
            room -= len(part)
            if room == 0:
                digests += digest.digest()[:DIGEST]
                digest, room = hashlib.sha256(), CHUNK
    if room < CHUNK:
        digests += digest.digest()[:DIGEST]
    return bytes(digests)
