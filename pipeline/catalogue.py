"""Read catalogues and add them to galleries."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from time import monotonic
from typing import Any, Final

from pipeline.config import Config, is_own
from pipeline.gallery import Gallery, Row
from pipeline.pipeline import Analysis
from stages.errors import CatalogueError, GalleryError
from stages.files import check_regular, read_whole
from stages.images import MAX_BYTES, walk

REQUIRED = ("item_id", "image")


@dataclass(frozen=True, slots=True)
class CataloguePhoto:
    """One photo of one item, or the reason why a place of the catalogue names none."""

    path: Path
    item: str = ""
    metadata: tuple[tuple[str, str], ...] = ()
    error: str | None = None


def read_catalogue(sources: Iterable[Path], item_pattern: re.Pattern[str] | None = None) -> Iterator[CataloguePhoto]:
    """The photos of every source, in order.

    A ``.csv`` source has columns ``item_id`` and ``image`` (a path relative to the CSV); further columns are
    kept as metadata. Elsewhere a source is a photo or a folder of them, and an item's id is what
    ``item_pattern`` finds in the file name (its group 1 where it has groups), else the sub-folder within the
    source, else the file's stem.

    Raises:
        CatalogueError: a CSV cannot be read as a whole.
    """
    for source in sources:
        if source.suffix.lower() == ".csv" and not source.is_dir():
            yield from _rows(source)
        else:
            yield from (_named(path, source, item_pattern) for path in walk([source]))


def _named(path: Path, source: Path, item_pattern: re.Pattern[str] | None) -> CataloguePhoto:
    if item_pattern:
        found = item_pattern.search(path.name)
        item = found and (found[1] if item_pattern.groups else found[0])
        if not item:
            return CataloguePhoto(path, error=f"has no item id: {item_pattern.pattern!r} finds none in its name")
        return CataloguePhoto(path, item)
    within = path.parent.relative_to(source).as_posix() if source.is_dir() else "."
    return CataloguePhoto(path, path.stem if within == "." else within)


def _rows(source: Path) -> Iterator[CataloguePhoto]:
    try:
        check_regular(source.stat())
        with source.open(encoding="utf-8-sig", newline="") as file:
            header = file.readline()
            delimiter = max(",;\t", key=header.count)
            file.seek(0)
            rows = csv.DictReader(file, delimiter=delimiter, strict=True)
            missing = [name for name in REQUIRED if name not in (rows.fieldnames or ())]
            if missing:
                raise CatalogueError(
                    f"catalogue {source} lacks the column {' and '.join(missing)};"
                    f" its first line must name item_id and image, it is {header.strip()[:100]!r}"
                )
            for row in rows:
                yield _row(row, source, rows.line_num)
    except OSError as error:
        raise CatalogueError(f"catalogue {source} cannot be read: {error.strerror}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise CatalogueError(f"catalogue {source} is not a CSV in UTF-8: {error}") from error


def _row(row: dict[str | None, str | None], source: Path, line: int) -> CataloguePhoto:
    item, image = ((row[name] or "").strip() for name in REQUIRED)
    if not item or not image or None in row:
        wrong = "has more cells than the header" if None in row else "lacks an item_id or an image"
        return CataloguePhoto(source, error=f"line {line} {wrong}")
    metadata = tuple((key, value.strip()) for key, value in row.items() if key and key not in REQUIRED and value)
    return CataloguePhoto(source.parent / image, item, metadata)


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


NOTE: Final = "unfinished.json"
_NOTED: Final = frozenset(field.name for field in fields(Config))


@dataclass(frozen=True, slots=True)
class Run:
    """What ``outfinder index`` was asked for: sources, the pattern of item ids, and the stages that were given."""

    sources: tuple[Path, ...]
    item_pattern: str | None = None
    given: dict[str, Any] = field(default_factory=dict)

    @property
    def pattern(self) -> re.Pattern[str] | None:
        """The pattern of item ids, compiled."""
        return None if self.item_pattern is None else re.compile(self.item_pattern)


def note(folder: Path, run: Run) -> None:
    """Remember a run that begins.

    Raises:
        GalleryError: the gallery cannot be written.
    """
    plain = {
        "sources": [str(source.absolute()) for source in run.sources],
        "item_pattern": run.item_pattern,
        "given": {
            name: str(value.absolute()) if isinstance(value, Path) else value for name, value in run.given.items()
        },
    }
    partial = folder / f"{NOTE}.partial"
    try:
        with partial.open("w", encoding="ascii") as file:
            json.dump(plain, file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(folder / NOTE)
    except OSError as error:
        raise GalleryError(f"gallery {folder} cannot be written: {error.strerror}") from error


def unfinished(folder: Path) -> Run:
    """The run that was cut short.

    Raises:
        ValueError: there is none.
        GalleryError: it was not noted as a whole.
    """
    try:
        run = _read(json.loads(read_whole(folder / NOTE, 10_000_000)))
    except FileNotFoundError:
        raise ValueError(f"gallery {folder} has no run to resume: none was cut short") from None
    except OSError as error:
        raise GalleryError(f"{folder / NOTE} cannot be read: {error.strerror}; give the sources again") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, re.error) as error:
        raise GalleryError(f"{folder / NOTE} is no note of a run ({error}); give the sources again") from error
    for name in run.given.values():
        if isinstance(name, str) and is_own(name):
            raise GalleryError(
                f"the run that was cut short used {name!r}, which a file cannot name: give its whole command again"
            )
    return run


def _read(plain: Any) -> Run:
    """A run as it was noted.

    Raises:
        ValueError, KeyError, TypeError: it is something else.
    """
    sources, pattern, given = plain["sources"], plain["item_pattern"], dict(plain["given"])
    wrong = [name for name, value in given.items() if not isinstance(value, float if name == "min_score" else str)]
    if not isinstance(sources, list) or wrong or given.keys() - _NOTED:
        raise ValueError("it names what no run has")
    if pattern is not None:
        re.compile(pattern)
    given = {name: Path(value) if name.endswith("_weights") else value for name, value in given.items()}
    return Run(tuple(map(Path, sources)), pattern, given)


def finish(folder: Path) -> None:
    """Forget the run: it has finished."""
    (folder / NOTE).unlink(missing_ok=True)
