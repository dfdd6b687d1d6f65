"""COCO instances files: read once, every record checked, before anything is trained on them."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from stages.detect.annotation_checks import Fault, check_photo, corners_of, photo_name, photo_size, printable, whole
from stages.detect.annotations import AnnotatedPhoto, Annotations, Corners, Instance, Kind
from stages.detect.segmentation import extent, to_rle
from stages.errors import CatalogueError
from stages.files import read_whole
from stages.problems import Problem
from stages.types import LABELS

_THREADS = 8  # headers wait for the disk, not for a core
MOST_BYTES = 8_000_000_000
"""Larger files are refused: what they hold would not fit into memory."""

_PARTS = ("images", "annotations", "categories")


def read_annotations(
    path: Path, photos: Path, labels: Sequence[str] = LABELS, *, check_images: bool = True
) -> Annotations:
    """Read a COCO instances file; masks may be polygons, run lengths or none, crowds are left out.

    Args:
        path: the JSON file.
        photos: the folder that its file names are relative to.
        labels: the category names to keep, in the order of their class indices, which count from 1.
        check_images: look at the header of every photo.

    Raises:
        CatalogueError: it is no COCO instances file, there is no such folder, or no category is one of the labels.
            All else that is wrong is in :attr:`Annotations.problems`.
    """
    coco = _load(path)
    if check_images and not photos.is_dir():
        raise CatalogueError(f"{photos} is not a folder; wanted the one with the photos of {path}")
    reader = _Reader(labels)
    reader.read_categories(coco["categories"])
    names = {name: None for name in reader.categories.values() if name is not None}
    if names.keys().isdisjoint(labels):
        told = ", ".join(printable(name) for name in list(names)[:20]) or "there are none"
        raise CatalogueError(
            f"{path}: none of its categories ({told}) is a label to train on; rename them to some of {', '.join(labels)}"
        )
    reader.read_photos(coco["images"], photos if check_images else None)
    reader.read_instances(coco["annotations"])
    return reader.result(path)


def _load(path: Path) -> dict[str, list[Any]]:
    try:
        coco = json.loads(read_whole(path, MOST_BYTES))
    except OSError as error:
        raise CatalogueError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise CatalogueError(f"{path} is not a COCO instances file: it is not JSON ({error})") from error
    missing = [part for part in _PARTS if not isinstance(coco, dict) or not isinstance(coco.get(part), list)]
    if missing:
        raise CatalogueError(f"{path} is not a COCO instances file: it has no list of {' and '.join(missing)}")
    return {part: coco[part] for part in _PARTS}


def _id(record: object, key: str = "id") -> int | None:
    return whole(record.get(key)) if isinstance(record, dict) else None


@dataclass(slots=True)
class _Reader:
    """Goes through the records once; what is wrong goes to ``problems``.

    A category or photo that is bad, or that another contradicts, is None: the problem is told there, and its
    annotations are left out without a word.
    """

    labels: Sequence[str]
    problems: list[Problem] = field(default_factory=list)
    categories: dict[int, str | None] = field(default_factory=dict)
    photos: dict[int, AnnotatedPhoto | None] = field(default_factory=dict)
    instances: defaultdict[int, list[Instance]] = field(default_factory=lambda: defaultdict(list))
    seen: set[int] = field(default_factory=set)
    crowds: int = 0
    foreign: Counter[int] = field(default_factory=Counter)

    def read_categories(self, records: list[object]) -> None:
        for place, record in enumerate(records):
            number, name = _id(record), record.get("name") if isinstance(record, dict) else None
            if number is None or not isinstance(name, str):
                self._tell(Kind.CATEGORY, f"categories[{place}]", f"has no id and name: {printable(record)}")
                name = None
            elif self.categories.get(number, name) != name:
                self._tell(Kind.CATEGORY, f"category {number} ({printable(name)})", "has the id of another category")
                name = None
            if number is not None:
                self.categories[number] = name

    def read_photos(self, records: list[object], folder: Path | None) -> None:
        """Keep what has an id, a file and a size of its own; look at the photos where a folder is given."""
        found: defaultdict[int, list[AnnotatedPhoto | None]] = defaultdict(list)
        for place, record in enumerate(records):
            number = _id(record)
            if number is None or not isinstance(record, dict):
                self._tell(Kind.PHOTO_RECORD, f"images[{place}]", f"has no whole number as its id: {printable(record)}")
                continue
            try:
                found[number].append(AnnotatedPhoto(number, photo_name(record), *photo_size(record)))
            except Fault as fault:
                found[number].append(None)
                self.problems.append(fault.at(f"image {number}"))
        self.photos = dict.fromkeys(found)
        single = self._of_one_file(self._of_one_id(found))
        with ThreadPoolExecutor(_THREADS) as threads:
            wrongs = threads.map(lambda photo: _fault(photo, folder), single) if folder else [None] * len(single)
            for photo, wrong in zip(single, wrongs, strict=True):
                if wrong:
                    self.problems.append(wrong.at(f"image {photo.id} ({printable(photo.file_name)})"))
                else:
                    self.photos[photo.id] = photo

    def _of_one_id(self, found: dict[int, list[AnnotatedPhoto | None]]) -> Iterator[AnnotatedPhoto]:
        for number, group in found.items():
            if len(group) > 1:
                names = ", ".join({printable(photo.file_name): None for photo in group if photo})
                self._tell(Kind.PHOTO_ID, f"image {number}", f"has {len(group)} records: {names or 'all unusable'}")
            if len(set(group)) == 1 and group[0]:
                yield group[0]

    def _of_one_file(self, photos: Iterator[AnnotatedPhoto]) -> list[AnnotatedPhoto]:
        found: defaultdict[str, list[AnnotatedPhoto]] = defaultdict(list)
        for photo in photos:
            found[photo.file_name].append(photo)
        for name, group in found.items():
            if len(group) > 1:
                numbers = ", ".join(str(photo.id) for photo in group)
                self._tell(Kind.PHOTO_TWICE, printable(name), f"is recorded as the images {numbers}")
        return [group[0] for group in found.values() if len(group) == 1]

    def read_instances(self, records: list[object]) -> None:
        """Keep the garments of the photos that are kept."""
        for place, record in enumerate(records):
            try:
                self._read_instance(record)
            except Fault as fault:
                number, image = _id(record), _id(record, "image_id")
                where = f"annotations[{place}]" if number is None else f"annotation {number}"
                photo = None if image is None else self.photos.get(image)
                self.problems.append(fault.at(f"{where} of {printable(photo.file_name)}" if photo else where))

    def _read_instance(self, record: object) -> None:
        number = _id(record)
        if number is None or not isinstance(record, dict):
            raise Fault(Kind.RECORD, f"has no whole number as its id: {printable(record)}")
        if number in self.seen:
            raise Fault(Kind.ID, "an annotation before it has the same id")
        self.seen.add(number)
        image, category = _id(record, "image_id"), _id(record, "category_id")
        if image is None or image not in self.photos:
            raise Fault(Kind.UNKNOWN_PHOTO, f"no image has the id {printable(record.get('image_id'))}")
        if category is None or category not in self.categories:
            raise Fault(Kind.UNKNOWN_CATEGORY, f"no category has the id {printable(record.get('category_id'))}")
        name, photo = self.categories[category], self.photos[image]
        if name is None:
            return
        if name not in self.labels:
            self.foreign[category] += 1
        elif record.get("iscrowd"):
            self.crowds += 1
        elif photo:
            box, rle = _shape(record, photo)
            self.instances[image].append(Instance(1 + self.labels.index(name), box, rle, _type(record)))

    def result(self, source: Path) -> Annotations:
        photos = [
            replace(photo, instances=tuple(self.instances[number]))
            for number, photo in sorted(self.photos.items())
            if photo
        ]
        names = {number: name for number, name in self.categories.items() if name is not None}
        return Annotations(source, tuple(photos), names, tuple(self.problems), tuple(self._notes(photos, names)))

    def _notes(self, photos: list[AnnotatedPhoto], names: dict[int, str]) -> Iterator[str]:
        for number, name in names.items():
            if name not in self.labels:
                told = f"category {number} ({printable(name)}) is none of the labels"
                yield f"{told}; annotations left out: {self.foreign[number]}"
        if self.crowds:
            yield f"crowds (iscrowd), left out: {self.crowds}"
        bare = sum(not photo.instances for photo in photos)
        if bare:
            yield f"photos without a garment: {bare} of {len(photos)}"
        boxes = sum(not instance.has_mask for photo in photos for instance in photo.instances)
        if boxes:
            yield f"garments with a box but no segmentation: {boxes}"

    def _tell(self, kind: Kind, where: str, what: str) -> None:
        self.problems.append(Problem(kind, where, what))


def _fault(photo: AnnotatedPhoto, folder: Path) -> Fault | None:
    try:
        check_photo(folder / photo.file_name, photo.width, photo.height)
    except Fault as fault:
        return fault
    return None


def _type(record: dict[str, Any]) -> str:
    """The type of article that an annotation names, as ``attributes.type`` or ``type``; empty if it names none."""
    attributes = record.get("attributes")
    for holder in (attributes, record):
        if isinstance(holder, dict) and isinstance(holder.get("type"), str):
            return str(holder["type"])
    return ""


def _shape(record: dict[str, Any], photo: AnnotatedPhoto) -> tuple[Corners, bytes | None]:
    """The box and the mask of a garment, either of which may be lacking in the file."""
    box = corners_of(record.get("bbox"), photo.width, photo.height)
    segmentation = record.get("segmentation")
    if segmentation is None or segmentation == []:
        if box is None:
            raise Fault(Kind.RECORD, "has neither bbox nor segmentation")
        return box, None
    rle = to_rle(segmentation, photo.height, photo.width)
    around = extent(rle, photo.height, photo.width)
    if around is None:
        raise Fault(Kind.MASK_EMPTY, "segmentation covers no pixel")
    if box and (box[0] >= around[2] or around[0] >= box[2] or box[1] >= around[3] or around[1] >= box[3]):
        raise Fault(Kind.MASK_ASTRAY, f"segmentation covers {around}, bbox {box}, as (x1, y1, x2, y2)")
    return box or around, rle
