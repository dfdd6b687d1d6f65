"""Shop photos that show one article each: Luma's fronts find their backs among all articles."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path
from typing import Final

import numpy as np

from pipeline.benchmark.crops.data import CropSet, Garment, Readable, Shot, reader
from stages.embed.items import Sample
from stages.embed.sources import luma
from stages.embed.splits import luma_split

NAME: Final = "luma"

_VIEW = re.compile(r"[_-](?P<view>main|0|back|alt1|alternate)\.jpg$")
_FRONTS: Final = ("main", "0")
_BACKS: Final = ("back",)


def fronts_and_backs(folder: Path, others: int = 150, seed: int = 0) -> CropSet:
    """Fronts of the articles that nothing was trained on ask for their backs.

    The gallery is one photo of each article: its back, or where it has none its front. Articles that were trained on
    are not asked for, but some stand in the way.

    Args:
        folder: of Luma's photos, as the set unpacks.
        others: articles in the gallery that are not asked for.
        seed: of which they are.

    Raises:
        CatalogueError: the folder holds no photo.
    """
    views: defaultdict[str, dict[str, Sample]] = defaultdict(dict)
    photos = luma(folder)
    for sample in photos.samples:
        if match := _VIEW.search(sample.path.name):
            views[sample.item].setdefault(match["view"], sample)
    asking: list[Shot] = []
    gallery: list[Shot] = []
    rest: list[Shot] = []
    for item, own in sorted(views.items()):
        front = next((own[view] for view in _FRONTS if view in own), None)
        back = next((own[view] for view in _BACKS if view in own), None)
        if front and back and luma_split(front.thing) == "test":
            asking.append(_shot(front, item, asks=True))
            gallery.append(_shot(back, item, asks=False))
        elif there := back or front:
            rest.append(_shot(there, item, asks=False))
    drawn = sorted(np.random.default_rng([seed, 21]).permutation(len(rest))[:others].tolist())
    readable = Readable()
    shots = readable.only([*asking, *gallery, *(rest[place] for place in drawn)])
    about = "shop photos: the front of an article finds its back among all articles, one photo of each"
    return CropSet(NAME, about, shots, notes=photos.notes, problems=tuple(readable.problems))


def _shot(sample: Sample, item: str, *, asks: bool) -> Shot:
    garment = Garment(item, sample.label, asks=asks, found=not asks, unit=sample.thing)
    return Shot(sample.path.name, reader(str(sample.path)), (garment,))
