"""Verification: whether a gallery is what was saved."""

from __future__ import annotations

from pathlib import Path

from pipeline.gallery import Gallery
from pipeline.gallery.store import Store
from pipeline.gallery.vectors import CHUNK, item_key
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
        gallery = Gallery.open(folder)
        _verify_photos(gallery)
        problems += gallery.cache_problems()
    except GalleryError as error:
        problems.append(str(error))
    return problems


def _verify_photos(gallery: Gallery) -> None:
    """Verify every row and vector, and that they belong together.

    Raises:
        GalleryCorrupt: one is damaged, or they contradict each other.
    """
    ids, keys = gallery.ids, gallery.vectors.keys_of(gallery.ids)
    for row, key in zip(gallery.rows, keys.tolist(), strict=True):
        if item_key(row.item) != key:
            raise GalleryCorrupt(f"gallery {gallery.folder} is damaged: a photo of item {row.item!r} is filed wrongly")
    for start in range(0, len(ids), CHUNK):
        gallery.vectors.take(ids[start : start + CHUNK])


def moved_photos(gallery: Gallery) -> list[str]:
    """Return the catalogue photos that are no longer where they were: matches still come, without a picture."""
    return [row.photo for row in gallery.rows if not Path(row.photo).exists()]
