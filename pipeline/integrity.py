"""Verification: whether a gallery is what was saved."""

from __future__ import annotations

from pathlib import Path

from pipeline.catalogue import digest
from pipeline.gallery import Gallery
from pipeline.gallery.store import Store
from stages.errors import GalleryCorrupt, GalleryError


def verify(folder: Path | str) -> list[str]:
    """Return what is wrong with a gallery, a line each; nothing where it is sound.

    Raises:
        GalleryError: there is no gallery, or it is of another format.
    """
    folder = Path(folder)
    try:
        store = Store(folder)
    except GalleryCorrupt as error:
        return [str(error)]
    problems = [f"gallery {folder} is damaged: {problem}" for problem in store.integrity()]
    store.close()
    try:
        return problems + Gallery.open(folder).verify()
    except GalleryError as error:
        return [*problems, str(error)]


def moved_photos(gallery: Gallery) -> list[str]:
    """Return the catalogue photos that are no longer where they were: matches still come, without a picture."""
    return [row.photo for row in gallery.rows if not Path(row.photo).exists()]


def changed_photos(gallery: Gallery) -> list[str]:
    """Return the catalogue photos whose files hold another picture than when they were indexed; reads every file."""
    return [row.photo for row in gallery.rows if (now := digest(Path(row.photo))) and now != row.sha256]
