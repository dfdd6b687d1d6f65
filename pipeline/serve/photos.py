"""Pictures in and out: uploads as photos of a bounded size, a gallery's and examples' own files as JPEGs."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Final

import cv2
import numpy as np

from stages.errors import ImageError
from stages.images import Photo, decode_photo, encode_jpeg, read_photo

KEPT_PX: Final = 2048
"""The long side that a decoded upload keeps at most: what many of them in memory take is bounded."""

PICTURE_PX: Final = 480
EXAMPLE_PX: Final = 1600
CACHED: Final = 64_000_000
"""Bytes of JPEGs that are remembered."""


def decode_upload(data: bytes, at_least_px: int | None, max_pixels: int) -> Photo:
    """The photo of an upload, its image reduced to :data:`KEPT_PX`.

    Raises:
        ImageError: it is none that can be used.
    """
    photo = decode_photo(data, min(at_least_px or KEPT_PX, KEPT_PX), max_pixels)
    height, width = photo.image.shape[:2]
    if max(height, width) <= KEPT_PX:
        return photo
    scale = KEPT_PX / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    reduced = cv2.resize(photo.image, size, interpolation=cv2.INTER_AREA)
    return Photo(np.asarray(reduced, np.uint8), photo.width, photo.height)


class Rereading:
    """Decodes an upload again, larger, once for all who ask for the same."""

    def __init__(self, data: bytes, max_pixels: int) -> None:
        self._data, self._max_pixels = data, max_pixels
        self._last: tuple[int, Photo] | None = None

    def __call__(self, at_least_px: int) -> Photo:
        """The photo, its long side at least so many pixels."""
        if self._last is None or self._last[0] != at_least_px:
            self._last = at_least_px, decode_photo(self._data, at_least_px, self._max_pixels)
        return self._last[1]


class Jpegs:
    """Files as JPEGs of a bounded size, whatever they hold; the last ones are remembered."""

    def __init__(self, cached: int = CACHED) -> None:
        self._room, self._lock = cached, Lock()
        self._known: OrderedDict[tuple[Path, int, int], bytes] = OrderedDict()

    def picture(self, path: Path) -> bytes | None:
        """A product picture; None where the file is gone, or is no photo."""
        return self._known_or(path, PICTURE_PX, partial(_jpeg, path, PICTURE_PX, 82))

    def example(self, path: Path) -> bytes | None:
        """A photo to search from."""
        return self._known_or(path, EXAMPLE_PX, partial(_jpeg, path, EXAMPLE_PX, 92))

    def _known_or(self, path: Path, size: int, make: Callable[[], bytes]) -> bytes | None:
        try:
            key = path, size, path.stat().st_mtime_ns
            with self._lock:
                if key in self._known:
                    self._known.move_to_end(key)
                    return self._known[key]
            made = make()
        except (ImageError, OSError, ValueError):
            return None
        with self._lock:
            if key not in self._known:
                self._known[key] = made
                self._room -= len(made)
            while self._room < 0:
                self._room += len(self._known.popitem(last=False)[1])
        return made


def _jpeg(path: Path, size: int, quality: int) -> bytes:
    return encode_jpeg(read_photo(path, size).image, quality, size)
