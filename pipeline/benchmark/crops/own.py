"""The user's own photos: a CSV of boxes and masks, or a folder for each item."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np

from pipeline.benchmark.crops.data import CropSet, Garment, Readable, Shot, reader
from pipeline.catalogue import read_catalogue
from stages.errors import CatalogueError, ImageError
from stages.images import read_image
from stages.types import Box, Detection

REQUIRED: Final = ("photo", "item_id")
_ABOUT: Final = "each garment finds others of its item among all garments"


def own_photos(source: Path) -> CropSet:
    """A CSV with the columns photo, box, mask, item_id and perhaps label; or a folder with a folder for each item.

    A box is four pixels ``x1 y1 x2 y2``, a mask a picture of the photo's size that is white where the garment is; files
    are relative to the CSV. Without a mask the garment has a box only, without a box the one around its mask. Where
    no row has either, and in a folder, photos show one garment each, which detectors find.

    Raises:
        CatalogueError: the CSV cannot be read as a whole, or there is no photo that can be used.
    """
    shots, problems = _from_csv(source) if source.suffix.lower() == ".csv" else _from_folder(source)
    readable = Readable()
    shots = readable.only(shots)
    problems += readable.problems
    if not shots:
        told = f": {problems[0]}" if problems else ""
        raise CatalogueError(f"{source} has no photo that can be used{told}")
    return CropSet(source.stem or str(source), _ABOUT, shots, problems=tuple(problems))


def _from_folder(source: Path) -> tuple[list[Shot], list[str]]:
    photos = list(read_catalogue([source]))
    shots = [
        Shot(str(one.path), reader(str(one.path)), (Garment(one.item, dict(one.metadata).get("label", "")),))
        for one in photos
        if one.error is None
    ]
    return shots, [f"{one.path}: {one.error}" for one in photos if one.error]


@dataclass
class _Table:
    """The garments of a CSV, by photo."""

    garments: defaultdict[Path, list[Garment]] = field(default_factory=lambda: defaultdict(list))
    problems: list[str] = field(default_factory=list)


def _from_csv(source: Path) -> tuple[list[Shot], list[str]]:
    table = _Table()
    for line, row in _rows(source):
        photo, item = row.get("photo", ""), row.get("item_id", "")
        if not photo or not item:
            table.problems.append(f"{source.name} line {line}: lacks a photo or an item_id")
            continue
        path = source.parent / photo
        try:
            truth = _truth(path, source.parent / row["mask"] if row.get("mask") else None, row)
        except (ImageError, ValueError) as error:
            table.problems.append(f"{source.name} line {line}: {error}")
            continue
        table.garments[path].append(Garment(item, row.get("label", ""), truth))
    placed = any(garment.truth for garments in table.garments.values() for garment in garments)
    shots = []
    for path, garments in table.garments.items():
        if placed:
            bare = [one for one in garments if one.truth is None]
            table.problems += [f"{path.name}: {one.item} has neither box nor mask, and others have" for one in bare]
            garments = [one for one in garments if one.truth]  # noqa: PLW2901
        elif len(garments) > 1:
            table.problems.append(f"{path.name}: shows several items, and no box says which is where")
            continue
        if garments:
            shots.append(Shot(str(path), reader(str(path)), tuple(garments)))
    return shots, table.problems


def _truth(path: Path, mask_file: Path | None, row: dict[str, str]) -> Detection | None:
    """Where the garment of a row is.

    Raises:
        ImageError: photo or mask cannot be read.
        ValueError: they do not fit together.
    """
    if not row.get("box") and mask_file is None:
        return None
    height, width = _read(path).shape[:2]
    mask = None
    if mask_file is not None:
        dense = _read(mask_file).max(axis=2) > 127
        if dense.shape != (height, width):
            raise ValueError(
                f"the mask {mask_file.name} is {dense.shape[1]}x{dense.shape[0]}, its photo {width}x{height}"
            )
        if not dense.any():
            raise ValueError(f"the mask {mask_file.name} has no white pixel")
        ys, xs = np.flatnonzero(dense.any(axis=1)), np.flatnonzero(dense.any(axis=0))
        box = Box(int(xs[0]), int(ys[0]), int(xs[-1]) + 1, int(ys[-1]) + 1)
    if row.get("box"):
        box = _box(row["box"], width, height)
    if mask_file is not None:
        mask = dense[box.slices].copy()
        if not mask.any():
            raise ValueError(f"the mask {mask_file.name} has no white pixel in the box {box.corners}")
    return Detection(row.get("label") or "garment", 1.0, box, mask)


def _read(path: Path) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    try:
        return read_image(path)
    except ImageError as error:
        raise ImageError(f"{path.name} {error}") from error


def _box(text: str, width: int, height: int) -> Box:
    try:
        x1, y1, x2, y2 = map(float, text.replace(",", " ").replace(";", " ").split())
    except ValueError:
        raise ValueError(f"a box is four numbers, x1 y1 x2 y2, got {text!r}") from None
    box = Box.clipped(x1, y1, x2, y2, width, height)
    if box is None or x2 > width or y2 > height or min(x1, y1) < 0:
        raise ValueError(f"the box {text!r} is not within its photo of {width}x{height}")
    return box


def _rows(source: Path) -> Iterator[tuple[int, dict[str, str]]]:
    try:
        with source.open(encoding="utf-8-sig", newline="") as file:
            header = file.readline()
            file.seek(0)
            rows = csv.DictReader(file, delimiter=max(",;\t", key=header.count), restval="")
            if missing := [name for name in REQUIRED if name not in (rows.fieldnames or ())]:
                raise CatalogueError(
                    f"{source} lacks the column {' and '.join(missing)}; its first line must name photo, box, mask and"
                    f" item_id, it is {header.strip()[:100]!r}"
                )
            for row in rows:
                yield (
                    rows.line_num,
                    {key: value.strip() for key, value in row.items() if key and isinstance(value, str)},
                )
    except OSError as error:
        raise CatalogueError(f"{source} cannot be read: {error.strerror}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise CatalogueError(f"{source} is not a CSV in UTF-8: {error}") from error
