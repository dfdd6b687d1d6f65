"""Conversion of Pillow images to upright sRGB arrays, in strips, so that a large photo is in memory only once."""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage
from PIL import ImageCms

STRIP_PIXELS: Final = 1 << 22
"""The number of pixels converted at once; larger photos are reduced as well, if a smaller size is enough."""

SIDEWAYS: Final = frozenset({5, 6, 7, 8})  # the EXIF orientations whose stored rows are columns of the upright photo
_TRANSPOSE: Final[dict[int, PillowImage.Transpose]] = {
    2: PillowImage.Transpose.FLIP_LEFT_RIGHT,
    3: PillowImage.Transpose.ROTATE_180,
    4: PillowImage.Transpose.FLIP_TOP_BOTTOM,
    5: PillowImage.Transpose.TRANSPOSE,
    6: PillowImage.Transpose.ROTATE_270,
    7: PillowImage.Transpose.TRANSVERSE,
    8: PillowImage.Transpose.ROTATE_90,
}
"""The operation that turns each EXIF orientation upright (EXIF 2.32, tag 0x0112)."""

_FROM_THE_END: Final = frozenset({3, 4, 6, 7})
"""The EXIF orientations whose first stored row is the last row or column of the upright photo."""

_WHITE_LEVELS: Final = (1.0, 255.0, 65535.0, 2.0**31 - 1)
"""Values that can represent white in a grey image of 32-bit numbers."""


def to_array(image: PillowImage.Image, orientation: int, at_least_px: int | None) -> NDArray[np.uint8]:
    """Convert a loaded photo of any mode to ``(h, w, 3)`` uint8 sRGB, upright.

    A photo of several strips is reduced by an integer factor to a long side of at least ``at_least_px``, unless None.
    """
    width, height = image.size
    white = white_level(image)
    if width * height <= STRIP_PIXELS:
        return np.array(_upright(to_rgb(image, white), orientation))
    factor = 1 if at_least_px is None else max(1, max(width, height) // at_least_px)
    rows, columns = -(-height // factor), -(-width // factor)
    array = np.empty((columns, rows, 3) if orientation in SIDEWAYS else (rows, columns, 3), np.uint8)
    for top, bottom in _strips(width, height, factor):
        strip = to_rgb(image.crop((0, top, width, bottom)), white)
        if factor > 1:
            strip = strip.reduce(factor)
        first = top // factor
        array[_strip_slices(orientation, first, first + strip.height, rows)] = np.asarray(_upright(strip, orientation))
    return array


def to_rgb(image: PillowImage.Image, white: float = 65535.0) -> PillowImage.Image:
    """Convert any mode to 8-bit sRGB over white; ``white`` is the white level of a grey image of more than 8 bits."""
    profile = image.info.get("icc_profile")
    if image.mode in {"I", "F"} or image.mode.startswith("I;16"):
        return _deep_grey(image, white)
    if image.mode == "La":  # Pillow converts it to LA only
        image = image.convert("LA")
    if not image.has_transparency_data:
        return _to_srgb(image, profile)
    rgba = image.convert("RGBA")
    background = PillowImage.new("RGB", image.size, (255, 255, 255))
    return PillowImage.composite(_to_srgb(rgba.convert("RGB"), profile), background, rgba.getchannel("A"))


def white_level(image: PillowImage.Image) -> float:
    """Return the white level of a deep grey image: the smallest usual level that no pixel exceeds."""
    if image.mode not in {"I", "F"}:
        return 65535.0
    strips = (_values(image.crop((0, top, image.width, bottom))) for top, bottom in _strips(*image.size, 1))
    brightest = max(float(values.max()) for values in strips)
    return next((white for white in _WHITE_LEVELS[image.mode == "I" :] if brightest <= white), brightest)


def _strips(width: int, height: int, factor: int) -> Iterator[tuple[int, int]]:
    """Yield the first and last row of each strip; all strips but the last have a multiple of ``factor`` rows."""
    rows = max(1, STRIP_PIXELS // width // factor) * factor
    return ((top, min(top + rows, height)) for top in range(0, height, rows))


def _strip_slices(orientation: int, top: int, bottom: int, height: int) -> tuple[slice, ...]:
    """Return the slices of the upright photo that hold some of the stored rows."""
    rows = slice(height - bottom, height - top) if orientation in _FROM_THE_END else slice(top, bottom)
    return (slice(None), rows) if orientation in SIDEWAYS else (rows,)


def _upright(image: PillowImage.Image, orientation: int) -> PillowImage.Image:
    method = _TRANSPOSE.get(orientation)
    return image if method is None else image.transpose(method)


def _to_srgb(image: PillowImage.Image, profile: object) -> PillowImage.Image:
    """Convert to sRGB, by the embedded ICC profile if it is valid and fits the mode."""
    if image.mode in {"P", "1", "YCbCr"}:
        image = image.convert("RGB" if image.mode != "1" else "L")
    if isinstance(profile, bytes) and profile:
        try:
            source = ImageCms.ImageCmsProfile(BytesIO(profile))
            if image.mode != "RGB" or "sRGB" not in ImageCms.getProfileDescription(source):
                srgb = ImageCms.createProfile("sRGB")
                return ImageCms.profileToProfile(image, source, srgb, outputMode="RGB") or image
        except (ImageCms.PyCMSError, OSError, TypeError, ValueError, ImportError):
            pass  # a broken profile, a profile of another colour space, or Pillow without LittleCMS
    return image.convert("RGB")


def _deep_grey(image: PillowImage.Image, white: float) -> PillowImage.Image:
    values = _values(image)
    grey = np.rint(values.clip(0, None) * np.float32(255 / white)).astype(np.uint8)
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        grey[values == transparent] = 255
    return PillowImage.fromarray(grey).convert("RGB")


def _values(image: PillowImage.Image) -> NDArray[np.float32]:
    return np.nan_to_num(np.asarray(image).astype(np.float32), posinf=0, neginf=0)
