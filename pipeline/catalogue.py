"""Catalogues: a folder of photos or a CSV, read lazily as the photos of items."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from stages.errors import CatalogueError
from stages.files import check_regular
from stages.images import walk

REQUIRED = ("item_id", "image")


@dataclass(frozen=True, slots=True)
class CataloguePhoto:
    """One photo of one item, or the reason why a place of the catalogue names none."""

    path: Path
    item: str = ""
    metadata: tuple[tuple[str, str], ...] = ()
    error: str | None = None


def read_catalogue(sources: Iterable[Path], item_pattern: re.Pattern[str] | None = None) -> Iterator[CataloguePhoto]:
    """The photos of every source, in order.

    A ``.csv`` source has columns ``item_id`` and ``image`` (a path relative to the CSV); further columns are
    kept as metadata. Elsewhere a source is a photo or a folder of them, and an item's id is what
    ``item_pattern`` finds in the file name (its group 1 where it has groups), else the sub-folder within the
    source, else the file's stem.

    Raises:
        CatalogueError: a CSV cannot be read as a whole.
    """
    for source in sources:
        if source.suffix.lower() == ".csv" and not source.is_dir():
            yield from _rows(source)
        else:
            yield from (_named(path, source, item_pattern) for path in walk([source]))


def _named(path: Path, source: Path, item_pattern: re.Pattern[str] | None) -> CataloguePhoto:
    if item_pattern:
        found = item_pattern.search(path.name)
        item = found and (found[1] if item_pattern.groups else found[0])
        if not item:
            return CataloguePhoto(path, error=f"has no item id: {item_pattern.pattern!r} finds none in its name")
        return CataloguePhoto(path, item)
    within = path.parent.relative_to(source).as_posix() if source.is_dir() else "."
    return CataloguePhoto(path, path.stem if within == "." else within)


def _rows(source: Path) -> Iterator[CataloguePhoto]:
    try:
        check_regular(source.stat())
        with source.open(encoding="utf-8-sig", newline="") as file:
            header = file.readline()
            delimiter = max(",;\t", key=header.count)
            file.seek(0)
            rows = csv.DictReader(file, delimiter=delimiter, strict=True)
            missing = [name for name in REQUIRED if name not in (rows.fieldnames or ())]
            if missing:
                raise CatalogueError(
                    f"catalogue {source} lacks the column {' and '.join(missing)};"
                    f" its first line must name item_id and image, it is {header.strip()[:100]!r}"
                )
            for row in rows:
                yield _row(row, source, rows.line_num)
    except OSError as error:
        raise CatalogueError(f"catalogue {source} cannot be read: {error.strerror}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise CatalogueError(f"catalogue {source} is not a CSV in UTF-8: {error}") from error


def _row(row: dict[str | None, str | None], source: Path, line: int) -> CataloguePhoto:
    item, image = ((row[name] or "").strip() for name in REQUIRED)
    if not item or not image or None in row:
        wrong = "has more cells than the header" if None in row else "lacks an item_id or an image"
        return CataloguePhoto(source, error=f"line {line} {wrong}")
    metadata = tuple((key, value.strip()) for key, value in row.items() if key and key not in REQUIRED and value)
    return CataloguePhoto(source.parent / image, item, metadata)
