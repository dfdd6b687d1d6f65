"""What can be wrong with one record of a COCO instances file, its mask apart."""

from __future__ import annotations

import math
import reprlib
from pathlib import Path, PurePath
from typing import Any, Final

from stages.detect.annotations import Corners, Kind
from stages.errors import CatalogueError, ImageError
from stages.formats import header_size
from stages.images import MAX_PIXELS, MAX_SIDE
from stages.problems import Problem

SLACK_PX: Final = 1.0
"""By how much a box or a polygon may reach out of its photo: annotation tools round."""


class Fault(CatalogueError):
    """One thing that is wrong with one record: its kind, and what in one line that names no record."""

    def __init__(self, kind: Kind, what: str) -> None:
        super().__init__(what)
        self.kind = kind

    def at(self, where: str) -> Problem:
        """The problem that this is in a record."""
        return Problem(self.kind, where, str(self))


def printable(value: object) -> str:
    """Whatever a file holds, short and in one line.

    >>> printable("a.jpg"), printable(" "), printable(list(range(100)))
    ('a.jpg', "' '", '[0, 1, 2, 3, 4, 5, ...]')
    """
    if isinstance(value, str) and value.isprintable() and value.strip() and len(value) <= 100:
        return value
    return reprlib.repr(value)


def whole(value: object) -> int | None:
    """A whole number of at most 53 bits, ``7.0`` (as pandas writes it) included; else None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return int(value) if abs(value) < 2**53 and value == int(value) else None


def numbers(values: object) -> list[float] | None:
    """A list of numbers as floats, NaN where they are infinite or absurd; None where it is no such list."""
    if not isinstance(values, list) or not set(map(type, values)) <= {int, float}:
        return None
    return [float(value) if abs(value) < 1e300 else math.nan for value in values]


def photo_name(record: dict[str, Any]) -> str:
    """The file name of an image record, relative to the photos folder.

    Raises:
        Fault: there is none, or it leads out of the folder.
    """
    name = record.get("file_name")
    if not isinstance(name, str) or not name.strip():
        raise Fault(Kind.PHOTO_RECORD, f"has no file_name, but {printable(name)}")
    path = PurePath(name)
    if path.is_absolute() or ".." in path.parts:
        raise Fault(Kind.PHOTO_ASTRAY, f"wanted a path within the photos folder, got {printable(name)}")
    return str(path)


def photo_size(record: dict[str, Any]) -> tuple[int, int]:
    """The width and height of an image record, in pixels.

    Raises:
        Fault: they are no photo's.
    """
    width, height = whole(record.get("width")), whole(record.get("height"))
    if width is None or height is None or min(width, height) < 1:
        got = f"{printable(record.get('width'))} and {printable(record.get('height'))}"
        raise Fault(Kind.PHOTO_RECORD, f"has no width and height in pixels, but {got}")
    if max(width, height) > MAX_SIDE or width * height > MAX_PIXELS:
        raise Fault(Kind.PHOTO_RECORD, f"is recorded as {width}x{height}, larger than photos that are read")
    return width, height


def check_photo(path: Path, width: int, height: int) -> None:
    """Compare an image record with the photo's header.

    Raises:
        Fault: the photo is missing, not a photo, or when upright not of this size.
    """
    if not path.is_file():
        raise Fault(Kind.PHOTO_MISSING, "is not a file" if path.exists() else "was not found")
    try:
        with path.open("rb") as file:
            size = header_size(file)
    except ImageError as error:
        raise Fault(Kind.PHOTO_UNREADABLE, str(error)) from error
    except Exception as error:  # of any kind: Pillow and the file system meet arbitrary bytes and names
        message = error.strerror if isinstance(error, OSError) else None
        why = printable(" ".join((message or str(error) or type(error).__name__).split()))
        raise Fault(Kind.PHOTO_UNREADABLE, f"cannot be read: {why}") from error
    if size != (width, height):
        turned = " when upright, as its EXIF says" if size == (height, width) else ""
        raise Fault(Kind.PHOTO_SIZE, f"is {size[0]}x{size[1]}{turned}, but recorded as {width}x{height}")


def corners_of(bbox: object, width: int, height: int) -> Corners | None:
    """COCO's ``[x, y, width, height]`` as corners, clipped to the photo; None where there is no box.

    Raises:
        Fault: it is not four numbers, empty, or reaches out of the photo by more than :data:`SLACK_PX`.

    >>> corners_of([-0.5, 2, 4, 3], width=10, height=10)
    (0.0, 2.0, 3.5, 5.0)
    """
    if bbox is None or bbox == []:
        return None
    told, values = printable(bbox), numbers(bbox)
    if values is None or len(values) != 4:
        raise Fault(Kind.BOX_MALFORMED, f"wanted bbox [x, y, width, height], got {told}")
    if any(map(math.isnan, values)):
        raise Fault(Kind.BOX_OUTSIDE, f"bbox {told} is not finite")
    x, y, wide, high = values
    if wide <= 0 or high <= 0:
        raise Fault(Kind.BOX_EMPTY, f"bbox {told} is {wide:g} px wide and {high:g} px high")
    box = max(0.0, x), max(0.0, y), min(float(width), x + wide), min(float(height), y + high)
    reach = max(-x, -y, x + wide - width, y + high - height)
    if reach > SLACK_PX or box[0] >= box[2] or box[1] >= box[3]:
        raise Fault(Kind.BOX_OUTSIDE, f"bbox {told} reaches {reach:.4g} px out of the {width}x{height} photo")
    return box
