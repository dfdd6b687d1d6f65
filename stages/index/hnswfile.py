"""hnswlib's file, read before hnswlib reads it: that one trusts every word, and dies on wrong ones.

The layout is that of ``HierarchicalNSW::saveIndex`` (hnswlib 0.8): a header of 96 bytes; one record per
element with its links at level 0 (a count, then neighbours), its vector and its label; then, per element,
the size in bytes of its links at higher levels and those links. All little-endian.
"""

from __future__ import annotations

import math
import struct
from pathlib import Path
from typing import Final, NamedTuple, NoReturn

import numpy as np
from numpy.typing import NDArray

from stages.errors import GalleryCorrupt, GalleryMismatch
from stages.files import check_regular
from stages.index.checks import check_vectors

DELETED: Final = 0x01
"""The bit, in the third byte of an element's link count, that marks it removed."""

NO_ENTRY: Final = 0xFFFFFFFF
"""Where searches enter an empty index."""

MAX_LEVEL: Final = 64
"""Levels are drawn from a logarithm of a random number, which is never that small."""

BLOCK: Final = 8192
"""Records that are verified at once."""

BLOCK_ABOVE: Final = 1024
"""Elements whose links at higher levels are verified at once."""


class Header(NamedTuple):
    """The 96 bytes at the start, in their order."""

    offset_level0: int
    max_elements: int
    elements: int
    record_bytes: int
    label_offset: int
    vector_offset: int
    max_level: int
    entry: int
    m_upper: int
    m_level0: int
    m: int
    level_factor: float
    ef_construction: int

    @property
    def dim(self) -> int:
        """The width of its vectors."""
        return (self.label_offset - self.vector_offset) // 4


LAYOUT: Final = struct.Struct("<6QiI3QdQ")


def empty_header(dim: int, m: int, ef_construction: int) -> Header:
    """The header of an index without elements or room for any."""
    vector_offset = 4 + 4 * 2 * m
    label_offset = vector_offset + 4 * dim
    return Header(
        0, 0, 0, label_offset + 8, label_offset, vector_offset, -1, NO_ENTRY, m, 2 * m, m, 1 / math.log(m), ef_construction
    )  # fmt: skip


def read_layout(path: Path, wanted: Header) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """The labels of a saved index and which of them are marked removed, both ``(n,)``, once it is verified.

    Args:
        path: the file.
        wanted: what :func:`empty_header` says of the parameters that the index was to be built with.

    Raises:
        GalleryMismatch: it was built with others.
        GalleryCorrupt: it is missing, or not laid out as hnswlib lays it out.
    """
    try:
        status = path.stat()
        check_regular(status)
        with path.open("rb") as file:
            start = file.read(LAYOUT.size)
        if len(start) < LAYOUT.size:
            _refuse(path, "is cut short")
        header = Header(*LAYOUT.unpack(start))
        _check_header(path, header, wanted)
        _check_counts(path, header, status.st_size)
        if header.elements == 0:
            return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.bool_)
        data = np.memmap(path, dtype=np.uint8, mode="r", offset=LAYOUT.size)
    except OSError as error:
        raise GalleryCorrupt(f"cannot read the index {path.name}: {error.strerror or error}") from error
    split = header.elements * header.record_bytes
    _check_upper(path, header, data[split:])
    return _check_records(path, header, data[:split].reshape(header.elements, header.record_bytes))


def _check_header(path: Path, header: Header, wanted: Header) -> None:
    """All but the counts follows from three parameters, which hnswlib would build on with."""
    if header.m < 2 or header.dim < 1:
        _refuse(path, "has a damaged header")
    own = empty_header(header.dim, header.m, header.ef_construction)
    without = header._replace(max_elements=0, elements=0, max_level=-1, entry=NO_ENTRY, level_factor=own.level_factor)
    if without != own or not math.isclose(header.level_factor, own.level_factor):
        _refuse(path, "has a damaged header")
    if header.dim != wanted.dim:
        raise GalleryMismatch(
            f"the index {path.name} holds vectors {header.dim} wide, wanted {wanted.dim}; build it anew"
        )
    if own != wanted:
        raise GalleryMismatch(
            f"the index {path.name} was built with m={own.m} and ef_construction={own.ef_construction},"
            f" wanted m={wanted.m} and ef_construction={wanted.ef_construction}; build it anew"
        )


def _check_counts(path: Path, header: Header, size: int) -> None:
    if header.elements == 0:
        sound = size == LAYOUT.size and header.entry == NO_ENTRY and header.max_level == -1
    else:
        sound = LAYOUT.size + header.elements * (header.record_bytes + 4) <= size and header.entry < header.elements
    if not sound:
        _refuse(path, "has a damaged header")


def _check_records(
    path: Path, header: Header, records: NDArray[np.uint8]
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Labels and removal marks; links stay within the elements, and vectors are unit rows."""
    for start in range(0, header.elements, BLOCK):
        part = records[start : start + BLOCK]
        _check_links(path, part[:, : header.vector_offset].copy().view("<u4"), header.elements)
        try:
            check_vectors(part[:, header.vector_offset : header.label_offset].copy().view(np.float32), header.dim)
        except ValueError:
            _refuse(path, "has damaged vectors")
    labels = records[:, header.label_offset :].copy().view("<i8")[:, 0].astype(np.int64)
    if len(np.unique(labels)) != len(labels) or labels.min() < 0:
        _refuse(path, "has damaged row numbers")
    return labels, (records[:, 2] & DELETED).astype(np.bool_)


def _check_links(path: Path, links: NDArray[np.uint32], elements: int) -> NDArray[np.bool_]:
    """``(n, 1 + most)``: a count in the low 16 bits of the first column, then as many element numbers; which are used."""
    count, numbers = links[:, :1] & 0xFFFF, links[:, 1:]
    used = np.arange(numbers.shape[1], dtype=np.uint32) < count
    if (count > numbers.shape[1]).any() or (numbers[used] >= elements).any():
        _refuse(path, "has damaged links")
    return used


def _check_upper(path: Path, header: Header, data: NDArray[np.uint8]) -> None:
    """Per element, a size and as many bytes of links, one list per level above 0."""
    level_bytes = 4 + 4 * header.m
    if len(data) % 4:
        _refuse(path, "is cut short")
    words = data.view("<u4")
    above = _elements_above(path, words, header.elements, level_bytes)
    levels = np.zeros(header.elements, dtype=np.int8)
    for element, _, size in above:
        levels[element] = size // level_bytes
    if levels.max() != header.max_level or levels[header.entry] != header.max_level:
        _refuse(path, "has damaged levels")
    for first in range(0, len(above), BLOCK_ABOVE):
        part = above[first : first + BLOCK_ABOVE]
        links = np.concatenate([words[start : start + size // 4] for _, start, size in part])
        links = links.reshape(-1, level_bytes // 4)
        used = _check_links(path, links, header.elements)
        level = np.concatenate([np.arange(1, 1 + size // level_bytes) for _, _, size in part])[:, None]
        if (np.where(used, levels[np.where(used, links[:, 1:], 0)], level) < level).any():
            _refuse(path, "links elements above their level")


def _elements_above(
    path: Path, words: NDArray[np.uint32], elements: int, level_bytes: int
) -> list[tuple[int, int, int]]:
    """The few elements that have levels above 0: their number, where their links start, and how many bytes those take.

    All others are one zero each, which are counted and not walked over.
    """
    some = np.flatnonzero(words)
    element, at, above = 0, 0, []
    while (place := int(np.searchsorted(some, at))) < len(some):
        start = int(some[place])
        element, size = element + start - at, int(words[start])
        if size % level_bytes or size > MAX_LEVEL * level_bytes or element >= elements:
            _refuse(path, "has damaged levels")
        above.append((element, start + 1, size))
        element, at = element + 1, start + 1 + size // 4
    if element + len(words) - at != elements or at > len(words):
        _refuse(path, "is cut short")
    return above


def _refuse(path: Path, fault: str) -> NoReturn:
    raise GalleryCorrupt(f"the index {path.name} {fault}; build it anew")
