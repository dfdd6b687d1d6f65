"""A row of the gallery: what is known of one catalogue photo."""

from __future__ import annotations

from dataclasses import dataclass

from stages.types import LABELS, Box


@dataclass(frozen=True, slots=True)
class Row:
    """One catalogue photo: what it shows and what it was made from.

    ``sha256`` is the photo file's; ``detector`` names what found ``box``, in full-size pixels; ``stamp`` is the
    file's size and time of change, by which it is known again without reading it.
    """

    item: str
    photo: str
    sha256: str
    detector: str
    label: str
    score: float
    box: Box
    metadata: tuple[tuple[str, str], ...] = ()
    stamp: str = ""

    @property
    def group(self) -> str:
        """The garment group: the catalogue's own word for it (a column label or category) before the detector's."""
        told = [value.casefold() for key, value in self.metadata if key.casefold() in ("label", "category")]
        return next((value for value in told if value in LABELS), self.label)
