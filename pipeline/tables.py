"""Tables as spreadsheets, databases and shops export them, as rows of text. A bad line costs only itself.

Delimited text in any usual encoding, delimiter and quoting; JSON lines; Parquet; Excel; and product feeds in XML.
"""

from __future__ import annotations

import csv
import json
import re
import zipfile
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, time
from io import BytesIO
from itertools import chain
from pathlib import Path
from typing import Any, Final, NamedTuple

from pipeline.config import suggestion
from stages.errors import CatalogueError
from stages.files import check_regular

_WORKBOOKS: Final = frozenset({".xls", ".ods", ".numbers"})
_MAGIC: Final = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0")
_MAX_CELL: Final = 10_000_000
_MAX_LINES: Final = 100
"""The most lines of a quoted cell; a longer one counts as a quote that was never closed."""

_MAX_UNPACKED: Final = 2_000_000_000  # bytes of an Excel file's parts
_EXACT: Final = 1 << 53  # larger numbers of a spreadsheet have lost digits
_DELIMITERS: Final = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
_NOT_UTF8: Final = re.compile("[\udc80-\udcff]+")

Note = Callable[[str], None]


class Layout(NamedTuple):
    """The columns of a program's export, by our names."""

    name: str
    columns: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class TableRow:
    """A row's cells by column, or the reason why it cannot be used.

    Attributes:
        place: where it is, such as ``line 2``; counts from 1.
        cells: text by column; columns of an export have our names.
        error: the reason, or None.
        layout: the name of the layout that the table has, if any.
    """

    place: str
    cells: dict[str, str] = field(default_factory=dict)
    error: str | None = None
    layout: str = ""


class _Line(NamedTuple):
    place: str
    cells: Sequence[str] = ()
    error: str | None = None


_Table = tuple[Sequence[str], Iterable[_Line]]  # the header and the lines after it


def read_table(
    path: str | Path,
    required: Sequence[str],
    note: Note,
    columns: Mapping[str, str] | None = None,
    layouts: Sequence[Layout] = (),
) -> Iterator[TableRow]:
    """Yield the rows of a table with blanks around cells stripped; empty rows are left out.

    Args:
        path: of a file with one of :data:`SUFFIXES`. Text is in UTF-8, UTF-16 or Windows-1252.
        required: columns that the table must have, in lower case; its header may write them ``Item ID`` for ``item_id``.
        note: called with remarks on tables of which no row is lost.
        columns: the table's columns by our names, where they differ.
        layouts: exports that are recognised; the first that provides the required columns is used.

    Raises:
        CatalogueError: the table cannot be read as a whole.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    try:
        check_regular(path.stat())
        if suffix in _WORKBOOKS:
            raise CatalogueError(f"catalogue {path} is a spreadsheet; save it as .xlsx or CSV and use that")
        if suffix in _FORMATS:
            header, lines = _FORMATS[suffix](path, note)
        else:
            wanted = chain(required, (columns or {}).values(), *(layout.columns.values() for layout in layouts))
            header, lines = _read_delimited(path, note, frozenset(map(_plain, wanted)))
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        raise CatalogueError(f"catalogue {path} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if not any(header):
        bad = next((f"has nothing to read: {line.place} {line.error}" for line in lines), "is empty")
        raise CatalogueError(f"catalogue {path} {bad}; it must have the columns {' and '.join(required)}")
    names, layout = _names(header, path, required, note, columns or {}, layouts)
    unnamed = {place for place, name in enumerate(names) if name is None}
    for place, cells, failure in lines:
        if failure is not None:
            yield TableRow(place, error=failure)
        elif any(cell.strip() for cell in cells[len(names) :]):
            yield TableRow(place, error="has more cells than the header")
        elif any(cell.strip() for cell in cells):
            if any(number in unnamed and cell.strip() for number, cell in enumerate(cells)):
                note(f"{path}: columns without a name are left out; {place} has a value in one")
                unnamed.clear()
            named = {name: _stripped(cell) for name, cell in zip(names, cells, strict=False) if name}
            yield TableRow(place, named, layout=layout)


def _stripped(cell: str) -> str:
    """Return a cell without the blanks around it, and without the formula that keeps Excel from changing a text: ``="007"``."""
    cell = cell.strip()
    return cell[2:-1].replace('""', '"') if cell.startswith('="') and cell.endswith('"') and len(cell) > 2 else cell


def _plain(name: str) -> str:
    return re.sub(r"[ -]+", "_", name.strip().casefold())


def _names(
    header: Sequence[str],
    path: Path,
    required: Sequence[str],
    note: Note,
    columns: Mapping[str, str],
    layouts: Sequence[Layout],
) -> tuple[list[str | None], str]:
    """Return our name of each column, and the name of the layout that the table has.

    A column without a name is None, and one that is left out is empty.
    """
    plain = [_plain(name) for name in header]
    for ours, theirs in columns.items():
        if _plain(theirs) not in plain:
            known = ", ".join(filter(None, header))[:300]
            hint = suggestion(theirs, header)
            raise CatalogueError(f"catalogue {path} has no column {theirs!r} for {ours}{hint}; it has {known}")
    renamed, layout = {_plain(theirs): ours for ours, theirs in columns.items()}, ""
    if not {*plain, *columns}.issuperset(required):
        layout, exported = _layout_of({*plain}, {*required} - {*columns}, layouts)
        renamed = {word: ours for word, ours in exported.items() if ours not in columns} | renamed
        if layout:
            note(f"{path}: read as {layout}")
    named = zip(header, plain, strict=True)
    titles = [renamed.get(word) or (word if word in required else name.strip()) for name, word in named]
    replaced = {
        number for number, word in enumerate(plain) if titles[number] in renamed.values() and word not in renamed
    }
    names = [
        None if not name else "" if number in replaced or name in titles[:number] else name
        for number, name in enumerate(titles)
    ]
    if missing := [name for name in required if name not in names]:
        raise CatalogueError(
            f"catalogue {path} lacks the column{'s' if missing[1:] else ''} {' and '.join(missing)}; it must have"
            f" {' and '.join(required)}, and has {', '.join(filter(None, header))[:200]}; index --columns maps other names"
        )
    for number in sorted(replaced):
        note(f"{path}: the column {header[number]} is left out, because {titles[number]} is read from another column")
    counts = Counter(name for number, name in enumerate(titles) if name and number not in replaced)
    for repeated, count in counts.items():
        if count > 1 and repeated in required:
            raise CatalogueError(f"catalogue {path} has the column {repeated} twice; rename or delete one of them")
        if count > 1:
            note(f"{path}: there are {count} columns {repeated}; the first is read")
    return names, layout


def _layout_of(
    words: Collection[str], required: Collection[str], layouts: Sequence[Layout]
) -> tuple[str, dict[str, str]]:
    """Return the name of the first layout that provides the required columns, and our names of a header's words."""
    for name, exported in layouts:
        renamed = {_plain(theirs): ours for ours, theirs in exported.items() if _plain(theirs) in words}
        if {*words, *renamed.values()}.issuperset(required):
            return name, renamed
    return "", {}


def _read_delimited(path: Path, note: Note, wanted: frozenset[str]) -> _Table:
    """Read delimited text; the delimiter is that which gives the most wanted columns, then the most cells."""
    lines = _text_lines(path, note)
    delimiters = "".join(_DELIMITERS)
    for start, line in enumerate(lines, 1):  # noqa: B007  used after the loop
        if separator := re.fullmatch(r"sep=(.)\s*", line):  # written and read by Excel
            delimiters = separator[1]
        elif line.strip():
            break
    else:
        return [], []

    def cells(delimiter: str) -> list[str]:
        return [cell.strip() for cell in next(csv.reader([line], delimiter=delimiter))]

    delimiter = max(delimiters, key=lambda one: (len(wanted.intersection(map(_plain, cells(one)))), line.count(one)))
    if delimiter != ("\t" if path.suffix.lower() == ".tsv" else ","):
        note(f"{path}: read as text delimited by {_DELIMITERS.get(delimiter, repr(delimiter))}")
    return cells(delimiter), _split(lines, start, delimiter)


def _split(lines: Sequence[str], number: int, delimiter: str) -> Iterator[_Line]:
    csv.field_size_limit(max(_MAX_CELL, csv.field_size_limit()))  # the default of 131,072 is too small for some
    while number < len(lines):
        reader = csv.reader(lines[number : number + _MAX_LINES], delimiter=delimiter, strict=True)
        try:
            cells = next(reader)
        except csv.Error as error:
            number += 1
            yield _Line(f"line {number}", error=_reason(error))
            continue
        yield _Line(f"line {number + 1}", cells)
        number += reader.line_num


def _text_lines(path: Path, note: Note) -> list[str]:
    """Return the lines of a text file; what is not UTF-8 is read as Windows-1252, in which Excel saves a CSV."""
    with path.open("rb") as binary:
        head = binary.read(4)
    if head.startswith(_MAGIC):
        raise CatalogueError(
            f"catalogue {path} is a spreadsheet; rename it to .xlsx, or save it as CSV (in Excel: 'CSV UTF-8')"
        )
    encoding = "utf-8-sig"
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        encoding = "utf-16"
    elif b"\0" in head[:2]:
        encoding = "utf-16-be" if head[0] == 0 else "utf-16-le"
    if encoding != "utf-8-sig":
        note(f"{path}: read as UTF-16")
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


def _reason(error: csv.Error) -> str:
    if "end of data" in str(error):
        return "has a quote that is never closed"
    if "expected after" in str(error):
        return 'has a stray quote; within a quoted cell, a quote is written ""'
    return f"cannot be read: {error}"


def _read_json_lines(path: Path, note: Note) -> _Table:
    """Read an object a line; numbers stay as they are written, and the texts of a list stand in lines of a cell."""
    objects: list[tuple[str, dict[str, str] | str]] = []
    for number, line in enumerate(_text_lines(path, note), 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line, parse_int=str, parse_float=str, parse_constant=str)
        except (ValueError, RecursionError) as error:
            objects.append((f"line {number}", f"is not JSON: {error}"))
            continue
        cells = {name: _text(cell) for name, cell in value.items()} if isinstance(value, dict) else "is no JSON object"
        objects.append((f"line {number}", cells))
    return _of_objects(objects)


def _of_objects(objects: Iterable[tuple[str, dict[str, str] | str]]) -> _Table:
    """Return a table of rows that name their columns themselves, or are an error."""
    objects = list(objects)
    header = list(dict.fromkeys(name for _, cells in objects if isinstance(cells, dict) for name in cells))
    return header, [
        _Line(place, error=cells) if isinstance(cells, str) else _Line(place, [cells.get(name, "") for name in header])
        for place, cells in objects
    ]


def _text(value: Any) -> str:
    """Return a cell as text; an object, which no filter could compare, as JSON."""
    if value is None or value != value:  # noqa: PLR0124  not a number, which stands for an empty cell
        return ""
    if isinstance(value, list | tuple):
        return "\n".join(map(_text, value))
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() and abs(value) < _EXACT else repr(value)
    if isinstance(value, datetime) and value.time() == time():
        return value.date().isoformat()
    return json.dumps(value, ensure_ascii=False, default=str) if isinstance(value, dict | bool) else str(value)


def _read_parquet(path: Path, _note: Note) -> _Table:
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise CatalogueError("reading Parquet needs: pip install 'outfinder[parquet]'") from error
    try:
        file = ParquetFile(path)
    except ArrowException as error:
        raise CatalogueError(f"catalogue {path} is no Parquet file: {error}") from error
    header = list(file.schema_arrow.names)

    def rows() -> Iterator[_Line]:
        number = 0
        try:
            for batch in file.iter_batches(1024):
                for cells in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                    number += 1
                    yield _Line(f"row {number}", [_text(cell) for cell in cells])
        except (ArrowException, OSError, ValueError) as error:
            yield _Line(f"row {number + 1}", error=f"and what follows cannot be read: {error}")

    return header, rows()


def _read_excel(path: Path, note: Note) -> _Table:
    """Read the first sheet of a workbook; formulas have the values that were last computed."""
    try:
        from openpyxl import load_workbook
    except ImportError as error:
        raise CatalogueError(
            f"reading {path} needs: pip install 'outfinder[excel]'; or save it as CSV (in Excel: 'CSV UTF-8')"
        ) from error
    try:
        with zipfile.ZipFile(path) as parts:
            size = sum(part.file_size for part in parts.infolist())
        if size > _MAX_UNPACKED:
            raise ValueError(f"it would unpack to {size / 1e9:.1f} GB, at most {_MAX_UNPACKED / 1e9:.0f} are read")  # noqa: TRY301
        workbook = load_workbook(BytesIO(path.read_bytes()), read_only=True, data_only=True)  # leaves no file open
        sheet = workbook.worksheets[0]
        sheet.reset_dimensions()  # a wrong one hides rows
        numbered = enumerate(sheet.iter_rows(values_only=True), 1)
        lines = ((number, [_text(cell) for cell in cells]) for number, cells in numbered)
        filled = ((number, cells) for number, cells in lines if any(cell.strip() for cell in cells))
        _, header = next(filled, (0, []))
    except Exception as error:  # openpyxl raises anything at a damaged file
        raise CatalogueError(f"catalogue {path} is no Excel file that can be read: {error}") from error
    if len(workbook.worksheets) > 1:
        note(f"{path}: there are {len(workbook.worksheets)} sheets; the first, {sheet.title}, is read")

    def rows() -> Iterator[_Line]:
        number = 0
        try:
            for number, cells in filled:
                yield _Line(f"row {number}", cells)
        except Exception as error:  # noqa: BLE001  as above
            yield _Line(f"row {number + 1}", error=f"and what follows cannot be read: {error}")

    return header, rows()


def _read_feed(path: Path, _note: Note) -> _Table:
    """Read the products of an RSS or Atom feed; an element's columns are named without its namespace."""
    from defusedxml import DefusedXmlException
    from defusedxml.ElementTree import ParseError, iterparse

    products: list[tuple[str, dict[str, str] | str]] = []
    try:
        for _, element in iterparse(path, forbid_dtd=False):
            if _local(element.tag) not in ("item", "entry"):
                continue
            cells: dict[str, str] = {}
            for child in element:
                if text := (child.text or child.get("href") or "").strip():
                    name = _local(child.tag)
                    cells[name] = f"{cells[name]}\n{text}" if name in cells else text
            products.append((f"product {len(products) + 1}", cells))
            element.clear()
    except (ParseError, DefusedXmlException) as error:
        if not products:
            raise CatalogueError(f"catalogue {path} is no XML that can be read: {error}") from error
        products.append((f"product {len(products) + 1}", f"and what follows cannot be read: {error}"))
    if not products:
        raise CatalogueError(f"catalogue {path} is no product feed: it has neither <item> nor <entry> elements")
    return _of_objects(products)


def _local(tag: str) -> str:
    return tag.rpartition("}")[2]


_FORMATS: Final[Mapping[str, Callable[[Path, Note], _Table]]] = {
    ".jsonl": _read_json_lines,
    ".ndjson": _read_json_lines,
    ".parquet": _read_parquet,
    ".xlsx": _read_excel,
    ".xlsm": _read_excel,
    ".xml": _read_feed,
}
SUFFIXES: Final = frozenset({".csv", ".tsv", ".txt", *_FORMATS, *_WORKBOOKS})
"""The suffixes of tables, in lower case."""
