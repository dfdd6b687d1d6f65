"""Finding the photos of a folder without holding its names; :func:`stages.images.walk` is the door to it."""

from __future__ import annotations

import heapq
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from stages.files import OUTPUT_MARK

SUFFIXES: Final = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".avif"}
    | {".heic", ".heif", ".hif"}
)
"""What a walk through a folder takes for photos, in lower or upper case."""

NAMES_AT_ONCE = 32_768
"""So many names of a folder are held in memory; a larger folder is listed again for the next ones."""


def walk(sources: Iterable[str | os.PathLike[str]]) -> Iterator[Path]:
    """Find the photos of files and folders, lazily, those of a folder sorted by name, subfolders included.

    A source that is no folder is yielded whatever it is, missing ones too. Within folders, hidden names and
    other suffixes than :data:`SUFFIXES` are left out, and so are folders of pictures that outfinder has written. A folder that is named like a photo or cannot be listed
    is yielded itself, so that reading it tells. Links are followed, but never back into a folder above.
    """
    for source in sources:
        path = Path(source)
        if _is_folder(path):
            yield from _walk_folder(path)
        else:
            yield path


def _walk_folder(root: Path) -> Iterator[Path]:
    """Go down with a stack of half-read listings: folders nest deeper than Python's calls may."""
    stack = [(root, _identity(root), _listing(root))]
    while stack:
        folder, _, listing = stack[-1]
        try:
            name, is_folder = next(listing)
        except StopIteration:
            stack.pop()
        except OSError:
            stack.pop()
            if not stack or not _is_photo_name(folder.name):  # else it has been yielded
                yield folder
        else:
            path = folder / name
            if not is_folder:
                yield path
            elif _is_output(path):
                continue
            elif (identity := _identity(path)) not in [above for _, above, _ in stack]:
                stack.append((path, identity, _listing(path)))


def _listing(folder: Path) -> Iterator[tuple[str, bool]]:
    """The names to look at, sorted, and whether to enter them; a folder named like a photo comes as both."""
    after = ""
    while True:
        with os.scandir(folder) as entries:
            following = ((entry.name, _is_folder(entry)) for entry in entries if _wanted(entry, after))
            names = heapq.nsmallest(NAMES_AT_ONCE, following)
        for name, is_folder in names:
            if _is_photo_name(name):
                yield name, False
            if is_folder:
                yield name, True
        if len(names) < NAMES_AT_ONCE:
            return
        after = names[-1][0]


def _wanted(entry: os.DirEntry[str], after: str) -> bool:
    name = entry.name
    shown = name > after and not name.startswith(".") and name != "__MACOSX"
    return shown and (_is_photo_name(name) or _is_folder(entry))


def _is_photo_name(name: str) -> bool:
    return Path(name).suffix.lower() in SUFFIXES


def _is_folder(path: Path | os.DirEntry[str]) -> bool:
    """Whether a path leads to a folder; what cannot be told does not."""
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def _is_output(folder: Path) -> bool:
    """Return whether outfinder has written a folder: its pictures are no photos of the folder above."""
    try:
        return (folder / OUTPUT_MARK).exists()
    except OSError:
        return False


def _identity(folder: Path) -> tuple[int, int] | None:
    """Device and inode, equal for all links to a folder; None where listing it will fail too."""
    try:
        status = folder.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino
