"""Read tables as spreadsheets export them: any usual encoding, delimiter and quoting; a bad line costs only itself."""

from __future__ import annotations

import csv
import re
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from io import TextIOWrapper
from pathlib import Path
from typing import BinaryIO, Final

from stages.errors import CatalogueError
from stages.files import check_regular

SUFFIXES: Final = frozenset({".csv", ".tsv", ".txt"})
"""The suffixes of tables, in lower case."""

WORKBOOKS: Final = frozenset({".xlsx", ".xlsm", ".xls", ".ods", ".numbers"})
"""The suffixes of spreadsheet files that hold more than a table."""

DELIMITERS: Final = ",;\t"
_WORKBOOK_MAGIC: Final = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0")
_MAX_CELL: Final = 10_000_000
_MAX_LINES: Final = 100
"""How many lines a quoted cell may span; what is longer is taken for a quote that was never closed."""

_NOT_UTF8: Final = re.compile("[\udc80-\udcff]+")


@dataclass(frozen=True, slots=True)
class TableRow:
    """A row's cells by column, or the reason why its line cannot be used; ``line`` counts from 1."""

    line: int
    cells: dict[str, str] = field(default_factory=dict)
    error: str | None = None


def read_table(path: Path, required: Sequence[str], note: Callable[[str], None]) -> Iterator[TableRow]:
    """Yield the rows of a table lazily, those that hold nothing left out, blanks around cells stripped.

    Args:
        path: of a file in UTF-8, UTF-16 or Windows-1252, delimited by commas, semicolons or tabs.
        required: columns that the table must have, in lower case; its header may write them ``Item ID`` for ``item_id``.
        note: called with what is worth knowing though no row is lost.

    Raises:
        CatalogueError: the table cannot be read as a whole.
    """
    try:
        check_regular(path.stat())
        if path.suffix.lower() in WORKBOOKS:
            raise CatalogueError(_workbook(path))
        with path.open("rb") as file:
            lines = _Lines(file, path, note)
            columns, delimiter = _read_header(lines, path, required, note)
            yield from _read_rows(lines, columns, delimiter)
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        raise CatalogueError(f"catalogue {path} cannot be read: {getattr(error, 'strerror', error)}") from error


class _Lines:
    """The numbered lines of a text file in whichever encoding, which can be looked at before they are consumed."""

    def __init__(self, file: BinaryIO, path: Path, note: Callable[[str], None]) -> None:
        self._path, self._note = path, note
        self._text = TextIOWrapper(file, _encoding(file, path), errors="surrogateescape", newline="")
        self._ahead: deque[str] = deque()
        self._read = 0
        self._legacy = False

    @property
    def number(self) -> int:
        """The number of the next line."""
        return self._read - len(self._ahead) + 1

    def peek(self, limit: int) -> Iterator[str]:
        """Yield the next lines, at most so many, without consuming them."""
        for place in range(limit):
            if place == len(self._ahead):
                line = self._text.readline()
                if not line:
                    return
                self._read += 1
                self._ahead.append(self._decoded(line))
            yield self._ahead[place]

    def skip(self, count: int = 1) -> None:
        """Consume lines that have been looked at."""
        for _ in range(count):
            self._ahead.popleft()

    def _decoded(self, line: str) -> str:
        """Read bytes that are not UTF-8 as Windows-1252, in which Excel saves a plain CSV."""
        if line.isascii() or not _NOT_UTF8.search(line):
            return line
        if not self._legacy:
            self._legacy = True
            self._note(f"{self._path}: line {self._read} is not UTF-8; it and others like it are read as Windows-1252")
        return _NOT_UTF8.sub(
            lambda found: found[0].encode("utf-8", "surrogateescape").decode("cp1252", "replace"), line
        )


def _encoding(file: BinaryIO, path: Path) -> str:
    head = file.read(4096)
    file.seek(0)
    if head.startswith(_WORKBOOK_MAGIC):
        raise CatalogueError(_workbook(path))
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "utf-16"
    if b"\0" in head[:2]:
        return "utf-16-be" if head[0] == 0 else "utf-16-le"
    return "utf-8-sig"


def _workbook(path: Path) -> str:
    return f"catalogue {path} is a spreadsheet file; save it as CSV (in Excel: 'CSV UTF-8') and index that"


def _read_header(
    lines: _Lines, path: Path, required: Sequence[str], note: Callable[[str], None]
) -> tuple[list[str], str]:
    """Consume the header; return the name of each column, empty for those to be ignored, and the delimiter."""
    delimiters = DELIMITERS
    for line in iter(lambda: next(lines.peek(1), ""), ""):
        lines.skip()
        if separator := re.fullmatch(r"sep=(.)\s*", line):  # Excel's own, for its own
            delimiters = separator[1]
        elif line.strip():
            break
    else:
        raise CatalogueError(f"catalogue {path} is empty; its first line must name {' and '.join(required)}")

    def names(delimiter: str) -> list[str]:
        cells = (cell.strip() for cell in next(csv.reader([line], delimiter=delimiter)))
        plain = ((cell, cell.casefold().replace(" ", "_").replace("-", "_")) for cell in cells)
        return [word if word in required else cell for cell, word in plain]

    delimiter = max(delimiters, key=lambda one: (len(set(required).intersection(names(one))), line.count(one)))
    columns = names(delimiter)
    if missing := [name for name in required if name not in columns]:
        raise CatalogueError(
            f"catalogue {path} lacks the column {' and '.join(missing)};"
            f" its first line must name {' and '.join(required)}, it is {line.strip()[:100]!r}"
        )
    for name in {name for name in columns if name and columns.count(name) > 1}:
        others = [place for place, column in enumerate(columns) if column == name][1:]
        if name in required:
            raise CatalogueError(f"catalogue {path} has the column {name} twice; rename or delete one of them")
        note(f"{path}: the column {name} is there {1 + len(others)} times; the first is read")
        columns = ["" if place in others else column for place, column in enumerate(columns)]
    return columns, delimiter


def _read_rows(lines: _Lines, columns: Sequence[str], delimiter: str) -> Iterator[TableRow]:
    csv.field_size_limit(max(_MAX_CELL, csv.field_size_limit()))  # the module's, 131,072, is less than some have
    while True:
        number, taken = lines.number, 0

        def record() -> Iterator[str]:
            nonlocal taken
            for line in lines.peek(_MAX_LINES):
                taken += 1
                yield line

        try:
            cells = next(csv.reader(record(), delimiter=delimiter, strict=True), None)
        except csv.Error as error:
            lines.skip()
            yield TableRow(number, error=_reason(error))
            continue
        if cells is None:
            return
        lines.skip(taken)
        if any(cell.strip() for cell in cells[len(columns) :]):
            yield TableRow(number, error="has more cells than the header")
        elif any(cell.strip() for cell in cells):
            yield TableRow(number, {name: cell.strip() for name, cell in zip(columns, cells, strict=False) if name})


def _reason(error: csv.Error) -> str:
    if "end of data" in str(error):
        return "has a quote that is never closed"
    if "expected after" in str(error):
        return 'has a stray quote; within a quoted cell, a quote is written ""'
    return f"cannot be read: {error}"
