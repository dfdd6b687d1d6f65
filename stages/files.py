"""Safe reading and writing of files: atomic writes, and no reading of pipes and devices."""

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
"""A file that marks a folder of result pictures, so that a later run does not read them as photos."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside a file, which replaces the file at the end; on an error the file stays unchanged."""
    short = os.fsdecode(os.fsencode(path.name)[:200])  # a name has at most 255 bytes
    part = path.with_name(f".{short}.{os.getpid()}.part")  # two runs may write the same file
    try:
        part.unlink(missing_ok=True)  # so that a link of that name is not followed
        yield part
        part.replace(path)
    except OSError as error:
        if error.filename == str(part):
            error.filename = str(path)  # the name that the user knows
        raise
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Make the names of a folder's files survive a power failure, where the system can."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def read_whole(path: Path, most_bytes: int) -> bytes:
    """Return the bytes of a regular file of at most ``most_bytes``; reading a pipe might block, or never end.

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
    """Raise an OSError if a status is that of a folder, pipe, device or socket."""
    if stat.S_ISDIR(status.st_mode):
        raise OSError(errno.EISDIR, os.strerror(errno.EISDIR))
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "not a regular file")


def check_several(paths: object) -> None:
    """Raise a TypeError for a single path where several are expected: a text would be read as a list of characters."""
    if isinstance(paths, str | bytes | os.PathLike):
        raise TypeError(f"wanted several paths, got a single one; put it in a list: [{os.fsdecode(paths)!r}]")


def write_whole(path: Path, text: str) -> None:
    """Write a UTF-8 text file with line feeds, atomically; undecodable bytes of file names are escaped.

    Raises:
        OSError: it cannot be written.
    """
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8", errors="backslashreplace", newline="\n")


def existing_spelling(path: Path) -> Path:
    """Return the path of an existing file whose name is spelled differently, or the path itself if there is none.

    Systems write accents as one character or two (``é``), separate folders by backslashes, and old disks store names in
    Windows-1252; each folder of a path may have another spelling.
    """
    if _exists(path):
        return path
    for other in dict.fromkeys((path, Path(str(path).replace("\\", "/")))):
        folder = Path(other.anchor)
        for part in other.parts[bool(other.anchor) :]:
            spelled = [folder / name for name in _spellings(part) if _exists(folder / name)]
            if not spelled:
                break
            folder = spelled[0]
        else:
            return folder
    return path


def _spellings(name: str) -> Iterator[str]:
    yield from (name, normalize("NFC", name), normalize("NFD", name))
    for encoding in ("cp1252", "utf-8"):  # UTF-8 where the locale has another encoding
        with suppress(ValueError):
            yield os.fsdecode(name.encode(encoding))


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):
        return False
