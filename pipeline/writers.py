"""Write results: one table of output formats, all of which an interrupted run resumes alike.

To add a format, write a :class:`~pipeline.outputs.Writer` and enter it into :data:`WRITERS`.
"""

from __future__ import annotations

import csv
import json
import os
import re
import stat
import sys
from collections.abc import Iterator, Mapping, Sequence
from io import StringIO, TextIOWrapper
from itertools import accumulate
from pathlib import Path
from typing import Any, BinaryIO, Final, TextIO

import cv2
import numpy as np
import pycocotools.mask

from pipeline.outputs import (
    Options,
    Output,
    Outputs,
    Record,
    Writer,
    check_absent,
    check_ours,
    lock,
    mark_folder,
    spreadsheet_cell,
)
from pipeline.pages import color_of
from pipeline.search import Garment, PhotoResult
from stages.errors import ImageError, OutfinderError
from stages.files import replacing, write_whole
from stages.images import write_jpeg
from stages.types import Box, Image, Mask, Match

DETECT_COLUMNS: Final = ("photo", "width", "height", "garment", "label", "score", "x1", "y1", "x2", "y2", "error")
"""The columns of a table of detections; ``garment`` counts from 1 within a photo."""

ATTRIBUTE_COLUMNS: Final = ("type", "colour", "pattern", "gender", "usage")
"""The columns of a garment's attributes in a table of matches; JSON lines have their confidence as well."""

MATCH_COLUMNS: Final = ("rank", "item", "match_photo", "similarity", "match_label", "verdict")
"""The further columns of a table of matches, before the catalogue's; ``rank`` counts from 1 within a garment."""

CATALOGUE_PREFIX: Final = "catalogue_"
"""Prefix of a catalogue's column that has the name of one of the table's."""

_DIM: Final = 0.45
"""How far an overlay fades to white outside garments."""


def open_outputs(
    output: Path | str | None,
    others: Mapping[str, Path | str | None] | None = None,
    options: Options | None = None,
    *,
    resume: bool = False,
    overwrite: bool = False,
) -> Outputs:
    """Open the outputs of a run.

    Args:
        output: a file of results, ``.jsonl`` or ``.csv``; None means JSON lines on standard output.
        others: further outputs by format.
        options: of the formats.
        resume: continue the outputs of an interrupted run.
        overwrite: replace outputs that exist.

    Raises:
        ValueError: the file has another suffix, two outputs have one path, or no output can be resumed.
        OutfinderError: an output exists and is neither resumed nor overwritten, was written by something else, or is
            being written by another run.
        OSError: an output cannot be opened.
    """
    output = output if output is None else Path(output)
    name = "jsonl" if output is None else output.suffix.lower().removeprefix(".")
    if output and name not in ("jsonl", "csv"):
        raise ValueError(
            f"results are written as .jsonl or .csv, got {output.suffix or 'no suffix'} in {output.name!r}"
        )
    paths = {one: path if path is None else Path(path) for one, path in {**(others or {}), name: output}.items()}
    named = [os.path.realpath(path) for path in paths.values() if path]
    if len(set(named)) < len(named):
        raise ValueError("two outputs have the same path; give each its own")
    if resume and output is None and not paths.get("coco"):
        raise ValueError("--resume continues a file of results: name it with -o")
    writers: list[Writer] = []
    try:
        for one, writer in WRITERS.items():
            if paths.get(one) or (output is None and one == name):
                writers.append(writer(paths[one], options or Options(), resume=resume, overwrite=overwrite))
    except BaseException:
        for opened in writers:
            opened.close(complete=False)
        raise
    return Outputs(writers)


class _Lines(Writer):
    """A text file of results, or standard output."""

    newline = "\n"
    encoding = "utf-8"
    header = ""

    def __init__(self, path: Path | None, options: Options, *, resume: bool = False, overwrite: bool = False) -> None:
        self.options = options
        if path is not None:
            self._stream = self._open(path, resume=resume, overwrite=overwrite)
        elif sys.stdout is None:
            raise OutfinderError("standard output is closed; name a file for the results with -o")
        else:
            self._stream = sys.stdout
        if not self.record or not self.record.end:
            self._stream.write(self.header)
            self._stream.flush()

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

    def _open(self, path: Path, *, resume: bool, overwrite: bool) -> TextIO:
        """Open a file that no other run is writing, after the last photo that it has."""
        resume = resume and path.is_file()
        if not resume:
            check_absent(path, overwrite=overwrite)
        descriptor = os.open(path, os.O_RDWR if resume else os.O_WRONLY | os.O_CREAT, 0o666)
        file = os.fdopen(descriptor, "r+b" if resume else "wb")
        try:
            lock(descriptor, path)
            self.record = self.read(file) if resume else Record()
            if stat.S_ISREG(os.fstat(descriptor).st_mode):  # no pipe or device
                file.seek(self.record.end)
                file.truncate()
        except (ValueError, TypeError, KeyError, csv.Error) as error:
            file.close()
            raise OutfinderError(f"{path} cannot be resumed and is left as it is: {error}") from error
        except BaseException:
            file.close()
            raise
        return TextIOWrapper(file, encoding=self.encoding, errors="backslashreplace", newline=self.newline)


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
            if not line.endswith(b"\n") and line.startswith(b"{"[: len(line)]):  # cut
                break
            try:
                photo = json.loads(line)
                record.add(photo["photo"], failed="error" in photo)
            except (ValueError, TypeError, KeyError, AttributeError):
                raise ValueError(f"line {number} is no result") from None
            record.end += len(line)
        return record


class CsvTable(_Lines):
    """A CSV with one row per match, which spreadsheets read as it is and in which they run no formula.

    A garment without matches, a photo without garments and a photo that cannot be read have a row each, so that nothing
    gets lost. Names that are not valid UTF-8 are written with backslash escapes; masks are left to other formats.
    """

    newline = ""

    @property
    def columns(self) -> list[str]:
        """The columns in order."""
        *before, error = DETECT_COLUMNS
        return [
            *before,
            *((*ATTRIBUTE_COLUMNS, *MATCH_COLUMNS) if self.options.matches else ()),
            error,
            *self._metadata.values(),
        ]

    @property
    def _metadata(self) -> dict[str, str]:
        """The table's name for each column of the catalogue."""
        taken = {*DETECT_COLUMNS, *ATTRIBUTE_COLUMNS, *MATCH_COLUMNS}
        return {name: CATALOGUE_PREFIX + name if name in taken else name for name in self.options.metadata}

    @property
    def header(self) -> str:  # type: ignore[override]
        """The first line, after a byte-order mark, by which Excel recognizes UTF-8."""
        line = StringIO(newline="")
        self._rows(line).writerow([spreadsheet_cell(column) for column in self.columns])
        return "\ufeff" + line.getvalue()

    def write(self, output: Output) -> None:
        """Write one photo's rows."""
        columns, rows = self.columns, self._rows(self._stream)
        for row in _table_rows(output.result, self._metadata):
            cells = (row.get(column, "") for column in columns)
            rows.writerow([spreadsheet_cell(cell) if isinstance(cell, str) else cell for cell in cells])
        self._stream.flush()

    def read(self, file: BinaryIO) -> Record:
        """Return all photos but the last, of which rows may be missing."""
        lines = list(file)
        header = self.header.encode()
        if not b"".join(lines).startswith(header):
            if header.startswith(b"".join(lines)):
                return Record()
            raise ValueError("its columns are others")
        ends = list(accumulate(map(len, lines), initial=0))
        rows = csv.reader((line.decode("utf-8", "replace") for line in lines), delimiter=self.options.delimiter)
        record, last, start = Record(end=len(header)), None, ends[rows.line_num]
        for row in rows:
            first, start = start, ends[rows.line_num]
            if not first:  # the header
                continue
            at_end = start == ends[-1]
            if len(row) != len(self.columns) and not at_end:
                raise ValueError(f"the row before byte {start} is no result")
            if at_end and (len(row) != len(self.columns) or not lines[-1].endswith(b"\n")):  # cut
                break
            cells = dict(zip(self.columns, row, strict=True))
            if cells["garment"] in ("", "1") and cells.get("rank", "") in ("", "1"):  # a photo's first row
                if last:
                    record.photos[last["photo"]] += 1
                    record.failed += bool(last["error"])
                last, record.end = cells, first
        return record

    def _rows(self, stream: TextIO) -> Any:
        return csv.writer(stream, delimiter=self.options.delimiter, lineterminator="\n")


class Coco(Writer):
    """A COCO dataset of images, categories and scored annotations: https://cocodataset.org/#format-data.

    ``pycocotools.coco.COCO(path)`` reads it, and ``COCO.loadRes`` takes its annotations. Photos that could not be read
    are left out. Until the run has finished, the results are JSON lines with masks in a hidden file beside it.
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

    def _write_dataset(self, file: TextIO) -> None:
        """Write annotations photo by photo, so that masks never fill the memory."""
        categories = {label: number for number, label in enumerate(self._labels, start=1)}
        images: list[dict[str, Any]] = []
        count = 0
        file.write('{"info": {"description": "outfinder"}, "annotations": [')
        with self._part.open(encoding="ascii") as lines:
            for photo in (photo for photo in map(json.loads, lines) if "error" not in photo):
                size = {"width": photo["width"], "height": photo["height"]}
                images.append({"id": len(images) + 1, "file_name": photo["photo"], **size})
                for garment in photo["garments"]:
                    x1, y1, x2, y2 = garment["box"]
                    count += 1
                    annotation = {
                        "id": count,
                        "image_id": len(images),
                        "category_id": categories[garment["label"]],
                        "bbox": [x1, y1, x2 - x1, y2 - y1],
                        "area": (x2 - x1) * (y2 - y1),
                        "score": garment["score"],
                        "iscrowd": 0,
                    }
                    if mask := garment.get("mask"):
                        annotation |= {"area": int(pycocotools.mask.area(mask)), "segmentation": mask}
                    file.write(f"{',' if count > 1 else ''}\n{json.dumps(annotation)}")
        named = [{"id": number, "name": label} for label, number in categories.items()]
        file.write(f'],\n"images": {json.dumps(images)},\n"categories": {json.dumps(named)}}}\n')

    def _restore(self) -> None:
        """Make the JSON lines again from the dataset of a run that had finished."""
        try:
            data = json.loads(self._path.read_text(encoding="ascii"))
            labels = {one["id"]: one["name"] for one in data["categories"]}
            photos = {
                one["id"]: {"photo": one["file_name"], "width": one["width"], "height": one["height"], "garments": []}
                for one in data["images"]
            }
            for one in data["annotations"]:
                x, y, width, height = one["bbox"]
                garment = {
                    "label": labels[one["category_id"]],
                    "score": one["score"],
                    "box": [x, y, x + width, y + height],
                }
                mask = {"mask": one["segmentation"]} if "segmentation" in one else {}
                photos[one["image_id"]]["garments"].append(garment | mask)
        except (ValueError, TypeError, KeyError) as error:
            raise OutfinderError(
                f"{self._path} cannot be resumed and is left as it is: outfinder did not write it"
            ) from error
        write_whole(self._part, "".join(json.dumps(photo) + "\n" for photo in photos.values()))


class _PictureFolder(Writer):
    """A folder of JPEG files that outfinder has written, or a new one, to which pictures are added.

    Names start with the photo's number in the run, so that equal names from different folders do not collide.
    """

    def __init__(self, path: Path, options: Options, *, resume: bool = False, overwrite: bool = False) -> None:  # noqa: ARG002
        self._folder = path
        check_ours(path)
        if overwrite and not resume:
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


class Crops(_PictureFolder):
    """Each garment's crop as a picture."""

    def write(self, output: Output) -> None:
        """Write the crops of one photo."""
        crops = output.analysis.crops if output.analysis else ()
        for number, (garment, crop) in enumerate(zip(output.result.garments, crops, strict=True), 1):
            self.save(output, crop.image, f"-{number}-{re.sub(r'[^0-9A-Za-z_]+', '-', garment.label)}")


class Overlays(_PictureFolder):
    """Each photo with its garments drawn on it."""

    def write(self, output: Output) -> None:
        """Write the overlay of one photo."""
        if output.analysis and output.analysis.photo:
            self.save(output, draw_garments(output.analysis.photo.image, output.result))


WRITERS: Final[dict[str, Any]] = {
    "crops": Crops,
    "overlays": Overlays,
    "coco": Coco,
    "csv": CsvTable,
    "jsonl": JsonLines,
}
"""Every format's :class:`Writer`, in the order that a photo is written in: the lines last, for then it is finished."""


def draw_garments(image: Image, result: PhotoResult) -> Image:
    """Return a copy of a photo, which may be reduced, with its garments outlined and labelled and the rest dimmed.

    Nothing covers a garment, whose colours its matches depend on; labels do not cover one another.
    """
    height, width = image.shape[:2]
    across, down = width / max(1, result.width), height / max(1, result.height)
    placed = []
    for garment in result.garments:
        x1, y1, x2, y2 = garment.box.corners
        if box := Box.clipped(x1 * across, y1 * down, x2 * across, y2 * down, width, height):
            placed.append((garment, box))
    canvas = (image * (1 - _DIM) + 255 * _DIM).astype(np.uint8) if placed else image.copy()
    outlines = []
    for garment, box in placed:
        mask = np.ones((1, 1), np.bool_) if garment.mask is None else garment.mask
        inside = cv2.resize(mask.astype(np.uint8), (box.width, box.height), interpolation=cv2.INTER_NEAREST)
        canvas[box.slices][inside > 0] = image[box.slices][inside > 0]
        outlines.append(cv2.findContours(inside, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE, offset=(box.x1, box.y1))[0])
    line_px = max(1, round(max(height, width) / 400))
    labels: list[Box] = []
    for (garment, box), outline in zip(placed, outlines, strict=True):
        color = tuple(int(color_of(garment.label)[place : place + 2], 16) for place in (1, 3, 5))
        cv2.drawContours(canvas, outline, -1, color, line_px)
        _draw_label(canvas, f"{garment.label} {garment.score:.2f}", box, color, line_px, labels)
    return canvas


def _draw_label(canvas: Image, text: str, box: Box, color: tuple[int, ...], line_px: int, labels: list[Box]) -> None:
    """Draw a label at the top of its box, or below earlier labels that would cover it."""
    font, size = cv2.FONT_HERSHEY_SIMPLEX, 0.4 * line_px
    (width, height), below = cv2.getTextSize(text, font, size, line_px)
    height += below
    left, bottom = max(0, min(box.x1, canvas.shape[1] - width)), max(box.y1, height)
    for other in sorted(labels, key=lambda label: label.y1):
        if left < other.x2 and other.x1 < left + width and bottom - height < other.y2 and other.y1 < bottom:
            bottom = other.y2 + height
    labels.append(Box(left, bottom - height, left + width, bottom))
    cv2.rectangle(canvas, (left, bottom - height), (left + width, bottom), color, cv2.FILLED)
    cv2.putText(canvas, text, (left, bottom - below // 2), font, size, (255, 255, 255), line_px, cv2.LINE_AA)


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


def text_record(text: str, matches: Sequence[Match]) -> dict[str, Any]:
    """Return the answer to a search in words as the object of its JSON line."""
    return {"text": text, "matches": [_match_record(match) for match in matches]}


def write_answer(record: Mapping[str, Any], output: Path | None, *, overwrite: bool) -> None:
    """Write one JSON line to a ``.jsonl`` file or to standard output.

    Raises:
        ValueError: the file has another suffix.
        OutfinderError: the file exists.
    """
    line = json.dumps(record, allow_nan=False) + "\n"
    if output is None:
        sys.stdout.write(line)
        return
    if output.suffix.lower() != ".jsonl":
        raise ValueError(f"the answer to a search in words is written as .jsonl, got {output.name!r}")
    check_absent(output, overwrite=overwrite)
    write_whole(output, line)


def _garment_record(garment: Garment, photo: PhotoResult, *, masks: bool) -> dict[str, Any]:
    record: dict[str, Any] = {
        "label": garment.label,
        "score": round(float(garment.score), 4),
        "box": [int(corner) for corner in garment.box.corners],
    }
    if masks and garment.mask is not None:
        record["mask"] = full_rle(garment.mask, garment.box, photo.width, photo.height)
    if garment.attributes:
        record["attributes"] = {
            one.name: {"value": one.value, "confidence": one.confidence} for one in garment.attributes
        }
    if garment.colours:
        record["colours"] = dict(garment.colours)
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
        row |= {one.name: one.value for one in garment.attributes}
        if not garment.matches:
            yield row
        for rank, match in enumerate(garment.matches or (), start=1):
            values = (rank, match.item, match.photo, f"{match.similarity:.4f}", match.label, match.verdict)
            own = {metadata[name]: value for name, value in match.metadata if name in metadata}
            yield {**row, **own, **dict(zip(MATCH_COLUMNS, values, strict=True))}


def full_rle(mask: Mask, box: Box, width: int, height: int) -> dict[str, Any]:
    """Return COCO's compressed run lengths of a mask in its photo: ``{"size": [height, width], "counts": str}``.

    >>> full_rle(np.ones((2, 1), dtype=np.bool_), Box(0, 0, 1, 2), width=2, height=3)
    {'size': [3, 2], 'counts': '024'}
    """
    columns = np.pad(mask, ((box.y1, height - box.y2), (0, 0))).ravel(order="F")  # COCO counts down the columns
    edges = box.x1 * height + np.flatnonzero(np.diff(columns.astype(np.int8), prepend=0, append=0))
    counts = np.diff(edges, prepend=0, append=width * height)
    if len(counts) > 1 and counts[-1] == 0:
        counts = counts[:-1]
    packed = pycocotools.mask.frPyObjects({"size": [height, width], "counts": counts.tolist()}, height, width)
    return {"size": [height, width], "counts": packed["counts"].decode("ascii")}
