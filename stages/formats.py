"""Photo formats: recognized by their first bytes, opened by Pillow without warnings, limited in size and memory.

Pillow's plugin classes are used directly, since ``PIL.Image.open`` warns or raises at ``PIL.Image.MAX_IMAGE_PIXELS``, which
belongs to the host program, and reports a truncated JPEG as "cannot identify".
"""

from __future__ import annotations

import importlib.util
import io
import math
import re
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import BinaryIO, Final, cast

from PIL import ExifTags, features
from PIL import Image as PillowImage
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from stages.errors import ImageError

MAX_PIXELS: Final = 105_000_000
"""Larger photos are refused before they are decoded; a JPEG decoded at half its size or less may have four times as many.
WebP, AVIF and HEIC have a lower limit, see :data:`MAX_MEMORY`."""

MAX_SIDE: Final = 65_500
"""The longest side that is read, in pixels: the longest that a JPEG can hold, so that any image can be written."""

MAX_MEMORY: Final = 850_000_000
"""Bytes that decoding one photo may take in addition to the process itself."""

_PIXEL_BYTES: Final[Mapping[str, int]] = {"WEBP": 20, "AVIF": 20, "HEIC": 16}
"""Measured peak memory per pixel; 8 for other formats: four bytes of Pillow's, three of the result."""

_READ_WHOLE: Final = frozenset({"WEBP", "AVIF", "HEIC"})
"""Formats whose decoder holds the whole file in memory."""

_MAX_SCANNED_PIXELS: Final = 12_000_000_000
"""The most scans times pixels of a progressive JPEG; a normal one has about ten scans, a malicious one thousands."""


def _avif(file: BinaryIO, name: str) -> ImageFile:
    from PIL.AvifImagePlugin import AvifImageFile  # noqa: PLC0415  since Pillow 11.3

    return AvifImageFile(file, name)


def _heic(file: BinaryIO, name: str) -> ImageFile:
    from pillow_heif import HeifImageFile  # noqa: PLC0415  optional, and slow to import

    opened: ImageFile = HeifImageFile(file, name)  # type: ignore[no-untyped-call]
    return opened


_PLUGINS: Final[dict[str, tuple[bytes, Callable[[BinaryIO, str], ImageFile]]]] = {
    "JPEG": (rb"\xff\xd8\xff", JpegImageFile),  # an MPO starts with its main photo, as a JPEG
    "PNG": (rb"\x89PNG\r\n\x1a\n", PngImageFile),
    "WEBP": (rb"RIFF....WEBP", WebPImageFile),
    "BMP": (rb"BM", BmpImageFile),
    "TIFF": (rb"II[*+]\0|MM\0[*+]", TiffImageFile),
    "GIF": (rb"GIF8[79]a", GifImageFile),
    "AVIF": (rb"....ftyp(avif|avis|(mif1|msf1|miaf).{4}(.{4})*?avi[fs])", _avif),
    "HEIC": (rb"....ftyp(hei[cmsx]|hev[cmsx]|(mif1|msf1|miaf).{4}(.{4})*?(hei[cmsx]|hev[cmsx]))", _heic),
}
"""The signature of each format, and the plugin that opens it."""

HEAD_BYTES: Final = 64
"""The length of the longest signature."""

_HAS_AVIF: Final = "avif" in features.modules and features.check("avif")
_HAS_HEIC: Final = importlib.util.find_spec("pillow_heif") is not None

_MISSING: Final[dict[str, str]] = {
    name: f"is {name}, which needs {remedy}"
    for name, installed, remedy in (
        ("AVIF", _HAS_AVIF, "Pillow 11.3 or newer: pip install -U pillow"),
        ("HEIC", _HAS_HEIC, "an extra: pip install 'outfinder[heic]'"),
    )
    if not installed
}
"""Formats that this installation cannot read, and what to install."""

FORMATS: Final[tuple[str, ...]] = tuple(name for name in _PLUGINS if name not in _MISSING)
"""The formats that this installation reads, as Pillow names them."""


class _PillowWhileDecoding(threading.local):
    """The module pattern of a warning filter: matches PIL's modules on threads that are decoding.

    ``warnings.catch_warnings`` would replace a list that all threads share. This filter stays in that list and affects no
    other threads, modules or later warnings.
    """

    decoding = False

    def match(self, module: str) -> bool:
        return self.decoding and module.startswith("PIL.")


_PATTERN = _PillowWhileDecoding()
_FILTER = ("ignore", None, Warning, _PATTERN, 0)


@contextmanager
def no_warnings() -> Iterator[None]:
    """Suppress Pillow's warnings on this thread: corrupt EXIF, odd TIFF tags, broken animations."""
    filters = cast("list[object]", warnings.filters)
    if not filters or filters[0] is not _FILTER:  # the host program has added filters since
        with suppress(ValueError):
            filters.remove(_FILTER)
        filters.insert(0, _FILTER)
    _PATTERN.decoding = True
    try:
        yield
    finally:
        _PATTERN.decoding = False


def sniff(head: bytes) -> str | None:
    """Return the format of a file from its first :data:`HEAD_BYTES` bytes, or None."""
    return next((name for name, (magic, _) in _PLUGINS.items() if re.match(magic, head, re.DOTALL)), None)


def recognize(file: BinaryIO) -> str:
    """Return the format of a file.

    Raises:
        ImageError: it is empty, of an unknown format, or of one whose decoder is not installed.
    """
    head = file.read(HEAD_BYTES)
    if not head:
        raise ImageError("is empty (0 bytes)")
    kind = sniff(head)
    if kind is None:
        raise ImageError(f"is not a photo of a known format ({', '.join(FORMATS)})")
    if kind in _MISSING:
        raise ImageError(_MISSING[kind])
    return kind


def open_header(kind: str, file: BinaryIO) -> ImageFile:
    """Open a file of a known format, reading only its header where the format allows that.

    Raises:
        ImageError: it is a WebP with too large a canvas, which its decoder would allocate while opening the file.
        Exception: anything that Pillow raises.
    """
    if kind == "WEBP" and (canvas := _webp_canvas(file)):
        check_size(kind, *canvas)
    file.seek(0)
    return _PLUGINS[kind][1](file, "")


def header_size(file: BinaryIO) -> tuple[int, int]:
    """Return the upright width and height of a photo from its header.

    Raises:
        ImageError: see :func:`recognize`.
        Exception: anything that Pillow raises.
    """
    kind = recognize(file)
    with no_warnings():
        photo = open_header(kind, file)
        width, height = photo.size
        turned = None
        if isinstance(photo, TiffImageFile):  # Pillow rotates these itself, before or after loading
            width, height = photo.tag_v2[256], photo.tag_v2[257]
            turned = photo.tag_v2.get(ExifTags.Base.Orientation)
        else:
            with suppress(Exception):  # PngImageFile.getexif would decode the photo, to find EXIF after the pixels
                turned = PillowImage.Image.getexif(photo).get(ExifTags.Base.Orientation)
    return (height, width) if turned in {5, 6, 7, 8} else (width, height)


def reduce_jpeg(photo: ImageFile, at_least_px: int) -> None:
    """Let a JPEG be decoded at 1/2, 1/4 or 1/8 of its size if its long side keeps ``at_least_px`` pixels."""
    width, height = photo.size
    scale = max((s for s in (2, 4, 8) if -(-max(width, height) // s) >= at_least_px), default=1)
    if scale > 1 and isinstance(photo, JpegImageFile):
        photo.draft(None, (max(1, width // scale), max(1, height // scale)))


def orientation(photo: ImageFile) -> int:
    """Return the EXIF orientation of a loaded photo, 1 to 8; 1 if it has none or it cannot be read."""
    try:
        value = photo.getexif().get(ExifTags.Base.Orientation)
        return next((known for known in range(2, 9) if known == value), 1)
    except Exception:  # noqa: BLE001  EXIF can be broken in any way while the photo is sound
        return 1


def check_size(kind: str, width: int, height: int, max_pixels: int = MAX_PIXELS) -> None:
    """Refuse a photo with too many pixels or too long a side.

    Raises:
        ImageError: the message names the limit.
    """
    most = min(max_pixels, MAX_MEMORY // _PIXEL_BYTES.get(kind, 8))
    if width * height > most:
        of_kind = f" ({kind})" if most < max_pixels else ""
        raise ImageError(f"has {_megapixels(width * height)} megapixels; at most {most / 1e6:.3g} are read{of_kind}")
    if max(width, height) > MAX_SIDE:
        raise ImageError(f"is {width}x{height} pixels; sides of at most {MAX_SIDE} are read")


def check_memory(kind: str, photo: ImageFile, full_size: tuple[int, int], file: BinaryIO) -> None:
    """Refuse a photo that would take more than :data:`MAX_MEMORY` to decode, or much longer than others of its size.

    Raises:
        ImageError: the message names the reason.
    """
    full_pixels = math.prod(full_size)
    needed = math.prod(photo.size) * _PIXEL_BYTES.get(kind, 8)
    if kind in _READ_WHOLE:
        needed += file.seek(0, io.SEEK_END)
    if isinstance(photo, JpegImageFile) and photo.info.get("progressive"):
        scans = _count_scans(file)
        if scans * full_pixels > _MAX_SCANNED_PIXELS:
            raise ImageError(f"is a JPEG of {scans} scans and {_megapixels(full_pixels)} megapixels, made to take long")
        sampling = [int(horizontal) * int(vertical) for _, horizontal, vertical, _ in photo.layer]
        coefficients = 2 * full_pixels * sum(sampling) // max(1, *sampling)  # of the full size, even if it is reduced
        needed = max(needed, math.prod(photo.size) * 5 + coefficients)
    if isinstance(photo, TiffImageFile):
        needed += _tiff_block(photo)
    if needed > MAX_MEMORY:
        raise ImageError(f"takes {needed // 10**6} MB to decode; at most {MAX_MEMORY // 10**6} are used")


def _webp_canvas(file: BinaryIO) -> tuple[int, int] | None:
    """Return the width and height of a WebP's canvas; None if its header has none."""
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


def _count_scans(file: BinaryIO) -> int:
    """Count the start-of-scan markers of a JPEG."""
    position, count, last = file.tell(), 0, b""
    file.seek(0)
    while block := file.read(1 << 20):
        count += (last + block).count(b"\xff\xda")
        last = block[-1:] if block[-1] == 0xFF else b""
    file.seek(position)
    return count


def _tiff_block(photo: TiffImageFile) -> int:
    """Return the size in bytes of one tile or strip, which libtiff decodes as a whole."""
    tags = cast("Mapping[int, object]", photo.tag_v2)

    def number(tag: int, default: int) -> int:
        value = tags.get(tag, default)
        largest = max(value, default=0) if isinstance(value, tuple) else value
        return int(largest) if isinstance(largest, int | float) else default

    width, height = photo.size
    pixel_bytes = number(277, 1) * max(8, number(258, 8)) // 8
    if number(322, 0):
        return number(322, 0) * number(323, 0) * pixel_bytes
    return width * min(height, number(278, height)) * pixel_bytes if photo.tile and photo.tile[0][0] == "libtiff" else 0


def _megapixels(pixels: int) -> int:
    return math.ceil(pixels / 1e6)
