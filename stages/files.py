"""Reading and writing files safely: whole or not at all, and regular files only."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final
from unicodedata import normalize

OUTPUT_MARK: Final = ".outfinder-output"
"""The file in a folder of pictures written by outfinder by which a later run does not take them for photos."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside a file, which replaces the file at the end; after an error the file is unchanged."""
    short = os.fsdecode(os.fsencode(path.name)[:200])  # a name has at most 255 bytes
    part = path.with_name(f".{short}.{os.getpid()}.part")  # two runs may write the file at once
    try:
        part.unlink(missing_ok=True)  # a link of that name would be followed
        yield part
        part.replace(path)
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def read_whole(path: Path, most_bytes: int) -> bytes:
    """Return the bytes of a regular file that is not too large; reading a pipe might block, or never end.

    Raises:
        OSError: it is not a regular file, too large, or cannot be read.
    """
    status = path.stat()
    check_regular(status)
    if status.st_size > most_bytes:
        raise OSError(errno.EFBIG, f"it has {status.st_size / 1e6:.0f} MB, at most {most_bytes / 1e6:.0f} are read")
    with path.open("rb") as file:
        return file.read(most_bytes)


def check_regular(status: os.stat_result) -> None:
    """Refuse folders, pipes, devices and sockets without opening them.

    Raises:
        OSError: it is one.
    """
    if stat.S_ISDIR(status.st_mode):
        raise OSError(errno.EISDIR, os.strerror(errno.EISDIR))
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "not a regular file")


def check_several(paths: object) -> None:
    """Refuse a single path where several are wanted: a text would be taken for a list of its characters.

    Raises:
        TypeError: it is one.
    """
    if isinstance(paths, str | bytes | os.PathLike):
        raise TypeError(f"wanted several paths, got a single one; put it in a list: [{os.fsdecode(paths)!r}]")


def write_whole(path: Path, text: str) -> None:
    """Write a UTF-8 text file with line feeds, atomically; bytes of file names that are not UTF-8 become escapes.

    Raises:
        OSError: it cannot be written.
    """
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8", errors="backslashreplace", newline="\n")


def existing_spelling(path: Path) -> Path:
    """Return the path of the file that a name stands for, whichever way its system writes the name.

    Accents are composed or decomposed (``é`` as one character or two), folders set apart by backslashes, and old disks
    keep names in Windows-1252. Without such a file the path is returned as it is.
    """
    if _exists(path):
        return path
    name = str(path)
    for slashes in (name, name.replace("\\", "/")):
        for form in ("NFC", "NFD"):
            if _exists(spelling := Path(normalize(form, slashes))):
                return spelling
    try:
        legacy = path.with_name(os.fsdecode(path.name.encode("cp1252")))
    except ValueError:
        return path
    return legacy if _exists(legacy) else path


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):
        return False
