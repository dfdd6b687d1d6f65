"""Photos to compare crops on: rendered scenes, a table of annotated garments, or a folder for each item."""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
from pycocotools import mask as coco_mask

from pipeline.catalogue import read_catalogue
from pipeline.demo import FOLDER
from pipeline.tables import SUFFIXES, TableRow, read_table
from stages.detect.annotations import are_fractions, to_rle
from stages.errors import CatalogueError, ImageError
from stages.files import existing_spelling
from stages.images import read_image
from stages.problems import plural
from stages.protocols import Detector
from stages.types import Box, Detection, Image

MIN_PX: Final = 24
"""Garments of rendered scenes with a shorter side are left out."""

_ROLES: Final = {"": (True, True), "query": (True, False), "gallery": (False, True)}


@dataclass(frozen=True, slots=True, eq=False)
class Example:
    """One garment in one photo; a query should find the other examples of its item.

    Attributes:
        item: the identifier of the garment.
        label: a detection of the garment must have the same one; empty for any.
        truth: the annotated box and mask; None if the photo mainly shows this garment.
        is_query: whether it is searched for.
        in_gallery: whether it can be found.
        unit: the group that the bootstrap resamples; empty for the item.
    """

    item: str
    label: str = ""
    truth: Detection | None = None
    is_query: bool = True
    in_gallery: bool = True
    unit: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class ExamplePhoto:
    """One photo with its examples; ``read`` decodes it."""

    name: str
    read: Callable[[], Image]
    examples: tuple[Example, ...]


@dataclass(frozen=True, slots=True, eq=False)
class CropSet:
    """Photos to compare crops on; sets of the same name differ only in the ``clutter`` of the background, in [0, 1].

    ``about`` describes queries and gallery; ``problems`` name photos that could not be used, and why.
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
        """Whether whole photos can be compared: some query has an answer in another photo."""
        numbered = [(number, one) for number, photo in enumerate(self.photos) for one in photo.examples]
        photos_of: defaultdict[str, set[int]] = defaultdict(set)
        for number, example in numbered:
            if example.in_gallery:
                photos_of[example.item].add(number)
        return any(photos_of[example.item] - {number} for number, example in numbered if example.is_query)

    def checked(self, detectors: Mapping[str, Detector]) -> CropSet:
        """Return the set without annotated garments whose label no detector knows, with a note on those labels.

        Raises:
            CatalogueError: a detector knows none of the labels, or no item has two photos.
        """
        labels = {example.label for example in self.examples if example.label} if self.annotated else set()
        for name, detector in detectors.items():
            if labels and labels.isdisjoint(detector.labels):
                raise CatalogueError(
                    f"{self.name}: its labels ({', '.join(sorted(labels))}) match nothing that {name} finds"
                    f" ({', '.join(detector.labels)}); rename them, leave them out, or name another detector"
                )
        checked = self
        unknown = labels.difference(*(detector.labels for detector in detectors.values())) if detectors else set()
        if unknown:
            kept = (
                replace(photo, examples=tuple(one for one in photo.examples if one.label not in unknown))
                for photo in self.photos
            )
            note = f"no detector finds {', '.join(sorted(unknown))}: left out"
            checked = replace(self, photos=[photo for photo in kept if photo.examples], notes=(*self.notes, note))
        examples = checked.examples
        answers = Counter(example.item for example in examples if example.in_gallery)
        if not any(answers[example.item] > example.in_gallery for example in examples if example.is_query):
            items = plural(len({example.item for example in examples}), "item")
            raise CatalogueError(
                f"{self.name}: no item has two photos, so nothing can be found; got {plural(len(examples), 'garment')} of"
                f" {items} in {plural(len(checked.photos), 'photo')}; photos of one item need the same item_id or folder"
            )
        return checked


def load_photos(source: Path | str) -> CropSet:
    """Return the photos of a table with the columns photo, item_id, box, mask, label, role and unit, or of a folder.

    A box is four numbers ``x1 y1 x2 y2`` in pixels, a mask a picture of the photo's size that is white where the garment
    is; files are relative to the table. Only photo and item_id are required. Where all boxes and masks are missing, and
    in a folder with a sub-folder for each item, each photo shows one garment, which detectors find. The role is ``query``
    or ``gallery``, empty for both; items of one unit fail together, so intervals resample units.

    Raises:
        CatalogueError: the table cannot be read as a whole, or no photo can be used.
    """
    source = Path(source)
    problems: list[str] = []
    notes: list[str] = []
    by_photo: defaultdict[Path, list[Example]] = defaultdict(list)
    for path, example in _examples(source, problems, notes):
        by_photo[path].append(example)
    annotated = any(example.truth for examples in by_photo.values() for example in examples)
    photos = []
    for path, examples in by_photo.items():
        if annotated:
            problems += [f"{path.name}: {one.item} has neither box nor mask" for one in examples if not one.truth]
        elif len(examples) > 1:
            problems.append(f"{path.name}: shows several items, and no box says which is where")
            continue
        try:
            read_image(path)  # a long run should not fail late
        except ImageError as error:
            problems.append(f"{path}: {error}")
            continue
        if kept := tuple(one for one in examples if one.truth or not annotated):
            photos.append(ExamplePhoto(str(path), partial(read_image, path), kept))
    if not photos:
        raise CatalogueError(f"{source} has no photo that can be used{': ' if problems else ''}{''.join(problems[:1])}")
    about = "each garment finds the others of its item among all garments"
    return CropSet(source.stem or str(source), about, photos, notes=tuple(notes), problems=tuple(problems))


def _examples(source: Path, problems: list[str], notes: list[str]) -> Iterator[tuple[Path, Example]]:
    """Yield the photos and examples of a table or folder; append what is wrong with it to problems and notes."""
    if source.suffix.lower() in SUFFIXES and not source.is_dir():
        for row in read_table(source, ("photo", "item_id"), notes.append):
            try:
                yield existing_spelling(source.parent / row.cells.get("photo", "")), _example(source.parent, row)
            except (ImageError, ValueError) as error:
                problems.append(f"{source.name} {row.place}: {error}")
    else:
        for entry in read_catalogue([source]):
            if entry.error:
                problems.append(f"{entry.path}: {entry.error}")
            else:
                yield entry.path, Example(entry.item)


def _example(folder: Path, row: TableRow) -> Example:
    """Return the example of a row.

    Raises:
        ImageError: photo or mask cannot be read.
        ValueError: the row is incomplete, or box, mask and photo do not fit together.
    """
    cells = {name.casefold(): cell for name, cell in row.cells.items()}
    if row.error:
        raise ValueError(row.error)
    if not cells.get("item_id") or not cells.get("photo"):
        raise ValueError("lacks a photo or an item_id")
    label, role = cells.get("label", ""), cells.get("role", "")
    if role not in _ROLES:
        raise ValueError(f"the role is query, gallery or empty, got {role!r}")
    return Example(cells["item_id"], label, _truth(folder, cells, label), *_ROLES[role], cells.get("unit", ""))


def _truth(folder: Path, cells: Mapping[str, str], label: str) -> Detection | None:
    """Return the box and mask of a row's garment, None if the row has neither; raise as :func:`_example` does."""
    name, text = cells.get("mask"), cells.get("box")
    if not name and not text:
        return None
    height, width = _read(folder / cells["photo"]).shape[:2]
    box = _box(text, width, height) if text else Box(0, 0, width, height)
    if not name:
        return Detection(label or "garment", 1.0, box)
    mask = _read(folder / name).max(axis=2) > 127
    if mask.shape != (height, width):
        raise ValueError(f"the mask {name} is {mask.shape[1]}x{mask.shape[0]}, its photo {width}x{height}")
    if not mask[box.slices].any():
        raise ValueError(f"the mask {name} has no white pixel in the box {box.corners}")
    if not text:
        x, y, w, h = cv2.boundingRect(mask.astype(np.uint8))
        box = Box(x, y, x + w, y + h)
    return Detection(label or "garment", 1.0, box, mask[box.slices].copy())


def _read(path: Path) -> Image:
    try:
        return read_image(existing_spelling(path))
    except ImageError as error:
        raise ImageError(f"{path.name} {error}") from error


def _box(text: str, width: int, height: int) -> Box:
    try:
        x1, y1, x2, y2 = map(float, re.split(r"[\s,;]+", text))
    except ValueError:
        raise ValueError(f"a box is four numbers, x1 y1 x2 y2, got {text!r}") from None
    if are_fractions([x1, y1, x2, y2], width, height):
        raise ValueError(f"the box {text!r} lies within one pixel; coordinates are pixels, not fractions of the photo")
    box = Box.clipped(x1, y1, x2, y2, width, height)
    if box is None or x2 > width or y2 > height or min(x1, y1) < 0:
        raise ValueError(f"the box {text!r} is not within its photo of {width}x{height}")
    return box


def rendered_scenes(folder: Path | str = FOLDER) -> list[CropSet]:
    """Return a set for each grade of clutter; half of the scenes are queries, the other half the gallery.

    The folder holds ``street.json`` and ``street/``, and perhaps ``clutter.json`` and ``clutter/``, as
    ``scripts/render_sample --clutter`` writes them; the packaged ones by default.

    Raises:
        CatalogueError: they cannot be read.
    """
    by_clutter: defaultdict[float, list[ExamplePhoto]] = defaultdict(list)
    for name in ("street", "clutter"):
        path = Path(folder) / f"{name}.json"
        if name == "clutter" and not path.exists():
            continue
        try:
            for clutter, photo in _scenes(json.loads(path.read_text(encoding="utf-8")), path.with_suffix("")):
                by_clutter[clutter].append(photo)
        except (OSError, ValueError, KeyError, TypeError, CatalogueError) as error:
            raise CatalogueError(f"{path} is no rendered street ({error}); scripts/render_sample makes one") from error
    about = (
        "rendered street scenes: a garment finds itself on another person, elsewhere, in another outfit; people, light and"
        " camera are the same at every clutter"
    )
    return [
        CropSet("scenes", about, sorted(photos, key=lambda photo: photo.name), clutter)
        for clutter, photos in sorted(by_clutter.items())
    ]


def _scenes(coco: dict[str, Any], folder: Path) -> Iterator[tuple[float, ExamplePhoto]]:
    """Yield the clutter of each scene, and the scene with the largest garment of each item."""
    labels = {category["id"]: category["name"] for category in coco["categories"]}
    garments: defaultdict[int, list[dict[str, Any]]] = defaultdict(list)
    for garment in sorted(coco["annotations"], key=lambda garment: float(garment["area"])):
        garments[garment["image_id"]].append(garment)
    for image in coco["images"]:
        height, width, is_query = image["height"], image["width"], bool(image.get("query", True))
        largest: dict[str, Example] = {}
        for garment in garments[image["id"]]:
            x, y, w, h = map(float, garment["bbox"])
            box = Box.clipped(x, y, x + w, y + h, width=width, height=height)
            if box is not None and min(box.width, box.height) >= MIN_PX:
                rle = {"size": [height, width], "counts": to_rle(garment["segmentation"], height, width)}
                mask = np.asarray(coco_mask.decode(rle)[box.slices], np.bool_)
                truth = Detection(labels[garment["category_id"]], 1.0, box, mask)
                item = str(garment["item_id"])
                largest[item] = Example(item, truth.label, truth, is_query, in_gallery=not is_query)
        examples, read = (
            tuple(largest[item] for item in sorted(largest)),
            partial(read_image, folder / image["file_name"]),
        )
        yield float(image["clutter"]), ExamplePhoto(image["file_name"], read, examples)
