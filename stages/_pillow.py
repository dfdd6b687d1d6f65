"""How Pillow is kept in hand: formats named by their first bytes, no warning, sRGB out.

:mod:`stages.images` is the door to use; this is its hinge.

The plugin classes are opened directly rather than by ``PIL.Image.open``. That one warns at
``PIL.Image.MAX_IMAGE_PIXELS`` and raises at twice that, reads an MPO's index only to warn of a malformed one,
and says "cannot identify" of a JPEG that is merely cut short; the host program's setting is left alone.
"""

from __future__ import annotations

import importlib.util
import re
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import BinaryIO, Final, cast

from PIL import ExifTags
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

Opener = Callable[[BinaryIO, str], ImageFile]


def _avif(file: BinaryIO, name: str) -> ImageFile:
    from PIL.AvifImagePlugin import AvifImageFile  # noqa: PLC0415  from Pillow 11.3 on

    return AvifImageFile(file, name)


def _heic(file: BinaryIO, name: str) -> ImageFile:
    from pillow_heif import HeifImageFile  # noqa: PLC0415  an extra, and slow to import

    opened: ImageFile = HeifImageFile(file, name)  # type: ignore[no-untyped-call]
    return opened


_PLUGINS: Final[dict[str, tuple[bytes, Opener]]] = {
    "JPEG": (rb"\xff\xd8\xff", JpegImageFile),  # an MPO begins with its main photo, as a JPEG
    "PNG": (rb"\x89PNG\r\n\x1a\n", PngImageFile),
    "WEBP": (rb"RIFF....WEBP", WebPImageFile),
    "BMP": (rb"BM", BmpImageFile),
    "TIFF": (rb"II[*+]\0|MM\0[*+]", TiffImageFile),
    "GIF": (rb"GIF8[79]a", GifImageFile),
    "AVIF": (rb"....ftyp(avif|avis|(mif1|msf1|miaf).{4}(.{4})*?avi[fs])", _avif),
    "HEIC": (rb"....ftyp(hei[cmsx]|hev[cmsx]|(mif1|msf1|miaf).{4}(.{4})*?(hei[cmsx]|hev[cmsx]))", _heic),
}
"""What a file of each format begins with, and what of Pillow's reads it."""

HEAD_BYTES: Final = 64
"""So many first bytes tell a format."""

_LACKING: Final[dict[str, str]] = {
    name: f"is {name}, which needs {remedy}"
    for name, there, remedy in (
        ("AVIF", importlib.util.find_spec("PIL._avif"), "Pillow 11.3 or newer: pip install -U pillow"),
        ("HEIC", importlib.util.find_spec("pillow_heif"), "an extra: pip install 'outfinder[heic]'"),
    )
    if not there
}
"""The formats that cannot be read here, and what to do."""

FORMATS: Final[tuple[str, ...]] = tuple(name for name in _PLUGINS if name not in _LACKING)
"""The formats that are read, as Pillow names them."""


class _SilentPillow(threading.local):
    """A pattern for the module of a warning: PIL's, on a thread that is decoding.

    ``warnings.catch_warnings`` swaps a list that all threads share. This pattern stands in one filter that
    stays in that list, and is without effect on every other thread, module and time.
    """

    decoding = False

    def match(self, module: str) -> bool:
        return self.decoding and module.startswith("PIL.")


_SILENT = _SilentPillow()
_FILTER = ("ignore", None, Warning, _SILENT, 0)


@contextmanager
def silence() -> Iterator[None]:
    """Let no warning of Pillow's out of this thread: corrupt EXIF, odd TIFF tags, broken animations."""
    filters = cast("list[object]", warnings.filters)
    if not filters or filters[0] is not _FILTER:  # filters that the host program set later stand before it
        with suppress(ValueError):
            filters.remove(_FILTER)
        filters.insert(0, _FILTER)
    _SILENT.decoding = True
    try:
        yield
    finally:
        _SILENT.decoding = False


def sniff(head: bytes) -> str | None:
    """The format of a file by its first :data:`HEAD_BYTES`, or None."""
    return next((name for name, (magic, _) in _PLUGINS.items() if re.match(magic, head, re.DOTALL)), None)


def lacking(kind: str) -> str | None:
    """Why a known format cannot be read here, or None."""
    return _LACKING.get(kind)


def open_header(kind: str, file: BinaryIO) -> ImageFile:
    """Read a file's header alone, if the format allows; Pillow's many errors come through."""
    file.seek(0)
    return _PLUGINS[kind][1](file, "")


def reduce_jpeg(image: ImageFile, at_least_px: int) -> None:
    """Ask for a JPEG to be decoded at 1/2, 1/4 or 1/8, its long side still at least so many pixels."""
    width, height = image.size
    scale = max((s for s in (2, 4, 8) if -(-max(width, height) // s) >= at_least_px), default=1)
    if scale > 1 and isinstance(image, JpegImageFile):
        image.draft(None, (max(1, width // scale), max(1, height // scale)))


def orientation(image: ImageFile) -> int:
    """How a loaded photo lies, as in EXIF, 1 to 8; 1 where it does not say so readably."""
    try:
        value = image.getexif().get(ExifTags.Base.Orientation)
        return next((known for known in range(2, 9) if known == value), 1)
    except Exception:  # noqa: BLE001  whatever is wrong with its EXIF, the photo is there
        return 1
