"""Splits of photo sets, by the hash of a name: the same on every machine, and never by photo."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import replace
from typing import Literal, TypeAlias

from stages.disjoint import DisjointSets
from stages.embed.items import Kind, PhotoSet, Sample
from stages.problems import Problem

Split: TypeAlias = Literal["train", "val", "test"]
By: TypeAlias = Literal["item", "style", "source", "label"]


def percentile_of(name: str) -> int:
    """A number in 0..99 that depends on the name alone; the splits are drawn by it."""
    return int(hashlib.sha256(name.encode()).hexdigest(), 16) % 100


def luma_split(sku: str) -> Split:
    """Test by the split that everyone uses; of the rest, 15 % validate.

    >>> luma_split("mh01") == luma_split("MH01")
    True
    """
    percentile = percentile_of(sku.lower())
    return "test" if percentile < 40 else "val" if percentile < 49 else "train"


def split(
    photos: PhotoSet, *, by: By = "style", val: int = 10, test: int = 0, together: Iterable[Iterable[str]] = ()
) -> dict[Split, PhotoSet]:
    """Part a photo set so that no item is in two parts.

    A part that ought to hold something and is empty has that as a problem; the problems and notes of the set
    itself go to ``train``.

    Args:
        photos: to part.
        by: what stays together: an item, all colours of a style, all photos of a source, all items of a label.
        val: the percentage that validates.
        test: the percentage that tests.
        together: groups of items that near-duplicates join, which stay together as well.

    Raises:
        ValueError: the percentages leave nothing to train on, or are none.
    """
    if min(val, test) < 0 or val + test >= 100:
        raise ValueError(f"wanted percentages of at least 0 that leave some for training, got val={val}, test={test}")
    leader = _leaders(photos.samples, by, together)
    parts: dict[Split, list[Sample]] = {"train": [], "val": [], "test": []}
    for sample in photos.samples:
        percentile = percentile_of(leader[_item(sample)])
        part: Split = "test" if percentile < test else "val" if percentile < test + val else "train"
        parts[part].append(sample)
    wanted = {"train": True, "val": val > 0, "test": test > 0}
    return {
        part: replace(
            photos,
            name=f"{photos.name}, {part}",
            samples=tuple(samples),
            problems=(photos.problems if part == "train" else ()) + (_empty(part, by) if wanted[part] and not samples else ()),
            notes=photos.notes if part == "train" else (),
        )
        for part, samples in parts.items()
    }  # fmt: skip


def _empty(part: Split, by: By) -> tuple[Problem]:
    return (Problem(Kind.EMPTY, part, f"no {by} came to it; give it a larger share, or more data"),)


def _item(sample: Sample) -> str:
    return f"item {sample.item}"


def _leaders(samples: Iterable[Sample], by: By, together: Iterable[Iterable[str]]) -> dict[str, str]:
    """For each item, the name that its part is drawn by: the least name of all that it hangs together with."""
    own = {_item(sample): _key(sample, by) for sample in samples}
    names = DisjointSets[str]()

    def join(one: str, other: str) -> None:
        names.join(*sorted((names.leader(one), names.leader(other))))

    for sample in samples:  # an item of several sources or labels joins them
        join(own[_item(sample)], _key(sample, by))
    for group in together:
        first, *rest = [own[f"item {item}"] for item in group if f"item {item}" in own] or [""]
        for other in rest:
            join(first, other)
    return {item: names.leader(key) for item, key in own.items()}


def _key(sample: Sample, by: By) -> str:
    return {"item": sample.item, "style": sample.thing, "source": sample.source, "label": sample.label}[
        by
    ] or sample.item
