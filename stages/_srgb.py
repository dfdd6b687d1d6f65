"""From what Pillow has decoded to an upright sRGB array, strip by strip: so that a large photo is in memory once.

:mod:`stages.images` is the door to use; this is its hinge.
"""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage
from PIL import ImageCms

STRIP_PIXELS: Final = 1 << 22
"""What is converted at once. Larger photos are also reduced, where a smaller one will do."""

SIDEWAYS: Final = frozenset({5, 6, 7, 8})
"""The EXIF orientations in which the sensor's rows are the photo's columns."""

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

_FROM_THE_END: Final = frozenset({3, 4, 6, 7})
"""The EXIF orientations in which the sensor's first row is the photo's last row or column."""

_WHITES: Final = (1.0, 255.0, 65535.0, 2.0**31 - 1)
"""The values that can stand for white in a grey image of 32-bit numbers."""


def to_array(image: PillowImage.Image, how_it_lies: int, at_least_px: int | None) -> NDArray[np.uint8]:
    """A decoded photo as ``(h, w, 3)`` uint8 sRGB, upright.

    Args:
        image: of any mode, its pixels loaded.
        how_it_lies: its EXIF orientation.
        at_least_px: a photo of several strips is reduced by a whole factor, its long side still at least this; None
            keeps full size.
    """
    width, height = image.size
    if width * height <= STRIP_PIXELS:
        return np.array(_upright(to_rgb(image, white_of(image)), how_it_lies))
    factor = 1 if at_least_px is None else max(1, max(width, height) // at_least_px)
    high, wide = -(-height // factor), -(-width // factor)
    array = np.empty((wide, high, 3) if how_it_lies in SIDEWAYS else (high, wide, 3), np.uint8)
    white = white_of(image)
    for top, bottom in _strips(width, height, factor):
        strip = to_rgb(image.crop((0, top, width, bottom)), white)
        if factor > 1:
            strip = strip.reduce(factor)
        first = top // factor
        array[_place(how_it_lies, first, first + strip.height, high)] = np.asarray(_upright(strip, how_it_lies))
    return array


def _strips(width: int, height: int, factor: int) -> Iterator[tuple[int, int]]:
    """Rows to convert together, whole multiples of a factor but for the last."""
    rows = max(1, STRIP_PIXELS // width // factor) * factor
    return ((top, min(top + rows, height)) for top in range(0, height, rows))


def _place(how_it_lies: int, top: int, bottom: int, height: int) -> tuple[slice, ...]:
    """Where some of the sensor's rows are in the upright photo."""
    rows = slice(height - bottom, height - top) if how_it_lies in _FROM_THE_END else slice(top, bottom)
    return (slice(None), rows) if how_it_lies in SIDEWAYS else (rows,)


def _upright(image: PillowImage.Image, how_it_lies: int) -> PillowImage.Image:
    """Turn a photo so that its first row is its top."""
    method = _TRANSPOSE.get(how_it_lies)
    return image if method is None else image.transpose(method)


def to_rgb(image: PillowImage.Image, white: float = 65535.0) -> PillowImage.Image:
    """Any mode as sRGB in 8 bits, transparency over white; ``white`` is that of grey of more bits."""
    profile = image.info.get("icc_profile")
    if _is_deep(image):
        return _grey(image, white)
    if image.mode == "La":  # Pillow converts it to LA alone
        image = image.convert("LA")
    if not image.has_transparency_data:
        return _to_srgb(image, profile)
    rgba = image.convert("RGBA")
    ground = PillowImage.new("RGB", image.size, (255, 255, 255))
    return PillowImage.composite(_to_srgb(rgba.convert("RGB"), profile), ground, rgba.getchannel("A"))


def white_of(image: PillowImage.Image) -> float:
    """What stands for white in a grey image: 65535 in 16 bits, in others the smallest usual white that holds it."""
    if image.mode not in {"I", "F"}:
        return 65535.0
    strips = (_values(image.crop((0, top, image.width, bottom))) for top, bottom in _strips(*image.size, 1))
    brightest = max(float(values.max()) for values in strips)
    return next((white for white in _WHITES[image.mode == "I" :] if brightest <= white), brightest)


def _is_deep(image: PillowImage.Image) -> bool:
    return image.mode in {"I", "F"} or image.mode.startswith("I;16")


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


def _grey(image: PillowImage.Image, white: float) -> PillowImage.Image:
    """Grey of 16 or 32 bits as 8."""
    values = _values(image)
    grey = np.rint(values.clip(0, None) * np.float32(255 / white)).astype(np.uint8)
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        grey[values == transparent] = 255
    return PillowImage.fromarray(grey).convert("RGB")


def _values(image: PillowImage.Image) -> NDArray[np.float32]:
    return np.nan_to_num(np.asarray(image).astype(np.float32), posinf=0, neginf=0)
