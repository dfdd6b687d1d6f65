"""Photo sets: which photos show which item, before a pixel is read, and what is wrong with them.

Light on purpose: no torch, nothing is decoded. :mod:`stages.embed.loading` reads the pixels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Literal, TypeAlias

from stages.errors import CatalogueError
from stages.problems import Problem, described, plural
from stages.types import Box

Ground: TypeAlias = Literal["own", "white"] | Path
"""What is behind a garment: its own photo, nothing, or another photo (its path)."""


class Kind(StrEnum):
    """The kinds of problem, each by the heading that it is listed under."""

    ROW = "places of the source that name no photo"
    UNREADABLE = "photos that cannot be read"
    TWICE = "photos listed more than once"
    SINGLE = "items with one photo, which has no positive"
    DOMAIN = "items with all photos in one domain, so without a cross-domain pair"
    FEW = "too few items"
    EMPTY = "empty splits"


@dataclass(frozen=True, slots=True)
class Cut:
    """A garment of a photo: the box to cut out, and what is behind the garment.

    ``rle`` are COCO's compressed run lengths over the whole photo; on its own ground none are needed.
    """

    box: Box
    ground: Ground = "own"
    rle: bytes | None = None

    def __post_init__(self) -> None:
        if self.ground != "own" and self.rle is None:
            raise ValueError("a garment is cut from its ground by a mask, got none; pass rle, or keep ground='own'")


@dataclass(frozen=True, slots=True)
class Sample:
    """One photo of one item, not read yet.

    ``item`` is the identity: two photos of one item are a positive pair (where classes are learnt, it is the class).
    ``style`` is shared by the colours of one thing, ``label`` by things of a group (``bag``), ``source`` by photos
    that share a ground (a photographer, a drawer, the photo that it was cut from), ``domain`` by photos of one look
    (``street``, ``shop``). All but the item may be empty.
    """

    path: Path
    item: str
    style: str = ""
    label: str = ""
    domain: str = ""
    source: str = ""
    cut: Cut | None = None

    @property
    def thing(self) -> str:
        """The style, or the item where it is in one colour only."""
        return self.style or self.item


@dataclass(frozen=True, slots=True)
class PhotoSet:
    """The photos that can be used, and what is wrong with the rest; ``notes`` are no problem, yet worth knowing."""

    name: str
    samples: tuple[Sample, ...]
    problems: tuple[Problem, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def items(self) -> tuple[str, ...]:
        """Every item once, in order."""
        return tuple(dict.fromkeys(sample.item for sample in self.samples))

    def only(self, keep: Callable[[Sample], bool]) -> PhotoSet:
        """The set with some of its samples; problems and notes stay."""
        return replace(self, samples=tuple(filter(keep, self.samples)))

    def joined(self, others: Iterable[PhotoSet]) -> PhotoSet:
        """The set and others as one, by the name of the first; equal item names are one item."""
        sets = (self, *others)
        return PhotoSet(
            self.name,
            tuple(sample for one in sets for sample in one.samples),
            tuple(problem for one in sets for problem in one.problems),
            tuple(note for one in sets for note in one.notes),
        )

    def checked(self, *, singles: bool = False, cross_domain: bool = False) -> PhotoSet:
        """The set as something to learn from: what gives no pair is a problem, and is left out.

        Args:
            singles: an item with one photo will do, since two views of it are a pair.
            cross_domain: a pair has photos of two domains.
        """
        problems, found = list(self.problems), self
        if twice := {key: count for key, count in Counter(map(_photo, self.samples)).items() if count > 1}:
            problems += [Problem(Kind.TWICE, str(key[0]), f"is listed {count} times") for key, count in twice.items()]
            found = replace(found, samples=tuple({_photo(sample): sample for sample in self.samples}.values()))
        counts = Counter(sample.item for sample in found.samples)
        if not singles and (alone := {item for item, count in counts.items() if count == 1}):
            problems += [Problem(Kind.SINGLE, item, "has one photo") for item in counts if item in alone]
            found = found.only(lambda sample: sample.item not in alone)
        if cross_domain:
            domains: dict[str, set[str]] = {}
            for sample in found.samples:
                domains.setdefault(sample.item, set()).add(sample.domain)
            stuck = {item: next(iter(there)) for item, there in domains.items() if len(there) == 1}
            problems += [
                Problem(Kind.DOMAIN, item, f"is in {name or 'no domain'} only") for item, name in stuck.items()
            ]
            found = found.only(lambda sample: sample.item not in stuck)
        if len(found.items) < 2:
            problems.append(
                Problem(Kind.FEW, self.name, f"wanted at least 2 items to tell apart, got {len(found.items)}")
            )
        return replace(found, problems=tuple(problems))

    def describe(self) -> str:
        """How much can be used, what is wrong with the rest, grouped by kind, and the notes; in lines."""
        usable = f"{plural(len(self.samples), 'photo')} of {plural(len(self.items), 'item')}"
        return described(self.name, usable, Kind, self.problems, self.notes)

    def raise_on_problems(self, *, skip_bad: bool = False) -> None:
        """Stop before a training starts where something is wrong.

        Args:
            skip_bad: the rest, which ``samples`` holds, will do, so long as there are two items in it.

        Raises:
            CatalogueError: there are problems, or nothing to learn; the message lists them.
        """
        if len(self.items) < 2:
            raise CatalogueError(f"{self.describe()}\nThere are no two items to tell apart.")
        if self.problems and not skip_bad:
            raise CatalogueError(f"{self.describe()}\nMend the source, or pass --skip-bad to go on with the rest.")


def _photo(sample: Sample) -> tuple[Path, Cut | None]:
    return sample.path, sample.cut
