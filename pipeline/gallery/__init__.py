"""The gallery: a catalogue's photos and their vectors, durable, searched by similarity and by filters."""

from __future__ import annotations

from pathlib import Path

from pipeline.gallery.database import Manifest, writing
from pipeline.gallery.gallery import Gallery
from pipeline.gallery.store import Row, Store, is_gallery, read_manifest
from stages.errors import GalleryCorrupt, GalleryError

__all__ = ["Gallery", "Manifest", "Row", "is_gallery", "read_manifest", "verify", "writing"]


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
