"""What the pipeline says of a photo: one result per photo, the same shape for detect and search."""

from __future__ import annotations

from dataclasses import dataclass

from stages.types import Box, Mask, Match


@dataclass(frozen=True, slots=True, eq=False)
class Garment:
    """One garment of a photo, its box and mask in pixels of the full-size photo, with its matches if searched."""

    label: str
    score: float
    box: Box
    mask: Mask | None = None
    matches: tuple[Match, ...] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class PhotoResult:
    """A photo's garments, or the reason why it could not be read.

    ``width`` and ``height`` are the full-size photo's, EXIF orientation applied; both are 0 with an error.
    """

    photo: str
    width: int = 0
    height: int = 0
    garments: tuple[Garment, ...] = ()
    error: str | None = None
