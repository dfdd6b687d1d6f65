"""How Pillow is kept in hand: formats named by their first bytes, no warning, sRGB out.

:mod:`stages.images` is the door to use; this is its hinge.

The plugin classes are opened directly rather than by ``PIL.Image.open``. That one warns at
``PIL.Image.MAX_IMAGE_PIXELS`` and raises at twice that, reads an MPO's index only to warn of a malformed one,
and says "cannot identify" of a JPEG that is merely cut short; the host program's setting is left alone.
"""

from __future__ import annotations

import re
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BytesIO
from typing import BinaryIO, Final, cast

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, ImageCms
from PIL import Image as PillowImage
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

_PLUGINS: Final[dict[str, tuple[bytes, type[ImageFile]]]] = {
    "JPEG": (rb"\xff\xd8\xff", JpegImageFile),  # an MPO begins with its main photo, as a JPEG
    "PNG": (rb"\x89PNG\r\n\x1a\n", PngImageFile),
    "WEBP": (rb"RIFF....WEBP", WebPImageFile),
    "BMP": (rb"BM", BmpImageFile),
    "TIFF": (rb"II[*+]\0|MM\0[*+]", TiffImageFile),
    "GIF": (rb"GIF8[79]a", GifImageFile),
}
"""What a file of each format begins with, and the Pillow class that reads it."""

try:
    from PIL import AvifImagePlugin  # from Pillow 11.3 on
except ImportError:
    pass
else:
    if AvifImagePlugin.SUPPORTED:
        _PLUGINS["AVIF"] = (rb"....ftyp(avif|avis|mif1|msf1)", AvifImagePlugin.AvifImageFile)

FORMATS: Final[tuple[str, ...]] = tuple(_PLUGINS)
"""The formats that are read, as Pillow names them."""

_TRANSPOSE: Final[dict[int, PillowImage.Transpose]] = {
    2: PillowImage.Transpose.FLIP_LEFT_RIGHT,
    3: PillowImage.Transpose.ROTATE_180,
    4: PillowImage.Transpose.FLIP_TOP_BOTTOM,
    5: PillowImage.Transpose.TRANSPOSE,
    6: PillowImage.Transpose.ROTATE_270,
    7: PillowImage.Transpose.TRANSVERSE,
    8: PillowImage.Transpose.ROTATE_90,
}
"""What sets each EXIF orientation upright (EXIF 2.32, tag 0x0112)."""

SIDEWAYS: Final = frozenset({5, 6, 7, 8})
"""The EXIF orientations in which the sensor's rows are the photo's columns."""

_WHITES: Final = (1.0, 255.0, 65535.0, 2.0**31 - 1)
"""The values that can stand for white in a grey image of 32-bit numbers."""


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
    """The format of a file by its first 16 bytes, or None."""
    return next((name for name, (magic, _) in _PLUGINS.items() if re.match(magic, head, re.DOTALL)), None)


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
        return next((known for known in _TRANSPOSE if known == value), 1)
    except Exception:  # noqa: BLE001  whatever is wrong with its EXIF, the photo is there
        return 1


def upright(image: PillowImage.Image, how_it_lies: int) -> PillowImage.Image:
    """Turn a photo so that its first row is its top."""
    method = _TRANSPOSE.get(how_it_lies)
    return image if method is None else image.transpose(method)


def to_rgb(image: PillowImage.Image) -> PillowImage.Image:
    """Any mode as sRGB in 8 bits, transparency over white."""
    profile = image.info.get("icc_profile")
    if image.mode in {"I", "F"} or image.mode.startswith("I;16"):
        return _grey(image)
    if image.mode == "La":  # Pillow converts it to LA alone
        image = image.convert("LA")
    if not image.has_transparency_data:
        return _to_srgb(image, profile)
    rgba = image.convert("RGBA")
    white = PillowImage.new("RGB", image.size, (255, 255, 255))
    return PillowImage.composite(_to_srgb(rgba.convert("RGB"), profile), white, rgba.getchannel("A"))


def _to_srgb(image: PillowImage.Image, profile: object) -> PillowImage.Image:
    """Follow an embedded ICC profile if there is a sound one that fits the mode."""
    if image.mode in {"P", "1", "YCbCr"}:
        image = image.convert("RGB" if image.mode != "1" else "L")
    if isinstance(profile, bytes) and profile:
        try:
            source = ImageCms.ImageCmsProfile(BytesIO(profile))
            if image.mode != "RGB" or "sRGB" not in ImageCms.getProfileDescription(source):
                srgb = ImageCms.createProfile("sRGB")
                converted = ImageCms.profileToProfile(image, source, srgb, outputMode="RGB")
                return converted or image
        except (ImageCms.PyCMSError, OSError, TypeError, ValueError, ImportError):
            pass  # a broken profile, one of another colour space, or Pillow without LittleCMS
    return image.convert("RGB")


def _grey(image: PillowImage.Image) -> PillowImage.Image:
    """Grey of 16 or 32 bits as 8: 16 bits by /257, others by the smallest usual white that holds them."""
    values: NDArray[np.float32] = np.nan_to_num(np.asarray(image).astype(np.float32), posinf=0, neginf=0)
    if image.mode.startswith("I;16"):
        white = 65535.0
    else:
        whites = _WHITES[image.mode == "I" :]
        brightest = float(values.max())
        white = next((white for white in whites if brightest <= white), brightest)
    grey = np.rint(values.clip(0, None) * np.float32(255 / white)).astype(np.uint8)
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        grey[values == transparent] = 255
    return PillowImage.fromarray(grey).convert("RGB")
