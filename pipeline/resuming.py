"""A note in the gallery's folder of the run that is adding a catalogue to it: there as long as that has not finished."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from stages.errors import GalleryError

NOTE: Final = "unfinished.json"


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
        plain = json.loads((folder / NOTE).read_bytes())
        given = {
            name: Path(value) if name.endswith("_weights") else value for name, value in dict(plain["given"]).items()
        }
        return Run(tuple(map(Path, plain["sources"])), plain["item_pattern"], given)
    except FileNotFoundError:
        raise ValueError(f"gallery {folder} has no run to resume: none was cut short") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise GalleryError(f"{folder / NOTE} cannot be read: {error}; give the sources again") from error


def finish(folder: Path) -> None:
    """Forget the run: it has finished."""
    (folder / NOTE).unlink(missing_ok=True)
