"""Adds items to a served gallery and removes them. Uploaded photos are files named by their sha256, in the gallery's folder.

A photo is on the disk before its row is, and its row is gone before its file is: a kill at any moment loses nothing that was
reported as done, and leaves at most files that no row names, which the next removal deletes.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from time import monotonic
from typing import Final, Literal, TypeAlias

from pipeline.catalogue import CatalogueEntry, Indexing, digest
from pipeline.gallery import Gallery, Row, writing
from pipeline.gallery.database import gallery_errors
from pipeline.gallery.filters import ATTRIBUTE
from pipeline.kinds import with_attributes
from pipeline.pipeline import Analysis
from stages.embed.attributes import AttributePart
from stages.errors import GalleryError, ImageError
from stages.files import replacing, sync_folder

UPLOADS: Final = "uploads"
"""The folder within a gallery's that holds uploaded photos."""

LOCK_WAIT_S: Final = 5.0
"""Seconds that a change waits for another process that writes the gallery."""

_log = logging.getLogger("pipeline.serve")
_STORED: Final = r"[0-9a-f]{64}|\.[0-9a-f]{64}\.\d+\.part"

Change: TypeAlias = Literal["added", "changed", "unchanged"]


class ItemWriter:
    """Adds items to a gallery and removes them; its caller makes one change at a time.

    Args:
        folder: of the gallery.
        analyse: the pipeline with which the catalogue is indexed.
        detector: its detector's name.
        kinds: the part of the vectors that holds kinds; None if they hold none.
    """

    def __init__(
        self, folder: Path, analyse: Callable[[Path], Analysis], detector: str, kinds: AttributePart | None
    ) -> None:
        self._folder, self._uploads = folder, Path(os.path.realpath(folder), UPLOADS)
        self._analyse, self._detector, self._kinds = analyse, detector, kinds

    def add(
        self, item: str, metadata: Mapping[str, str], photos: Iterable[bytes], until: float
    ) -> tuple[list[Row], Change]:
        """Add photos to an item, which is new or gets new metadata; return its rows, and what has changed.

        Args:
            item: its id.
            metadata: replaces what all of the item's photos had.
            photos: the bytes of photo files.
            until: the monotonic time until which it waits for the gallery's lock.

        Raises:
            ImageError: a photo cannot be read; nothing is added.
            GalleryBusy: another process is writing the gallery.
            GalleryError: the gallery cannot be written.
        """
        cells = tuple(metadata.items())
        with self._changing(until) as gallery:
            before, generation = gallery.of_item(item), gallery.manifest.generation
            paths = self._store(photos)

            def analysed(wanted: Iterable[Path]) -> Iterator[Analysis]:
                for analysis in map(self._analyse, wanted):
                    if analysis.error and analysis.path in paths:
                        raise ImageError(analysis.error)
                    yield analysis

            described = [Path(row.photo) for row in before if not _has(row, cells)]
            entries = [CatalogueEntry(path, item, cells) for path in dict.fromkeys([*paths, *described])]
            Indexing(gallery, analysed, self._detector, kinds=self._kinds).add(entries)
            for row in gallery.of_item(item):
                if not _has(row, cells):  # its file is gone, so that it was not analysed again
                    attributes = [(name, value) for name, value in row.metadata if name.startswith(ATTRIBUTE)]
                    gallery.redescribe(row, replace(row, metadata=(*with_attributes(cells, ()), *attributes)))
            gallery.save()
            rows = gallery.of_item(item)
            if not {row.photo for row in rows}.issuperset(
                map(str, paths)
            ):  # the catalogue has the same photo elsewhere
                self._delete_unused(gallery)
            if gallery.manifest.generation == generation:
                return rows, "unchanged"
            return rows, "changed" if before else "added"

    def remove(self, item: str, until: float) -> int:
        """Remove an item, and the uploaded photos that no row names; return how many photos the item had.

        Raises:
            GalleryError: as :meth:`add`.
        """
        with self._changing(until) as gallery:
            count = len(gallery.of_item(item))
            if count:
                gallery.remove([item])
                gallery.save()
                self._delete_unused(gallery)
            return count

    @contextmanager
    def _changing(self, until: float) -> Iterator[Gallery]:
        """Open the gallery for a change; after an error delete what was uploaded for it."""
        with writing(self._folder, max(0.0, until - monotonic())):
            try:
                gallery = Gallery.open(self._folder)
                try:
                    yield gallery
                finally:
                    gallery.close()
            except BaseException:
                with suppress(GalleryError):
                    self._delete_unused(Gallery.open(self._folder))
                raise

    def _store(self, photos: Iterable[bytes]) -> list[Path]:
        """Write photos under names of their content, and make them survive a power failure."""
        with gallery_errors(self._folder, "written"):
            self._uploads.mkdir(exist_ok=True)
            if self._uploads.is_symlink():
                raise OSError(None, f"{UPLOADS} is a link, which is not followed")
            paths = []
            for photo in photos:
                path = self._uploads / sha256(photo).hexdigest()
                if digest(path) != path.name:
                    with replacing(path) as part, part.open("xb") as file:
                        file.write(photo)
                        file.flush()
                        os.fsync(file.fileno())
                paths.append(path)
            for folder in (self._uploads, self._uploads.parent):
                sync_folder(folder)
            return paths

    def _delete_unused(self, gallery: Gallery) -> None:
        """Delete uploaded photos that no row names, by their names alone: the gallery may have been moved."""
        if self._uploads.is_symlink() or not self._uploads.is_dir():
            return
        used = {os.path.basename(photo) for photo in gallery.values("photo")}  # noqa: PTH119  much faster
        try:
            for path in list(self._uploads.iterdir()):
                if re.fullmatch(_STORED, path.name) and path.name not in used:
                    path.unlink()
        except OSError as error:
            _log.warning("an uploaded photo that no item has cannot be deleted: %s", error)


def _has(row: Row, metadata: Sequence[tuple[str, str]]) -> bool:
    """Return whether a row has an item's metadata, besides what the embedder finds."""
    return dict(with_attributes(row.metadata, ())) == dict(with_attributes(metadata, ()))
