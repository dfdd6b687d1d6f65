"""The photos that an embedder is trained on and judged by: named on the command line, checked, loaded."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

import numpy as np

from pipeline.photosets import LAYOUTS, open_set
from stages.embed.items import PhotoSet, Sample
from stages.embed.loading import load
from stages.embed.rows import Rows
from stages.embed.splits import By, Split, split

Note = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class DataPlan:
    """What a run learns from, and what it is judged by.

    Attributes:
        train: sources, see :func:`open_source`.
        val: sources to judge by; without any, a share of ``train`` is held out.
        hold_out: that share, in percent; 0: nothing is judged.
        by: what stays together when a share is held out.
        learn: what photos have to share to be positives: the item, or its label (a class).
        item_pattern: finds the item in a file name, for catalogues.
        singles: items with one photo will do, since two views of it make a pair.
        skip_bad: the rest will do where something is wrong.
        keep_px: the long side that photos are kept in memory at.
        val_photos: at most so many judge.
    """

    train: tuple[str, ...]
    val: tuple[str, ...] = ()
    hold_out: int = 10
    by: By = "style"
    learn: str = "item"
    item_pattern: str = ""
    singles: bool = False
    skip_bad: bool = False
    keep_px: int = 256
    val_photos: int = 2000


def open_source(text: str, item_pattern: str = "") -> PhotoSet:
    """A photo set by what the command line says of it: ``PATH``, ``LAYOUT=PATH[,PATH]`` or ``LAYOUT/SPLIT=PATH``.

    A plain path is a catalogue or a folder of folders; layouts are those of :data:`~pipeline.photosets.LAYOUTS`.

    Raises:
        CatalogueError: the source cannot be read.
        ValueError: there is no such layout or split, or it takes other paths.
    """
    head, given, tail = text.partition("=")
    layout, part = "items", ""
    if given and head.partition("/")[0] in LAYOUTS:
        layout, _, part = head.partition("/")
    else:
        tail = text
    splits = [known for known in get_args(Split) if known == part]
    if part and not splits:
        raise ValueError(f"no split is called {part!r}; there are {', '.join(get_args(Split))}")
    paths = [Path(one) for one in tail.split(",")]
    for path in paths:
        if not path.exists():
            raise ValueError(f"{path} does not exist; layouts are {', '.join(LAYOUTS)}, as in shoes=PATH")
    pattern = re.compile(item_pattern) if item_pattern and layout == "items" else None
    return open_set(paths, layout, pattern, splits or None)


def read_training(plan: DataPlan, note: Note, *, crossed: bool = False, trim: bool = False) -> tuple[Rows, Rows | None]:
    """The rows to train on, and those to judge by.

    Args:
        plan: what they are.
        note: told what can be used of each source, and what is wrong with the rest.
        crossed: positives are of two domains.
        trim: white is cut away from around what photos show.

    Raises:
        CatalogueError: something is wrong; the message lists it.
    """
    train = [_by_label(open_source(text, plan.item_pattern), plan.learn) for text in plan.train]
    val = [_by_label(open_source(text, plan.item_pattern), plan.learn) for text in plan.val]
    if not val and plan.hold_out:
        parts = [split(photos, by=plan.by, val=plan.hold_out) for photos in train]
        train = [replace(part["train"], name=photos.name) for photos, part in zip(train, parts, strict=True)]
        val = [replace(part["val"], name=photos.name) for photos, part in zip(train, parts, strict=True)]
    learnt = [photos.checked(singles=plan.singles, cross_domain=crossed) for photos in train]
    rows = _loaded(
        learnt, plan, lambda text: note(f"to train on: {text}"), singles=plan.singles, crossed=crossed, trim=trim
    )
    if not val:
        return rows, None
    few = [_few(photos, plan.val_photos) for photos in val]
    return rows, _loaded(few, plan, lambda text: note(f"to judge by: {text}"), trim=trim)


def _loaded(
    sets: Sequence[PhotoSet],
    plan: DataPlan,
    note: Note,
    *,
    singles: bool = True,
    crossed: bool = False,
    trim: bool = False,
) -> Rows:
    for photos in sets:
        photos.raise_on_problems(skip_bad=plan.skip_bad)
    pairs = []
    for photos in sets:
        found, images = load(photos, plan.keep_px, trim=trim)
        if len(found.samples) < len(photos.samples):
            found.raise_on_problems(skip_bad=plan.skip_bad)
            left = found.checked(
                singles=singles, cross_domain=crossed
            )  # what could not be read may have been a pair's half
            kept = set(left.samples)
            images = [image for image, sample in zip(images, found.samples, strict=True) if sample in kept]
            found = left
        note(found.describe())
        pairs.append((found, images))
    return Rows.of(pairs)


def _by_label(photos: PhotoSet, learn: str) -> PhotoSet:
    """The set with its labels as items, where classes are to be learnt."""
    if learn == "item":
        return photos
    if unlabelled := sum(not sample.label for sample in photos.samples):
        raise ValueError(f"{unlabelled} photos of {photos.name} have no label to learn; learn items instead")
    return replace(
        photos,
        samples=tuple(replace(sample, item=sample.label, style="", label=sample.label) for sample in photos.samples),
    )


def _few(photos: PhotoSet, limit: int) -> PhotoSet:
    """The photos of random items, so many at most; an item that is too large by itself comes in part."""
    if len(photos.samples) <= limit:
        return photos
    by_item: dict[str, list[Sample]] = {}
    for sample in photos.samples:
        by_item.setdefault(sample.item, []).append(sample)
    share, kept = max(2, limit // len(by_item)), set[Sample]()
    rng = np.random.default_rng(0)
    names = list(by_item)
    for place in rng.permutation(len(names)).tolist():
        of_item = by_item[names[place]]
        chosen = [of_item[row] for row in sorted(rng.permutation(len(of_item))[:share].tolist())]
        if len(kept) + len(chosen) > limit:
            break
        kept.update(chosen)
    return photos.only(lambda sample: sample in kept)
