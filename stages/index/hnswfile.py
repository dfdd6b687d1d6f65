"""hnswlib's file, read before hnswlib reads it: it takes a wrong width silently and dies on wrong links.

The layout is that of ``HierarchicalNSW::saveIndex`` (hnswlib 0.8): a header of 96 bytes; one record per
element with its links at level 0 (a count, then neighbours), its vector and its label; then, per element,
the size in bytes of its links at higher levels and those links. All little-endian.
"""

from __future__ import annotations

import math
import struct
from bisect import bisect_left
from pathlib import Path
from typing import Final, NamedTuple, NoReturn

import numpy as np
from numpy.typing import NDArray

from stages.errors import GalleryCorrupt, GalleryMismatch

DELETED: Final = 0x01
"""The bit, in the third byte of an element's link count, that marks it removed."""

MAX_EF: Final = 1 << 20
"""No one builds with a longer list of candidates; hnswlib would allocate it."""

BLOCK: Final = 65536
"""Records whose links are verified at once."""


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


LAYOUT: Final = struct.Struct("<6QiI3QdQ")


def read_layout(path: Path, dim: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """The labels of a saved index and which of them are marked removed, both ``(n,)``, once it is verified.

    Raises:
        GalleryMismatch: its vectors are not ``dim`` wide.
        GalleryCorrupt: it is missing, or not laid out as hnswlib lays it out.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(LAYOUT.size)
        if len(start) < LAYOUT.size:
            _refuse(path, "is cut short")
        header = Header(*LAYOUT.unpack(start))
        _check_header(path, header, size, dim)
        if header.elements == 0:
            return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.bool_)
        data = np.memmap(path, dtype=np.uint8, mode="r", offset=LAYOUT.size)
    except OSError as error:
        raise GalleryCorrupt(f"cannot read the index {path.name}: {error.strerror or error}") from error
    return _check_records(path, header, data)


def _check_header(path: Path, header: Header, size: int, dim: int) -> None:
    """Every field follows from dim, m and the count, which are bounded by the file's size."""
    found_dim, rest = divmod(header.label_offset - header.vector_offset, 4)
    sound = (
        header.offset_level0 == 0
        and header.m >= 2
        and header.m_level0 == 2 * header.m
        and header.m_upper == header.m
        and header.vector_offset == 4 + 4 * header.m_level0
        and rest == 0
        and header.record_bytes == header.label_offset + 8
        and math.isclose(header.level_factor, 1 / math.log(header.m))
        and header.m <= header.ef_construction <= MAX_EF
        and header.elements <= header.max_elements
        and LAYOUT.size + header.elements * (header.record_bytes + 4) <= size
        and (header.entry < header.elements or header.elements == 0)
    )
    if not sound:
        _refuse(path, "has a damaged header")
    if found_dim != dim:
        raise GalleryMismatch(f"the index {path.name} holds vectors {found_dim} wide, wanted {dim}; build it anew")


def _check_records(path: Path, header: Header, data: NDArray[np.uint8]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Labels and removal marks; links stay within the elements."""
    split = header.elements * header.record_bytes
    records = data[:split].reshape(header.elements, header.record_bytes)
    for start in range(0, header.elements, BLOCK):
        links = records[start : start + BLOCK, : header.vector_offset].copy().view("<u4")
        _check_links(path, links, header.m_level0, header.elements)
    _check_upper(path, header, data[split:])
    labels = records[:, header.label_offset :].copy().view("<i8")[:, 0].astype(np.int64)
    if len(np.unique(labels)) != len(labels) or labels.min() < 0:
        _refuse(path, "has damaged row numbers")
    return labels, (records[:, 2] & DELETED).astype(np.bool_)


def _check_links(path: Path, links: NDArray[np.uint32], most: int, count: int) -> None:
    """``(n, 1 + most)``: a count in the low 16 bits of the first column, then as many element numbers."""
    used = links[:, :1] & 0xFFFF
    inside = np.arange(most, dtype=np.uint32) < used
    if (used > most).any() or (links[:, 1:][inside] >= count).any():
        _refuse(path, "has damaged links")


def _check_upper(path: Path, header: Header, data: NDArray[np.uint8]) -> None:
    """Per element, a size and as many bytes of links, one list per level above 0."""
    level_bytes = 4 + 4 * header.m
    if len(data) % 4:
        _refuse(path, "is cut short")
    words = data.view("<u4")
    above = _elements_above(path, words, header.elements, level_bytes)
    levels = np.zeros(header.elements, dtype=np.int64)
    for element, _, size in above:
        levels[element] = size // level_bytes
    if levels.max() != header.max_level or levels[header.entry] != header.max_level:
        _refuse(path, "has damaged levels")
    lists = [words[:0], *(words[start : start + size // 4] for _, start, size in above)]
    links = np.concatenate(lists).reshape(-1, level_bytes // 4)
    _check_links(path, links, header.m, header.elements)
    used = np.arange(header.m) < (links[:, :1] & 0xFFFF)
    level = np.concatenate([levels[:0], *(np.arange(1, 1 + size // level_bytes) for _, _, size in above)])
    reached = np.where(used, levels[np.where(used, links[:, 1:], 0)], header.max_level)
    if (reached < level[:, None]).any():
        _refuse(path, "links elements above their level")


def _elements_above(
    path: Path, words: NDArray[np.uint32], elements: int, level_bytes: int
) -> list[tuple[int, int, int]]:
    """The few elements that have levels above 0: their number, where their links start, and how many bytes those take.

    All others are one zero each, which are counted and not walked over.
    """
    some = np.flatnonzero(words).tolist()
    element, at, above = 0, 0, []
    while (place := bisect_left(some, at)) < len(some):
        element, size = element + some[place] - at, int(words[some[place]])
        if size % level_bytes or element >= elements:
            _refuse(path, "has damaged levels")
        above.append((element, some[place] + 1, size))
        element, at = element + 1, some[place] + 1 + size // 4
    if element + len(words) - at != elements or at > len(words):
        _refuse(path, "is cut short")
    return above


def _refuse(path: Path, fault: str) -> NoReturn:
    raise GalleryCorrupt(f"the index {path.name} {fault}; build it anew")
