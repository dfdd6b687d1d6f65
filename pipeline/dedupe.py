"""Near-duplicates of photo sets: found, told, and merged into a catalogue without them.

:mod:`pipeline.gallery.duplicates` finds those in a gallery, by the vectors that it holds.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

from pipeline.embedder_evaluation.subject import embed
from pipeline.photosets import COLUMNS
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
from stages.embed.items import PhotoSet
from stages.embed.loading import load
from stages.files import replacing
from stages.protocols import Embedder


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """Near-duplicates of the photos that could be read: pairs, and groups that they join, as places in the set.

    The last ``against`` photos are of the other side; where there are some, each pair has one photo of each.
    """

    photos: PhotoSet
    pairs: tuple[Duplicate, ...]
    groups: tuple[tuple[int, ...], ...]
    against: int

    def items_of(self, group: Sequence[int]) -> list[str]:
        """The items that a group's photos stand under, each once."""
        return list(dict.fromkeys(self.photos.samples[place].item for place in group))


def find(
    photos: PhotoSet,
    others: PhotoSet | None = None,
    embedder: Embedder | None = None,
    *,
    bits: int = HASH_BITS,
    similarity: float = SIMILARITY,
    within_items: bool = False,
) -> Found:
    """Read photos and find those that are one picture, by hash and, where there is an embedder, by its vectors.

    Args:
        photos: to look in.
        others: where given, duplicates are between the sets only.
        embedder: to ask as well.
        bits: of 64 that hashes may differ in.
        similarity: from which on vectors are near-duplicates.
        within_items: tell those of one item too, such as two views that differ in nothing.

    Raises:
        CatalogueError: an embedder is given, and none of the photos can be read.
    """
    if embedder is None:
        (own_read, own_images), *more = [load(each) for each in (photos, others) if each is not None]
        read, own = own_read.joined(each for each, _ in more), len(own_images)
        found = by_hash(perceptual_hashes([*own_images, *chain.from_iterable(images for _, images in more)]), bits)
    else:
        embedded = embed(embedder, photos, others)
        read, own = embedded.photos, len(embedded.samples) - embedded.distractors
        found = by_hash(perceptual_hashes(embedded.images), bits) + by_vectors(embedded.vectors, similarity)

    def counts(pair: Duplicate) -> bool:
        if others is not None and (pair.first < own) == (pair.second < own):
            return False
        one, other = read.samples[pair.first], read.samples[pair.second]
        return within_items or one.item != other.item

    pairs = tuple(filter(counts, found))
    count = len(read.samples)
    return Found(read, pairs, tuple(tuple(group) for group in duplicate_groups(pairs, count)), count - own)


def line_of(found: Found, group: Sequence[int]) -> dict[str, Any]:
    """A group for people and machines: its photos with their items, and the pairs that join it."""
    inside = set(group)
    samples = found.photos.samples
    return {
        "items": found.items_of(group),
        "photos": [str(samples[place].path) for place in group],
        "pairs": [
            {
                "a": str(samples[pair.first].path),
                "b": str(samples[pair.second].path),
                "by": pair.by,
                "differing_bits" if pair.by == "hash" else "similarity": round(pair.score, 4),
            }
            for pair in found.pairs
            if pair.first in inside
        ],
    }


def clean(found: Found) -> PhotoSet:
    """The photos without near-duplicates: items that share one merged, or, against another set, what it has left out."""
    if not found.against:
        return merge_duplicates(found.photos, found.groups)
    own = len(found.photos.samples) - found.against
    doubled = {place for group in found.groups for place in group}
    kept = [sample for place, sample in enumerate(found.photos.samples[:own]) if place not in doubled]
    return replace(found.photos, samples=tuple(kept))


def write_catalogue(photos: PhotoSet, target: Path) -> None:
    """A CSV that ``--layout items`` and ``outfinder index`` read; paths are relative to its folder.

    Raises:
        ValueError: garments that are cut out of photos are no photos of their own.
    """
    if any(sample.cut for sample in photos.samples):
        raise ValueError("a catalogue names whole photos, and these are garments cut out of them; leave -o away")
    with replacing(target) as part, part.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["item_id", "image", *COLUMNS])
        for sample in photos.samples:
            path = Path(os.path.relpath(sample.path, target.parent)).as_posix()
            rows.writerow([sample.item, path, sample.style, sample.label, sample.domain, sample.source])
