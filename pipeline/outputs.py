"""The outputs of a run: what a format does, which photos are finished, and the files and folders that are replaced."""

from __future__ import annotations

import re
import shutil
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Final

from pipeline.pipeline import Analysis
from pipeline.search import PhotoResult
from stages.errors import OutfinderError
from stages.files import OUTPUT_MARK

_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")


@dataclass(frozen=True, slots=True)
class Options:
    """Options of the formats.

    ``masks`` adds masks to JSON lines, ``matches`` the columns of matches to tables, and ``metadata`` the catalogue's
    columns; ``labels`` are those of the detector, for COCO's categories.
    """

    masks: bool = False
    matches: bool = False
    metadata: Sequence[str] = ()
    labels: Sequence[str] = ()
    delimiter: str = ","


@dataclass(frozen=True, slots=True)
class Output:
    """One photo to write: its result, its analysis if there are pixels to write, and its number in the run, from 1."""

    result: PhotoResult
    analysis: Analysis | None = None
    number: int = 0


@dataclass(slots=True)
class Record:
    """What an interrupted run left in a file: its photos, how many of them failed, and where they end, in bytes."""

    photos: Counter[str] = field(default_factory=Counter)
    failed: int = 0
    end: int = 0

    def add(self, photo: str, *, failed: bool) -> None:
        """Count a photo."""
        self.photos[photo_key(photo)] += 1
        self.failed += failed


class Writer(ABC):
    """An output of a run; a photo stays written, whatever happens after ``write``.

    Args:
        path: of the file or folder.
        options: of the format.
        resume: keep what an interrupted run left in it; ``record`` describes it. A format that has no record of photos,
            such as a folder of pictures, must write a photo again without harm.
        overwrite: replace what exists.

    Raises:
        OutfinderError: the output exists, or another run is writing it.
        OSError: it cannot be opened.
    """

    record: Record | None = None

    @abstractmethod
    def write(self, output: Output) -> None:
        """Write one photo."""

    def close(self, *, complete: bool) -> None:  # noqa: B027  few have something to close
        """Close the output; ``complete`` unless the run was interrupted."""


class Outputs(AbstractContextManager["Outputs"]):
    """The outputs of one run, which agree on which photos are finished: those that all of them have.

    Attributes:
        done: how many photos are finished.
        failed: how many of them could not be read.
    """

    def __init__(self, writers: Sequence[Writer]) -> None:
        self._writers = writers
        records = [writer.record for writer in writers if writer.record is not None]
        self._finished: Counter[str] = Counter()
        for number, record in enumerate(records):
            self._finished = record.photos & self._finished if number else record.photos.copy()
        self._ahead = {id(one): one.record.photos - self._finished for one in writers if one.record is not None}
        self.done, self.failed = self._finished.total(), records[-1].failed if records else 0

    def remaining(self, paths: Iterable[Path]) -> Iterator[Path]:
        """Yield the photos still to be analysed: each as often as it is named, less the times that it is finished."""
        finished = self._finished.copy()
        for path in paths:
            key = photo_key(str(path))
            if finished[key]:
                finished[key] -= 1
            else:
                yield path

    def write(self, result: PhotoResult, analysis: Analysis | None = None) -> None:
        """Write one photo to every output that lacks it."""
        self.done += 1
        self.failed += result.error is not None
        key = photo_key(result.photo)
        for writer in self._writers:
            ahead = self._ahead.get(id(writer), Counter())
            if ahead[key]:
                ahead[key] -= 1
            else:
                writer.write(Output(result, analysis, self.done))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for writer in self._writers:
            writer.close(complete=kind is None)


def photo_key(name: str) -> str:
    """Return a photo's name as a table has it, by which all formats recognize it."""
    return spreadsheet_cell(name.encode("utf-8", "backslashreplace").decode())


def check_absent(path: Path, *, overwrite: bool) -> None:
    """Refuse to replace a file, or a folder that is not empty, unless the user asked for it.

    Raises:
        OutfinderError: it exists.
    """
    if overwrite or not path.exists():
        return
    used = any(path.iterdir()) if path.is_dir() else path.is_file() and path.stat().st_size > 0  # no pipe or device
    if used:
        raise OutfinderError(f"{path} exists; give --overwrite to replace it, or choose another name")


def clear_folder(folder: Path, *, overwrite: bool) -> None:
    """Empty a folder that outfinder has written, so that it can be written anew.

    Raises:
        OutfinderError: it is not empty, and the user did not ask for it or outfinder has not written it.
    """
    check_absent(folder, overwrite=overwrite)
    check_ours(folder)
    if folder.is_dir():
        for path in folder.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()


def check_ours(folder: Path) -> None:
    """Refuse a folder with files that outfinder has not written: its pictures would be taken for outputs ever after.

    Raises:
        OutfinderError: it is one.
    """
    if folder.is_dir() and any(folder.iterdir()) and not (folder / OUTPUT_MARK).exists():
        raise OutfinderError(f"{folder} holds files that outfinder did not write; choose another name")


def mark_folder(folder: Path) -> None:
    """Make a folder for outputs, marked so that later runs do not take its pictures for photos.

    Raises:
        OSError: it cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / OUTPUT_MARK).touch()


def spreadsheet_cell(text: str) -> str:
    """Return a text for a cell, with an apostrophe before what a spreadsheet would run as a formula.

    >>> spreadsheet_cell("=HYPERLINK(A1)"), spreadsheet_cell("-5,50"), spreadsheet_cell("shirt")
    ("'=HYPERLINK(A1)", '-5,50', 'shirt')
    """
    return f"'{text}" if text.startswith(_FORMULA) and not re.fullmatch(r"[+-][\d., ]*\d", text) else text


def lock(descriptor: int, path: Path) -> None:
    """Keep other runs from writing a file for as long as it is open, if the system can."""
    try:
        import fcntl  # noqa: PLC0415  not on Windows

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        named = path.with_name(re.sub(r"^\.(.+)\.part$", r"\1", path.name))
        raise OutfinderError(f"{named} is being written by another run; name another file") from None
    except (ImportError, OSError):
        return
