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
from pipeline.compose import Analysis
from pipeline.gallery import Gallery, Row
from stages.images import MAX_BYTES

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


@dataclass(slots=True)
class _Identity:
    """By what a photo is known again: its place, size and time of change, else its content, read when asked for."""

    path: Path
    stamp: str
    _sha256: str | None = None

    @property
    def sha256(self) -> str:
        if self._sha256 is None:
            self._sha256 = _digest(self.path)
        return self._sha256


class Indexing:
    """One run over a catalogue.

    Args:
        gallery: where to; the caller holds it for writing.
        pipeline: with ``main_garment`` set, its embedder and cropper the gallery's own; or whatever does the same.
        detector: the detector's name: photos that another one looked at are looked at again.
        progress: called after each photo.
    """

    def __init__(
        self,
        gallery: Gallery,
        pipeline: Callable[[Iterable[Path]], Iterator[Analysis]],
        detector: str,
        progress: Callable[[Tally], None] | None = None,
    ) -> None:
        self._gallery, self._pipeline, self._detector = gallery, pipeline, detector
        self._progress = progress
        self._pending: deque[tuple[CataloguePhoto, _Identity]] = deque()
        self.tally = Tally()

    def __call__(self, catalogue: Iterable[CataloguePhoto]) -> Tally:
        """Add every photo of the catalogue and save, now and then and however it ends.

        A photo that cannot be read is told and passed over.
        """
        saved = monotonic()
        try:
            for analysis in self._pipeline(self._to_embed(catalogue)):
                entry, identity = self._pending.popleft()
                self._add(entry, identity, analysis)
                self._tell()
                if monotonic() - saved > SAVE_EVERY_S:
                    self._gallery.save()
                    saved = monotonic()
        finally:
            self._gallery.save()
        return self.tally

    def _to_embed(self, catalogue: Iterable[CataloguePhoto]) -> Iterator[Path]:
        for entry in catalogue:
            if entry.error:
                self.tally.failed.append((entry.path, entry.error))
                self._tell()
                continue
            path = _true_path(entry.path)
            identity = _Identity(path, _stamp(path))
            if known := self._known(entry.item, identity):
                self._describe(known, entry, identity)
                self._tell()
            else:
                self._pending.append((entry, identity))
                yield path

    def _known(self, item: str, identity: _Identity) -> Row | None:
        """The row of a photo that need not be embedded again."""
        same = self._gallery.photo_of(item, str(identity.path))
        if same is None or not identity.stamp or same.stamp != identity.stamp:
            same = self._gallery.photo_of(item, str(identity.path), identity.sha256)
            if same and same.sha256 != identity.sha256:
                return None
        return same if same and same.detector == self._detector else None

    def _describe(self, known: Row, entry: CataloguePhoto, identity: _Identity) -> None:
        """Note new metadata, and the new place of a photo that has moved."""
        photo = _place(known, identity.path)
        stamp = identity.stamp if photo == str(identity.path) else known.stamp
        new = replace(known, photo=photo, metadata=entry.metadata, stamp=stamp)
        if new.photo == known.photo and dict(new.metadata) == dict(known.metadata):
            self.tally.unchanged += 1
        else:
            self.tally.redescribed += 1
        if new != replace(known, metadata=new.metadata) or dict(new.metadata) != dict(known.metadata):
            self._gallery.redescribe(known, new)

    def _add(self, entry: CataloguePhoto, identity: _Identity, analysis: Analysis) -> None:
        if analysis.error:
            self.tally.failed.append((entry.path, analysis.error))
            return
        if known := self._known(entry.item, identity):  # a copy of one that came just before
            self._describe(known, entry, identity)
            return
        (found,) = analysis.detections
        photo = str(analysis.path)
        if old := self._gallery.photo_of(entry.item, photo, identity.sha256):
            photo = _place(old, analysis.path)
            self._gallery.redescribe(old, replace(old, photo=photo))  # adding replaces what is at that place
            self.tally.replaced += 1
        else:
            self.tally.added += 1
        stamp = identity.stamp if photo == str(identity.path) else ""
        row = Row(entry.item, photo, identity.sha256, self._detector, found.label, round(found.score, 4), found.box,
                  entry.metadata, stamp)  # fmt: skip
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


def _stamp(path: Path) -> str:
    """The file's size and time of change; empty where it cannot be had."""
    try:
        told = path.stat()
    except (OSError, ValueError):
        return ""
    return f"{told.st_size} {told.st_mtime_ns}"


def _digest(path: Path) -> str:
    """The file's sha256; empty where it cannot be read, which reading it as a photo will tell."""
    try:
        if (
            not path.is_file() or path.stat().st_size > MAX_BYTES
        ):  # a pipe or a device would block, a huge file take long
            return ""
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""
