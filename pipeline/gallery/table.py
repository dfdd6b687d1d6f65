"""Rows by column: a text column is a list of its distinct values, sorted, and for each row a number into it.

Nothing is parsed at opening, a single row is read without its neighbours, and a filter looks at each value once.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pipeline.gallery.arrays import Arrays, MemoryArrays
from pipeline.gallery.rows import Row
from stages.errors import GalleryCorrupt
from stages.types import Box, Match

TEXTS: Final = ("item", "photo", "sha256", "detector", "found", "label", "stamp")
"""The text columns of every table: ``found`` is the detector's label, ``label`` the garment group."""

METADATA: Final = "metadata."
"""What the names of metadata columns start with."""

ABSENT: Final = -1
"""The number of a row that has no value in a column."""


class TextColumn:
    """One text column of a table."""

    def __init__(self, arrays: Arrays, name: str) -> None:
        self._arrays, self._name = arrays, name
        (self._count,) = arrays.shapes[f"{name}/ends"]

    @property
    def codes(self) -> NDArray[np.int32]:
        """For each row the number of its value, or :data:`ABSENT`."""
        return self._known_codes(self._arrays.part(f"{self._name}/codes"))

    def value(self, code: int) -> str:
        """One value."""
        return text_of(self._bytes(code))

    def of_row(self, place: int) -> str | None:
        """The value of one row."""
        code = int(self._known_codes(self._arrays.part(f"{self._name}/codes", place, place + 1))[0])
        return None if code == ABSENT else self.value(code)

    def of_rows(self, places: NDArray[np.int64]) -> list[str | None]:
        """The values of some rows; each is read once."""
        wanted = self.codes_of(places).tolist()
        distinct = sorted({*wanted} - {ABSENT})
        codes = np.array(distinct, np.int64)
        starts, ends = self._arrays.take(f"{self._name}/ends", np.stack([codes - 1, codes]))  # an array's last for -1
        starts[codes == 0] = 0
        values: dict[int, str | None] = {ABSENT: None}
        values.update(zip(distinct, map(text_of, self._arrays.slices(f"{self._name}/text", starts, ends)), strict=True))
        return [values[code] for code in wanted]

    def codes_of(self, places: NDArray[np.int64]) -> NDArray[np.int32]:
        """The numbers of some rows' values: equal where the values are."""
        return self._known_codes(self._arrays.take(f"{self._name}/codes", places))

    def _known_codes(self, codes: NDArray[np.int32]) -> NDArray[np.int32]:
        if codes.size and not (codes.min() >= ABSENT and codes.max() < self._count):
            raise GalleryCorrupt(
                f"the gallery's column {self._name} is damaged: it has {self._count} values, rows name others"
            )
        return codes

    def values(self) -> list[bytes]:
        """Every value as UTF-8, sorted."""
        ends = self._arrays.part(f"{self._name}/ends").tolist()
        text = self._arrays.part(f"{self._name}/text").tobytes()
        return [text[start:end] for start, end in zip([0, *ends], ends, strict=False)]

    def rows_with(self, value: str) -> NDArray[np.int64]:
        """The places of all rows with a value."""
        wanted = _utf8(value)
        low = bisect_left(range(self._count), wanted, key=self._known_bytes)
        if low == self._count or self._known_bytes(low) != wanted:
            return np.zeros(0, np.int64)
        order, codes = self._by_code
        first, last = np.searchsorted(codes, [low, low + 1])
        return order[first:last]

    @cached_property
    def _by_code(self) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        order = np.argsort(self.codes, kind="stable")
        return order, self.codes[order]

    @cached_property
    def _known(self) -> tuple[NDArray[np.int64], memoryview]:
        return self._arrays.part(f"{self._name}/ends"), self._arrays.part(f"{self._name}/text").data

    def _known_bytes(self, code: int) -> bytes:
        """A value, once all of them are verified: for many look-ups."""
        ends, text = self._known
        return text[ends[code - 1] if code else 0 : ends[code]].tobytes()

    def _bytes(self, code: int) -> bytes:
        start = int(self._arrays.part(f"{self._name}/ends", code - 1, code)[0]) if code else 0
        end = int(self._arrays.part(f"{self._name}/ends", code, code + 1)[0])
        return self._arrays.part(f"{self._name}/text", start, end).tobytes()


class Table:
    """Rows in columns, each under the id of its vector."""

    def __init__(self, arrays: Arrays) -> None:
        self._arrays = arrays
        self.ids: NDArray[np.int64] = arrays.part("ids")
        self.texts = {
            name.removesuffix("/codes"): TextColumn(arrays, name.removesuffix("/codes"))
            for name in arrays.shapes
            if name.endswith("/codes")
        }

    @classmethod
    def of(cls, rows: dict[int, Row]) -> Table:
        """A table in memory."""
        return cls(MemoryArrays(columns(rows)))

    @property
    def metadata(self) -> list[str]:
        """The names of the metadata columns."""
        return [name.removeprefix(METADATA) for name in self.texts if name.startswith(METADATA)]

    def row(self, place: int) -> Row:
        """One row."""
        item, photo, sha256, detector, found, stamp = (
            self.texts[name].of_row(place) or "" for name in ("item", "photo", "sha256", "detector", "found", "stamp")
        )
        try:
            box = Box(*self._arrays.part("box", place, place + 1)[0].tolist())
        except ValueError as error:
            raise GalleryCorrupt(f"a row of the gallery is damaged: {error}") from error
        score = float(self._arrays.part("score", place, place + 1)[0])
        return Row(item, photo, sha256, detector, found, score, box, self.metadata_of(place), stamp)

    def metadata_of(self, place: int) -> tuple[tuple[str, str], ...]:
        """The metadata of one row: the columns that it has a value in."""
        told = ((name, self.texts[METADATA + name].of_row(place)) for name in self.metadata)
        return tuple((name, value) for name, value in told if value is not None)

    def matches(self, places: NDArray[np.int64], similarities: NDArray[np.float32]) -> list[Match]:
        """Some rows as a search's answers."""
        metadata: list[tuple[tuple[str, str], ...]] = [()] * len(places)
        for name in self.metadata:
            values = self.texts[METADATA + name].of_rows(places)
            metadata = [
                told if value is None else (*told, (name, value)) for told, value in zip(metadata, values, strict=True)
            ]
        items, photos, labels = (self.texts[name].of_rows(places) for name in ("item", "photo", "label"))
        return [
            Match(item or "", photo or "", similarity, label or "", told)
            for item, photo, similarity, label, told in zip(
                items, photos, similarities.tolist(), labels, metadata, strict=True
            )
        ]

    def numbers(self, name: str, places: NDArray[np.int64]) -> NDArray[Any]:
        """Some rows of a numeric column."""
        return self._arrays.take(name, places)


def columns(rows: dict[int, Row]) -> dict[str, NDArray[Any]]:
    """Rows by id as the arrays of a table."""
    ids = sorted(rows)
    ordered = [rows[number] for number in ids]
    texts: dict[str, list[str | None]] = {
        "item": [row.item for row in ordered],
        "photo": [row.photo for row in ordered],
        "sha256": [row.sha256 for row in ordered],
        "detector": [row.detector for row in ordered],
        "found": [row.label for row in ordered],
        "label": [row.group for row in ordered],
        "stamp": [row.stamp for row in ordered],
    }
    told = [dict(row.metadata) for row in ordered]
    for name in dict.fromkeys(name for metadata in told for name in metadata):
        texts[METADATA + name] = [metadata.get(name) for metadata in told]
    arrays: dict[str, NDArray[Any]] = {
        "ids": np.array(ids, np.int64),
        "score": np.array([row.score for row in ordered], np.float64),
        "box": np.array([row.box.corners for row in ordered], np.int32).reshape(-1, 4),
    }
    for name, values in texts.items():
        encoded = [None if value is None else _utf8(value) for value in values]
        arrays |= _text_arrays(name, sorted({value for value in encoded if value is not None}), _codes(encoded))
    return arrays


def merged(parts: Sequence[tuple[Table, NDArray[np.int64]]]) -> dict[str, NDArray[Any]]:
    """Some rows of each of several tables as the arrays of one, in the order of their ids; column by column."""
    ids = np.concatenate([np.zeros(0, np.int64), *(table.ids[places] for table, places in parts)])
    order = np.argsort(ids, kind="stable")
    arrays: dict[str, NDArray[Any]] = {"ids": ids[order]}
    for name, shape, dtype in (("score", (0,), np.float64), ("box", (0, 4), np.int32)):
        taken = [np.zeros(shape, dtype), *(table.numbers(name, places) for table, places in parts)]
        arrays[name] = np.concatenate(taken)[order]
    for name in dict.fromkeys([*TEXTS, *(name for table, _ in parts for name in table.texts)]):
        values, codes = _merged_text([(table.texts.get(name), places) for table, places in parts])
        if values or name in TEXTS:
            arrays |= _text_arrays(name, values, codes[order])
    return arrays


def _merged_text(
    parts: Iterable[tuple[TextColumn | None, NDArray[np.int64]]],
) -> tuple[list[bytes], NDArray[np.int32]]:
    """The union of the values that are used, and the numbers into it."""
    used: list[tuple[NDArray[np.int32], list[bytes]]] = []
    for column, places in parts:
        codes = column.codes[places] if column else np.full(len(places), ABSENT, np.int32)
        kept, numbers = np.unique(codes, return_inverse=True)
        every = column.values() if column else []
        absent = int(len(kept) > 0 and kept[0] == ABSENT)
        used.append((numbers.astype(np.int32) - absent, [every[code] for code in kept[absent:].tolist()]))
    values = sorted(set().union(*(own for _, own in used)))
    place = {value: number for number, value in enumerate(values)}
    renumbered = [np.array([*(place[value] for value in own), ABSENT], np.int32)[numbers] for numbers, own in used]
    return values, np.concatenate([np.zeros(0, np.int32), *renumbered])


def _codes(values: list[bytes | None]) -> NDArray[np.int32]:
    place: dict[bytes | None, int] = {
        value: number for number, value in enumerate(sorted({value for value in values if value is not None}))
    }
    return np.array([place.get(value, ABSENT) for value in values], np.int32)


def _text_arrays(name: str, values: list[bytes], codes: NDArray[np.int32]) -> dict[str, NDArray[Any]]:
    return {
        f"{name}/codes": codes,
        f"{name}/ends": np.cumsum([len(value) for value in values], dtype=np.int64).reshape(-1),
        f"{name}/text": np.frombuffer(b"".join(values), np.uint8),
    }


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")  # file names may hold bytes that are no text


def text_of(raw: bytes | memoryview) -> str:
    """A value as text.

    Raises:
        GalleryCorrupt: it is none.
    """
    try:
        return str(raw, "utf-8", "surrogatepass")
    except UnicodeDecodeError as error:
        raise GalleryCorrupt(f"the gallery is damaged: a text in it is none ({error.reason})") from error
