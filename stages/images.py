"""The one door by which pixels come in: files and folders to images, and images back to JPEG.

An image is ``(h, w, 3)`` uint8 RGB (sRGB), upright, transparency over white. Whatever a file holds, reading it
gives such an image or an :class:`~stages.errors.ImageError` of one line; nothing else, and no warning. Within
:func:`stages.isolation.isolated` that also holds for what would crash, hang or fill the memory.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import struct
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, Final

from PIL import Image as PillowImage
from PIL.JpegImagePlugin import JpegImageFile

from stages import _budget, _pillow, _srgb, isolation
from stages._output import MAX_SIDE, encode_jpeg, letterbox, reason, write_jpeg
from stages._pillow import FORMATS
from stages._walk import SUFFIXES, walk
from stages.errors import ImageError
from stages.types import Box, Image

__all__ = [
    "FORMATS", "MAX_BYTES", "MAX_PIXELS", "MAX_SIDE", "SUFFIXES",
    "Photo", "decode_photo", "encode_jpeg", "enough_px", "letterbox", "read_image", "read_photo", "walk", "write_jpeg",
]  # fmt: skip

MAX_PIXELS: Final = 105_000_000
"""Larger photos are refused by their header, before anything is decoded; WebP, AVIF and HEIC take more memory and so have
less of them. A JPEG that is decoded at half its size or less may have four times as many."""

MAX_BYTES: Final = 1_000_000_000
"""Larger files are refused unread."""

NO_MEMORY: Final = "does not fit into memory"
_TRUNCATED = re.compile("truncated|not enough|requires a buffer", re.IGNORECASE)


@dataclass(frozen=True, slots=True, eq=False)
class Photo:
    """A photo as read: ``width`` and ``height`` are the full-size photo's, ``image`` may be reduced."""

    image: Image
    width: int
    height: int

    @property
    def scale(self) -> float:
        """Full-size pixels along a side of a pixel of ``image``: 1 where it is not reduced."""
        return max(self.width, self.height) / int(max(self.image.shape[:2]))

    def to_full(self, box: Box) -> Box:
        """The box of the full-size photo that a box of ``image`` covers, in whole pixels.

        Raises:
            ValueError: the box does not lie within ``image``.

        >>> import numpy as np
        >>> Photo(np.zeros((3, 4, 3), np.uint8), width=15, height=12).to_full(Box(1, 0, 4, 3))
        Box(x1=3, y1=0, x2=15, y2=12)
        """
        height, width, _ = self.image.shape
        if box.x2 > width or box.y2 > height:
            raise ValueError(f"wanted a box within the photo's {width}x{height} pixels as read, got {box.corners}")
        return Box(
            box.x1 * self.width // width,
            box.y1 * self.height // height,
            -(-box.x2 * self.width // width),
            -(-box.y2 * self.height // height),
        )


def read_image(path: str | os.PathLike[str]) -> Image:
    """Read a photo at full size.

    Raises:
        ImageError: it cannot be used; the message says why in one line and names no path.
    """
    return read_photo(path).image


def enough_px(input_px: int) -> int:
    """The long side to read a whole photo at, of which an embedder is to see one thing ``input_px`` large.

    A thing may fill half of its photo, and an embedder may look at nothing but that.
    """
    return 2 * input_px


def read_photo(path: str | os.PathLike[str], at_least_px: int | None = None) -> Photo:
    """Read a photo, smaller where its long side keeps ``at_least_px``.

    A JPEG is decoded at 1/2, 1/4 or 1/8, which is much faster; others are reduced if they have more than 4 megapixels.

    Raises:
        ImageError: it cannot be used; the message says why in one line and names no path.
        ValueError: ``at_least_px`` is less than 1.
    """
    _check_reduction(at_least_px)
    return _isolated_or_not(path, at_least_px)


def decode_photo(data: bytes, at_least_px: int | None = None, max_pixels: int | None = None) -> Photo:
    """Decode the bytes of a photo file, as :func:`read_photo` does.

    Raises:
        ImageError: they are no photo that can be used, or one of more than ``max_pixels``.
        ValueError: ``at_least_px`` is less than 1.
    """
    _check_reduction(at_least_px)
    return _isolated_or_not(data, at_least_px, max_pixels)


def decode_here(
    source: str | os.PathLike[str] | bytes, at_least_px: int | None, max_pixels: int | None = None
) -> Photo:
    """Decode a file or its bytes in this process, whatever :func:`stages.isolation.isolated` says."""
    if isinstance(source, bytes):
        return _decode(BytesIO(source), at_least_px, max_pixels)
    try:
        _check_file(source, Path(source).stat())
        with Path(source).open("rb") as file:
            return _decode(file, at_least_px, max_pixels)
    except OSError as error:
        raise ImageError(_why_unreadable(source, error)) from error
    except ValueError as error:  # a null byte, or what the file system's encoding lacks
        raise ImageError("has a name that no file can have") from error


def _isolated_or_not(
    source: str | os.PathLike[str] | bytes, at_least_px: int | None, max_pixels: int | None = None
) -> Photo:
    decode = isolation.decoder()
    if decode is None:
        return decode_here(source, at_least_px, max_pixels)
    decoded = decode(source, at_least_px, max_pixels)
    return Photo(decoded.image, decoded.width, decoded.height)


def _check_reduction(at_least_px: int | None) -> None:
    if at_least_px is not None and at_least_px < 1:
        raise ValueError(f"at_least_px is at least 1, got {at_least_px}; None reads at full size")


def _check_file(path: str | os.PathLike[str], status: os.stat_result) -> None:
    """Refuse without opening: what is no regular file might never end, or never begin."""
    if stat.S_ISDIR(status.st_mode):
        listable = os.access(path, os.R_OK | os.X_OK)
        raise ImageError("is a folder, not a photo" if listable else "is a folder that cannot be listed")
    if not stat.S_ISREG(status.st_mode):
        raise ImageError("is not a regular file")
    if status.st_size == 0:  # as has every file of /proc, some of which can never be read to the end
        raise ImageError("is empty (0 bytes)")
    if status.st_size > MAX_BYTES:
        raise ImageError(f"has {status.st_size / 1e9:.1f} GB; at most {MAX_BYTES / 1e9:.1f} are read")


def _why_unreadable(path: str | os.PathLike[str], error: OSError) -> str:
    """One line for what the file system says."""
    if isinstance(error, FileNotFoundError):
        return "is a broken link" if Path(path).is_symlink() else "was not found"
    if error.errno == errno.ELOOP:
        return "is a link that leads back to itself"
    return f"cannot be read: {reason(error)}"


def _decode(file: BinaryIO, at_least_px: int | None, max_pixels: int | None) -> Photo:
    head = file.read(_pillow.HEAD_BYTES)
    if not head:
        raise ImageError("is empty (0 bytes)")
    kind = _pillow.sniff(head)
    if kind is None:
        raise ImageError(f"is not a photo of a known format ({', '.join(FORMATS)})")
    if lacking := _pillow.lacking(kind):
        raise ImageError(lacking)
    try:
        with _pillow.silence():
            return _decode_as(kind, file, at_least_px, max_pixels)
    except ImageError:
        raise
    except Exception as error:  # of any kind: Pillow and its libraries meet arbitrary bytes
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the disk's fault, not the photo's
        raise ImageError(_why_undecodable(kind, error)) from error


def _decode_as(kind: str, file: BinaryIO, at_least_px: int | None, max_pixels: int | None) -> Photo:
    if kind == "WEBP" and (canvas := _budget.webp_size(file)):
        _budget.check_size(kind, *canvas, max_pixels or MAX_PIXELS, MAX_SIDE)
    photo = _pillow.open_header(kind, file)
    width, height = full = photo.size
    if at_least_px is not None:
        _pillow.reduce_jpeg(photo, at_least_px)
    _budget.check_size(kind, *full, max_pixels or MAX_PIXELS * (4 if photo.size != full else 1), MAX_SIDE)
    _budget.check_memory(kind, photo, full, file)
    photo.load()
    lies = _pillow.orientation(photo)
    if photo.size != full and not isinstance(photo, JpegImageFile):
        width, height = photo.size  # some formats tell their true size only now
    image = _srgb.to_array(photo, lies, at_least_px)
    if lies in _srgb.SIDEWAYS:
        width, height = height, width
    return Photo(image, width, height)


def _why_undecodable(kind: str, error: Exception) -> str:
    """One line for one of the many ways in which Pillow gives up."""
    said = " ".join(str(error).split())[:100]
    if isinstance(error, MemoryError):
        return NO_MEMORY
    if isinstance(error, PillowImage.DecompressionBombError):
        return f"has too many pixels; at most {MAX_PIXELS // 10**6} megapixels are read"
    if isinstance(error, EOFError | struct.error | IndexError) or _TRUNCATED.search(said):
        return f"is truncated ({kind})"
    return f"is a truncated, damaged or unsupported {kind} ({said or type(error).__name__})"
