"""Find near-duplicates in photo sets, and write the sets without them as a catalogue."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipeline.catalogue import REQUIRED, read_catalogue
from pipeline.evaluation import embed_photos
from pipeline.photosets import COLUMNS
from stages.embed.data import Dataset, load
from stages.embed.duplicates import (
    HASH_BITS,
    SIMILARITY,
    Duplicate,
    by_hash,
    by_vectors,
    duplicate_groups,
    merge_duplicates,
    perceptual_hashes,
)
from stages.files import replacing
from stages.protocols import Embedder


@dataclass(frozen=True, slots=True, eq=False)
class Duplicates:
    """Near-duplicates of the photos that could be read: pairs, and the groups that they join, as numbers in the set.

    The last ``against`` photos are of the other set; if there are some, each pair has one photo of each set.
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
    """Read photos and find those that show one picture, by perceptual hash and, given an embedder, by its vectors.

    Args:
        photos: to search.
        others: if given, duplicates are pairs of one photo of each set.
        embedder: to compare by as well.
        bits: of 64 in which hashes may differ.
        similarity: from which vectors are near-duplicates.
        within_items: report duplicates of one item too, such as two views that hardly differ.

    Raises:
        CatalogueError: an embedder is given, and none of the photos can be read.
    """
    if embedder is None:
        read = load(photos)
        count = len(read)
        read = read.joined(load(others)) if others else read
        pairs = by_hash(perceptual_hashes(read.images), bits)
    else:
        embedded = embed_photos(embedder, photos, others)
        read, count = embedded.photos, len(embedded.samples) - embedded.distractors
        pairs = by_hash(perceptual_hashes(embedded.images), bits) + by_vectors(embedded.vectors, similarity)

    def counts(pair: Duplicate) -> bool:
        if others is not None and (pair.first < count) == (pair.second < count):
            return False
        return within_items or read.samples[pair.first].item != read.samples[pair.second].item

    wanted = tuple(filter(counts, pairs))
    groups = tuple(map(tuple, duplicate_groups(wanted, len(read.samples))))
    return Duplicates(read, wanted, groups, len(read.samples) - count)


def group_record(duplicates: Duplicates, group: Sequence[int]) -> dict[str, Any]:
    """Return a group as the object of its JSON line: its photos, their items, and the pairs that join it."""
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
    """Return the set without near-duplicates: items that share one merged, or without those of the other set."""
    photos = duplicates.photos
    if not duplicates.against:
        return merge_duplicates(photos, duplicates.groups)
    doubled = {number for group in duplicates.groups for number in group}
    kept = (sample for number, sample in enumerate(photos.samples[: -duplicates.against]) if number not in doubled)
    return replace(photos, samples=tuple(kept), images=())


def catalogue_rows(sources: Iterable[Path], item_pattern: str = "") -> dict[Path, dict[str, str]]:
    """Return the metadata of each photo of a catalogue, of the first row for a photo that is there several times."""
    rows: dict[Path, dict[str, str]] = {}
    for photo in read_catalogue(sources, re.compile(item_pattern) if item_pattern else None, lambda _: None):
        rows.setdefault(photo.path, dict(photo.metadata))
    return rows


def write_catalogue(photos: Dataset, target: Path, rows: Mapping[Path, Mapping[str, str]]) -> None:
    """Write a CSV that outfinder reads as a catalogue; paths are relative to its folder.

    Args:
        photos: to write.
        target: the CSV.
        rows: the metadata of each photo in the catalogue that it was read from; every column is kept.
    """
    table = [
        {**rows.get(sample.path, {}), **{name: value for name in COLUMNS if (value := getattr(sample, name))}}
        for sample in photos.samples
    ]
    columns = list(dict.fromkeys(name for row in table for name in row))
    folder = os.path.realpath(target.parent)
    with replacing(target) as part, part.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        lines = csv.writer(file)
        lines.writerow([*REQUIRED, *columns])
        for sample, row in zip(photos.samples, table, strict=True):
            path = os.path.relpath(Path(os.path.realpath(sample.path.parent), sample.path.name), folder)
            lines.writerow([sample.item, Path(path).as_posix(), *(row.get(column, "") for column in columns)])
