"""Write results as JSON lines, CSV, COCO, crops and overlays, and resume a run that was interrupted."""

from __future__ import annotations

import csv
import json
import os
import stat
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Final, Protocol, Self, TextIO

import cv2
import numpy as np
import pycocotools.mask

from pipeline.report_style import color_of
from pipeline.search import Garment, PhotoResult
from stages.errors import OutfinderError
from stages.types import Box, Image, Mask, Match


def full_rle(mask: Mask, box: Box, width: int, height: int) -> dict[str, Any]:
    """COCO's compressed run lengths of a mask in its photo: ``{"size": [height, width], "counts": str}``.

    The runs are found within the box and moved to the photo; the full-photo mask is never built.

    >>> full_rle(np.ones((2, 1), dtype=np.bool_), Box(0, 0, 1, 2), width=2, height=3)
    {'size': [3, 2], 'counts': '024'}
    """
    # COCO counts down the columns. A closing row of background keeps the runs of neighbouring columns apart.
    columns = np.zeros((box.width, box.height + 1), dtype=np.int8)
    columns[:, :-1] = mask.T
    edges = np.flatnonzero(np.diff(columns.ravel(), prepend=0))  # a run's start and the place after its end
    column, row = np.divmod(edges, box.height + 1)
    places = (box.x1 + column) * height + box.y1 + row
    meets = np.flatnonzero(places[1:-1:2] == places[2::2])  # runs that join where the box is as high as the photo
    places = np.delete(places, np.concatenate([2 * meets + 1, 2 * meets + 2]))
    counts = np.diff(places, prepend=0, append=width * height)
    if len(counts) > 1 and counts[-1] == 0:
        counts = counts[:-1]
    packed = pycocotools.mask.frPyObjects({"size": [height, width], "counts": counts.tolist()}, height, width)
    return {"size": [height, width], "counts": packed["counts"].decode("ascii")}


class CocoWriter:
    """Writes a dataset of images, categories and scored annotations, which appears whole or not at all.

    ``pycocotools.coco.COCO(path)`` reads it, and its annotations are what ``COCO.loadRes`` takes. Photos
    that could not be read are left out. Annotations go to a temporary file beside it as they come; left by
    an exception, the ``with`` block removes that and writes nothing.

    Raises:
        OSError: the file cannot be written.
    """

    def __init__(self, path: Path, labels: Sequence[str]) -> None:
        self._path = path
        self._categories = {label: number for number, label in enumerate(labels, start=1)}
        self._images: list[dict[str, Any]] = []
        self._count = 0
        handle, part = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
        self._part, self._file = Path(part), os.fdopen(handle, "w", encoding="ascii")
        self._file.write('{"info": {"description": "outfinder"}, "annotations": [')

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self._file.close()
            self._part.unlink(missing_ok=True)

    def write(self, result: PhotoResult) -> None:
        """Add one photo and its garments.

        Raises:
            ValueError: a garment's label is not among the labels.
        """
        if unknown := {garment.label for garment in result.garments} - self._categories.keys():
            raise ValueError(f"{min(unknown)!r} is not among the labels {', '.join(self._categories)}")
        if result.error is not None:
            return
        image = {"id": len(self._images) + 1, "file_name": result.photo}
        self._images.append({**image, "width": result.width, "height": result.height})
        for garment in result.garments:
            self._count += 1
            separator = "," if self._count > 1 else ""
            self._file.write(f"{separator}\n{json.dumps(self._annotation(garment, result), allow_nan=False)}")

    def close(self) -> None:
        """Finish the file and give it its name."""
        if self._file.closed:
            return
        categories = [{"id": number, "name": label} for label, number in self._categories.items()]
        self._file.write(f'],\n"images": {json.dumps(self._images)},\n"categories": {json.dumps(categories)}}}\n')
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._part.chmod(0o666 & ~_umask())
        self._part.replace(self._path)

    def _annotation(self, garment: Garment, photo: PhotoResult) -> dict[str, Any]:
        box = garment.box
        annotation = {
            "id": self._count,
            "image_id": len(self._images),
            "category_id": self._categories[garment.label],
            "bbox": [int(box.x1), int(box.y1), int(box.width), int(box.height)],
            "area": int(box.area if garment.mask is None else garment.mask.sum()),
            "score": round(float(garment.score), 4),
            "iscrowd": 0,
        }
        if garment.mask is not None:
            annotation["segmentation"] = full_rle(garment.mask, box, photo.width, photo.height)
        return annotation


def _umask() -> int:
    """The process's file mode mask, which a temporary file's mode passes over."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


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


_TINT = 0.4


def draw(image: Image, result: PhotoResult) -> Image:
    """Draw the garments of a result on its photo, which may be a reduced decoding; a fresh image comes back."""
    canvas = image.copy()
    line_px = max(1, round(max(image.shape[:2]) / 400))
    for garment in sorted(result.garments, key=lambda garment: -garment.box.area):
        if box := _reduced(garment.box, result, canvas):
            _draw_garment(canvas, garment, box, line_px)
    return canvas


def _reduced(box: Box, result: PhotoResult, canvas: Image) -> Box | None:
    """A box of the full-size photo in the canvas' pixels."""
    height, width = canvas.shape[:2]
    across, down = width / result.width, height / result.height
    x1, y1, x2, y2 = box.corners
    return Box.clipped(x1 * across, y1 * down, x2 * across, y2 * down, width, height)


def _draw_garment(canvas: Image, garment: Garment, box: Box, line_px: int) -> None:
    color = tuple(int(color_of(garment.label)[place : place + 2], 16) for place in (1, 3, 5))
    x1, y1, x2, y2 = box.corners
    if garment.mask is not None:
        small = box.width, box.height
        mask = cv2.resize(garment.mask.astype(np.uint8), small, interpolation=cv2.INTER_NEAREST) > 0
        region = canvas[box.slices]
        region[mask] = (region[mask] * (1 - _TINT) + np.array(color) * _TINT).astype(np.uint8)
    cv2.rectangle(canvas, (x1, y1), (x2 - 1, y2 - 1), color, line_px)
    text, font, size = f"{garment.label} {garment.score:.2f}", cv2.FONT_HERSHEY_SIMPLEX, 0.4 * line_px
    (wide, high), below = cv2.getTextSize(text, font, size, line_px)
    top = max(y1, high + below)
    cv2.rectangle(canvas, (x1, top - high - below), (x1 + wide, top), color, cv2.FILLED)
    cv2.putText(canvas, text, (x1, top - below // 2), font, size, (255, 255, 255), line_px, cv2.LINE_AA)
