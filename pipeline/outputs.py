"""The outputs of a run: what an output format does, how runs are resumed, and which files may be replaced."""

from __future__ import annotations

import os
import re
import shutil
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import reduce
from operator import and_
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Final

from stages.errors import OutfinderError
from stages.files import OUTPUT_MARK

if TYPE_CHECKING:
    from pipeline.pipeline import Analysis
    from pipeline.search import PhotoResult

_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")


@dataclass(frozen=True, slots=True)
class Options:
    """Options of the output formats.

    ``masks`` adds masks to JSON lines, ``matches`` the columns of matches to tables, and ``metadata`` the catalogue's
    columns of these names. The detector's ``labels`` become COCO's categories.
    """

    masks: bool = False
    matches: bool = False
    metadata: Sequence[str] = ()
    labels: Sequence[str] = ()
    delimiter: str = ","


@dataclass(frozen=True, slots=True)
class Output:
    """One photo to write: its result, its analysis if pixels are to be written, and its number in the run, from 1."""

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
    """One output of a run; a photo is on disk when ``write`` returns.

    Subclasses are called with a path, :class:`Options`, and two flags: ``resume`` keeps what an interrupted run wrote
    and describes it in ``record``, ``overwrite`` replaces what exists. A format without a record, such as a folder of
    pictures, must be able to write a photo twice. The constructor raises an OutfinderError if the output exists or
    another run is writing it, and an OSError if it cannot be opened.
    """

    record: Record | None = None

    @abstractmethod
    def write(self, output: Output) -> None:
        """Write one photo."""

    def close(self, *, complete: bool) -> None:  # noqa: B027  few formats have anything to close
        """Close the output; ``complete`` is false if the run was interrupted."""


class Outputs(AbstractContextManager["Outputs"]):
    """The outputs of one run. A photo is finished when all of them have it.

    Attributes:
        done: the number of finished photos.
        failed: how many of them could not be read.
    """

    def __init__(self, writers: Sequence[Writer]) -> None:
        self._writers = writers
        records = [writer.record for writer in writers if writer.record is not None]
        self._finished = reduce(and_, (record.photos for record in records)) if records else Counter[str]()
        self._ahead = [one.record.photos - self._finished if one.record else Counter[str]() for one in writers]
        self.done, self.failed = self._finished.total(), records[-1].failed if records else 0

    def remaining(self, paths: Iterable[Path]) -> Iterator[Path]:
        """Yield the photos still to be analysed; a photo that is named twice is analysed twice."""
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
        for writer, ahead in zip(self._writers, self._ahead, strict=True):
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
    """Return a photo's name as it is written in tables, by which all formats recognize it."""
    return spreadsheet_cell(name.encode("utf-8", "backslashreplace").decode())


def spreadsheet_cell(text: str) -> str:
    """Return a text as a cell, with an apostrophe before what a spreadsheet would run as a formula.

    >>> spreadsheet_cell("=HYPERLINK(A1)"), spreadsheet_cell("-5,50"), spreadsheet_cell("shirt")
    ("'=HYPERLINK(A1)", '-5,50', 'shirt')
    """
    return f"'{text}" if text.startswith(_FORMULA) and not re.fullmatch(r"[+-][\d., ]*\d", text) else text


def check_absent(path: str | Path, *, overwrite: bool) -> None:
    """Raise an OutfinderError if a file with contents or a folder with files exists, unless ``overwrite`` is set."""
    path = Path(path)
    if overwrite or not path.exists():
        return
    used = any(path.iterdir()) if path.is_dir() else path.is_file() and path.stat().st_size > 0  # no pipe or device
    if used:
        raise OutfinderError(f"{path} exists; give --overwrite to replace it, or choose another name")


def check_file(path: str | Path, *, overwrite: bool) -> None:
    """Raise an OutfinderError if a file exists, see :func:`check_absent`, or cannot be created at the end of a long run."""
    path = Path(path)
    check_absent(path, overwrite=overwrite)
    if not path.exists() and not (path.parent.is_dir() and os.access(path.parent, os.W_OK)):
        raise OutfinderError(f"{path} cannot be written: {path.parent} is no folder that can be written")


def check_ours(folder: str | Path) -> None:
    """Raise an OutfinderError if a folder has files that outfinder did not write.

    Once marked as an output, its pictures would never be read as photos again.
    """
    folder = Path(folder)
    if folder.is_dir() and any(folder.iterdir()) and not (folder / OUTPUT_MARK).exists():
        raise OutfinderError(f"{folder} holds files that outfinder did not write; choose another name")


def clear_folder(folder: str | Path, *, overwrite: bool) -> None:
    """Empty a folder that outfinder wrote.

    Raises:
        OutfinderError: the folder is not empty, and ``overwrite`` is not set or outfinder did not write it.
    """
    folder = Path(folder)
    check_absent(folder, overwrite=overwrite)
    check_ours(folder)
    if folder.is_dir():
        for path in folder.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()


def mark_folder(folder: str | Path) -> None:
    """Create a folder for outputs, marked so that later runs do not read its pictures as photos."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / OUTPUT_MARK).touch()
