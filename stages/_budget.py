"""What decoding a photo will take, told by its header: what would take too much is refused before anything is decoded."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from typing import BinaryIO, Final, cast

from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.TiffImagePlugin import TiffImageFile

from stages.errors import ImageError

MEMORY: Final = 850_000_000
"""In bytes, beside the process itself: what decoding one photo may take."""

_PER_PIXEL: Final[Mapping[str, int]] = {"WEBP": 20, "AVIF": 20, "HEIC": 16}
"""Bytes for each pixel at the peak, as measured; 8 in formats that are not named: Pillow's four, three in the end."""

_OTHERS: Final = 8
_WHOLE: Final = frozenset({"WEBP", "AVIF", "HEIC"})
"""Formats whose files are in memory as a whole."""

_SCANNED: Final = 12_000_000_000
"""Pixels that all scans of a progressive JPEG may go over: a normal one has about ten scans, one made to last thousands."""


def webp_size(file: BinaryIO) -> tuple[int, int] | None:
    """The size of a WebP's canvas, which its decoder allocates before it can be asked; None where that is not told."""
    file.seek(12)
    head = file.read(18)
    if head.startswith(b"VP8X") and len(head) == 18:
        return 1 + int.from_bytes(head[12:15], "little"), 1 + int.from_bytes(head[15:18], "little")
    if head.startswith(b"VP8L") and len(head) >= 13:
        bits = int.from_bytes(head[9:13], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if head.startswith(b"VP8 ") and len(head) == 18:
        return int.from_bytes(head[14:16], "little") & 0x3FFF, int.from_bytes(head[16:18], "little") & 0x3FFF
    return None


def check_size(kind: str, width: int, height: int, most_px: int, most_side: int) -> None:
    """Refuse what is too large in any case.

    Raises:
        ImageError: telling what it has, and what is read at most.
    """
    most = min(most_px, MEMORY // _PER_PIXEL.get(kind, _OTHERS))
    if width * height > most:
        of_kind = f" ({kind})" if most < most_px else ""
        raise ImageError(f"has {_megapixels(width * height)} megapixels; at most {most / 1e6:.3g} are read{of_kind}")
    if max(width, height) > most_side:
        raise ImageError(f"is {width}x{height} pixels; sides of at most {most_side} are read")


def check_memory(kind: str, photo: ImageFile, full: tuple[int, int], file: BinaryIO) -> None:
    """Refuse what would take more than :data:`MEMORY` to decode, or far longer than a photo of its size.

    Raises:
        ImageError: telling what it is about it.
    """
    bytes_ = math.prod(photo.size) * _PER_PIXEL.get(kind, _OTHERS)
    if kind in _WHOLE:
        bytes_ += file.seek(0, io.SEEK_END)
    if isinstance(photo, JpegImageFile) and photo.info.get("progressive"):
        bytes_ = max(bytes_, math.prod(photo.size) * 5 + _coefficients(photo, math.prod(full)))
        scans = _scans(file)
        if scans * math.prod(full) > _SCANNED:
            raise ImageError(
                f"is a JPEG of {scans} scans and {_megapixels(math.prod(full))} megapixels, made to take long"
            )
    if isinstance(photo, TiffImageFile):
        bytes_ += _tiff_piece(photo)
    if bytes_ > MEMORY:
        raise ImageError(f"takes {bytes_ // 10**6} MB to decode; at most {MEMORY // 10**6} are used")


def _coefficients(photo: JpegImageFile, pixels: int) -> int:
    """Bytes of a progressive JPEG's coefficients, which are in memory for the whole photo, however small it is decoded."""
    sampling = [int(wide) * int(high) for _, wide, high, _ in photo.layer]
    return 2 * pixels * sum(sampling) // max(1, *sampling)


def _scans(file: BinaryIO) -> int:
    """How often a JPEG starts a scan."""
    at, count, last = file.tell(), 0, b""
    file.seek(0)
    while block := file.read(1 << 20):
        count += (last + block).count(b"\xff\xda")
        last = block[-1:] if block[-1] == 0xFF else b""
    file.seek(at)
    return count


def _tiff_piece(photo: TiffImageFile) -> int:
    """Bytes of a tile or strip of a TIFF, which libtiff decodes as a whole."""
    tags = cast("Mapping[int, object]", photo.tag_v2)

    def number(tag: int, default: int) -> int:
        value = tags.get(tag, default)
        largest = max(value, default=0) if isinstance(value, tuple) else value
        return int(largest) if isinstance(largest, int | float) else default

    width, height = photo.size
    samples = number(277, 1) * max(8, number(258, 8)) // 8
    if number(322, 0):
        return number(322, 0) * number(323, 0) * samples
    return width * min(height, number(278, height)) * samples if photo.tile and photo.tile[0][0] == "libtiff" else 0


def _megapixels(pixels: int) -> int:
    return math.ceil(pixels / 1e6)
