"""Results as they come, one photo at a time: JSON lines and CSV. What is written stays, whatever happens next."""

from __future__ import annotations

import csv
import json
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Protocol, Self, TextIO

from pipeline.coco import full_rle
from pipeline.results import Garment, PhotoResult
from stages.errors import OutfinderError
from stages.types import Match

COLUMNS: Final = (
    *("photo", "width", "height", "garment", "label", "score", "x1", "y1", "x2", "y2"),
    *("rank", "item", "match_photo", "similarity", "match_label", "verdict", "error"),
)
"""A CSV file's columns. ``garment`` counts from 1 within a photo, ``rank`` from 1 within a garment."""


class ResultWriter(AbstractContextManager["ResultWriter"], Protocol):
    """Takes results one by one; each is on disk, or in the pipe, when ``write`` returns."""

    def write(self, result: PhotoResult) -> None:
        """Write one photo's result."""

    def close(self) -> None:
        """Close the file; standard output stays open."""


def open_writer(path: Path | None, *, masks: bool = False) -> ResultWriter:
    """A writer by the suffix of its file, ``.jsonl`` or ``.csv``; None is JSON lines on standard output.

    Lines are written to the final name and flushed one by one: what a killed run leaves is whole lines.
    ``masks`` adds each garment's mask to JSON lines as COCO run lengths of the full photo; a CSV file
    holds none.

    Raises:
        ValueError: another suffix.
        OutfinderError: another run is writing the file, or standard output is closed.
        OSError: the file cannot be opened.
    """
    if path is None:
        if sys.stdout is None:
            raise OutfinderError("standard output is closed; name a file for the results with -o")
        return JsonLinesWriter(sys.stdout, masks=masks)
    match path.suffix.lower():
        case ".jsonl":
            return JsonLinesWriter(_opened(path, encoding="ascii", newline="\n"), masks=masks)
        case ".csv":
            return CsvWriter(_opened(path, encoding="utf-8", newline=""))
        case suffix:
            raise ValueError(f"results are written as .jsonl or .csv, got {suffix or 'no suffix'} in {path.name!r}")


def _opened(path: Path, encoding: str, newline: str) -> TextIO:
    """A file to write anew, which no other run is writing.

    Raises:
        OutfinderError: one is.
        OSError: the file cannot be opened.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o666)
    try:
        hold(descriptor, path)
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.ftruncate(descriptor, 0)
    except BaseException:
        os.close(descriptor)
        raise
    return os.fdopen(descriptor, "w", encoding=encoding, errors="backslashreplace", newline=newline)


def hold(descriptor: int, path: Path) -> None:
    """Keep other runs from writing a file for as long as it is open, where the system can."""
    try:
        import fcntl  # noqa: PLC0415  not on Windows

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise OutfinderError(f"{path} is being written by another run; name another file") from None
    except (ImportError, OSError):
        return


class _TextWriter:
    """A text stream that is closed in the end, unless it is standard output."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the stream; standard output stays open."""
        if self._stream is not sys.stdout:
            self._stream.close()


class JsonLinesWriter(_TextWriter):
    """One JSON object per photo and line, in ASCII, so that any file name gives valid JSON and comes back."""

    def __init__(self, stream: TextIO, *, masks: bool = False) -> None:
        super().__init__(stream)
        self._masks = masks

    def write(self, result: PhotoResult) -> None:
        """Write one photo's line."""
        self._stream.write(json.dumps(to_record(result, masks=self._masks), allow_nan=False) + "\n")
        self._stream.flush()


class CsvWriter(_TextWriter):
    """One row per match, with :data:`COLUMNS`; metadata and masks are left to JSON lines.

    A garment without matches, a photo without garments and a photo that cannot be read have a row each, so
    that nothing gets lost. Names that are not valid UTF-8 are written with backslash escapes.
    """

    def __init__(self, stream: TextIO, *, header: bool = True) -> None:
        super().__init__(stream)
        self._rows = csv.DictWriter(stream, COLUMNS, restval="", lineterminator="\n")
        if header:
            self._rows.writeheader()
            stream.flush()

    def write(self, result: PhotoResult) -> None:
        """Write one photo's rows."""
        self._rows.writerows(_csv_rows(result))
        self._stream.flush()


def to_record(result: PhotoResult, *, masks: bool = False) -> dict[str, Any]:
    """A photo's result as the object of its JSON line; scores and similarities have four decimals.

    >>> to_record(PhotoResult("a.jpg", error="not a photo"))
    {'photo': 'a.jpg', 'error': 'not a photo'}
    """
    if result.error is not None:
        return {"photo": result.photo, "error": result.error}
    return {
        "photo": result.photo,
        "width": result.width,
        "height": result.height,
        "garments": [_garment_record(garment, result, masks=masks) for garment in result.garments],
    }


def _garment_record(garment: Garment, photo: PhotoResult, *, masks: bool) -> dict[str, Any]:
    record: dict[str, Any] = {
        "label": garment.label,
        "score": round(float(garment.score), 4),
        "box": [int(corner) for corner in garment.box.corners],
    }
    if masks and garment.mask is not None:
        record["mask"] = full_rle(garment.mask, garment.box, photo.width, photo.height)
    record["matches"] = [_match_record(match) for match in garment.matches or ()]  # empty where none were searched
    return record


def _match_record(match: Match) -> dict[str, Any]:
    record: dict[str, Any] = {
        "item": match.item,
        "photo": match.photo,
        "similarity": round(float(match.similarity), 4),
        "label": match.label,
    }
    if match.verdict:
        record["verdict"] = match.verdict
    if match.metadata:
        record["metadata"] = dict(match.metadata)
    return record


def _csv_rows(result: PhotoResult) -> Iterator[dict[str, Any]]:
    photo: dict[str, Any] = {"photo": result.photo}
    if result.error is not None:
        yield {**photo, "error": result.error}
        return
    photo |= {"width": result.width, "height": result.height}
    if not result.garments:
        yield photo
    for number, garment in enumerate(result.garments, start=1):
        row = {**photo, "garment": number, "label": garment.label, "score": f"{garment.score:.4f}"}
        row |= dict(zip(("x1", "y1", "x2", "y2"), garment.box.corners, strict=True))
        if not garment.matches:
            yield row
        for rank, match in enumerate(garment.matches or (), start=1):
            yield {
                **row,
                "rank": rank,
                "item": match.item,
                "match_photo": match.photo,
                "similarity": f"{match.similarity:.4f}",
                "match_label": match.label,
                "verdict": match.verdict,
            }
