"""Adding a catalogue to a gallery: what is new or changed is embedded, what is there is left alone."""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import monotonic

from pipeline.catalogue import CataloguePhoto
from pipeline.compose import Analysis, Pipeline
from pipeline.gallery import Gallery
from pipeline.rows import Row

SAVE_EVERY_S = 60.0
"""Long runs save this often: what a kill costs."""


@dataclass(slots=True)
class Tally:
    """What became of a catalogue's photos, and the reasons of those that failed."""

    added: int = 0
    replaced: int = 0
    redescribed: int = 0
    unchanged: int = 0
    failed: list[tuple[Path, str]] = field(default_factory=list)

    @property
    def seen(self) -> int:
        """How many photos were looked at."""
        return self.added + self.replaced + self.redescribed + self.unchanged + len(self.failed)


class Indexing:
    """One run over a catalogue.

    Args:
        gallery: where to; the caller holds it for writing.
        pipeline: with ``main_garment`` set, its embedder and cropper the gallery's own.
        detector: the detector's name: photos that another one looked at are looked at again.
        progress: called after each photo.
    """

    def __init__(
        self, gallery: Gallery, pipeline: Pipeline, detector: str, progress: Callable[[Tally], None] | None = None
    ) -> None:
        self._gallery, self._pipeline, self._detector = gallery, pipeline, detector
        self._progress = progress
        self._pending: deque[tuple[CataloguePhoto, str]] = deque()
        self.tally = Tally()

    def __call__(self, catalogue: Iterable[CataloguePhoto]) -> Tally:
        """Add every photo of the catalogue and save; a photo that cannot be read is told and passed over."""
        saved = monotonic()
        for analysis in self._pipeline(self._to_embed(catalogue)):
            entry, sha256 = self._pending.popleft()
            self._add(entry, sha256, analysis)
            self._tell()
            if monotonic() - saved > SAVE_EVERY_S:
                self._gallery.save()
                saved = monotonic()
        self._gallery.save()
        return self.tally

    def _to_embed(self, catalogue: Iterable[CataloguePhoto]) -> Iterator[Path]:
        for entry in catalogue:
            if entry.error:
                self.tally.failed.append((entry.path, entry.error))
                self._tell()
                continue
            path = _true_path(entry.path)
            sha256 = _digest(path)
            if known := self._known(entry.item, path, sha256):
                self._describe(known, entry, path)
                self._tell()
            else:
                self._pending.append((entry, sha256))
                yield path

    def _known(self, item: str, path: Path, sha256: str) -> Row | None:
        """The row of a photo that need not be embedded again."""
        known = self._gallery.photo_of(item, str(path), sha256)
        return known if known and (known.sha256, known.detector) == (sha256, self._detector) else None

    def _describe(self, known: Row, entry: CataloguePhoto, path: Path) -> None:
        """Note new metadata, and the new place of a photo that has moved."""
        new = replace(known, photo=_place(known, path), metadata=entry.metadata)
        if new == known:
            self.tally.unchanged += 1
        else:
            self._gallery.redescribe(known, new)
            self.tally.redescribed += 1

    def _add(self, entry: CataloguePhoto, sha256: str, analysis: Analysis) -> None:
        if analysis.error:
            self.tally.failed.append((entry.path, analysis.error))
            return
        if known := self._known(entry.item, analysis.path, sha256):  # a copy of one that came just before
            self._describe(known, entry, analysis.path)
            return
        (found,) = analysis.detections
        photo = str(analysis.path)
        if old := self._gallery.photo_of(entry.item, photo, sha256):
            photo = _place(old, analysis.path)
            self._gallery.redescribe(old, replace(old, photo=photo))  # adding replaces what is at that place
            self.tally.replaced += 1
        else:
            self.tally.added += 1
        row = Row(entry.item, photo, sha256, self._detector, found.label, round(found.score, 4), found.box,
                  entry.metadata)  # fmt: skip
        self._gallery.add([row], analysis.vectors)

    def _tell(self) -> None:
        if self._progress:
            self._progress(self.tally)


def _place(known: Row, path: Path) -> str:
    """Where a photo is: where it was, unless it has moved."""
    return known.photo if Path(known.photo).exists() else str(path)


def _true_path(path: Path) -> Path:
    """Absolute, the folder's links followed: the same from wherever a photo is named."""
    try:
        return Path(os.path.realpath(path.parent), path.name)
    except ValueError:  # a null byte, which reading it as a photo will tell
        return path


def _digest(path: Path) -> str:
    """The file's sha256; empty where it cannot be read, which reading it as a photo will tell."""
    try:
        if not path.is_file():  # a pipe or a device would block
            return ""
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""
