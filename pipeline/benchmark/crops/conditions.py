"""What is compared: whose detections, cut how, on the query's side and on the gallery's, embedded by whom."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from stages.crop import BoxCrop, MaskCrop, WholeCrop
from stages.protocols import Cropper

TRUTH: Final = "truth"
"""Detections that are the annotations."""

NONE: Final = "none"
"""No detections: the photo is taken whole."""

WHOLE: Final = "whole"
BOX: Final = "box"
CONTEXT: Final = "box-context"
MASK: Final = "mask-white"
MASKS: Final = ("mask-mean", MASK, "mask-blur")
AVERAGE: Final = "mask+box"
"""The mean of the vectors of :data:`MASK` and :data:`BOX`, of unit length again."""

CROPS: Final[Mapping[str, Cropper]] = {
    WHOLE: WholeCrop(),
    BOX: BoxCrop(),
    CONTEXT: BoxCrop(0.25),
    "mask-mean": MaskCrop("mean"),
    MASK: MaskCrop("white"),
    "mask-blur": MaskCrop("blur"),
}
"""All ways of cutting; box and masks have the same 5 % around them, so that what is behind is all that differs."""

DIFFERENT: Final = ((BOX, MASK), (MASK, BOX), (BOX, WHOLE), (MASK, WHOLE))
"""Crops of query and gallery that are not the same."""

Key = tuple[str, str]
"""Detections and a crop."""


@dataclass(frozen=True, slots=True, order=True)
class Condition:
    """One way of searching. ``query`` and ``gallery`` are crops of the same ``detections``; a whole photo needs none.

    >>> str(Condition("siamese", "truth", "box", "mask-white"))
    'siamese, truth: box for mask-white'
    """

    embedder: str
    detections: str
    query: str
    gallery: str

    def __str__(self) -> str:
        return f"{self.embedder}, {self.detections}: {self.crops}"

    @property
    def crops(self) -> str:
        """In words: one name where both sides are cut the same."""
        return self.query if self.query == self.gallery else f"{self.query} for {self.gallery}"

    @property
    def keys(self) -> tuple[Key, Key]:
        """Detections and crop of the query and of the gallery."""
        return key_of(self.detections, self.query), key_of(self.detections, self.gallery)


def key_of(detections: str, crop: str) -> Key:
    """A whole photo is the same whoever detects."""
    return (NONE if crop == WHOLE else detections), crop


def conditions_of(embedder: str, detections: list[str], there: Container[Key]) -> Iterator[Condition]:
    """The conditions of an embedder for which there are crops."""
    if (NONE, WHOLE) in there:
        yield Condition(embedder, NONE, WHOLE, WHOLE)
    for source in detections:
        same = [(crop, crop) for crop in (*CROPS, AVERAGE) if crop != WHOLE]
        for query, gallery in (*same, *DIFFERENT):
            condition = Condition(embedder, source, query, gallery)
            if all(key in there for key in condition.keys):
                yield condition
