"""A note in the gallery's folder of the run that is adding a catalogue to it: there as long as that has not finished."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final

from pipeline.build import Config, is_own
from stages.errors import GalleryError
from stages.files import read_whole

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
