"""Photo sets by name: a catalogue, public sets in their upstream layouts, garments of annotated photos."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Final, get_args

from pipeline.catalogue import read_catalogue
from stages.detect.annotations import AnnotatedPhoto, Annotations, Corners
from stages.detect.coco import read_annotations
from stages.embed import public_sets
from stages.embed.data import Background, Cut, Dataset, DatasetIssue, Sample, Split
from stages.errors import CatalogueError
from stages.problems import Problem
from stages.types import LABELS, Box

COLUMNS: Final = ("style", "label", "domain", "source")
"""What a catalogue may tell of a photo beside its item, for learning and measuring."""

MIN_GARMENT_PX: Final = 24
CONTEXT: Final = 0.05
"""What a box crop keeps around a garment, as a share of each side, as the pipeline's box crop does."""


def open_set(
    paths: Sequence[Path],
    layout: str = "items",
    item_pattern: re.Pattern[str] | None = None,
    splits: Sequence[Split] | None = None,
) -> Dataset:
    """The photos of a source, not read yet.

    Args:
        paths: what the layout takes: catalogues (CSV files, folders, photos), one folder of a public set, or a COCO
            file and the folder of its photos.
        layout: a name in :data:`LAYOUTS`.
        item_pattern: for catalogues, finds the item id in a file name.
        splits: of a public set that has some; None for all that there is.

    Raises:
        CatalogueError: the source cannot be read as a whole, or holds nothing.
        ValueError: there is no such layout, or it takes other paths or no splits.
    """
    if layout not in LAYOUTS:
        raise ValueError(f"no layout is called {layout!r}; there are {', '.join(LAYOUTS)}")
    if item_pattern and layout != "items":
        raise ValueError(f"an item pattern is for the layout items, not {layout}, which has its own names")
    if splits is not None and layout not in _PUBLIC:
        raise ValueError(f"the layout {layout} has no splits of its own; those that have are {', '.join(_PUBLIC)}")
    found = LAYOUTS[layout](paths, item_pattern, tuple(splits) if splits is not None else None)
    if not found.samples:
        raise CatalogueError(f"{found.describe()}\nThere is no photo in {' '.join(map(str, paths))}.")
    return found


def catalogue(paths: Sequence[Path], item_pattern: re.Pattern[str] | None = None) -> Dataset:
    """What :func:`~pipeline.catalogue.read_catalogue` reads: a CSV with the columns item_id and image and perhaps
    style, label, domain and source; or a folder with a sub-folder for each item, or class.
    """  # noqa: D205  a sentence
    samples, problems = [], []
    for photo in read_catalogue(paths, item_pattern):
        if photo.error is not None:
            problems.append(Problem(DatasetIssue.ROW, str(photo.path), photo.error))
        else:
            told = dict(photo.metadata)
            style, label, domain, source = (told.get(column, "") for column in COLUMNS)
            samples.append(Sample(photo.path, photo.item, style, label, domain, source))
    return Dataset("items", tuple(samples), tuple(problems))


def garments(annotations: Path, photos: Path) -> Dataset:
    """Garments of photos, each an item in two domains: its box on its own ground is ``street``, its mask on white ``shop``.

    The box keeps 5 % context. Shoes of one photo are one item, left and right. Garments without a mask, and tiny
    ones, are left out.

    Raises:
        CatalogueError: the file is no COCO instances file.
    """
    return _garments("garments", annotations, photos, lambda _: "white", "shop")


def cutouts(annotations: Path, photos: Path) -> Dataset:
    """Garments of photos, each an item in two domains: as photographed (``photo``), and before another photo (``cutout``).

    Does a garment that is cut out and set before another photo's background find its original? The other photo is
    the one after the next in the file.

    Raises:
        CatalogueError: the file is no COCO instances file, or has fewer than three photos.
    """
    read = read_annotations(annotations, photos)
    names = [photo.file_name for photo in read.photos]
    if len(names) < 3:
        raise CatalogueError(f"{annotations} has {len(names)} photos; setting garments before others needs 3")
    behind = {name: photos / names[(place + 2) % len(names)] for place, name in enumerate(names)}
    return _garments("cutouts", annotations, photos, lambda photo: behind[photo.file_name], "cutout", "photo", read)


def _garments(
    name: str,
    annotations: Path,
    photos: Path,
    ground: Callable[[AnnotatedPhoto], Background],
    domain: str,
    own_domain: str = "street",
    read: Annotations | None = None,
) -> Dataset:
    read = read or read_annotations(annotations, photos)
    samples: list[Sample] = []
    maskless = tiny = 0
    for photo in read.photos:
        for number, garment in enumerate(photo.instances):
            x1, y1, x2, y2 = garment.box
            box = _with_context(garment.box, photo.width, photo.height)
            if min(x2 - x1, y2 - y1) < MIN_GARMENT_PX or box is None:
                tiny += 1
                continue
            if garment.rle is None:
                maskless += 1
                continue
            label = LABELS[garment.label - 1]
            item = f"{photo.id}/{label if label == 'shoes' else f'{label}-{number}'}"
            for look, cut in ((own_domain, Cut(box)), (domain, Cut(box, ground(photo), garment.rle))):
                path = photos / photo.file_name
                samples.append(Sample(path, item, label=label, domain=look, source=str(photo.id), cut=cut))
    notes = [*read.notes]
    notes += [f"{tiny} garments of less than {MIN_GARMENT_PX} pixels are left out"] if tiny else []
    notes += [f"{maskless} garments without a mask are left out"] if maskless else []
    problems = tuple(Problem(DatasetIssue.ROW, problem.where, problem.what) for problem in read.problems)
    return Dataset(name, tuple(samples), problems, tuple(notes))


def _with_context(corners: Corners, width: int, height: int) -> Box | None:
    x1, y1, x2, y2 = corners
    margin_x, margin_y = CONTEXT * (x2 - x1), CONTEXT * (y2 - y1)
    return Box.clipped(x1 - margin_x, y1 - margin_y, x2 + margin_x, y2 + margin_y, width, height)


_Reader = Callable[[Sequence[Path], re.Pattern[str] | None, tuple[Split, ...] | None], Dataset]


def _public(
    read: Callable[[Path, tuple[Split, ...]], Dataset],
    paths: Sequence[Path],
    _pattern: re.Pattern[str] | None,
    splits: tuple[Split, ...] | None,
) -> Dataset:
    if not paths or not all(path.is_dir() for path in paths):
        raise ValueError(f"this layout takes the folder that the set unpacks to, got {' '.join(map(str, paths))}")
    first, *others = (read(path, get_args(Split) if splits is None else splits) for path in paths)
    return first.joined(others)


def _annotated(
    read: Callable[[Path, Path], Dataset],
    paths: Sequence[Path],
    _pattern: re.Pattern[str] | None,
    _splits: tuple[Split, ...] | None,
) -> Dataset:
    if len(paths) != 2 or not paths[0].is_file():
        raise ValueError(f"this layout takes a COCO file and the folder of its photos, got {' '.join(map(str, paths))}")
    return read(paths[0], paths[1])


def _catalogue(paths: Sequence[Path], pattern: re.Pattern[str] | None, _splits: tuple[Split, ...] | None) -> Dataset:
    return catalogue(paths, pattern)


_PUBLIC: Final[dict[str, _Reader]] = {
    "luma": partial(_public, public_sets.luma),
    "shoes": partial(_public, public_sets.shoes),
    "clothing": partial(_public, public_sets.clothing),
    "omniglot": partial(_public, public_sets.omniglot),
    "cifar10": partial(_public, public_sets.cifar10),
}
LAYOUTS: Final[dict[str, _Reader]] = {
    "items": _catalogue,
    **_PUBLIC,
    "garments": partial(_annotated, garments),
    "cutouts": partial(_annotated, cutouts),
}
