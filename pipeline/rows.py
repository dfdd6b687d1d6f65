"""A gallery's rows: what is known of each catalogue photo, and their file of JSON lines."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from stages.types import LABELS, Box


@dataclass(frozen=True, slots=True)
class Row:
    """One catalogue photo: what it shows and what it was made from.

    ``sha256`` is the photo file's; ``detector`` names what found ``box``, in full-size pixels.
    """

    item: str
    photo: str
    sha256: str
    detector: str
    label: str
    score: float
    box: Box
    metadata: tuple[tuple[str, str], ...] = ()

    @property
    def group(self) -> str:
        """The garment group: the catalogue's own word for it (a column label or category) before the detector's."""
        told = [value.casefold() for key, value in self.metadata if key.casefold() in ("label", "category")]
        return next((value for value in told if value in LABELS), self.label)


def write_rows(path: Path, rows: Iterable[Row | None]) -> None:
    """Write a line per row; a row that was removed is ``null``."""
    with path.open("w", encoding="ascii") as file:
        for row in rows:
            plain = row and asdict(row) | {"box": row.box.corners}
            file.write(json.dumps(plain) + "\n")


def read_rows(path: Path) -> list[Row | None]:
    """What :func:`write_rows` wrote.

    Raises:
        ValueError, KeyError, TypeError: it is not that.
        OSError: it cannot be read.
    """
    with path.open(encoding="ascii") as file:
        return [_row(json.loads(line)) for line in file]


def _row(plain: dict[str, object] | None) -> Row | None:
    if plain is None:
        return None
    metadata = tuple((str(key), str(value)) for key, value in plain.pop("metadata"))  # type: ignore[attr-defined]
    return Row(**plain | {"box": Box(*plain["box"]), "metadata": metadata})  # type: ignore[arg-type, misc]
