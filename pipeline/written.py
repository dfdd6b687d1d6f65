"""What the results file of a run that was cut short holds, so that the next run goes on with it."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from pipeline.writers import COLUMNS, CsvWriter, JsonLinesWriter, ResultWriter, hold, open_writer
from stages.errors import OutfinderError


@dataclass(slots=True)
class Written:
    """The photos whose results a file holds whole.

    Attributes:
        photos: how often each is there.
        failed: how many of them could not be read.
        end: of their results, in bytes.
    """

    photos: Counter[str] = field(default_factory=Counter)
    failed: int = 0
    end: int = 0

    @property
    def count(self) -> int:
        """How many photos there are."""
        return self.photos.total()

    def left(self, paths: Iterable[Path]) -> Iterator[Path]:
        """The photos that are still to be looked at: each one as often as it is named, less than it is there."""
        there = self.photos.copy()
        for path in paths:
            name = _plain(str(path))
            if there[name]:
                there[name] -= 1
            else:
                yield path


def open_or_reopen(path: Path | None, *, masks: bool = False, resume: bool = False) -> tuple[ResultWriter, Written]:
    """A writer as of :func:`pipeline.writers.open_writer`, and what its file holds already.

    With ``resume`` what a file holds whole stays: a line that was cut goes, and so do the rows of a table's last
    photo, of which some may be missing. Where there is no file it is a new one.

    Raises:
        ValueError: there is no file to go on with, or it has another suffix.
        OutfinderError: the file was not written by outfinder, or another run is writing it; it is left as it is.
    """
    if not resume:
        return open_writer(path, masks=masks), Written()
    if path is None:
        raise ValueError("--resume goes on with a file of results: name it with -o")
    table = path.suffix.lower() == ".csv"
    if path.suffix.lower() not in (".csv", ".jsonl") or not path.is_file():
        return open_writer(path, masks=masks), Written()
    with path.open("r+b") as file:
        hold(file.fileno(), path)
        try:
            written = _in_table(file) if table else _in_lines(file)
        except (ValueError, TypeError, KeyError, csv.Error) as error:
            raise OutfinderError(
                f"{path} cannot be gone on with, it is left as it is: {error}; name another file"
            ) from error
        file.truncate(written.end)
    stream = path.open("a", encoding="utf-8", errors="backslashreplace", newline="" if table else "\n")
    hold(stream.fileno(), path)
    writer = CsvWriter(stream, header=not written.end) if table else JsonLinesWriter(stream, masks=masks)
    return writer, written


def _in_lines(file: BinaryIO) -> Written:
    written = Written()
    for number, line in enumerate(file, 1):
        if not line.endswith(b"\n"):
            if not line.startswith(b"{"[: len(line)]):
                raise ValueError(f"line {number} is no result")
            break
        try:
            record = json.loads(line)
            name, failed = record["photo"], "error" in record
        except (ValueError, TypeError, KeyError):
            raise ValueError(f"line {number} is no result") from None
        written.photos[_plain(name)] += 1
        written.failed += failed
        written.end += len(line)
    return written


def _in_table(file: BinaryIO) -> Written:
    """All photos but the last."""
    header = (",".join(COLUMNS) + "\n").encode()
    first = file.readline()
    if first != header:
        if header.startswith(first):
            return Written()
        raise ValueError("its columns are others")
    written, last, cut = Written(end=len(header)), None, False
    for row, begins in _rows(file, len(header)):
        if cut:
            raise ValueError(f"the row before byte {begins} is no result")
        if row is None:
            cut = True
            continue
        told = dict(zip(COLUMNS, row, strict=True))
        if told["garment"] in ("", "1") and told["rank"] in ("", "1"):  # a photo's first row
            if last:
                written.photos[last["photo"]] += 1
                written.failed += bool(last["error"])
            last, written.end = told, begins
    return written


def _rows(file: BinaryIO, begins: int) -> Iterator[tuple[list[str] | None, int]]:
    """The rows and where each begins, in bytes; None for one that was cut."""
    at, whole = begins, True

    def lines() -> Iterator[str]:
        nonlocal at, whole
        for line in file:
            at += len(line)
            whole = line.endswith(b"\n")
            yield line.decode("utf-8", "replace")

    for row in csv.reader(lines()):
        yield (row if whole and len(row) == len(COLUMNS) else None), begins
        begins = at


def _plain(name: str) -> str:
    """A photo's name as a table has it, where what is not UTF-8 is escaped."""
    return name.encode("utf-8", "backslashreplace").decode()
