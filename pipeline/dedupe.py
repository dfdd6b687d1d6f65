"""Near-duplicates in photo sets: pictures listed under two items, or in two sets.

A perceptual hash finds pictures that were saved twice; an embedder's vectors find pictures that it cannot tell apart.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.catalogue import COLUMNS, IMAGE_URL, read_catalogue
from pipeline.evaluation import embed_photos
from pipeline.feeds import REQUIRED
from pipeline.remote import cached_path
from stages.disjoint import DisjointSets
from stages.embed.data import Dataset, load
from stages.files import replacing
from stages.protocols import Embedder
from stages.types import Image, Vectors

HASH_BITS: Final = 4
"""The most bits, of 64, by which the hashes of near-duplicates differ."""

COLOUR_DISTANCE: Final = 8.0
"""The largest distance between cells of near-duplicates, in 8-bit Lab; per cell, since a garment may cover only a few."""

SIMILARITY: Final = 0.98
"""The least similarity of near-duplicates' vectors."""

_CELLS: Final = 8
_BLOCK: Final = 1024


@dataclass(frozen=True, slots=True)
class Duplicate:
    """Two near-duplicates by row, the lower first; the score is a similarity, or the number of differing bits."""

    first: int
    second: int
    by: Literal["hash", "vectors"]
    score: float


@dataclass(frozen=True, slots=True, eq=False)
class Duplicates:
    """Near-duplicates of the photos that could be read: pairs, and the groups that they connect, by row in the set.

    The last ``against`` photos are of the other set; if there are any, each pair has one photo of each set.
    """

    photos: Dataset
    pairs: tuple[Duplicate, ...]
    groups: tuple[tuple[int, ...], ...]
    against: int

    def items_of(self, group: Sequence[int]) -> list[str]:
        """Return the items of a group's photos, each once."""
        return list(dict.fromkeys(self.photos.samples[number].item for number in group))


def find_duplicates(
    photos: Dataset,
    others: Dataset | None = None,
    embedder: Embedder | None = None,
    *,
    bits: int = HASH_BITS,
    similarity: float = SIMILARITY,
    within_items: bool = False,
) -> Duplicates:
    """Read photos and find those that show the same picture, by perceptual hash and by an embedder's vectors.

    Args:
        photos: to search.
        others: if given, duplicates are pairs of one photo of each set.
        embedder: None compares hashes only.
        bits: how many of the 64 bits of two hashes may differ.
        similarity: the least similarity of near-duplicates' vectors.
        within_items: report duplicates of one item too, such as two views that hardly differ.

    Raises:
        CatalogueError: an embedder is given, and none of the photos can be read.
    """
    if embedder is None:
        read = load(photos)
        count = len(read)
        read = read if others is None else read.joined(load(others))
        pairs = by_hash(read.images, bits)
    else:
        embedded = embed_photos(embedder, photos, others)
        read, count = embedded.photos, len(embedded.samples) - embedded.distractors
        pairs = by_hash(embedded.images, bits) + by_vectors(embedded.vectors, similarity)

    def is_wanted(pair: Duplicate) -> bool:
        if others is not None and (pair.first < count) == (pair.second < count):
            return False
        return within_items or read.samples[pair.first].item != read.samples[pair.second].item

    wanted = tuple(filter(is_wanted, pairs))
    rows = DisjointSets(range(len(read)))
    for pair in wanted:
        rows.join(pair.first, pair.second)
    return Duplicates(read, wanted, tuple(map(tuple, rows.groups())), len(read) - count)


def group_record(duplicates: Duplicates, group: Sequence[int]) -> dict[str, Any]:
    """Return a group as a JSON object: its photos, their items, and the pairs that connect them."""
    members, samples = set(group), duplicates.photos.samples
    return {
        "items": duplicates.items_of(group),
        "photos": [str(samples[number].path) for number in group],
        "pairs": [
            {
                "a": str(samples[pair.first].path),
                "b": str(samples[pair.second].path),
                "by": pair.by,
                "differing_bits" if pair.by == "hash" else "similarity": round(pair.score, 4),
            }
            for pair in duplicates.pairs
            if pair.first in members
        ],
    }


def without(duplicates: Duplicates) -> Dataset:
    """Return the set with the items that share a picture merged, or without pictures that the other set has."""
    photos = duplicates.photos
    if not duplicates.against:
        return merge_duplicates(photos, duplicates.groups)
    doubled = {number for group in duplicates.groups for number in group}
    kept = (sample for number, sample in enumerate(photos.samples[: -duplicates.against]) if number not in doubled)
    return replace(photos, samples=tuple(kept), images=())


def catalogue_rows(sources: Iterable[str | Path], item_pattern: str = "") -> dict[Path, dict[str, str]]:
    """Return the metadata of each photo of catalogues; of a photo that is listed twice, the first row's."""
    rows: dict[Path, dict[str, str]] = {}
    for photo in read_catalogue(sources, item_pattern, lambda _: None):
        rows.setdefault(photo.path, dict(photo.metadata))
    return rows


def write_catalogue(photos: Dataset, target: str | Path, rows: Mapping[Path, Mapping[str, str]]) -> None:
    """Write a CSV that outfinder reads as a catalogue; paths are relative to its folder.

    Args:
        photos: to write.
        target: the CSV.
        rows: the metadata of each photo, see :func:`catalogue_rows`; every column is kept.
    """
    target = Path(target)
    table = []
    for sample in photos.samples:
        row = rows.get(sample.path, {})
        spelled = {name.casefold(): name for name in row}  # the catalogue may write Style for style
        table.append(
            {**row, **{spelled.get(name, name): value for name in COLUMNS if (value := getattr(sample, name))}}
        )
    columns = list(dict.fromkeys(name for row in table for name in row))
    folder = os.path.realpath(target.parent)
    with replacing(target) as part, part.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        lines = csv.writer(file)
        lines.writerow([*REQUIRED, *columns])
        for sample, row in zip(photos.samples, table, strict=True):
            path = os.path.relpath(Path(os.path.realpath(sample.path.parent), sample.path.name), folder)
            url = row.get(IMAGE_URL, "")
            image = url if url and cached_path(url) == sample.path else Path(path).as_posix()
            lines.writerow([sample.item, image, *(row.get(column, "") for column in columns)])


def by_hash(images: Sequence[Image], bits: int = HASH_BITS, colour: float = COLOUR_DISTANCE) -> list[Duplicate]:
    """Return the pairs whose perceptual hashes differ in at most ``bits`` bits, and no cell's colour by over ``colour``.

    The hash is the difference hash (N. Krawetz, "Kind of Like That", 2013): a bit says whether one of 8 x 9 grey cells
    is lighter than its neighbour. Shops recolour their photos, which only the mean colours of 8 x 8 cells show.
    """
    hashes = np.empty((len(images), _CELLS * _CELLS), np.float32)  # of -1 and 1
    colours = np.empty((len(images), _CELLS * _CELLS, 3), np.float32)  # in Lab
    for row, image in enumerate(images):
        square = cv2.resize(image, (8 * _CELLS, 8 * _CELLS), interpolation=cv2.INTER_AREA)
        lab = cv2.cvtColor(square, cv2.COLOR_RGB2LAB)
        grey = cv2.resize(lab[..., 0], (_CELLS + 1, _CELLS), interpolation=cv2.INTER_AREA).astype(np.int16)
        hashes[row] = np.where(grey[:, 1:] > grey[:, :-1], 1, -1).ravel()
        colours[row] = cv2.resize(lab, (_CELLS, _CELLS), interpolation=cv2.INTER_AREA).reshape(-1, 3)
    return [
        Duplicate(first, second, "hash", float((hashes[first] != hashes[second]).sum()))
        for first, second in _similar_pairs(hashes, hashes.shape[1] - 2 * bits)
        if np.linalg.norm(colours[first] - colours[second], axis=1).max() <= colour
    ]


def by_vectors(vectors: Vectors, similarity: float = SIMILARITY) -> list[Duplicate]:
    """Return the pairs of unit rows with at least this similarity."""
    return [
        Duplicate(first, second, "vectors", float(vectors[first] @ vectors[second]))
        for first, second in _similar_pairs(vectors, similarity)
    ]


def _similar_pairs(rows: NDArray[np.float32], minimum: float) -> Iterator[tuple[int, int]]:
    """Yield each pair of rows whose inner product is at least ``minimum`` once."""
    for start in range(0, len(rows), _BLOCK):
        products = rows[start : start + _BLOCK] @ rows[start:].T
        for first, second in np.argwhere(products >= minimum - 1e-6).tolist():
            if first < second:
                yield start + first, start + second


def merge_duplicates(photos: Dataset, groups: Iterable[Sequence[int]]) -> Dataset:
    """Return the set with only the first photo of each group, and the items of a group merged into the first of them.

    A merged item has the name and the style of the first, so that a split never separates its photos.
    """
    samples, items, dropped = photos.samples, DisjointSets(photos.items), set[int]()
    for first, *rest in groups:
        dropped.update(rest)
        for other in rest:
            items.join(samples[first].item, samples[other].item)
    styles = {sample.item: sample.style for sample in reversed(samples)}
    kept = (sample for row, sample in enumerate(samples) if row not in dropped)
    leaders = ((sample, items.leader(sample.item)) for sample in kept)
    merged = tuple(replace(sample, item=leader, style=styles[leader]) for sample, leader in leaders)
    return replace(photos, samples=merged, images=())
