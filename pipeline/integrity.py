"""Whether a gallery is what was saved."""

from __future__ import annotations

from pathlib import Path

from pipeline.gallery import Gallery
from pipeline.storage import checked, read_manifest
from stages.errors import GalleryCorrupt, GalleryError


def verify(folder: Path) -> list[str]:
    """What is wrong with a gallery, a line each; nothing where it is sound.

    Raises:
        GalleryError: there is no gallery.
    """
    try:
        manifest = read_manifest(folder)
    except GalleryCorrupt as error:
        return [str(error)]
    problems = []
    for stored in manifest.files.values():
        try:
            checked(folder, stored)
        except GalleryCorrupt as error:
            problems.append(str(error))
    if problems:
        moved_on = read_manifest(folder).generation != manifest.generation
        return verify(folder) if moved_on else problems
    try:
        Gallery.open(folder).check()
    except GalleryError as error:
        return [str(error)]
    return []


def moved_photos(gallery: Gallery) -> list[str]:
    """The catalogue photos that are no longer where they were: matches still come, without a picture."""
    return [row.photo for row in gallery.rows if not Path(row.photo).exists()]
