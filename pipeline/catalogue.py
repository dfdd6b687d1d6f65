"""Catalogues: read as datasets, or added to galleries, where only what is new or changed is embedded."""

from __future__ import annotations

import hashlib
import logging
import os
import re
import stat
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import monotonic
from typing import Final
from unicodedata import normalize

from pipeline.gallery import Gallery, Row
from pipeline.gallery.filters import ATTRIBUTE
from pipeline.kinds import named_kind, with_attributes, with_named_kind
from pipeline.pipeline import Analysis
from pipeline.tables import SUFFIXES, WORKBOOKS, read_table
from stages.embed.attributes import AttributePart
from stages.embed.data import Dataset, DatasetIssue, Sample
from stages.errors import CatalogueError
from stages.files import check_several, existing_spelling
from stages.images import MAX_BYTES, walk
from stages.labels import OTHER
from stages.problems import Problem

REQUIRED: Final = ("item_id", "image")
"""The columns that a catalogue's table must have."""

COLUMNS: Final = ("style", "label", "domain", "source")
"""The columns of a catalogue, besides its item, that training and evaluation use."""

SAVE_EVERY_S = 60.0
"""How often a long run saves: what a kill costs."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class CatalogueEntry:
    """One photo of one item, or the error of a line or file that names none."""

    path: Path
    item: str = ""
    metadata: tuple[tuple[str, str], ...] = ()
    error: str | None = None


def read_catalogue(
    sources: Iterable[str | Path],
    item_pattern: re.Pattern[str] | None = None,
    note: Callable[[str], None] = _log.warning,
) -> Iterator[CatalogueEntry]:
    """Yield the photos of every source lazily, in order.

    A table (see :mod:`pipeline.tables`) has columns ``item_id`` and ``image`` (a path relative to the table); further
    columns are kept as metadata. Any other source is a photo or a folder of photos, whose item ids are what
    ``item_pattern`` finds in the file name (its group 1 if it has groups), else the sub-folder within the source, else
    the file's stem. Item ids and metadata are in Unicode's composed form, as whichever system wrote them.

    Args:
        sources: tables, folders and photos.
        item_pattern: finds an item's id in a file name.
        note: called with what is worth knowing though no photo is lost.

    Raises:
        CatalogueError: a table cannot be read as a whole.
    """
    check_several(sources)
    for source in map(Path, sources):
        if source.suffix.lower() in SUFFIXES | WORKBOOKS and not source.is_dir():
            yield from _read_rows(source, note)
        else:
            yield from (_named(path, source, item_pattern) for path in walk([source]))


def _named(path: Path, source: Path, item_pattern: re.Pattern[str] | None) -> CatalogueEntry:
    if item_pattern:
        found = item_pattern.search(path.name)
        item = found and (found[1] if item_pattern.groups else found[0])
        if not item:
            return CatalogueEntry(path, error=f"has no item id: {item_pattern.pattern!r} finds none in its name")
    else:
        folder = path.parent.relative_to(source).as_posix() if source.is_dir() else "."
        item = path.stem if folder == "." else folder
    return CatalogueEntry(path, normalize("NFC", item))


def _read_rows(source: Path, note: Callable[[str], None]) -> Iterator[CatalogueEntry]:
    for row in read_table(source, REQUIRED, note):
        item, image = (row.cells.get(name, "") for name in REQUIRED)
        error = row.error
        if error is None and not (item and image):
            error = "lacks an item_id or an image"
        elif error is None and "://" in image:
            error = f"names {image[:200]}: download the photo first, photos are read from files only"
        if error is not None:
            yield CatalogueEntry(source, error=f"line {row.line} {error}")
            continue
        metadata = tuple(
            (name, normalize("NFC", cell)) for name, cell in row.cells.items() if name not in REQUIRED and cell
        )
        yield CatalogueEntry(existing_spelling(source.parent / image), normalize("NFC", item), metadata)


def open_set(paths: Sequence[Path], item_pattern: str = "", name: str = "items") -> Dataset:
    """Return the photos of catalogues as a dataset, not read yet.

    Args:
        paths: tables with the columns item_id and image and perhaps :data:`COLUMNS`, folders with a sub-folder for each
            item or class, and photos.
        item_pattern: a regular expression that finds the item id in a file name.
        name: of the dataset.

    Raises:
        CatalogueError: a source cannot be read as a whole, or there is no photo.
        ValueError: the pattern is not a regular expression.
    """
    try:
        pattern = re.compile(item_pattern) if item_pattern else None
    except re.error as error:
        raise ValueError(f"the item pattern {item_pattern!r} is not a regular expression: {error}") from error
    samples, problems = [], []
    for photo in read_catalogue(paths, pattern):
        if photo.error is not None:
            problems.append(Problem(DatasetIssue.ROW, str(photo.path), photo.error))
        else:
            cells = {name.casefold(): value for name, value in photo.metadata}
            samples.append(Sample(photo.path, photo.item, *(cells.get(column, "") for column in COLUMNS)))
    dataset = Dataset(name, tuple(samples), tuple(problems))
    if not samples:
        raise CatalogueError(f"{dataset.describe()}\nThere is no photo in {' '.join(map(str, paths))}.")
    return dataset


@dataclass(slots=True)
class Tally:
    """What became of a catalogue's photos, with the reasons of those that failed.

    ``absent`` counts the gallery's photos that are not in the catalogue, once it has been read to its end; those that
    were pruned are not among them.
    """

    added: int = 0
    replaced: int = 0
    redescribed: int = 0
    unchanged: int = 0
    failed: list[tuple[Path, str]] = field(default_factory=list)
    absent: int = 0
    pruned: int = 0

    @property
    def seen(self) -> int:
        """How many photos have been read."""
        return self.added + self.replaced + self.redescribed + self.unchanged + len(self.failed)


@dataclass(slots=True)
class _Identity:
    """What identifies a photo: its path, size and times, else its content, hashed only when needed."""

    path: Path
    stamp: str
    _sha256: str | None = None

    @property
    def sha256(self) -> str:
        if self._sha256 is None:
            self._sha256 = digest(self.path)
        return self._sha256


class Indexing:
    """One run over a catalogue.

    Args:
        gallery: to add to; the caller holds it for writing.
        pipeline: with ``main_garment`` set, its embedder and cropper the gallery's; or anything that does the same.
        detector: the detector's name: photos indexed with another detector are analysed again.
        progress: called after each photo.
        prune: remove the gallery's photos that are not in the catalogue.
        kinds: where the pipeline's vectors hold kinds; None where they hold none.
        kind_column: the catalogue's column that says an item's kind; None looks in the usual ones.
    """

    def __init__(
        self,
        gallery: Gallery,
        pipeline: Callable[[Iterable[Path]], Iterator[Analysis]],
        detector: str,
        progress: Callable[[Tally], None] | None = None,
        *,
        prune: bool = False,
        kinds: AttributePart | None = None,
        kind_column: str | None = None,
    ) -> None:
        self._gallery, self._pipeline, self._detector = gallery, pipeline, detector
        self._progress, self._prune = progress, prune
        self._kinds, self._kind_column = kinds, kind_column
        self._pending: deque[tuple[CatalogueEntry, _Identity]] = deque()
        self._seen: set[int] = set()
        self._incomplete = False
        self.tally = Tally()

    def __call__(self, catalogue: Iterable[CatalogueEntry]) -> Tally:
        """Add every photo of the catalogue, saving now and then and however the run ends.

        A photo that cannot be read is reported and passed over.
        """
        saved = monotonic()
        try:
            for analysis in self._pipeline(self._to_embed(catalogue)):
                entry, identity = self._pending.popleft()
                self._add(entry, identity, analysis)
                self._report()
                if monotonic() - saved > SAVE_EVERY_S:
                    self._gallery.save()
                    saved = monotonic()
            self._count_absent()
        finally:
            self._gallery.save()
        return self.tally

    def _to_embed(self, catalogue: Iterable[CatalogueEntry]) -> Iterator[Path]:
        for entry in catalogue:
            if entry.error:
                self._incomplete = True
                self.tally.failed.append((entry.path, entry.error))
                self._report()
                continue
            path = _true_path(entry.path)
            identity = _Identity(path, stamp(path))
            self._see(entry.item, str(path))
            if known := self._known(entry.item, identity, entry.metadata):
                self._describe(known, entry, identity)
                self._report()
            else:
                self._pending.append((entry, identity))
                yield path

    def _known(self, item: str, identity: _Identity, metadata: Iterable[tuple[str, str]]) -> Row | None:
        """Return the row of a photo that need not be embedded again."""
        same = self._gallery.photo_of(item, str(identity.path))
        if same is None or not identity.stamp or same.stamp != identity.stamp:
            same = self._gallery.photo_of(item, str(identity.path), identity.sha256)
            if same and same.sha256 != identity.sha256:
                return None
        if same is None or same.detector != self._detector:
            return None
        kind_stays = self._kinds is None or self._named_kind(same.metadata) == self._named_kind(metadata)
        return same if kind_stays else None

    def _describe(self, known: Row, entry: CatalogueEntry, identity: _Identity) -> None:
        """Store new metadata, and the new path of a photo that has moved."""
        photo = _place(known, identity.path)
        new_stamp = identity.stamp if photo == str(identity.path) else known.stamp
        seen = [(name, value) for name, value in known.metadata if name.startswith(ATTRIBUTE)]
        metadata = (*with_attributes(entry.metadata, ()), *seen)
        new = replace(known, photo=photo, metadata=metadata, stamp=new_stamp)
        self._see(new.item, new.photo)
        if new.photo == known.photo and dict(new.metadata) == dict(known.metadata):
            self.tally.unchanged += 1
        else:
            self.tally.redescribed += 1
        if new != replace(known, metadata=new.metadata) or dict(new.metadata) != dict(known.metadata):
            self._gallery.redescribe(known, new)

    def _add(self, entry: CatalogueEntry, identity: _Identity, analysis: Analysis) -> None:
        if analysis.error:
            self._incomplete |= entry.path.is_dir()  # it cannot be listed, and may hold any photos
            self.tally.failed.append((entry.path, analysis.error))
            return
        if known := self._known(entry.item, identity, entry.metadata):  # a copy of a photo that came just before
            self._describe(known, entry, identity)
            return
        (found,) = analysis.detections
        photo = str(analysis.path)
        if old := self._gallery.photo_of(entry.item, photo, identity.sha256):
            photo = _place(old, analysis.path)
            self._gallery.redescribe(old, replace(old, photo=photo))  # adding replaces the row with this photo
            self.tally.replaced += 1
        else:
            self.tally.added += 1
        new_stamp = identity.stamp if photo == str(identity.path) else ""
        label, vectors = found.label, analysis.vectors
        if (kind := self._named_kind(entry.metadata)) is not None and self._kinds is not None:
            label, vectors = label if kind == OTHER else kind, with_named_kind(self._kinds, vectors, kind)
        attributes = self._kinds.stated(vectors)[0] if self._kinds is not None else ()
        row = Row(entry.item, photo, identity.sha256, self._detector, label, round(found.score, 4), found.box,
                  with_attributes(entry.metadata, attributes), new_stamp)  # fmt: skip
        self._see(row.item, row.photo)
        self._gallery.add([row], vectors)

    def _named_kind(self, metadata: Iterable[tuple[str, str]]) -> str | None:
        """Return the kind that the catalogue gives an item, or None."""
        return named_kind(metadata, self._kind_column)

    def _see(self, item: str, photo: str) -> None:
        """Record that the catalogue has a photo, as a hash: there may be millions."""
        self._seen.add(hash((item, photo)))

    def _count_absent(self) -> None:
        """Count the rows that are not in the catalogue, or prune them unless it is empty or was read only in part."""
        absent = [row for row in self._gallery.rows if hash((row.item, row.photo)) not in self._seen]
        if self._prune and self._seen and not self._incomplete:
            self.tally.pruned = self._gallery.discard(absent)
        else:
            self.tally.absent = len(absent)

    def _report(self) -> None:
        if self._progress:
            self._progress(self.tally)


def _place(known: Row, path: Path) -> str:
    """Return the known path of a photo while that exists, else its new one."""
    return known.photo if Path(known.photo).exists() else str(path)


def _true_path(path: Path) -> Path:
    """Return the absolute path, links in the folder resolved: the same from wherever a photo is named."""
    try:
        return Path(os.path.realpath(path.parent), path.name)
    except ValueError:  # a null byte, which reading the photo will report
        return path


def stamp(path: Path) -> str:
    """Return a file's size and its times of modification and of change, or an empty string if it has none.

    A program that replaces a picture can set the first time back, but not the second.
    """
    try:
        status = path.stat()
    except (OSError, ValueError):
        return ""
    return f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"


def digest(path: Path) -> str:
    """Return a photo file's sha256, or an empty string if it cannot be read, which reading the photo will report."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode) or not 0 < status.st_size <= MAX_BYTES:  # those of /proc have no size
            return ""
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except (OSError, ValueError):
        return ""


def changed_photos(gallery: Gallery) -> list[str]:
    """Return the catalogue photos whose files hold another picture than when they were indexed; reads every file."""
    return [row.photo for row in gallery.rows if (now := digest(Path(row.photo))) and now != row.sha256]
