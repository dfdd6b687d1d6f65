"""The gallery's rows by id: tables on disk, where the last word on an id counts, and what is not saved yet."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.gallery.arrays import Arrays
from pipeline.gallery.rows import Row
from pipeline.gallery.table import ABSENT, METADATA, Table, merged, text_of
from stages.types import Match

Ids = NDArray[np.int64]


class RowStore:
    """Rows by id.

    Args:
        segments: tables, later ones overruling earlier ones.
        removed: ids that are in them and removed.
    """

    def __init__(self, segments: Sequence[Arrays], removed: Ids) -> None:
        self._saved = [Table(arrays) for arrays in segments]
        self._removed = removed
        self._starts = np.cumsum([0, *(len(table.ids) for table in self._saved)])
        ids = np.concatenate([np.zeros(0, np.int64), *(table.ids for table in self._saved)])
        order = np.argsort(ids, kind="stable")
        last = np.append(ids[order][1:] != ids[order][:-1], True)[: len(ids)]
        self._ids, self._at = ids[order][last], order[last]
        self._next = int(ids.max(initial=-1)) + 1
        if len(removed):
            live = ~np.isin(self._ids, removed)
            self._ids, self._at = self._ids[live], self._at[live]
        self._gapless = len(self._ids) > 0 and int(self._ids[-1] - self._ids[0]) == len(self._ids) - 1
        self._fresh: dict[int, Row] = {}
        self._gone: set[int] = set()
        self._keys: dict[tuple[str, str], set[int]] = {}  # of fresh rows, by item and photo and by item and content
        self._view: list[tuple[Table, Ids]] | None = None
        self._live: Ids | None = self._ids

    @property
    def changed(self) -> bool:
        """Whether there is anything to save."""
        return bool(self._fresh or self._gone)

    @property
    def fresh_count(self) -> int:
        """How many rows have come or changed since the last save."""
        return len(self._fresh)

    @property
    def saved_counts(self) -> list[int]:
        """The rows of each table on disk."""
        return [len(table.ids) for table in self._saved]

    @property
    def live(self) -> Ids:
        """The ids of all rows, rising; the same array until a row comes or goes."""
        if self._live is None:
            stored = self._ids
            if self._gone:
                stored = stored[~np.isin(stored, np.fromiter(self._gone, np.int64))]
            new = sorted(number for number in self._fresh if number >= self._next)
            self._live = np.concatenate([stored, np.array(new, np.int64)])
        return self._live

    def get(self, number: int) -> Row:
        """The row of a live id."""
        if number in self._fresh:
            return self._fresh[number]
        table, place = self.locate(number)
        return table.row(place)

    def locate(self, number: int) -> tuple[Table, int]:
        """The table that has the last word on a saved id, and the place of its row there."""
        at = int(self._at[np.searchsorted(self._ids, number)])
        which = int(np.searchsorted(self._starts, at, side="right")) - 1
        return self._saved[which], at - int(self._starts[which])

    def item(self, number: int) -> str:
        """The item of a live id."""
        if number in self._fresh:
            return self._fresh[number].item
        table, place = self.locate(number)
        return table.texts["item"].of_row(place) or ""

    def item_numbers(self, ids: Ids) -> Ids:
        """For each live id a number of its item: equal where the items are, within one call."""
        fresh, saved = self._located(ids)
        if len(saved) == 1 and not fresh:
            table, _, places = saved[0]
            return table.texts["item"].codes_of(places).astype(np.int64)
        distinct, back = np.unique(ids, return_inverse=True)
        fresh, saved = self._located(distinct)
        numbers, known = np.empty(len(distinct), np.int64), dict[str | None, int]()
        for place, row in fresh.items():
            numbers[place] = known.setdefault(row.item, len(known))
        for table, which, places in saved:
            items = table.texts["item"].of_rows(places)
            numbers[which] = [known.setdefault(item, len(known)) for item in items]
        return numbers[back]

    def matches(self, ids: Ids, similarities: NDArray[np.float32]) -> list[Match]:
        """Live ids as a search's answers, each with its similarity."""
        fresh, saved = self._located(ids)
        found = {
            place: Match(row.item, row.photo, float(similarities[place]), row.group, row.metadata)
            for place, row in fresh.items()
        }
        for table, which, places in saved:
            found.update(zip(which.tolist(), table.matches(places, similarities[which]), strict=True))
        return [found[place] for place in range(len(ids))]

    def find(self, item: str, *, photo: str | None = None, sha256: str | None = None) -> list[int]:
        """The ids of an item's rows of a photo, or of a content; the newest last."""
        column, value = ("photo", photo or "") if sha256 is None else ("sha256", sha256)
        found = self._saved_with(column, value)
        own = [number for number in found if self.item(number) == item]
        return sorted({*own, *self._keys.get((item, f"{column}:{value}"), ())})

    def of_item(self, item: str) -> list[int]:
        """The ids of an item's rows."""
        fresh = (number for number, row in self._fresh.items() if row.item == item)
        return sorted({*self._saved_with("item", item), *fresh})

    def put(self, number: int, row: Row) -> None:
        """Set the row of an id, new or not."""
        self._drop_fresh(number)
        if not self._is_saved(number) or number in self._gone:
            self._live = None
        self._gone.discard(number)
        self._fresh[number] = row
        for key in _keys(row):
            self._keys.setdefault(key, set()).add(number)
        self._view = None

    def remove(self, number: int) -> None:
        """Remove the row of a live id."""
        self._drop_fresh(number)
        if self._is_saved(number):
            self._gone.add(number)
        self._live = self._view = None

    def view(self) -> list[tuple[Table, Ids]]:
        """Every table, that of the fresh rows included, with the places of its live rows."""
        if self._view is None:
            hidden = np.fromiter({*self._gone, *self._fresh}, np.int64)
            at = np.sort(self._at[~np.isin(self._ids, hidden)] if len(hidden) else self._at)
            bounds = np.searchsorted(at, self._starts)
            self._view = [
                (table, at[low:high] - start)
                for table, start, low, high in zip(self._saved, self._starts, bounds, bounds[1:], strict=False)
            ]
            if self._fresh:
                fresh = Table.of(self._fresh)
                self._view.append((fresh, np.arange(len(fresh.ids))))
        return self._view

    def names(self) -> dict[str, str]:
        """The columns that filters know, the rows' own and then the catalogue's, and what they are called in tables."""
        names = {name: name for name in ("item", "photo", "label", "found", "detector")}
        for table, _ in self.view():
            for name in table.metadata:
                names.setdefault(name, METADATA + name)
        return names

    def distinct(self, name: str) -> dict[str, int]:
        """Every value of a text column with the count of its rows, in the order of their first ids."""
        first, counts = dict[str, int](), dict[str, int]()
        for table, places in self.view():
            column = table.texts.get(name)
            if column is None or len(places) == 0:
                continue
            codes, at, count = np.unique(column.codes[places], return_index=True, return_counts=True)
            every = column.values()
            for code, number, rows in zip(codes.tolist(), table.ids[places][at].tolist(), count.tolist(), strict=True):
                value = text_of(every[code])
                first[value] = min(number, first.get(value, number))
                counts[value] = counts.get(value, 0) + rows
        return {value: counts[value] for value in sorted(first, key=first.__getitem__)}

    def column(self, name: str) -> tuple[NDArray[np.int32], list[str]]:
        """A text column over the rows of :meth:`view`: for each row the number of its value, -1 for none; the values."""
        codes, values = [np.zeros(0, np.int32)], list[str]()
        for table, places in self.view():
            column = table.texts.get(name)
            own = column.codes[places] if column else np.full(len(places), ABSENT, np.int32)
            codes.append(np.where(own == ABSENT, ABSENT, own + len(values)).astype(np.int32))
            values += [text_of(value) for value in (column.values() if column else [])]
        return np.concatenate(codes), values

    def dead_saved(self) -> Ids:
        """Ids that are in tables on disk and removed."""
        return np.union1d(self._removed, np.fromiter(self._gone, np.int64, len(self._gone)))

    def arrays(self, first: int) -> dict[str, NDArray[np.generic]]:
        """What to write so as to replace the tables from ``first`` on."""
        return merged(self.view()[first:])

    def _located(self, ids: Ids) -> tuple[dict[int, Row], list[tuple[Table, Ids, Ids]]]:
        """Live ids by where their rows are.

        Returns:
            The fresh rows, each under its place among the ids; and for each table that has the last word on some ids
            their places among the ids and their rows' in the table.
        """
        fresh = {
            place: self._fresh[number]
            for place, number in enumerate(ids.tolist() if self._fresh else ())
            if number in self._fresh
        }
        rest = np.delete(np.arange(len(ids)), list(fresh)) if fresh else np.arange(len(ids))
        at = self._at[ids[rest] - self._ids[0] if self._gapless else np.searchsorted(self._ids, ids[rest])]
        if len(self._saved) == 1:
            return fresh, [(self._saved[0], rest, at)]
        of_table = np.searchsorted(self._starts, at, side="right") - 1
        saved = []
        for number in np.unique(of_table).tolist():
            own = of_table == number
            saved.append((self._saved[number], rest[own], at[own] - self._starts[number]))
        return fresh, saved

    def _is_saved(self, number: int) -> bool:
        at = int(np.searchsorted(self._ids, number))
        return at < len(self._ids) and int(self._ids[at]) == number

    def _saved_with(self, column: str, value: str) -> list[int]:
        """Live ids whose last word is on disk, and has a value in a column."""
        found = []
        for which, table in enumerate(self._saved):
            for place in table.texts[column].rows_with(value).tolist():
                number = int(table.ids[place])
                if number in self._gone or number in self._fresh or not self._is_saved(number):
                    continue
                if self._at[np.searchsorted(self._ids, number)] == self._starts[which] + place:
                    found.append(number)
        return found

    def _drop_fresh(self, number: int) -> None:
        row = self._fresh.pop(number, None)
        for key in _keys(row) if row else ():
            self._keys[key].discard(number)


def _keys(row: Row) -> tuple[tuple[str, str], tuple[str, str]]:
    return (row.item, f"photo:{row.photo}"), (row.item, f"sha256:{row.sha256}")
