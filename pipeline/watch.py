"""A catalogue that is watched: what is new, changed or gone reaches its gallery within seconds.

Files are compared by size and times, time after time, which works on every file system, shared folders included.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from time import monotonic, sleep, thread_time
from typing import Any, Final, NoReturn

from pipeline.catalogue import CatalogueEntry, Indexing, fetched, stamp
from pipeline.gallery import Gallery, writing
from pipeline.remote import Fetcher, reduce_cache, without_password
from pipeline.tables import SUFFIXES
from stages.errors import CatalogueError, GalleryCorrupt, GalleryError, GalleryMismatch

PAUSE_S: Final = 1.0
"""Seconds between two looks at a catalogue; a look that takes much of the processor's time is followed by a longer pause."""

SHARE: Final = 2
"""A pause is at least so many times as long as the look before it took the processor."""

GONE_S: Final = 5.0
"""Seconds for which a catalogue must lack a photo before it is gone: a table may be saved in parts."""

AT_ONCE: Final = 32
"""Photos that are added while the gallery is held for writing; then others have their turn."""

WAIT_S: Final = 5.0
"""Seconds to wait for another process that writes the gallery before that is reported."""

_Key = tuple[str, str]
_State = tuple[str, CatalogueEntry]


@dataclass(slots=True)
class _Source:
    """A table, folder or photo, with the entries of the last time that it could be read."""

    path: Path
    is_table: bool
    entries: Sequence[CatalogueEntry] = ()
    seen: str = ""
    read: str = ""
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Changes:
    """What has happened to a catalogue since the look before.

    Attributes:
        changed: photos that are new or differ, and no longer being written.
        gone: photos that the catalogue no longer names; empty while a part of it cannot be read.
        siblings: the other photos of their items.
        problems: a sentence for each source that cannot be read, once.
    """

    changed: Sequence[CatalogueEntry] = ()
    gone: Sequence[CatalogueEntry] = ()
    siblings: Sequence[CatalogueEntry] = ()
    problems: Sequence[str] = ()


class Watch:
    """Looks for changes of a catalogue; what is there when the watch begins is no change.

    A file counts once its size and times are the same at two looks. A source that cannot be read keeps its photos.

    Args:
        sources: tables, folders and photos.
        read: yields the photos of a source.
    """

    def __init__(self, sources: Iterable[Path], read: Callable[[Path], Iterable[CatalogueEntry]]) -> None:
        self._read = read
        self._sources = [
            _Source(path, path.suffix.lower() in SUFFIXES and not path.is_dir(), seen=stamp(path)) for path in sources
        ]
        self._folders, self._errors, self._missing = set[_Key](), set[_Key](), dict[_Key, float]()
        self._known: dict[_Key, _State] = {}
        self._known = self._last = self._look([])

    def look(self) -> Changes:
        """Return what has changed since the last look, or the one before where it may still have been changing."""
        problems = list[str]()
        now = self._look(problems)
        last, self._last = self._last, now
        changed = {key: state for key, state in now.items() if state == last.get(key) and state != self._known.get(key)}
        gone = list[CatalogueEntry]()
        if not self._errors and self._folders.isdisjoint(now):
            moment = monotonic()
            self._missing = {key: self._missing.get(key, moment) for key in self._known if key not in now}
            keys = [key for key, since in self._missing.items() if moment - since >= GONE_S]
            gone = [self._known.pop(key)[1] for key in keys]
        self._known |= changed
        items = {entry.item for entry in gone}
        siblings = [entry for _, entry in now.values() if entry.item in items] if items else []
        return Changes([entry for _, entry in changed.values()], gone, siblings, problems)

    def _look(self, problems: list[str]) -> dict[_Key, _State]:
        """Return the state of every photo."""
        now, errors = dict[_Key, _State](), set[_Key]()
        for source in self._sources:
            usable = self._update(source, problems)
            for entry in source.entries:
                key = entry.item, str(entry.path)
                if entry.error and not entry.item:
                    errors.add((entry.error, str(entry.path)))
                elif not usable and key in self._known:
                    now[key] = self._known[key]
                else:
                    now[key] = state = ("" if entry.url else stamp(entry.path), entry)
                    if state != self._known.get(key):  # a folder is named where it cannot be listed
                        (self._folders.add if entry.path.is_dir() else self._folders.discard)(key)
        problems += [f"{path}: {error}" for error, path in sorted(errors - self._errors)]
        self._errors = errors
        return now

    def _update(self, source: _Source, problems: list[str]) -> bool:
        """Read a source if it has changed; return whether its entries are those of the present."""
        before = stamp(source.path)
        if source.is_table:
            quiet, source.seen = before == source.seen, before
            if before == source.read or not quiet:
                return not source.problem
        try:
            if not source.path.exists():
                raise CatalogueError(f"there is no {source.path} at the moment")  # noqa: TRY301
            entries = list(self._read(source.path))
            if source.entries and not entries:
                raise CatalogueError(f"{source.path} holds no photo any more")  # noqa: TRY301
            if source.is_table and stamp(source.path) != before:
                return not source.problem  # it is being written: the next look sees that
        except (CatalogueError, OSError) as error:
            problem = f"{error}; what the gallery has of it stays"
        else:
            source.entries, problem = entries, ""
        if problem and problem != source.problem:
            problems.append(problem)
        source.read, source.problem = before, problem
        return not problem


@dataclass(slots=True)
class Follower:
    """Brings the changes of a catalogue into its gallery.

    Args:
        folder: of the gallery, which is held for writing only while something is added.
        indexing: makes an :class:`Indexing` of an open gallery that calls a function after each photo.
        report: called with a line for each change.
        prune: remove photos that the catalogue no longer names.
    """

    folder: Path
    indexing: Callable[[Gallery, Callable[[str | None, str], None]], Indexing]
    report: Callable[[str], None]
    prune: bool
    _waiting: dict[_Key, CatalogueEntry] = field(default_factory=dict)
    _gone: dict[_Key, CatalogueEntry] = field(default_factory=dict)
    _siblings: dict[_Key, CatalogueEntry] = field(default_factory=dict)
    _problem: str = ""

    def follow(self, watch: Watch) -> NoReturn:
        """Look for changes until the process ends."""
        while True:
            began = thread_time()
            changes = watch.look()
            took = thread_time() - began
            self.take(changes)
            sleep(max(PAUSE_S, SHARE * took))

    def take(self, changes: Changes) -> None:
        """Add changes to the gallery, with earlier ones for which it could not be written."""
        for problem in changes.problems:
            self.report(problem)
        for entries, waiting in (
            (changes.changed, self._waiting),
            (changes.gone, self._gone),
            (changes.siblings, self._siblings),
        ):
            waiting |= {(entry.item, str(entry.path)): entry for entry in entries}
        try:
            self._add(self._waiting)
            if self._gone:
                self._remove()
            self._add(self._siblings)  # where an item's photo stood for a copy of it
        except (GalleryCorrupt, GalleryMismatch):
            raise
        except GalleryError as error:
            if str(error) != self._problem:
                self.report(f"{error}; it is tried again")
            self._problem = str(error)
        else:
            self._problem = ""

    def _add(self, waiting: dict[_Key, CatalogueEntry]) -> None:
        while waiting:
            part = dict(islice(waiting.items(), AT_ONCE))
            with writing(self.folder, WAIT_S):
                self._index(part.values())
            for key in part:
                del waiting[key]

    def _index(self, entries: Iterable[CatalogueEntry]) -> None:
        addresses = {str(entry.path): without_password(entry.url) for entry in entries if entry.url}
        counts = dict[str, Any]()

        def count(error: str | None, path: str) -> None:
            names = ("added", "replaced", "redescribed")
            done = next((name for name in names if getattr(indexing.tally, name) > counts.get(name, 0)), "")
            counts.update({name: getattr(indexing.tally, name) for name in names})
            if error or done:
                self.report(f"{addresses.get(path, path)}: {error or done}")

        gallery = Gallery.open(self.folder)
        indexing = self.indexing(gallery, count)
        try:
            with Fetcher() as fetch:
                indexing(fetched(entries, fetch))
        finally:
            gallery.close()
        if addresses:
            reduce_cache()

    def _remove(self) -> None:
        names = [without_password(entry.url) or str(entry.path.absolute()) for entry in self._gone.values()]
        if self.prune:
            with writing(self.folder, WAIT_S):
                gallery = Gallery.open(self.folder)
                try:
                    self.indexing(gallery, lambda _error, _path: None).remove(self._gone.values())
                finally:
                    gallery.close()
        what = "removed" if self.prune else "no longer in the catalogue, and stays in the gallery without --prune"
        for name in names:
            self.report(f"{name}: {what}")
        self._gone.clear()
