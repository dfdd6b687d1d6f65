"""The output formats: JSON lines, CSV, COCO, crops and overlays. An interrupted run can be resumed in each of them.

To add a format, write a :class:`~pipeline.outputs.Writer` and add it to :data:`WRITERS`.
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
"""The columns of a garment's attributes in a table of matches; only JSON lines have their confidence."""

MATCH_COLUMNS: Final = ("rank", "item", "match_photo", "similarity", "match_label", "verdict")
"""The columns of a match, before the catalogue's own; ``rank`` counts from 1 within a garment."""

CATALOGUE_PREFIX: Final = "catalogue_"
"""Prefix of a catalogue column whose name is already a column of the table."""

_DIM: Final = 0.45
"""How far an overlay fades to white outside garments."""


def open_outputs(
    output: str | Path | None,
    others: Mapping[str, str | Path | None] | None = None,
    options: Options | None = None,
    *,
    resume: bool = False,
    overwrite: bool = False,
) -> Outputs:
    """Open the outputs of a run.

    Args:
        output: a ``.jsonl`` or ``.csv`` file of results; None writes JSON lines to standard output.
        others: the paths of further outputs by format.
        options: of the formats.
        resume: continue the outputs of an interrupted run.
        overwrite: replace outputs that exist.

    Raises:
        ValueError: the file has another suffix, two outputs have one path, or there is no file to resume.
        OutfinderError: an output exists, was not written by outfinder, or is being written by another run.
    """
    output = None if output is None else Path(output)
    name = "jsonl" if output is None else output.suffix.lower().removeprefix(".")
    if output and name not in ("jsonl", "csv"):
        raise ValueError(
            f"results are written as .jsonl or .csv, got {output.suffix or 'no suffix'} in {output.name!r}"
        )
    paths = {one: Path(path) for one, path in {**(others or {}), name: output}.items() if path}
    if len({os.path.realpath(path) for path in paths.values()}) < len(paths):
        raise ValueError("two outputs have the same path; give each its own")
    if resume and output is None and "coco" not in paths:
        raise ValueError("--resume continues a file of results: name it with -o")
    writers: list[Writer] = []
    try:
        for one, writer in WRITERS.items():
            if one in paths or (output is None and one == name):
                writers.append(writer(paths.get(one), options or Options(), resume=resume, overwrite=overwrite))
    except BaseException:
        for opened in writers:
            opened.close(complete=False)
        raise
    return Outputs(writers)


class _TextFile(Writer):
    """A text file of results, or standard output."""

    newline = "\n"
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
        """Return what an interrupted run left in the file; raise ValueError or csv.Error if it is something else."""
        raise NotImplementedError

    def close(self, *, complete: bool) -> None:  # noqa: ARG002
        """Close the file; standard output stays open."""
        if self._stream is not sys.stdout:
            self._stream.close()

    def _open(self, path: Path, *, resume: bool, overwrite: bool) -> TextIO:
        """Open a file that no other run is writing, positioned after its last finished photo."""
        resume = resume and path.is_file()
        if not resume:
            check_absent(path, overwrite=overwrite)
        descriptor = os.open(path, os.O_RDWR if resume else os.O_WRONLY | os.O_CREAT, 0o666)
        file = os.fdopen(descriptor, "r+b" if resume else "wb")
        try:
            _lock(descriptor, path)
            self.record = self.read(file) if resume else Record()
            if stat.S_ISREG(os.fstat(descriptor).st_mode):  # a pipe or device cannot be truncated
                file.seek(self.record.end)
                file.truncate()
        except (ValueError, csv.Error) as error:
            file.close()
            raise OutfinderError(f"{path} cannot be resumed and is left as it is: {error}") from error
        except BaseException:
            file.close()
            raise
        return TextIOWrapper(file, encoding="utf-8", errors="backslashreplace", newline=self.newline)


def _lock(descriptor: int, path: Path) -> None:
    """Keep other runs from writing an open file, where the system supports locks."""
    try:
        import fcntl  # noqa: PLC0415  absent on Windows

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        name = re.sub(r"^\.(.+)\.part$", r"\1", path.name)
        raise OutfinderError(f"{path.with_name(name)} is being written by another run; name another file") from None
    except (ImportError, OSError):
        return


class JsonLines(_TextFile):
    """One JSON object per photo and line, in ASCII, so that any file name gives valid JSON and can be restored."""

    def write(self, output: Output) -> None:
        """Write one photo's line."""
        self._stream.write(json.dumps(to_record(output.result, masks=self.options.masks), allow_nan=False) + "\n")
        self._stream.flush()

    def read(self, file: BinaryIO) -> Record:
        """Return the photos of all complete lines."""
        record = Record()
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n") and line.startswith(b"{"[: len(line)]):  # the last line, cut
                break
            try:
                photo = json.loads(line)
                record.add(photo["photo"], failed="error" in photo)
            except (ValueError, TypeError, KeyError, AttributeError):
                raise ValueError(f"line {number} is no result") from None
            record.end += len(line)
        return record


class CsvTable(_TextFile):
    """A CSV with one row per match, safe to open in a spreadsheet.

    A garment without matches, a photo without garments and a photo that cannot be read have one row each. Names that
    are not valid UTF-8 have backslash escapes. Tables hold no masks.
    """

    newline = ""

    def __init__(self, path: Path | None, options: Options, *, resume: bool = False, overwrite: bool = False) -> None:
        reserved = {*DETECT_COLUMNS, *ATTRIBUTE_COLUMNS, *MATCH_COLUMNS}
        self._metadata = {name: CATALOGUE_PREFIX + name if name in reserved else name for name in options.metadata}
        searched = (*ATTRIBUTE_COLUMNS, *MATCH_COLUMNS) if options.matches else ()
        self.columns = [*DETECT_COLUMNS[:-1], *searched, DETECT_COLUMNS[-1], *self._metadata.values()]
        self._delimiter = options.delimiter
        self.header = "\ufeff" + self._line(self.columns)  # Excel recognizes UTF-8 by the byte-order mark
        super().__init__(path, options, resume=resume, overwrite=overwrite)

    def write(self, output: Output) -> None:
        """Write one photo's rows."""
        for row in _table_rows(output.result, self._metadata):
            self._stream.write(self._line([row.get(column, "") for column in self.columns]))
        self._stream.flush()

    def read(self, file: BinaryIO) -> Record:
        """Return all photos but the last, whose rows may be incomplete."""
        lines, header = list(file), self.header.encode()
        if not b"".join(lines).startswith(header):
            if header.startswith(b"".join(lines)):
                return Record()
            raise ValueError("it has other columns")
        ends = list(accumulate(map(len, lines), initial=0))
        rows = csv.reader((line.decode("utf-8", "replace") for line in lines), delimiter=self._delimiter)
        next(rows)
        record, last, end = Record(end=len(header)), None, ends[rows.line_num]
        for row in rows:
            start, end = end, ends[rows.line_num]
            complete = len(row) == len(self.columns) and lines[rows.line_num - 1].endswith(b"\n")
            if not complete:
                if end == ends[-1]:
                    break
                raise ValueError(f"the row before byte {end} is no result")
            cells = dict(zip(self.columns, row, strict=True))
            if cells["garment"] in ("", "1") and cells.get("rank", "") in ("", "1"):  # a photo's first row
                if last:
                    record.photos[last["photo"]] += 1
                    record.failed += bool(last["error"])
                last, record.end = cells, start
        return record

    def _line(self, cells: Sequence[Any]) -> str:
        """Return a row of cells, none of which is a formula, as text."""
        line = StringIO(newline="")
        safe = [spreadsheet_cell(cell) if isinstance(cell, str) else cell for cell in cells]
        csv.writer(line, delimiter=self._delimiter, lineterminator="\n").writerow(safe)
        return line.getvalue()


class Coco(Writer):
    """A COCO dataset of images, categories and scored annotations: https://cocodataset.org/#format-data.

    ``pycocotools.coco.COCO(path)`` reads it, and ``COCO.loadRes`` takes its annotations. Photos that could not be read
    are left out. During the run, results are JSON lines with masks in a hidden file beside it.
    """

    def __init__(self, path: Path, options: Options, *, resume: bool = False, overwrite: bool = False) -> None:
        self._path, self._labels = path, options.labels
        self._part = path.with_name(f".{path.name}.part")
        if resume and path.is_file() and not self._part.exists():
            self._restore_lines()
        elif not resume:
            check_absent(path, overwrite=overwrite)
        self._lines = JsonLines(self._part, Options(masks=True), resume=resume, overwrite=True)
        self.record = self._lines.record

    def write(self, output: Output) -> None:
        """Add one photo and its garments, whose labels must be among the detector's."""
        for garment in output.result.garments:
            if garment.label not in self._labels:
                raise ValueError(f"label {garment.label!r} is not among the labels {', '.join(self._labels)}")
        self._lines.write(output)

    def close(self, *, complete: bool) -> None:
        """Write the whole dataset at once, unless the run was interrupted."""
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

    def _restore_lines(self) -> None:
        """Restore the JSON lines from the dataset of a finished run."""
        try:
            data = json.loads(self._path.read_text(encoding="ascii"))
            labels = {one["id"]: one["name"] for one in data["categories"]}
            photos = {
                one["id"]: {"photo": one["file_name"], "width": one["width"], "height": one["height"], "garments": []}
                for one in data["images"]
            }
            for one in data["annotations"]:
                x, y, width, height = one["bbox"]
                box = [x, y, x + width, y + height]
                mask = {"mask": one["segmentation"]} if "segmentation" in one else {}
                garment = {"label": labels[one["category_id"]], "score": one["score"], "box": box, **mask}
                photos[one["image_id"]]["garments"].append(garment)
        except (ValueError, TypeError, KeyError) as error:
            raise OutfinderError(
                f"{self._path} cannot be resumed and is left as it is: outfinder did not write it"
            ) from error
        write_whole(self._part, "".join(json.dumps(photo) + "\n" for photo in photos.values()))


class _PictureFolder(Writer):
    """A folder of JPEG files, new or written by outfinder before, to which pictures are added.

    Names start with the photo's number in the run, so that equal names from different folders do not collide.
    """

    def __init__(self, path: Path, _options: Options, *, resume: bool = False, overwrite: bool = False) -> None:
        self._folder = path
        check_ours(path)
        if overwrite and not resume:
            for picture in path.glob("[0-9][0-9][0-9][0-9][0-9]*-*.jpg"):
                picture.unlink()
        mark_folder(path)

    def _save(self, output: Output, image: Image, suffix: str = "") -> None:
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
            self._save(output, crop.image, f"-{number}-{re.sub(r'[^0-9A-Za-z_]+', '-', garment.label)}")


class Overlays(_PictureFolder):
    """Each photo with its garments drawn on it."""

    def write(self, output: Output) -> None:
        """Write the overlay of one photo."""
        if output.analysis and output.analysis.photo:
            self._save(output, draw_garments(output.analysis.photo.image, output.result))


WRITERS: Final[dict[str, Any]] = {
    "crops": Crops,
    "overlays": Overlays,
    "coco": Coco,
    "csv": CsvTable,
    "jsonl": JsonLines,
}
"""The :class:`Writer` of every format. Lines come last, because a photo with its line counts as finished."""


def draw_garments(image: Image, result: PhotoResult) -> Image:
    """Return a copy of a photo, which may be reduced, with its garments outlined and labelled and the rest dimmed.

    Garments keep their colours, and labels do not cover one another.
    """
    height, width = image.shape[:2]
    canvas = (image * (1 - _DIM) + 255 * _DIM).astype(np.uint8) if result.garments else image.copy()
    placed = []
    for garment in result.garments:
        box = garment.box.scaled((result.width, result.height), (width, height))
        mask = np.ones((1, 1), np.bool_) if garment.mask is None else garment.mask
        inside = cv2.resize(mask.astype(np.uint8), (box.width, box.height), interpolation=cv2.INTER_NEAREST)
        canvas[box.slices][inside > 0] = image[box.slices][inside > 0]
        outline, _ = cv2.findContours(inside, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE, offset=(box.x1, box.y1))
        placed.append((garment, box, outline))
    line_px = max(1, round(max(height, width) / 400))
    labels: list[Box] = []
    for garment, box, outline in placed:
        color = tuple(bytes.fromhex(color_of(garment.label).removeprefix("#")))
        cv2.drawContours(canvas, outline, -1, color, line_px)
        _draw_label(canvas, f"{garment.label} {garment.score:.2f}", box, color, line_px, labels)
    return canvas


def _draw_label(canvas: Image, text: str, box: Box, color: tuple[int, ...], line_px: int, labels: list[Box]) -> None:
    """Draw a label at the top of its box, or below earlier labels that it would cover."""
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
    """Return a photo's result as a JSON object; scores and similarities have four decimals.

    >>> to_record(PhotoResult("a.jpg", error="not a photo"))
    {'photo': 'a.jpg', 'error': 'not a photo'}
    """
    if result.error is not None:
        return {"photo": result.photo, "error": result.error}
    garments = [_garment_record(garment, result, masks=masks) for garment in result.garments]
    return {"photo": result.photo, "width": result.width, "height": result.height, "garments": garments}


def write_answer(query: Mapping[str, str], matches: Sequence[Match], output: Path | None, *, overwrite: bool) -> None:
    """Write the answer to a search without photos as one JSON line to a ``.jsonl`` file, or to standard output."""
    line = json.dumps({**query, "matches": [*map(_match_record, matches)]}, allow_nan=False) + "\n"
    if output is None:
        sys.stdout.write(line)
        return
    if output.suffix.lower() != ".jsonl":
        raise ValueError(f"the answer to a search without photos is written as .jsonl, got {output.name!r}")
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
        values = {one.name: {"value": one.value, "confidence": one.confidence} for one in garment.attributes}
        record["attributes"] = values
    if garment.colours:
        record["colours"] = dict(garment.colours)
    record["matches"] = [_match_record(match) for match in garment.matches or ()]
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
    """Yield a photo's rows; ``metadata`` maps the catalogue's columns to the table's."""
    if result.error is not None:
        yield {"photo": result.photo, "error": result.error}
        return
    photo = {"photo": result.photo, "width": result.width, "height": result.height}
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
            item = {metadata[name]: value for name, value in match.metadata if name in metadata}
            yield {**row, **item, **dict(zip(MATCH_COLUMNS, values, strict=True))}


def full_rle(mask: Mask, box: Box, width: int, height: int) -> dict[str, Any]:
    """Return a mask as COCO's compressed run lengths over its whole photo: ``{"size": [height, width], "counts": str}``.

    >>> full_rle(np.ones((2, 1), dtype=np.bool_), Box(0, 0, 1, 2), width=2, height=3)
    {'size': [3, 2], 'counts': '024'}
    """
    full = np.zeros((height, width), np.uint8, order="F")
    full[box.slices] = mask
    packed = pycocotools.mask.encode(full)
    return {"size": [height, width], "counts": packed["counts"].decode("ascii")}
