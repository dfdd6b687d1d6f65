"""Reading, writing and finding photos; the only module through which pixels enter the program.

An image is ``(h, w, 3)`` uint8 RGB in sRGB, upright, with transparency over white. Reading any file returns such an image or
raises an :class:`~stages.errors.ImageError` with a message of one line; it never warns. Inside
:func:`stages.decode_pool.isolated` this includes files that would crash, hang or exhaust the memory of a decoder.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, Final

import cv2
import numpy as np
from PIL import Image as PillowImage
from PIL.JpegImagePlugin import JpegImageFile

from stages import decode_pool, formats, srgb
from stages.errors import ImageError
from stages.files import OUTPUT_MARK, check_several, replacing
from stages.formats import FORMATS, MAX_PIXELS, MAX_SIDE
from stages.types import Box, Image, check_image

__all__ = [
    "FORMATS", "MAX_BYTES", "MAX_PIXELS", "MAX_SIDE", "SUFFIXES",
    "Photo", "decode_photo", "encode_jpeg", "enough_px", "letterbox", "read_image", "read_photo", "walk", "write_jpeg",
]  # fmt: skip

MAX_BYTES: Final = 1_000_000_000
"""Larger files are refused without reading them."""

SUFFIXES: Final = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".avif"}
    | {".heic", ".heif", ".hif"}
)
"""The suffixes, in either case, of the photos that :func:`walk` finds in a folder."""

_TRUNCATED: Final = re.compile("truncated|not enough|requires a buffer", re.IGNORECASE)
_SYSTEM_FOLDERS: Final = frozenset({
    "__macosx", "@eadir", "@recycle", "@recently-snapshot", "@tmp", "#recycle", "#snapshot", "~snapshot", "$recycle.bin",
    "recycler", "network trash folder", "temporary items", "system volume information", "lost+found",
})  # fmt: skip
"""Folders that desktop and NAS systems create everywhere, for thumbnails, deleted files and the like; in lower case."""


@dataclass(frozen=True, slots=True, eq=False)
class Photo:
    """A photo, perhaps read at a reduced size; ``width`` and ``height`` are those of the full-size photo."""

    image: Image
    width: int
    height: int

    @property
    def scale(self) -> float:
        """Full-size pixels per pixel of ``image`` along a side; 1 if it is not reduced."""
        return max(self.width, self.height) / int(max(self.image.shape[:2]))

    def to_full(self, box: Box) -> Box:
        """Convert a box of ``image`` to the pixels of the full-size photo.

        Raises:
            ValueError: the box does not lie within ``image``.
        """
        height, width, _ = self.image.shape
        if box.x2 > width or box.y2 > height:
            raise ValueError(f"wanted a box within the photo's {width}x{height} pixels as read, got {box.corners}")
        return box.scaled((width, height), (self.width, self.height))


def read_image(path: str | os.PathLike[str]) -> Image:
    """Read a photo at full size.

    Raises:
        ImageError: it cannot be used; the message is one line and does not name the path.
    """
    return read_photo(path).image


def read_photo(path: str | os.PathLike[str], at_least_px: int | None = None) -> Photo:
    """Read a photo, reduced if its long side keeps ``at_least_px`` pixels or more.

    A JPEG is decoded at 1/2, 1/4 or 1/8 of its size, which is much faster; other formats are reduced above 4 megapixels.

    Raises:
        ImageError: it cannot be used; the message is one line and does not name the path.
        ValueError: ``at_least_px`` is less than 1.
    """
    return _read(path, at_least_px)


def decode_photo(data: bytes, at_least_px: int | None = None, max_pixels: int | None = None) -> Photo:
    """Decode the bytes of a photo file as :func:`read_photo` does.

    Raises:
        ImageError: they cannot be used, or have more than ``max_pixels`` pixels.
        ValueError: ``at_least_px`` is less than 1.
    """
    return _read(data, at_least_px, max_pixels)


def enough_px(input_px: int) -> int:
    """Return the long side at which to read a photo whose garments are embedded at ``input_px`` pixels.

    A garment may fill only half of its photo.
    """
    return 2 * input_px


def _read(source: str | os.PathLike[str] | bytes, at_least_px: int | None, max_pixels: int | None = None) -> Photo:
    if at_least_px is not None and at_least_px < 1:
        raise ValueError(f"at_least_px is at least 1, got {at_least_px}; None reads at full size")
    try:
        if not decode_pool.is_isolated():
            return decode_in_process(source, at_least_px, max_pixels)
        return Photo(*decode_pool.decode(source, at_least_px, max_pixels))
    except ImageError as error:
        if not isinstance(source, bytes) and re.match(r"https?:/", os.fsdecode(source)):
            raise ImageError("is an address; download the photo first, photos are read from files only") from error
        raise


def decode_in_process(
    source: str | os.PathLike[str] | bytes, at_least_px: int | None, max_pixels: int | None = None
) -> Photo:
    """Decode a file or its bytes in this process, even inside :func:`stages.decode_pool.isolated`."""
    if isinstance(source, bytes):
        return _decode(BytesIO(source), at_least_px, max_pixels)
    try:
        _check_file(source, Path(source).stat())
        with Path(source).open("rb") as file:
            return _decode(file, at_least_px, max_pixels)
    except FileNotFoundError as error:
        raise ImageError("is a broken link" if Path(source).is_symlink() else "was not found") from error
    except OSError as error:
        loop = error.errno == errno.ELOOP
        why = "is a link that leads back to itself" if loop else f"cannot be read: {_reason(error)}"
        raise ImageError(why) from error
    except ValueError as error:  # a null byte, or characters that the file system cannot encode
        raise ImageError("has a name that no file can have") from error


def _check_file(path: str | os.PathLike[str], status: os.stat_result) -> None:
    """Refuse anything but a regular file of a sensible size, without opening it: a pipe might block, or never end."""
    if stat.S_ISDIR(status.st_mode):
        listable = os.access(path, os.R_OK | os.X_OK)
        raise ImageError("is a folder, not a photo" if listable else "is a folder that cannot be listed")
    if not stat.S_ISREG(status.st_mode):
        raise ImageError("is not a regular file")
    if status.st_size == 0:  # like every file of /proc, some of which never end
        raise ImageError("is empty (0 bytes)")
    if status.st_size > MAX_BYTES:
        raise ImageError(f"has {status.st_size / 1e9:.1f} GB; at most {MAX_BYTES / 1e9:.1f} are read")


def _decode(file: BinaryIO, at_least_px: int | None, max_pixels: int | None) -> Photo:
    kind = formats.recognize(file)
    try:
        with formats.no_warnings():
            photo = formats.open_header(kind, file)
            full_size = photo.size
            if at_least_px is not None:
                formats.reduce_jpeg(photo, at_least_px)
            reduced = photo.size != full_size
            formats.check_size(kind, *full_size, max_pixels or MAX_PIXELS * (4 if reduced else 1))
            formats.check_memory(kind, photo, full_size, file)
            photo.load()
            orientation = formats.orientation(photo)
            if photo.size != full_size and not isinstance(photo, JpegImageFile):
                full_size = photo.size  # some formats have their true size only now
            image = srgb.to_array(photo, orientation, at_least_px)
    except ImageError:
        raise
    except Exception as error:  # of any type: Pillow and its libraries meet arbitrary bytes
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the disk's fault, not the photo's
        raise ImageError(_why_undecodable(kind, error)) from error
    width, height = full_size[::-1] if orientation in srgb.SIDEWAYS else full_size
    return Photo(image, width, height)


def _why_undecodable(kind: str, error: Exception) -> str:
    """Return the message for any error that Pillow raises."""
    message = " ".join(str(error).split())[:100]
    if isinstance(error, MemoryError):
        return decode_pool.OUT_OF_MEMORY
    if isinstance(error, PillowImage.DecompressionBombError):
        return f"has too many pixels; at most {MAX_PIXELS // 10**6} megapixels are read"
    if isinstance(error, EOFError | struct.error | IndexError) or _TRUNCATED.search(message):
        return f"is truncated ({kind})"
    return f"is a truncated, damaged or unsupported {kind} ({message or type(error).__name__})"


def _reason(error: OSError) -> str:
    return (error.strerror or type(error).__name__).lower()


def letterbox(image: Image, side: int, fill: tuple[int, int, int] = (255, 255, 255)) -> Image:
    """Fit an image into the middle of a square of ``side`` pixels, keeping its proportions.

    Raises:
        ValueError: ``side`` is less than 1 or the image is not one.

    >>> letterbox(np.zeros((10, 20, 3), np.uint8), side=4)[..., 0].tolist()
    [[255, 255, 255, 255], [0, 0, 0, 0], [0, 0, 0, 0], [255, 255, 255, 255]]
    """
    if side < 1:
        raise ValueError(f"a square has a side of at least 1 pixel, got {side}")
    fitted = _fit(image, side)
    height, width, _ = fitted.shape
    top, left = (side - height) // 2, (side - width) // 2
    bottom, right = side - height - top, side - width - left
    square = cv2.copyMakeBorder(fitted, top, bottom, left, right, cv2.BORDER_CONSTANT, value=fill)
    return np.asarray(square, np.uint8)


def encode_jpeg(image: Image, quality: int = 90, max_side: int | None = None) -> bytes:
    """Encode an image as JPEG, its long side reduced to ``max_side`` pixels if it is longer.

    Raises:
        ValueError: the image is not one, or has a side of more than :data:`MAX_SIDE`.
    """
    if max_side is not None and max_side < max(image.shape[:2]):
        image = _fit(image, max_side)
    check_image(image)
    if max(image.shape) > MAX_SIDE:
        raise ValueError(f"a JPEG has sides of at most {MAX_SIDE} pixels, got {image.shape}; pass max_side")
    data = BytesIO()
    PillowImage.fromarray(np.ascontiguousarray(image)).save(data, "JPEG", quality=quality)
    return data.getvalue()


def write_jpeg(path: str | os.PathLike[str], image: Image, quality: int = 90) -> None:
    """Write an image to a JPEG file.

    Raises:
        ImageError: the file cannot be written.
        ValueError: see :func:`encode_jpeg`.
    """
    data = encode_jpeg(image, quality)
    try:
        with replacing(Path(path)) as part:
            part.write_bytes(data)
    except OSError as error:
        raise ImageError(f"cannot be written: {_reason(error)}") from error


def _fit(image: Image, side: int) -> Image:
    """Resize an image to a long side of ``side`` pixels; both sides are at least 1."""
    check_image(image)
    height, width, _ = image.shape
    longest = max(height, width)
    size = max(1, round(width * side / longest)), max(1, round(height * side / longest))
    if size == (width, height):
        return image
    resized = cv2.resize(image, size, interpolation=cv2.INTER_AREA if side < longest else cv2.INTER_LINEAR)
    return np.asarray(resized, np.uint8)


def walk(sources: Iterable[str | os.PathLike[str]]) -> Iterator[Path]:
    """Yield the paths of photos, lazily; those in a folder and its subfolders are sorted by name.

    A source that is not a folder is yielded as it is, even if it is missing. Within folders, hidden names, suffixes other
    than :data:`SUFFIXES`, and folders created by outfinder or by the system are skipped. A folder that is named like a photo
    or cannot be listed is yielded too, so that reading it reports why. Links are followed, but never back into a parent.
    """
    check_several(sources)
    for source in sources:
        path = Path(source)
        if _is_folder(path):
            yield from _walk_folder(path)
        else:
            yield path


def _walk_folder(root: Path) -> Iterator[Path]:
    """Walk a folder with a stack of listings, since folders can nest deeper than Python's call stack."""
    stack = [(root, _identity(root), _listing(root))]
    while stack:
        folder, _, listing = stack[-1]
        try:
            name, is_folder = next(listing)
        except StopIteration:
            stack.pop()
        except OSError:
            stack.pop()
            if not stack or not _is_photo_name(folder.name):  # otherwise it has been yielded
                yield folder
        else:
            path = folder / name
            if not is_folder:
                yield path
            elif _is_output(path):
                continue
            elif (identity := _identity(path)) not in [parent for _, parent, _ in stack]:
                stack.append((path, identity, _listing(path)))


def _listing(folder: Path) -> Iterator[tuple[str, bool]]:
    """Yield the sorted names in a folder, and whether to enter them; a folder named like a photo is yielded twice."""
    with os.scandir(folder) as entries:
        shown = (entry for entry in entries if not entry.name.startswith("."))
        names = sorted((one.name, _is_folder(one)) for one in shown if one.name.lower() not in _SYSTEM_FOLDERS)
    for name, is_folder in names:
        if _is_photo_name(name):
            yield name, False
        if is_folder:
            yield name, True


def _is_photo_name(name: str) -> bool:
    return Path(name).suffix.lower() in SUFFIXES


def _is_folder(path: Path | os.DirEntry[str]) -> bool:
    """Return whether a path is a folder; False if that cannot be determined."""
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def _is_output(folder: Path) -> bool:
    """Return whether outfinder created a folder, whose pictures are results and not photos."""
    try:
        return (folder / OUTPUT_MARK).exists()
    except OSError:
        return False


def _identity(folder: Path) -> tuple[int, int] | None:
    """Return the device and inode of a folder, equal for all links to it; None if it cannot be accessed."""
    try:
        status = folder.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino
