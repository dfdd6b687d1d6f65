"""Photos to compare crops on: rendered scenes, or a CSV or a folder of the user's."""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from pycocotools import mask as coco_mask

from pipeline.catalogue import read_catalogue
from pipeline.demo import FOLDER
from pipeline.tables import read_table
from stages.detect.annotations import to_rle
from stages.errors import CatalogueError, ImageError
from stages.images import read_image
from stages.problems import plural
from stages.protocols import Detector
from stages.types import Box, Detection, Image

MIN_PX: Final = 24
"""Garments of rendered scenes with a shorter side are left out."""

_ROLES: Final = {"": (True, True), "query": (True, False), "gallery": (False, True)}


@dataclass(frozen=True, slots=True, eq=False)
class Example:
    """One garment in one photo.

    Attributes:
        item: what it is; a query should find the other examples of its item.
        label: its group, or empty; a detection of it must have the same label.
        truth: where it is; None if the photo mainly shows this garment.
        is_query: whether it is searched for.
        in_gallery: whether it can be found.
        unit: what the bootstrap resamples; empty for the item.
    """

    item: str
    label: str = ""
    truth: Detection | None = None
    is_query: bool = True
    in_gallery: bool = True
    unit: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class ExamplePhoto:
    """One photo with its examples; ``read`` decodes it when it is needed."""

    name: str
    read: Callable[[], Image]
    examples: tuple[Example, ...]


@dataclass(frozen=True, slots=True, eq=False)
class CropSet:
    """Photos to compare crops on; sets of the same name differ only in ``clutter``, that of the background in [0, 1].

    ``about`` says what is searched for among what; ``problems`` name photos that could not be used, and why.
    """

    name: str
    about: str
    photos: Sequence[ExamplePhoto]
    clutter: float | None = None
    notes: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()

    @property
    def examples(self) -> list[Example]:
        """All examples, photo by photo."""
        return [example for photo in self.photos for example in photo.examples]

    @property
    def annotated(self) -> bool:
        """Whether examples have boxes; otherwise each photo shows one garment."""
        return any(example.truth for example in self.examples)

    @property
    def whole(self) -> bool:
        """Whether whole photos can be compared: not if answers are only in the photos of their queries."""
        places: defaultdict[str, set[int]] = defaultdict(set)
        for place, photo in enumerate(self.photos):
            for example in photo.examples:
                if example.in_gallery:
                    places[example.item].add(place)
        return any(
            places[example.item] - {place}
            for place, photo in enumerate(self.photos)
            for example in photo.examples
            if example.is_query
        )

    def checked(self, detectors: Mapping[str, Detector]) -> CropSet:
        """Return the set without the annotated garments that no detector knows, with a note on those.

        Raises:
            CatalogueError: labels match nothing that a detector finds, or no item has two photos.
        """
        labels = {example.label for example in self.examples if example.label} if self.annotated else set()
        for name, detector in detectors.items():
            if labels and labels.isdisjoint(detector.labels):
                raise CatalogueError(
                    f"{self.name}: its labels ({', '.join(sorted(labels))}) match nothing that {name} finds"
                    f" ({', '.join(detector.labels)}); rename them, leave them out, or name another detector"
                )
        if detectors:
            labels -= {label for detector in detectors.values() for label in detector.labels}
        photos, notes = self.photos, self.notes
        if detectors and labels:
            kept = [tuple(one for one in photo.examples if one.label not in labels) for photo in photos]
            photos = [replace(photo, examples=some) for photo, some in zip(photos, kept, strict=True) if some]
            notes = (*notes, f"no detector finds {', '.join(sorted(labels))}: left out")
        checked = replace(self, photos=photos, notes=notes)
        examples = checked.examples
        in_gallery = Counter(example.item for example in examples if example.in_gallery)
        if not any(in_gallery[one.item] > one.in_gallery for one in examples if one.is_query):
            items = plural(len({example.item for example in examples}), "item")
            raise CatalogueError(
                f"{self.name}: no item has two photos, so nothing can be found; got {plural(len(examples), 'garment')} of"
                f" {items} in {plural(len(photos), 'photo')}; photos of one item need the same item_id or folder"
            )
        return checked


def own_photos(source: Path) -> CropSet:
    """Return the photos of a CSV with the columns photo, item_id, box, mask, label, role and unit, or of a folder per item.

    A box is four numbers ``x1 y1 x2 y2`` in pixels, a mask a picture of the photo's size that is white where the garment
    is; files are relative to the CSV. Only photo and item_id must be there. If all boxes and masks are missing, or in a
    folder, each photo shows one garment, which detectors find. The role is ``query`` or ``gallery``, empty for both; items
    with the same unit fail together, and intervals resample units.

    Raises:
        CatalogueError: the CSV cannot be read as a whole, or no photo can be used.
    """
    found: defaultdict[Path, list[Example]] = defaultdict(list)
    problems: list[str] = []
    notes: list[str] = []
    rows = _csv_rows(source, notes) if source.suffix.lower() == ".csv" else _folder_rows(source)
    for path, example in rows:
        if isinstance(example, str):
            problems.append(example)
        else:
            found[path].append(example)
    annotated = any(example.truth for examples in found.values() for example in examples)
    photos = []
    for path, examples in found.items():
        if annotated:
            problems += [f"{path.name}: {one.item} has neither box nor mask" for one in examples if not one.truth]
        elif len(examples) > 1:
            problems.append(f"{path.name}: shows several items, and no box says which is where")
            continue
        try:
            read_image(path)  # before a long run
        except ImageError as error:
            problems.append(f"{path}: {error}")
            continue
        if kept := tuple(one for one in examples if one.truth or not annotated):
            photos.append(ExamplePhoto(str(path), reader(path), kept))
    if not photos:
        raise CatalogueError(f"{source} has no photo that can be used{': ' if problems else ''}{''.join(problems[:1])}")
    about = "each garment finds the others of its item among all garments"
    return CropSet(source.stem or str(source), about, photos, notes=tuple(notes), problems=tuple(problems))


def _folder_rows(source: Path) -> Iterator[tuple[Path, Example | str]]:
    for photo in read_catalogue([source]):
        yield photo.path, f"{photo.path}: {photo.error}" if photo.error else Example(photo.item)


def _csv_rows(source: Path, notes: list[str]) -> Iterator[tuple[Path, Example | str]]:
    """Yield the photo and the example of each row, or what is wrong with it."""
    for line in read_table(source, ("photo", "item_id"), notes.append):
        try:
            example = line.error or _example(source.parent, line.cells)
        except (ImageError, ValueError) as error:
            example = str(error)
        if isinstance(example, str):
            example = f"{source.name} line {line.line}: {example}"
        yield source.parent / line.cells.get("photo", ""), example


def rendered(folder: Path = FOLDER) -> list[CropSet]:
    """Return a set for each grade of clutter; half of the scenes are queries, the other half the gallery.

    Args:
        folder: with ``street.json`` and ``street/``, perhaps ``clutter.json`` and ``clutter/``, as
            ``scripts/render_sample --clutter`` writes them; the packaged ones by default.

    Raises:
        CatalogueError: they cannot be read.
    """
    by_clutter: defaultdict[float, list[ExamplePhoto]] = defaultdict(list)
    for name in ("street", "clutter"):
        path = folder / f"{name}.json"
        if name == "clutter" and not path.exists():
            continue
        try:
            for clutter, photo in _scenes(json.loads(path.read_text(encoding="utf-8")), folder / name):
                by_clutter[clutter].append(photo)
        except (OSError, ValueError, KeyError, TypeError, CatalogueError) as error:
            raise CatalogueError(f"{path} is no rendered street ({error}); scripts/render_sample makes one") from error
    about = (
        "rendered street scenes: a garment finds itself on somebody else, elsewhere, in another outfit; people, light and"
        " camera are the same at every clutter"
    )
    return [
        CropSet("scenes", about, sorted(photos, key=lambda photo: photo.name), clutter)
        for clutter, photos in sorted(by_clutter.items())
    ]


def reader(path: Path) -> Callable[[], Image]:
    """Return a function that reads a photo at full size."""
    return lambda: read_image(path)


def _scenes(coco: dict[str, Any], folder: Path) -> Iterator[tuple[float, ExamplePhoto]]:
    """Yield the clutter of each scene, and the scene with the largest piece of each item, if it is large enough."""
    labels = {one["id"]: one["name"] for one in coco["categories"]}
    pieces: defaultdict[int, list[dict[str, Any]]] = defaultdict(list)
    for piece in sorted(coco["annotations"], key=lambda piece: float(piece["area"])):
        pieces[piece["image_id"]].append(piece)
    for image in coco["images"]:
        height, width, is_query = image["height"], image["width"], bool(image.get("query", True))
        largest: dict[str, Example] = {}
        for piece in pieces[image["id"]]:
            x, y, w, h = map(float, piece["bbox"])
            box = Box.clipped(x, y, x + w, y + h, width=width, height=height)
            if box is not None and min(box.width, box.height) >= MIN_PX:
                rle = {"size": [height, width], "counts": to_rle(piece["segmentation"], height, width)}
                mask = np.asarray(coco_mask.decode(rle)[box.slices], np.bool_)
                truth = Detection(labels[piece["category_id"]], 1.0, box, mask)
                item = str(piece["item_id"])
                largest[item] = Example(item, truth.label, truth, is_query, in_gallery=not is_query)
        examples = tuple(largest[item] for item in sorted(largest))
        yield float(image["clutter"]), ExamplePhoto(image["file_name"], reader(folder / image["file_name"]), examples)


def _example(folder: Path, cells: Mapping[str, str]) -> Example:
    """Return the example of a row.

    Raises:
        ImageError: photo or mask cannot be read.
        ValueError: the row lacks something, or box, mask and photo do not fit together.
    """
    item, label, role = cells.get("item_id"), cells.get("label", ""), cells.get("role", "")
    if not item or not cells.get("photo"):
        raise ValueError("lacks a photo or an item_id")
    if role not in _ROLES:
        raise ValueError(f"the role is query, gallery or empty, got {role!r}")
    return Example(item, label, _truth(folder, cells, label or "garment"), *_ROLES[role], cells.get("unit", ""))


def _truth(folder: Path, cells: Mapping[str, str], label: str) -> Detection | None:
    """Return where a row's garment is, None if the row does not say; raise as :func:`_example` does."""
    name, text = cells.get("mask"), cells.get("box")
    if not name and not text:
        return None
    height, width = _read(folder / cells["photo"]).shape[:2]
    box = _box(text, width, height) if text else Box(0, 0, width, height)
    if not name:
        return Detection(label, 1.0, box)
    dense = _read(folder / name).max(axis=2) > 127
    if dense.shape != (height, width):
        raise ValueError(f"the mask {name} is {dense.shape[1]}x{dense.shape[0]}, its photo {width}x{height}")
    mask = dense[box.slices]
    if not mask.any():
        raise ValueError(f"the mask {name} has no white pixel in the box {box.corners}")
    if not text:
        ys, xs = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        box = Box(int(xs[0]), int(ys[0]), int(xs[-1]) + 1, int(ys[-1]) + 1)
        mask = dense[box.slices]
    return Detection(label, 1.0, box, mask.copy())


def _read(path: Path) -> Image:
    try:
        return read_image(path)
    except ImageError as error:
        raise ImageError(f"{path.name} {error}") from error


def _box(text: str, width: int, height: int) -> Box:
    try:
        x1, y1, x2, y2 = map(float, re.split(r"[\s,;]+", text))
    except ValueError:
        raise ValueError(f"a box is four numbers, x1 y1 x2 y2, got {text!r}") from None
    box = Box.clipped(x1, y1, x2, y2, width, height)
    if box is None or x2 > width or y2 > height or min(x1, y1) < 0:
        raise ValueError(f"the box {text!r} is not within its photo of {width}x{height}")
    return box
