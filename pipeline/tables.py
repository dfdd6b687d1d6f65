"""Tables as spreadsheets export them: any usual encoding, delimiter and quoting. A bad line costs only itself."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from stages.errors import CatalogueError
from stages.files import check_regular

SUFFIXES: Final = frozenset({".csv", ".tsv", ".txt"})
"""The suffixes of tables, in lower case."""

WORKBOOKS: Final = frozenset({".xlsx", ".xlsm", ".xls", ".ods", ".numbers"})
"""The suffixes of spreadsheet files, which must be exported first."""

_WORKBOOK_MAGIC: Final = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0")
_MAX_CELL: Final = 10_000_000
_MAX_LINES: Final = 100
"""The most lines of a quoted cell; a longer one counts as a quote that was never closed."""

_NOT_UTF8: Final = re.compile("[\udc80-\udcff]+")


@dataclass(frozen=True, slots=True)
class TableRow:
    """A row's cells by column, or the reason why its line cannot be used; ``line`` counts from 1."""

    line: int
    cells: dict[str, str] = field(default_factory=dict)
    error: str | None = None


def read_table(path: str | Path, required: Sequence[str], note: Callable[[str], None]) -> Iterator[TableRow]:
    """Yield the rows of a table with blanks around cells stripped; empty rows are left out.

    Args:
        path: of a file in UTF-8, UTF-16 or Windows-1252, delimited by commas, semicolons or tabs.
        required: columns that the table must have, in lower case; its header may write them ``Item ID`` for ``item_id``.
        note: called with remarks on tables of which no row is lost.

    Raises:
        CatalogueError: the table cannot be read as a whole.
    """
    path = Path(path)
    try:
        check_regular(path.stat())
        lines = _read_lines(path, note)
        start, columns, delimiter = _read_header(lines, path, required, note)
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        raise CatalogueError(f"catalogue {path} cannot be read: {getattr(error, 'strerror', error)}") from error
    csv.field_size_limit(max(_MAX_CELL, csv.field_size_limit()))  # the default of 131,072 is too small for some
    number, unnamed = start, {place for place, name in enumerate(columns) if name is None}
    while number < len(lines):
        reader = csv.reader(lines[number : number + _MAX_LINES], delimiter=delimiter, strict=True)
        try:
            cells = next(reader)
        except csv.Error as error:
            number += 1
            yield TableRow(number, error=_reason(error))
            continue
        if any(cell.strip() for cell in cells[len(columns) :]):
            yield TableRow(number + 1, error="has more cells than the header")
        elif any(cell.strip() for cell in cells):
            if any(place in unnamed and cell.strip() for place, cell in enumerate(cells)):
                note(f"{path}: columns without a name are left out; line {number + 1} has a value in one")
                unnamed.clear()
            named = {name: cell.strip() for name, cell in zip(columns, cells, strict=False) if name}
            yield TableRow(number + 1, named)
        number += reader.line_num


def _read_lines(path: Path, note: Callable[[str], None]) -> list[str]:
    """Return the lines of a text file; what is not UTF-8 is read as Windows-1252, in which Excel saves a CSV."""
    with path.open("rb") as binary:
        head = binary.read(4)
    if path.suffix.lower() in WORKBOOKS or head.startswith(_WORKBOOK_MAGIC):
        raise CatalogueError(
            f"catalogue {path} is a spreadsheet file; save it as CSV (in Excel: 'CSV UTF-8') and use that"
        )
    encoding = "utf-8-sig"
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        encoding = "utf-16"
    elif b"\0" in head[:2]:
        encoding = "utf-16-be" if head[0] == 0 else "utf-16-le"
    with path.open(encoding=encoding, errors="surrogateescape", newline="") as file:
        lines = list(file)
    others = [number for number, line in enumerate(lines) if not line.isascii() and _NOT_UTF8.search(line)]
    for number in others:
        lines[number] = _NOT_UTF8.sub(
            lambda found: found[0].encode("utf-8", "surrogateescape").decode("cp1252", "replace"), lines[number]
        )
    if others:
        note(f"{path}: line {others[0] + 1} is not UTF-8; it and others like it are read as Windows-1252")
    return lines


def _read_header(
    lines: Sequence[str], path: Path, required: Sequence[str], note: Callable[[str], None]
) -> tuple[int, list[str | None], str]:
    """Return the number of the first row's line, the name of each column, and the delimiter.

    A column without a name is None, and one that repeats a name is empty.
    """
    delimiters = ",;\t"
    for start, line in enumerate(lines, 1):  # noqa: B007  used after the loop
        if separator := re.fullmatch(r"sep=(.)\s*", line):  # written and read by Excel
            delimiters = separator[1]
        elif line.strip():
            break
    else:
        raise CatalogueError(f"catalogue {path} is empty; its first line must name {' and '.join(required)}")

    def names(delimiter: str) -> list[str]:
        cells = (cell.strip() for cell in next(csv.reader([line], delimiter=delimiter)))
        plain = ((cell, re.sub(r"[ -]", "_", cell.casefold())) for cell in cells)
        return [word if word in required else cell for cell, word in plain]

    delimiter = max(delimiters, key=lambda one: (len(set(required).intersection(names(one))), line.count(one)))
    header = names(delimiter)
    if missing := [name for name in required if name not in header]:
        raise CatalogueError(
            f"catalogue {path} lacks the column {' and '.join(missing)};"
            f" its first line must name {' and '.join(required)}, it is {line.strip()[:100]!r}"
        )
    columns: list[str | None] = [
        None if not name else "" if name in header[:place] else name for place, name in enumerate(header)
    ]
    for name in sorted({name for name in header if name and header.count(name) > 1}):
        if name in required:
            raise CatalogueError(f"catalogue {path} has the column {name} twice; rename or delete one of them")
        note(f"{path}: there are {header.count(name)} columns {name}; the first is read")
    return start, columns, delimiter


def _reason(error: csv.Error) -> str:
    if "end of data" in str(error):
        return "has a quote that is never closed"
    if "expected after" in str(error):
        return 'has a stray quote; within a quoted cell, a quote is written ""'
    return f"cannot be read: {error}"
