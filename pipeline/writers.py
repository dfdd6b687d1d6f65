"""Write results: one table of output formats, all of which an interrupted run resumes alike.

To add a format, write a :class:`Writer` and enter it into :data:`WRITERS`.
"""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import stat
import sys
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any, BinaryIO, Final, TextIO

import numpy as np
import pycocotools.mask

from pipeline.overlay import draw
from pipeline.pipeline import Analysis
from pipeline.search import Garment, PhotoResult
from stages.errors import ImageError, OutfinderError
from stages.files import OUTPUT_MARK, replacing, write_whole
from stages.images import write_jpeg
from stages.types import Box, Image, Mask, Match

DETECT_COLUMNS: Final = ("photo", "width", "height", "garment", "label", "score", "x1", "y1", "x2", "y2", "error")
"""The columns of a table of detections; ``garment`` counts from 1 within a photo."""

MATCH_COLUMNS: Final = ("rank", "item", "match_photo", "similarity", "match_label", "verdict")
"""The further columns of a table of matches, before the catalogue's; ``rank`` counts from 1 within a garment."""

CATALOGUE_PREFIX: Final = "catalogue_"
"""Prefix of a catalogue's column that is called like one of the table's."""

_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")


@dataclass(frozen=True, slots=True)
class Options:
    """What the formats can be asked for.

    ``masks`` adds masks to JSON lines, ``matches`` the columns of matches to tables, and ``metadata`` the catalogue's
    columns; ``labels`` are those of the detector, for COCO's categories.
    """

    masks: bool = False
    matches: bool = False
    metadata: Sequence[str] = ()
    labels: Sequence[str] = ()
    delimiter: str = ","


@dataclass(frozen=True, slots=True)
class Output:
    """One photo to write: its result, its analysis if there are pixels to write, and its number in the run, from 1."""

    result: PhotoResult
    analysis: Analysis | None = None
    number: int = 0


@dataclass(slots=True)
class Record:
    """What an interrupted run left in a file: its photos, how many of them failed, and where they end, in bytes."""

    photos: Counter[str] = field(default_factory=Counter)
    failed: int = 0
    end: int = 0

    def add(self, photo: str, *, failed: bool) -> None:
        """Count a photo."""
        self.photos[photo_key(photo)] += 1
        self.failed += failed


class Writer(ABC):
    """An output of a run; what ``write`` has written stays, whatever happens next.

    Args:
        path: of the file or folder.
        options: of the format.
        resume: keep what an interrupted run left in it; ``record`` describes it. A format that has no record of photos,
            such as a folder of pictures, must write a photo again without harm.
        overwrite: replace what is there.

    Raises:
        OutfinderError: there is an output already, or another run is writing it.
        OSError: it cannot be opened.
    """

    record: Record | None = None

    @abstractmethod
    def write(self, output: Output) -> None:
        """Write one photo."""

    def close(self, *, complete: bool) -> None:  # noqa: B027  few have something to close
        """Close the output; ``complete`` unless the run was interrupted."""


def photo_key(name: str) -> str:
    """Return a photo's name as a table has it, by which all formats know it again."""
    return _cell(name.encode("utf-8", "backslashreplace").decode())


def check_absent(path: Path, *, overwrite: bool) -> None:
    """Refuse to replace a file, or a folder that holds something, unless that was asked for.

    Raises:
        OutfinderError: it exists.
    """
    if overwrite or not path.exists():
        return
    used = any(path.iterdir()) if path.is_dir() else path.is_file() and path.stat().st_size > 0  # no pipe or device
    if used:
        raise OutfinderError(f"{path} exists; give --overwrite to replace it, or choose another name")


def clear_folder(folder: Path, *, overwrite: bool) -> None:
    """Empty a folder that outfinder has written, so that it can be written anew.

    Raises:
        OutfinderError: it holds something, and that was not asked for or is not outfinder's.
    """
    check_absent(folder, overwrite=overwrite)
    if folder.is_dir() and any(folder.iterdir()):
        if not (folder / OUTPUT_MARK).exists():
            raise OutfinderError(f"{folder} holds files that outfinder did not write; choose another name")
        for path in folder.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()


def mark_folder(folder: Path) -> None:
    """Make a folder for outputs, marked so that later runs do not take its pictures for photos.

    Raises:
        OSError: it cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / OUTPUT_MARK).touch()


class _Lines(Writer):
    """A text file of results, or standard output."""

    newline = "\n"
    encoding = "ascii"

    def __init__(self, path: Path | None, options: Options, *, resume: bool = False, overwrite: bool = False) -> None:
        self.options = options
        if path is None:
            if sys.stdout is None:
                raise OutfinderError("standard output is closed; name a file for the results with -o")
            self._stream: TextIO = sys.stdout
            self.begin()
        elif resume and path.is_file():
            self.record = self._resume(path)
        else:
            check_absent(path, overwrite=overwrite)
            self._stream = _opened(path, self.encoding, self.newline)
            self.record = Record()
            self.begin()

    def begin(self) -> None:
        """Write what precedes the first photo."""

    def read(self, file: BinaryIO) -> Record:
        """Return what an interrupted run left in the file.

        Raises:
            ValueError, TypeError, KeyError, csv.Error: the file is something else.
        """
        raise NotImplementedError

    def close(self, *, complete: bool) -> None:  # noqa: ARG002
        """Close the file; standard output stays open."""
        if self._stream is not sys.stdout:
            self._stream.close()

    def _resume(self, path: Path) -> Record:
        with path.open("r+b") as file:
            _lock(file.fileno(), path)
            try:
                record = self.read(file)
            except (ValueError, TypeError, KeyError, csv.Error) as error:
                raise OutfinderError(f"{path} cannot be resumed and is left as it is: {error}") from error
            file.truncate(record.end)
        self._stream = path.open("a", encoding="utf-8", errors="backslashreplace", newline=self.newline)
        _lock(self._stream.fileno(), path)
        if not record.end:
            self.begin()
        return record


class JsonLines(_Lines):
    """One JSON object per photo and line, in ASCII, so that any file name gives valid JSON and comes back."""

    def write(self, output: Output) -> None:
        """Write one photo's line."""
        self._stream.write(json.dumps(to_record(output.result, masks=self.options.masks), allow_nan=False) + "\n")
        self._stream.flush()

    def read(self, file: BinaryIO) -> Record:
        """Return the photos of all whole lines."""
        record = Record()
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                if not line.startswith(b"{"[: len(line)]):
                    raise ValueError(f"line {number} is no result")
                break
            try:
                photo = json.loads(line)
                record.add(photo["photo"], failed="error" in photo)
            except (ValueError, TypeError, KeyError, AttributeError):
                raise ValueError(f"line {number} is no result") from None
            record.end += len(line)
        return record


class Table(_Lines):
    """A CSV with one row per match, which spreadsheets read as it is and in which they run no formula.

    A garment without matches, a photo without garments and a photo that cannot be read have a row each, so that nothing
    gets lost. Names that are not valid UTF-8 are written with backslash escapes; masks are left to other formats.
    """

    newline = ""
    encoding = "utf-8"

    @property
    def columns(self) -> list[str]:
        """The columns in order."""
        *before, error = DETECT_COLUMNS
        return [*before, *(MATCH_COLUMNS if self.options.matches else ()), error, *self._metadata.values()]

    @property
    def _metadata(self) -> dict[str, str]:
        """The table's name for each column of the catalogue."""
        own = {*DETECT_COLUMNS, *MATCH_COLUMNS}
        return {name: CATALOGUE_PREFIX + name if name in own else name for name in self.options.metadata}

    @property
    def _header(self) -> str:
        """The first line, after a byte-order mark, by which Excel recognizes UTF-8."""
        line = StringIO("\ufeff", newline="")
        line.seek(1)
        self._rows(line).writerow([_cell(column) for column in self.columns])
        return line.getvalue()

    def begin(self) -> None:
        """Write the header."""
        self._stream.write(self._header)
        self._stream.flush()

    def write(self, output: Output) -> None:
        """Write one photo's rows."""
        columns, rows = self.columns, self._rows(self._stream)
        for row in _table_rows(output.result, self._metadata):
            cells = (row.get(column, "") for column in columns)
            rows.writerow([_cell(cell) if isinstance(cell, str) else cell for cell in cells])
        self._stream.flush()

    def read(self, file: BinaryIO) -> Record:
        """Return all photos but the last, of which rows may be missing."""
        header = self._header.encode()
        first = file.readline()
        if first != header:
            if header.startswith(first):
                return Record()
            raise ValueError("its columns are others")
        record, last, cut = Record(end=len(header)), None, False
        for row, start in self._read_rows(file, len(header)):
            if cut:
                raise ValueError(f"the row before byte {start} is no result")
            if row is None:
                cut = True
                continue
            cells = dict(zip(self.columns, row, strict=True))
            if cells["garment"] in ("", "1") and cells.get("rank", "") in ("", "1"):  # a photo's first row
                if last:
                    record.photos[last["photo"]] += 1
                    record.failed += bool(last["error"])
                last, record.end = cells, start
        return record

    def _rows(self, stream: TextIO) -> Any:
        return csv.writer(stream, delimiter=self.options.delimiter, lineterminator="\n")

    def _read_rows(self, file: BinaryIO, start: int) -> Iterator[tuple[list[str] | None, int]]:
        """Yield the rows and where each starts, in bytes; None for one that was cut."""
        position, whole = start, True

        def lines() -> Iterator[str]:
            nonlocal position, whole
            for line in file:
                position += len(line)
                whole = line.endswith(b"\n")
                yield line.decode("utf-8", "replace")

        for row in csv.reader(lines(), delimiter=self.options.delimiter):
            yield (row if whole and len(row) == len(self.columns) else None), start
            start = position


class Coco(Writer):
    """A COCO dataset of images, categories and scored annotations: https://cocodataset.org/#format-data.

    ``pycocotools.coco.COCO(path)`` reads it, and its annotations are what ``COCO.loadRes`` takes. Photos that could not
    be read are left out. Until the run has finished, the results are JSON lines with masks in a hidden file beside it.
    """

    def __init__(self, path: Path, options: Options, *, resume: bool = False, overwrite: bool = False) -> None:
        self._path, self._labels = path, options.labels
        self._part = path.with_name(f".{path.name}.part")
        if resume and path.is_file() and not self._part.exists():
            self._restore()
        elif not resume:
            check_absent(path, overwrite=overwrite)
        self._lines = JsonLines(self._part, Options(masks=True), resume=resume, overwrite=True)
        self.record = self._lines.record

    def write(self, output: Output) -> None:
        """Add one photo and its garments.

        Raises:
            ValueError: a garment's label is not among the detector's.
        """
        for garment in output.result.garments:
            if garment.label not in self._labels:
                raise ValueError(f"label {garment.label!r} is not among the labels {', '.join(self._labels)}")
        self._lines.write(output)

    def close(self, *, complete: bool) -> None:
        """Write the dataset, which appears whole or not at all."""
        self._lines.close(complete=complete)
        if complete:
            with replacing(self._path) as part, part.open("w", encoding="ascii") as file:
                self._write_dataset(file)
            self._part.unlink()

    def _photos(self) -> Iterator[dict[str, Any]]:
        with self._part.open(encoding="ascii") as lines:
            yield from (photo for photo in map(json.loads, lines) if "error" not in photo)

    def _write_dataset(self, file: TextIO) -> None:
        categories = {label: number for number, label in enumerate(self._labels, start=1)}
        file.write('{"info": {"description": "outfinder"}, "annotations": [')
        count = 0
        for image_id, photo in enumerate(self._photos(), start=1):
            for garment in photo["garments"]:
                x1, y1, x2, y2 = garment["box"]
                count += 1
                annotation = {
                    "id": count,
                    "image_id": image_id,
                    "category_id": categories[garment["label"]],
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": (x2 - x1) * (y2 - y1),
                    "score": garment["score"],
                    "iscrowd": 0,
                }
                if mask := garment.get("mask"):
                    annotation |= {"area": int(pycocotools.mask.area(mask)), "segmentation": mask}
                file.write(f"{',' if count > 1 else ''}\n{json.dumps(annotation)}")
        file.write('],\n"images": [')
        for image_id, photo in enumerate(self._photos(), start=1):
            image = {"id": image_id, "file_name": photo["photo"], "width": photo["width"], "height": photo["height"]}
            file.write(f"{',' if image_id > 1 else ''}\n{json.dumps(image)}")
        named = [{"id": number, "name": label} for label, number in categories.items()]
        file.write(f'],\n"categories": {json.dumps(named)}}}\n')

    def _restore(self) -> None:
        """Make the JSON lines again from the dataset of a run that had finished."""
        try:
            data = json.loads(self._path.read_text(encoding="ascii"))
            labels = {category["id"]: category["name"] for category in data["categories"]}
            photos = {
                image["id"]: {
                    "photo": image["file_name"],
                    "width": image["width"],
                    "height": image["height"],
                    "garments": [],
                }
                for image in data["images"]
            }
            for annotation in data["annotations"]:
                x, y, width, height = annotation["bbox"]
                garment = {"label": labels[annotation["category_id"]], "score": annotation["score"]}
                garment |= {"box": [x, y, x + width, y + height]}
                garment |= {"mask": annotation["segmentation"]} if "segmentation" in annotation else {}
                photos[annotation["image_id"]]["garments"].append(garment)
        except (ValueError, TypeError, KeyError) as error:
            raise OutfinderError(
                f"{self._path} cannot be resumed and is left as it is: it is no dataset of outfinder's"
            ) from error
        write_whole(self._part, "".join(json.dumps(photo) + "\n" for photo in photos.values()))


class _Pictures(Writer):
    """A folder of JPEG files, to which pictures are added; those of the same name are replaced.

    Names start with the photo's number in the run, so that equal names from different folders do not collide.
    """

    def __init__(self, path: Path, options: Options, *, resume: bool = False, overwrite: bool = False) -> None:  # noqa: ARG002
        self._folder = path
        if overwrite and not resume and (path / OUTPUT_MARK).exists():
            for picture in path.glob("[0-9][0-9][0-9][0-9][0-9]*-*.jpg"):
                picture.unlink()
        mark_folder(path)

    def save(self, output: Output, image: Image, suffix: str = "") -> None:
        """Write a picture.

        Raises:
            ImageError: it cannot be written.
        """
        stem = f"{output.number:05}-{Path(output.result.photo).stem[:50]}"  # short enough for any file system
        path = self._folder / f"{stem}{suffix}.jpg"
        try:
            write_jpeg(path, image)
        except ImageError as error:
            raise ImageError(f"{path} {error}") from error


class Crops(_Pictures):
    """Each garment's crop as a picture."""

    def write(self, output: Output) -> None:
        """Write the crops of one photo."""
        crops = output.analysis.crops if output.analysis else ()
        for number, (garment, crop) in enumerate(zip(output.result.garments, crops, strict=True), 1):
            self.save(output, crop.image, f"-{number}-{re.sub(r'[^0-9A-Za-z_]+', '-', garment.label)}")


class Overlays(_Pictures):
    """Each photo with its garments drawn on it."""

    def write(self, output: Output) -> None:
        """Write the overlay of one photo."""
        if output.analysis and output.analysis.photo:
            self.save(output, draw(output.analysis.photo.image, output.result))


WRITERS: Final[dict[str, Any]] = {"crops": Crops, "overlays": Overlays, "coco": Coco, "csv": Table, "jsonl": JsonLines}
"""Every format's :class:`Writer`, in the order that a photo is written in: the lines last, for then it is finished."""


def to_record(result: PhotoResult, *, masks: bool = False) -> dict[str, Any]:
    """Return a photo's result as the object of its JSON line; scores and similarities have four decimals.

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
    record["matches"] = [_match_record(match) for match in garment.matches or ()]  # empty if none were searched
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


def _table_rows(result: PhotoResult, metadata: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    """Yield the rows of a photo."""
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
            values = (rank, match.item, match.photo, f"{match.similarity:.4f}", match.label, match.verdict)
            own = {metadata[name]: value for name, value in match.metadata if name in metadata}
            yield {**row, **own, **dict(zip(MATCH_COLUMNS, values, strict=True))}


def _cell(text: str) -> str:
    """Return a text for a cell, with an apostrophe before what a spreadsheet would run as a formula.

    >>> _cell("=HYPERLINK(A1)"), _cell("-5,50"), _cell("shirt")
    ("'=HYPERLINK(A1)", '-5,50', 'shirt')
    """
    return f"'{text}" if text.startswith(_FORMULA) and not re.fullmatch(r"[+-][\d., ]*\d", text) else text


def full_rle(mask: Mask, box: Box, width: int, height: int) -> dict[str, Any]:
    """Return COCO's compressed run lengths of a mask in its photo: ``{"size": [height, width], "counts": str}``.

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
    meets = np.flatnonzero(places[1:-1:2] == places[2::2])  # runs that join if the box is as high as the photo
    places = np.delete(places, np.concatenate([2 * meets + 1, 2 * meets + 2]))
    counts = np.diff(places, prepend=0, append=width * height)
    if len(counts) > 1 and counts[-1] == 0:
        counts = counts[:-1]
    packed = pycocotools.mask.frPyObjects({"size": [height, width], "counts": counts.tolist()}, height, width)
    return {"size": [height, width], "counts": packed["counts"].decode("ascii")}


def _opened(path: Path, encoding: str, newline: str) -> TextIO:
    """Open a file to write anew, which no other run is writing."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o666)
    try:
        _lock(descriptor, path)
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.ftruncate(descriptor, 0)
    except BaseException:
        os.close(descriptor)
        raise
    return os.fdopen(descriptor, "w", encoding=encoding, errors="backslashreplace", newline=newline)


def _lock(descriptor: int, path: Path) -> None:
    """Keep other runs from writing a file for as long as it is open, if the system can."""
    try:
        import fcntl  # noqa: PLC0415  not on Windows

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        named = path.with_name(re.sub(r"^\.(.+)\.part$", r"\1", path.name))
        raise OutfinderError(f"{named} is being written by another run; name another file") from None
    except (ImportError, OSError):
        return
