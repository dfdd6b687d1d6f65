"""Batches that hold what is hard to tell apart: all colours of a style, like styles, several items of one photographer."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.random import Generator

from stages.background import white_background
from stages.embed.augmentation import view
from stages.embed.data import KEPT_PX, Dataset, load, numbered
from stages.embed.sampling import Batch
from stages.errors import ImageError
from stages.types import Image

_TINT_REACH = 22.0
"""Standard deviation, in 8-bit Lab units, of the distance from the garment's colour within which pixels change."""

_LIGHTNESS_WEIGHT = 0.35
"""Folds and shadows differ in lightness, but belong to the garment."""


@dataclass(frozen=True, slots=True)
class Tint:
    """A garment's colour and the colour to replace it by, both ``(L, a, b)`` in OpenCV's 8-bit Lab."""

    source: tuple[float, float, float]
    target: tuple[float, float, float]

    @classmethod
    def draw(cls, image: Image, rng: Generator) -> Tint:
        """Draw a clearly different colour for the garment in the middle of a photo."""
        source = garment_colour(image)
        for _ in range(20):
            angle, chroma = rng.uniform(0, 2 * math.pi), rng.choice([0.0, rng.uniform(15, 60)], p=[0.25, 0.75])
            lightness = float(np.clip(source[0] + rng.uniform(-90, 90), 30, 230))
            target = (lightness, 128 + chroma * math.cos(angle), 128 + chroma * math.sin(angle))
            if math.dist((source[0] / 2, *source[1:]), (target[0] / 2, *target[1:])) > 28:
                break
        return cls(source, target)

    def apply(self, image: Image) -> Image:
        """Return the photo with pixels near the source colour moved to the target; a white background stays."""
        lab = cv2.cvtColor(image, cv2.COLOR_RGB2LAB).astype(np.float32)
        source, target = np.array([self.source, self.target], np.float32)
        away = (lab - source) * np.array([_LIGHTNESS_WEIGHT, 1, 1], np.float32)
        share = np.exp(-(away**2).sum(axis=2) / (2 * _TINT_REACH**2))
        share[white_background(image)] = 0
        lab += share[..., None] * (target - source)
        moved = cv2.cvtColor(lab.clip(0, 255).astype(np.uint8), cv2.COLOR_LAB2RGB)
        return np.asarray(moved, np.uint8)


def garment_colour(image: Image) -> tuple[float, float, float]:
    """Return the median ``(L, a, b)``, 8-bit Lab, of the middle ninth of a photo without its white background."""
    height, width = image.shape[:2]
    middle = (slice(height // 3, height - height // 3), slice(width // 3, width - width // 3))
    lab = cv2.cvtColor(image, cv2.COLOR_RGB2LAB)[middle]
    garment = lab[~white_background(image)[middle]]
    lightness, a, b = np.median(garment if len(garment) else lab.reshape(-1, 3), axis=0)
    return float(lightness), float(a), float(b)


QUOTA: Mapping[str, int] = {"luma": 14, "shoes": 2, "clothing": 12, "garments": 8}
"""Groups of each kind in a batch: styles of luma and garments, photographers of shoes, photos of clothing."""

_ALIKE = 3
"""Styles of one sort of clothes that come one after the other."""

TINTED: Mapping[str, float] = {"clothing": 0.5, "garments": 0.25}
"""How often one of a group's items is also shown in a made-up colour."""

_DYED, _DYED_STYLES = 0.3, 0.7
"""How often styles of luma are dyed in one colour, and how many of them then."""

DETAIL = 0.25
"""How often a view of luma's is a close-up, of which its photos have some."""

_UNSORTED = ("", "Not sure", "Other", "Skip")
"""What clothing-dataset calls photos that are of no class."""


@dataclass(frozen=True, slots=True, eq=False)
class Item:
    """One design in one colour, with its photos in memory.

    ``style`` is shared by all colours of the design; ``source`` by items whose photos share a background.
    """

    kind: str
    style: str
    colour: str
    source: str
    photos: tuple[Image, ...]
    label: str = ""
    domains: tuple[str, ...] = ()

    @property
    def identity(self) -> tuple[str, str]:
        """The style and the colour."""
        return self.style, self.colour


def items_of(data: Dataset) -> list[Item]:
    """Return a loaded dataset as items, in order; styles of different datasets are different."""
    groups: defaultdict[str, list[int]] = defaultdict(list)
    for place, sample in enumerate(data.samples):
        groups[sample.item].append(place)
    kind, items = data.name.partition(",")[0], []
    for places in groups.values():
        samples = [data.samples[place] for place in places]
        first, domains = samples[0], tuple(sample.domain for sample in samples)
        colour = first.item.removeprefix(f"{first.style}-") if first.style else ""
        photos = tuple(data.images[place] for place in places)
        style = f"{kind}/{first.style_or_item}"
        items.append(Item(kind, style, colour, first.source, photos, first.label, domains if any(domains) else ()))
    return items


def in_memory(data: Dataset, keep_px: int = KEPT_PX, *, trim: bool = False) -> list[Item]:
    """Load a dataset as items.

    Raises:
        ImageError: a photo cannot be read.
    """
    loaded = load(data, keep_px, trim=trim)
    if unreadable := loaded.problems[len(data.problems) :]:
        raise ImageError(str(unreadable[0]))
    return items_of(loaded)


@dataclass(frozen=True, slots=True, eq=False)
class Shot:
    """One place in a batch: a photo of an item, perhaps in a made-up colour, which makes it another item."""

    item: Item
    photo: int
    tint: Tint | None = None

    @property
    def identity(self) -> tuple[str, str, bool]:
        """Equal for positives."""
        return *self.item.identity, self.tint is not None

    @property
    def style(self) -> str:
        """Equal for what is near of kin: all colours of a style; all clothing of a class."""
        item = self.item
        return f"class/{item.label}" if item.kind == "clothing" and item.label not in _UNSORTED else item.style


class MixedSampler:
    """Batches of several kinds of items, each a pure function of the seed and the step.

    A resumed run therefore has the batches that it would have had. Styles of luma come by sorts, men's jackets or
    women's tops, and are sometimes dyed in one colour, so that neither sort nor colour tells them apart. Within a kind,
    each group comes once before any comes again. Every identity of a batch has two views, from two photos where it has
    them. The style of a photo of clothing, which has no other, is its class.

    Args:
        items: of any kinds.
        side: of the views, pixels.
        seed: of everything random.
        quota: groups of each kind in a batch; items of other kinds are left out.
    """

    items_per_group = 4
    """The items of a group in a batch, at most."""

    tinted = TINTED

    def __init__(self, items: Sequence[Item], side: int, seed: int = 0, quota: Mapping[str, int] = QUOTA) -> None:
        self._side, self._seed, self._quota = side, seed, dict(quota)
        groups: dict[str, dict[str, list[Item]]] = {kind: defaultdict(list) for kind in quota}
        wanted = [item for item in items if item.kind in quota]
        for item in wanted:
            groups[item.kind][item.source if item.kind == "shoes" else item.style].append(item)
        self._groups = {kind: list(of_kind.values()) for kind, of_kind in groups.items() if of_kind}
        self._scenery = [item.photos[0] for item in items if item.kind in ("shoes", "clothing", "garments")]
        if not self._groups:
            raise ValueError("a sampler needs items, got none")

    def __call__(self, step: int) -> Batch:
        """Return the batch of a step, from 0."""
        shots = self.shots(step)
        rng = np.random.default_rng((self._seed, step, 1))
        return Batch(
            np.stack([self._render(shot, rng) for shot in shots]),
            numbered([shot.identity for shot in shots]),
            numbered([shot.style for shot in shots]),
        )

    def shots(self, step: int) -> list[Shot]:
        """Return the shots of the batch of a step; views of one identity follow each other."""
        rng = np.random.default_rng((self._seed, step))
        shots = []
        dye = self._dye(rng) if rng.random() < _DYED else None
        for kind in self._groups:
            for group in self._turn(kind, step):
                shots += _shots_of(group, rng, self.tinted.get(kind, 0.0), self.items_per_group)
                if kind == "luma" and dye is not None and rng.random() < _DYED_STYLES:
                    shots += _dyed(group, rng, dye)
        return shots

    def _dye(self, rng: Generator) -> tuple[float, float, float] | None:
        """Return a colour unlike that of some garment; None where there is no garment to draw from."""
        if not self._scenery:
            return None
        return Tint.draw(self._scenery[int(rng.integers(len(self._scenery)))], rng).target

    def _turn(self, kind: str, step: int) -> list[list[Item]]:
        """Return the groups of a step, none twice, though an epoch may end within the step."""
        groups, quota = self._groups[kind], self._quota[kind]
        places = [divmod(step * quota + offset, len(groups)) for offset in range(min(quota, len(groups)))]
        order = {epoch: self._order(kind, epoch) for epoch in {epoch for epoch, _ in places}}
        return [groups[row] for row in dict.fromkeys(order[epoch][place] for epoch, place in places)]

    def _order(self, kind: str, epoch: int) -> list[int]:
        """Return every group once; styles of luma by threes of one sort."""
        groups, rng = self._groups[kind], np.random.default_rng((self._seed, epoch, *kind.encode()))
        rows: list[int] = rng.permutation(len(groups)).tolist()
        if kind != "luma":
            return rows
        sorts: defaultdict[str, list[int]] = defaultdict(list)
        for row in rows:
            sorts[groups[row][0].style.rstrip("0123456789")].append(row)
        alike = [
            of_sort[start : start + _ALIKE] for of_sort in sorts.values() for start in range(0, len(of_sort), _ALIKE)
        ]
        return [row for place in rng.permutation(len(alike)) for row in alike[place]]

    def _render(self, shot: Shot, rng: Generator) -> Image:
        image = shot.item.photos[shot.photo]
        if shot.tint is not None:
            image = shot.tint.apply(image)
        scenery = self._scenery[int(rng.integers(len(self._scenery)))] if self._scenery else None
        if shot.item.kind == "luma" and rng.random() < DETAIL:
            image = close_up(image, rng)
        return view(image, self._side, rng, scenery)


def close_up(image: Image, rng: Generator) -> Image:
    """Return a third to two thirds of a photo near its middle, in its aspect ratio; the photo if that is mostly white."""
    share = rng.uniform(0.3, 0.65)

    def part(side: int, spread: float) -> slice:
        start = int(np.clip(rng.normal(0.5, spread) * side - share * side / 2, 0, (1 - share) * side))
        return slice(start, start + max(1, round(share * side)))

    both = part(image.shape[0], 0.2), part(image.shape[1], 0.15)
    return np.ascontiguousarray(image[both]) if white_background(image)[both].mean() < 0.5 else image


def _shots_of(group: Sequence[Item], rng: Generator, tinted: float, count: int) -> list[Shot]:
    """Return two shots of each of at most ``count`` items, and sometimes two of one item in a made-up colour."""
    chosen = [group[row] for row in rng.permutation(len(group))[:count]]
    shots = [Shot(item, photo) for item in chosen for photo in _two_photos(item, rng)]
    if rng.random() < tinted:
        item = _most_seen(chosen)
        shots += _tinted(item, Tint.draw(item.photos[-1], rng), rng)
    return shots


def _dyed(group: Sequence[Item], rng: Generator, colour: tuple[float, float, float]) -> list[Shot]:
    """Return two shots of an item as if it had another colour."""
    item = _most_seen(group)
    return _tinted(item, Tint(garment_colour(item.photos[-1]), colour), rng)


def _most_seen(items: Sequence[Item]) -> Item:
    return max(items, key=lambda item: len(item.photos))


def _tinted(item: Item, tint: Tint, rng: Generator) -> list[Shot]:
    return [Shot(item, photo, tint) for photo in _two_photos(item, rng)]


def _two_photos(item: Item, rng: Generator) -> tuple[int, int]:
    count = len(item.photos)
    if count == 1:
        return 0, 0
    first, second = rng.permutation(count)[:2].tolist()
    return first, second
