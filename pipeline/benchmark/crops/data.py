"""What crops are compared on: photos, their garments, who asks for whom."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from stages.errors import CatalogueError, ImageError
from stages.images import read_photo
from stages.problems import plural
from stages.protocols import Detector
from stages.types import Detection, Image

MIN_PX: Final = 24
"""Garments with a shorter side than this have too little to be known by, and are left out."""


@dataclass(frozen=True, slots=True, eq=False)
class Garment:
    """One garment of one photo.

    Attributes:
        item: what it is; garments of one item are what a query should find.
        label: its group, if it is known; then only a detection with this label is of it.
        truth: where it is; None where all that is known is that the photo mainly shows it.
        asks: whether it is a query.
        found: whether it is in the gallery.
        unit: what the bootstrap draws again, where that is more than the item.
    """

    item: str
    label: str = ""
    truth: Detection | None = None
    asks: bool = True
    found: bool = True
    unit: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Shot:
    """One photo and its garments; it is read when it is wanted."""

    name: str
    read: Callable[[], Image]
    garments: tuple[Garment, ...]


@dataclass(frozen=True, slots=True, eq=False)
class CropSet:
    """Photos to compare crops on.

    Attributes:
        name: of the data; sets of one name differ in their clutter only.
        about: in a sentence, what asks for what.
        shots: the photos.
        clutter: of what is behind, in [0, 1], where it is known.
        whole: whether taking photos whole is a fair choice, which it is not where query and answer share a photo.
        notes: what is worth knowing.
        problems: photos that could not be used.
    """

    name: str
    about: str
    shots: Sequence[Shot]
    clutter: float | None = None
    whole: bool = True
    notes: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()

    @property
    def garments(self) -> list[Garment]:
        """All garments, photo by photo."""
        return [garment for shot in self.shots for garment in shot.garments]

    @property
    def annotated(self) -> bool:
        """Whether garments have their places; else photos show one each."""
        return any(garment.truth for garment in self.garments)

    def only(self, labels: Collection[str]) -> CropSet:
        """The set with the garments of some labels, and of none that is told; what is left out is noted."""
        left_out = sorted({one.label for one in self.garments if one.label} - set(labels))
        if not left_out or not self.annotated:
            return self
        kept = [
            replace(shot, garments=garments)
            for shot in self.shots
            if (garments := tuple(one for one in shot.garments if one.label not in left_out))
        ]
        return replace(self, shots=kept, notes=(*self.notes, f"no detector finds {', '.join(left_out)}: left out"))

    def check(self, detectors: Mapping[str, Detector]) -> None:
        """Refuse what nothing can be learnt from.

        Raises:
            CatalogueError: no item has two photos, or labels match nothing.
        """
        garments = self.garments
        asking = Counter(one.item for one in garments if one.asks)
        found = Counter(one.item for one in garments if one.found)
        both = Counter(one.item for one in garments if one.asks and one.found)
        if not any(found[item] > (1 if both[item] else 0) for item in asking):
            counts = f"{plural(len(garments), 'garment')} of {plural(len({*asking, *found}), 'item')}"
            raise CatalogueError(
                f"{self.name}: no item has two photos, so that nothing can be found; got {counts} in"
                f" {plural(len(self.shots), 'photo')}; check that photos of one item have the same item_id or folder"
            )
        labels = sorted({one.label for one in garments if one.label})
        if not labels or not self.annotated:
            return
        for name, detector in detectors.items():
            if not set(labels) & set(detector.labels):
                raise CatalogueError(
                    f"{self.name}: its labels ({', '.join(labels)}) match nothing that {name} finds"
                    f" ({', '.join(detector.labels)}); rename them, leave them out, or name another detector"
                )
        known = {label for detector in detectors.values() for label in detector.labels}
        if detectors and (unknown := [label for label in labels if label not in known]):
            raise CatalogueError(
                f"{self.name}: the labels {', '.join(unknown)} match nothing; detectors find {', '.join(sorted(known))}"
            )


@dataclass
class Readable:
    """Looks at photos before a long run; those that cannot be read are left out, and told."""

    problems: list[str] = field(default_factory=list)

    def only(self, shots: Iterable[Shot]) -> list[Shot]:
        """Those that can be read."""
        return [shot for shot in shots if self._can(shot)]

    def _can(self, shot: Shot) -> bool:
        try:
            shot.read()
        except ImageError as error:
            self.problems.append(f"{shot.name}: {error}")
            return False
        return True


def reader(path: str) -> Callable[[], Image]:
    """Reads a photo at full size when it is called."""
    return lambda: read_photo(path).image
