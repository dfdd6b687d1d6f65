"""Catalogues: read as datasets, or added to galleries, where only new and changed photos are embedded."""

from __future__ import annotations

import hashlib
import logging
import os
import re
import stat
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from time import monotonic
from typing import Final
from unicodedata import normalize
from urllib.parse import urlsplit
from urllib.request import url2pathname

from pipeline.feeds import LAYOUTS, REQUIRED, image_names, is_image_column, products
from pipeline.gallery import Gallery, Row
from pipeline.gallery.filters import ATTRIBUTE
from pipeline.kinds import named_kind, with_attributes, with_named_kind
from pipeline.pipeline import Analysis
from pipeline.remote import Fetcher, cached_path, is_remote, without_password
from pipeline.tables import SUFFIXES, read_table
from stages.embed.attributes import Attribute, AttributePart
from stages.embed.data import Dataset, DatasetIssue, Sample
from stages.errors import CatalogueError, OutfinderError
from stages.files import check_several, existing_spelling
from stages.images import MAX_BYTES, walk
from stages.labels import OTHER
from stages.problems import Problem

COLUMNS: Final = ("style", "label", "domain", "source")
"""Further columns that training and evaluation use."""

SAVE_EVERY_S = 60.0
"""Seconds between two saves of a long run: at most this much work is lost by a kill."""

IMAGE_URL: Final = "image_url"
"""The column that holds the address of a photo that was fetched."""

FETCHERS: Final = 16
FETCHED_AHEAD: Final = 64
"""Photos that are fetched while those before them are analysed."""

_SHORTENED: Final = re.compile(r"\d([.,]\d+)?E\+\d+", re.IGNORECASE)
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class CatalogueEntry:
    """A photo of an item, or the error of a line or file that names none.

    A photo with a ``url`` is at ``path`` once it has been fetched, see :func:`fetched`.
    """

    path: Path
    item: str = ""
    metadata: tuple[tuple[str, str], ...] = ()
    error: str | None = None
    url: str = ""


def read_catalogue(
    sources: Iterable[str | Path],
    item_pattern: str | re.Pattern[str] = "",
    note: Callable[[str], None] = _log.warning,
    columns: Mapping[str, str] | None = None,
) -> Iterator[CatalogueEntry]:
    """Yield the photos of every source lazily, in order.

    A table (see :mod:`pipeline.tables`) has columns ``item_id`` and ``image`` (paths relative to the table, or addresses),
    or those of a known export (see :mod:`pipeline.feeds`); further columns are kept as metadata. Any other source is a
    photo or a folder of photos. Their item ids are what ``item_pattern`` matches in the file name (its group 1 if it has
    groups), else the sub-folder within the source, else the file's stem. Item ids and metadata are in Unicode's composed
    form.

    Args:
        sources: tables, folders and photos.
        item_pattern: a regular expression that finds the item id in a file name; empty for none.
        note: called with remarks on tables of which no photo is lost.
        columns: the tables' columns by our names, where they differ: ``{"item_id": "sku"}``.

    Raises:
        CatalogueError: a table cannot be read as a whole.
        ValueError: the pattern is not a regular expression.
    """
    check_several(sources)
    try:
        pattern = re.compile(item_pattern) if item_pattern else None
    except re.error as error:
        raise ValueError(f"the item pattern {item_pattern!r} is not a regular expression: {error}") from error
    for source in map(Path, sources):
        if source.suffix.lower() in SUFFIXES and not source.is_dir():
            yield from _read_rows(source, note, columns)
        else:
            yield from (_named(path, source, pattern) for path in walk([source]))


def _named(path: Path, source: Path, pattern: re.Pattern[str] | None) -> CatalogueEntry:
    if pattern:
        match = pattern.search(path.name)
        item = match and (match[1] if pattern.groups else match[0])
        if not item:
            return CatalogueEntry(path, error=f"has no item id: {pattern.pattern!r} finds none in its name")
    else:
        folder = path.parent.relative_to(source).as_posix() if source.is_dir() else "."
        item = path.stem if folder == "." else folder
    return CatalogueEntry(path, normalize("NFC", item))


def _read_rows(
    source: Path, note: Callable[[str], None], columns: Mapping[str, str] | None
) -> Iterator[CatalogueEntry]:
    shortened = False
    for row in products(read_table(source, REQUIRED, note, columns, LAYOUTS)):
        item, images, error = row.cells.get("item_id", ""), image_names(row.cells), row.error
        if not shortened and _SHORTENED.fullmatch(item):
            shortened = True
            note(f"{source}: {row.place} has the item id {item}, a number that a spreadsheet has shortened, so that several"
                 " items may have it; format the column as text and export it again")  # fmt: skip
        if error is None and not (item and images):
            error = "lacks an item_id or an image"
        if error is not None:
            yield CatalogueEntry(source, error=f"{row.place} {error}")
            continue
        further = {
            name: cell for name, cell in row.cells.items() if cell and name != "item_id" and not is_image_column(name)
        }
        metadata = {name: normalize("NFC", cell) for name, cell in further.items()}
        if len(images) > 1 and existing_spelling(source.parent / row.cells["image"]).is_file():
            images = [row.cells["image"]]  # a file whose name looks like several
        for image in images:
            yield _entry(source, row.place, image, normalize("NFC", item), metadata)


def _entry(source: Path, place: str, image: str, item: str, metadata: Mapping[str, str]) -> CatalogueEntry:
    try:
        if is_remote(image):
            about = {**metadata, IMAGE_URL: without_password(image)}
            return CatalogueEntry(cached_path(image), item, tuple(about.items()), url=image)
    except ValueError as error:
        return CatalogueEntry(source, error=f"{place} {error}")
    path = Path(url2pathname(urlsplit(image).path)) if image.startswith("file://") else source.parent / image
    return CatalogueEntry(existing_spelling(path), item, tuple(metadata.items()))


def fetched(catalogue: Iterable[CatalogueEntry], fetch: Fetcher) -> Iterator[CatalogueEntry]:
    """Yield a catalogue's photos in order once they are at their paths; one that cannot be fetched has an error."""
    pending: deque[tuple[CatalogueEntry, Future[None] | None]] = deque()

    def finished() -> CatalogueEntry:
        entry, future = pending.popleft()
        try:
            if future:
                future.result()
        except OutfinderError as error:
            return replace(entry, error=str(error))
        return entry

    pool = ThreadPoolExecutor(FETCHERS, thread_name_prefix="fetch")
    try:
        for entry in catalogue:
            pending.append((entry, pool.submit(fetch, entry.url) if entry.url and not entry.error else None))
            if len(pending) > FETCHED_AHEAD:
                yield finished()
        while pending:
            yield finished()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)  # an interrupted run does not wait for slow servers


def open_set(paths: Iterable[str | Path], item_pattern: str = "", name: str = "items") -> Dataset:
    """Return the photos of catalogues, see :func:`read_catalogue`, as a dataset; no photo is read yet.

    Tables may have the columns :data:`COLUMNS`, and sub-folders may be items or classes.

    Raises:
        CatalogueError: a source cannot be read as a whole, or there is no photo.
        ValueError: the pattern is not a regular expression.
    """
    check_several(paths)
    paths, samples, problems = list(paths), [], []
    with Fetcher() as fetch:
        for photo in fetched(read_catalogue(paths, item_pattern), fetch):
            if photo.error is not None:
                problems.append(Problem(DatasetIssue.ROW, without_password(photo.url) or str(photo.path), photo.error))
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

    ``absent`` counts the gallery's photos that are not in the catalogue and were not pruned.
    """

    added: int = 0
    replaced: int = 0
    redescribed: int = 0
    unchanged: int = 0
    failed: list[tuple[str, str]] = field(default_factory=list)
    absent: int = 0
    pruned: int = 0


@dataclass(frozen=True)
class _Photo:
    """A catalogue's photo, identified by its path, size and times, else by its content, hashed only when needed."""

    entry: CatalogueEntry
    path: Path
    stamp: str

    @cached_property
    def sha256(self) -> str:
        return digest(self.path)


class Indexing:
    """Adds catalogues to a gallery.

    Args:
        gallery: held for writing by the caller.
        pipeline: with ``main_garment`` set and the gallery's embedder and cropper; or anything that does the same.
        detector: the detector's name; photos indexed with another detector are analysed again.
        progress: called after each photo with its error, or None, and its path.
        prune: remove the gallery's photos that are not in the catalogue; None if the catalogue is a part of a larger one.
        kinds: the part of the vectors that holds kinds; None if they hold none.
        kind_column: the catalogue's column that names an item's kind; None tries the usual ones.
    """

    def __init__(
        self,
        gallery: Gallery,
        pipeline: Callable[[Iterable[Path]], Iterator[Analysis]],
        detector: str,
        progress: Callable[[str | None, str], None] = lambda _error, _path: None,
        *,
        prune: bool | None = False,
        kinds: AttributePart | None = None,
        kind_column: str | None = None,
    ) -> None:
        self._gallery, self._pipeline, self._detector = gallery, pipeline, detector
        self._progress, self._prune = progress, prune
        self._kinds, self._kind_column = kinds, kind_column
        self._pending: deque[_Photo] = deque()
        self._seen: set[int] = set()
        self._incomplete = False
        self.tally = Tally()

    def __call__(self, catalogue: Iterable[CatalogueEntry]) -> Tally:
        """Add every photo of the catalogue, saving now and then and however the run ends.

        A photo that cannot be read is reported and skipped.
        """
        try:
            self.add(catalogue)
            rows = [] if self._prune is None else self._gallery.rows
            absent = [row for row in rows if hash((row.item, row.photo)) not in self._seen]
            if self._prune and self._seen and not self._incomplete:  # not if the catalogue is empty or damaged
                self.tally.pruned = self._gallery.discard(absent)
            else:
                self.tally.absent = len(absent)
        finally:
            self._gallery.save()
        return self.tally

    def add(self, catalogue: Iterable[CatalogueEntry]) -> None:
        """Add a part of the catalogue, without saving it at the end."""
        saved = monotonic()
        for analysis in self._pipeline(self._to_embed(catalogue)):
            self._add(self._pending.popleft(), analysis)
            if monotonic() - saved > SAVE_EVERY_S:
                self._gallery.save()
                saved = monotonic()

    def remove(self, entries: Iterable[CatalogueEntry]) -> None:
        """Remove single photos, and save."""
        rows = (self._gallery.photo_of(entry.item, str(_resolved(entry.path))) for entry in entries)
        self._gallery.discard(filter(None, rows))
        self._gallery.save()

    def _to_embed(self, catalogue: Iterable[CatalogueEntry]) -> Iterator[Path]:
        for entry in catalogue:
            if entry.error:
                if entry.item:  # it cannot be fetched now, which does not remove it from the gallery
                    self._see(entry.item, str(_resolved(entry.path)))
                else:
                    self._incomplete = True
                self._fail(without_password(entry.url) or str(entry.path), entry.error)
                continue
            path = _resolved(entry.path)
            photo = _Photo(entry, path, stamp(path))
            self._see(entry.item, str(path))
            if known := self._known(photo):
                self._describe(known, photo)
            else:
                self._pending.append(photo)
                yield path

    def _known(self, photo: _Photo) -> Row | None:
        """Return the row of a photo that need not be embedded again."""
        item, path = photo.entry.item, str(photo.path)
        row = self._gallery.photo_of(item, path)
        if row is None or not photo.stamp or row.stamp != photo.stamp:
            row = self._gallery.photo_of(item, path, photo.sha256)
            if row and row.sha256 != photo.sha256:
                return None
        if row is None or row.detector != self._detector:
            return None
        same_kind = self._kinds is None or self._named_kind(row.metadata) == self._named_kind(photo.entry.metadata)
        return row if same_kind else None

    def _describe(self, known: Row, photo: _Photo) -> None:
        """Store new metadata, and the new path of a photo that has moved."""
        path = _place(known, photo.path)
        new_stamp = photo.stamp if path == str(photo.path) else known.stamp
        attributes = [(name, value) for name, value in known.metadata if name.startswith(ATTRIBUTE)]
        metadata = (*with_attributes(photo.entry.metadata, ()), *attributes)
        if dict(metadata) == dict(known.metadata):
            metadata = known.metadata  # the order does not matter
        new = replace(known, photo=path, metadata=metadata, stamp=new_stamp)
        self._see(new.item, new.photo)
        if (new.photo, new.metadata) == (known.photo, known.metadata):
            self.tally.unchanged += 1
        else:
            self.tally.redescribed += 1
        if new != known:
            self._gallery.redescribe(known, new)
        self._progress(None, path)

    def _add(self, photo: _Photo, analysis: Analysis) -> None:
        if analysis.error:
            self._incomplete |= photo.entry.path.is_dir()  # it cannot be listed, and may hold any photos
            self._fail(without_password(photo.entry.url) or str(photo.entry.path), analysis.error)
            return
        if known := self._known(photo):  # a copy of a photo that came just before
            self._describe(known, photo)
            return
        (main,) = analysis.detections
        item, path = photo.entry.item, str(analysis.path)
        if old := self._gallery.photo_of(item, path, photo.sha256):
            path = _place(old, analysis.path)
            self._gallery.redescribe(old, replace(old, photo=path))  # adding replaces the row with this photo
            self.tally.replaced += 1
        else:
            self.tally.added += 1
        new_stamp = photo.stamp if path == str(photo.path) else ""
        label, vectors = main.label, analysis.vectors
        attributes: Sequence[Attribute] = ()
        if self._kinds is not None:
            if (kind := self._named_kind(photo.entry.metadata)) is not None:
                label, vectors = label if kind == OTHER else kind, with_named_kind(self._kinds, vectors, kind)
            attributes = self._kinds.stated(vectors)[0]
        metadata = with_attributes(photo.entry.metadata, attributes)
        score = round(main.score, 4)
        row = Row(item, path, photo.sha256, self._detector, label, score, main.box, metadata, new_stamp)
        self._see(item, path)
        self._gallery.add([row], vectors)
        self._progress(None, path)

    def _fail(self, photo: str, error: str) -> None:
        self.tally.failed.append((photo, error))
        self._progress(error, photo)

    def _named_kind(self, metadata: Iterable[tuple[str, str]]) -> str | None:
        return named_kind(metadata, self._kind_column)

    def _see(self, item: str, photo: str) -> None:
        """Record that the catalogue has a photo, as a hash: there may be millions."""
        self._seen.add(hash((item, photo)))


def _place(known: Row, path: Path) -> str:
    """Return the known path of a photo if it still exists, else its new one."""
    return known.photo if Path(known.photo).exists() else str(path)


def _resolved(path: Path) -> Path:
    """Return the absolute path with links in the folder resolved, which is the same however a photo is named."""
    try:
        return Path(os.path.realpath(path.parent), path.name)
    except ValueError:  # a null byte, which reading the photo will report
        return path


def stamp(path: str | Path) -> str:
    """Return a file's size and its times of modification and of change, or an empty string if it has none.

    A program that replaces a picture can restore the first time, but not the second.
    """
    try:
        status = os.stat(path)  # noqa: PTH116  a watch calls it often, and making a Path takes longer
    except (OSError, ValueError):
        return ""
    return f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"


def digest(path: str | Path) -> str:
    """Return a photo file's sha256, or an empty string if it cannot be read, which reading the photo will report."""
    try:
        status = Path(path).stat()
        if not stat.S_ISREG(status.st_mode) or not 0 < status.st_size <= MAX_BYTES:  # those of /proc have no size
            return ""
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except (OSError, ValueError):
        return ""


def changed_photos(gallery: Gallery) -> list[str]:
    """Return the photos whose files hold another picture than when they were indexed; reads every file."""
    return [row.photo for row in gallery.rows if (now := digest(row.photo)) and now != row.sha256]
