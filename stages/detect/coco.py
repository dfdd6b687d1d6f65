"""COCO instances files, validated record by record before anything is trained or evaluated on them."""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import repeat
from pathlib import Path, PurePath
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from stages.detect.annotations import (
    FRACTIONS,
    SLACK_PX,
    AnnotatedPhoto,
    AnnotationError,
    Annotations,
    Corners,
    Instance,
    Issue,
    are_fractions,
    extent,
    numbers,
    to_rle,
)
from stages.errors import CatalogueError, ImageError
from stages.files import existing_spelling, read_whole
from stages.formats import header_size
from stages.images import MAX_PIXELS, MAX_SIDE
from stages.problems import Problem, brief
from stages.types import LABELS

MAX_FILE_BYTES: Final = 8_000_000_000
"""Larger files are refused: their content would not fit into memory."""

_THREADS: Final = 8  # reading headers waits for the disk, not for a core
_LISTS: Final = ("images", "annotations", "categories")
_ARCHIVES: Final = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0", b"\x1f\x8b")  # .xlsx, .ods and .zip; .xls; .gz
_WANTED: Final = (
    "Wanted a JSON file with the lists images, annotations and categories:"
    " export it from your annotation tool as COCO JSON, and unpack it if it is in an archive"
)
_MIN_INSIDE: Final = 0.5  # share of a mask that lies in its box
_MIN_BOXES: Final = 5  # below that, positions alone do not tell corners from widths and heights
_CLEARLY_NEARER: Final = 0.05  # to the middle of their photos, as a share of the side


def read_annotations(
    path: Path | str, photos: Path | str, labels: Sequence[str] = LABELS, *, check_images: bool = True
) -> Annotations:
    """Read a COCO instances file; masks may be polygons, run lengths or missing, and crowds are skipped.

    Args:
        path: the JSON file.
        photos: the folder that file names are relative to.
        labels: the category names to keep, in the order of their classes, which count from 1.
        check_images: read the header of every photo.

    Raises:
        CatalogueError: it is not a COCO instances file, the folder does not exist, or no category is one of the labels.
            All other problems are listed in :attr:`Annotations.problems`.
    """
    path, photos = Path(path), Path(photos)
    coco = _load(path)
    if check_images and not photos.is_dir():
        raise CatalogueError(f"{photos} is not a folder; wanted the folder with the photos of {path}")
    reader = _Reader(labels, photos)
    reader.read_categories(coco["categories"])
    names = {name: None for name in reader.categories.values() if name is not None}
    if not names and reader.problems:
        raise CatalogueError(f"{path}: none of its categories can be used; {reader.problems[0]}")
    if names.keys().isdisjoint(labels):
        given = _listed([brief(name) for name in list(names)[:20]]) or "there are none"
        quotes = " (a name with a comma needs quotes)" if '"' in given else ""
        raise CatalogueError(
            f"{path}: none of its categories ({given}) is a label to train on; rename them to some of {_listed(labels)}"
            + quotes
        )
    reader.read_photos(coco["images"], check_images=check_images)
    reader.read_instances(coco["annotations"])
    return reader.result(path)


def _load(path: Path) -> dict[str, list[Any]]:
    try:
        data = read_whole(path, MAX_FILE_BYTES)
        coco = json.loads(data)
    except OSError as error:
        raise CatalogueError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        if data.startswith(_ARCHIVES):
            why = "it is a spreadsheet or another archive, not JSON"
        elif isinstance(error, UnicodeDecodeError):
            why = "it is not JSON in UTF-8; if it is JSON in another encoding, save it as UTF-8"
        else:
            why = f"it is not JSON ({error})"
        raise CatalogueError(f"{path} is not a COCO instances file: {why}. {_WANTED}") from error
    missing = [name for name in _LISTS if not isinstance(coco, dict) or not isinstance(coco.get(name), list)]
    if missing:
        why = f"it has no list of {' and '.join(missing)}"
        raise CatalogueError(f"{path} is not a COCO instances file: {why}. {_WANTED}")
    return {name: coco[name] for name in _LISTS}


@dataclass(slots=True)
class _Reader:
    """Reads the records once and collects their problems.

    A category or photo that cannot be used is None: its annotations are skipped without a problem of their own.
    """

    labels: Sequence[str]
    folder: Path
    problems: list[Problem] = field(default_factory=list)
    categories: dict[int, str | None] = field(default_factory=dict)
    photos: dict[int, AnnotatedPhoto | None] = field(default_factory=dict)
    instances: defaultdict[int, list[Instance]] = field(default_factory=lambda: defaultdict(list))
    annotation_ids: set[int] = field(default_factory=set)
    crowds: int = 0
    other_labels: Counter[int] = field(default_factory=Counter)
    boxes: list[tuple[float, ...]] = field(default_factory=list)
    """For each box of four finite numbers: its numbers, photo size, recorded area, and the corners of its mask."""

    def read_categories(self, records: list[object]) -> None:
        for place, record in enumerate(records):
            where = f"categories[{place}]"
            try:
                number = _id(record, Issue.CATEGORY)
            except AnnotationError as error:
                self.problems.append(error.at(where))
                continue
            name = _get(record, "name")
            if not isinstance(name, str):
                self._add(Issue.CATEGORY, where, f"has no name: {brief(record)}")
                name = None
            elif self.categories.get(number, name) != name:
                where = f"category {number} ({brief(name)})"
                self._add(Issue.CATEGORY, where, "has the id of another category")
                name = None
            self.categories[number] = name

    def read_photos(self, records: list[object], *, check_images: bool) -> None:
        """Keep the image records with a valid id, file and size; ``check_images`` compares them with the photos' headers."""
        by_id: defaultdict[int, list[AnnotatedPhoto | None]] = defaultdict(list)
        for place, record in enumerate(records):
            where = f"images[{place}]"
            try:
                number = _id(record, Issue.PHOTO_RECORD)
                where = f"image {number}"
                by_id[number].append(None)
                by_id[number][-1] = AnnotatedPhoto(number, _file_name(record, self.folder), *_photo_size(record))
            except AnnotationError as error:
                self.problems.append(error.at(where))
        self.photos = dict.fromkeys(by_id)
        unique = self._with_one_file(self._with_one_id(by_id))
        with ThreadPoolExecutor(_THREADS) as threads:
            check = partial(photo_error, self.folder)
            errors: Iterable[AnnotationError | None] = threads.map(check, unique) if check_images else repeat(None)
            for photo, problem in zip(unique, errors, strict=False):
                if problem:
                    self.problems.append(problem.at(f"image {photo.id} ({brief(photo.file_name)})"))
                else:
                    self.photos[photo.id] = photo

    def _with_one_id(self, by_id: dict[int, list[AnnotatedPhoto | None]]) -> Iterator[AnnotatedPhoto]:
        for number, group in by_id.items():
            if len(group) > 1:
                names = ", ".join({brief(photo.file_name): None for photo in group if photo}) or "all unusable"
                self._add(Issue.PHOTO_ID, f"image {number}", f"has {len(group)} records: {names}")
            if len(set(group)) == 1 and group[0]:
                yield group[0]

    def _with_one_file(self, photos: Iterator[AnnotatedPhoto]) -> list[AnnotatedPhoto]:
        by_name: defaultdict[str, list[AnnotatedPhoto]] = defaultdict(list)
        for photo in photos:
            by_name[photo.file_name].append(photo)
        for name, group in by_name.items():
            if len(group) > 1:
                ids = ", ".join(str(photo.id) for photo in group)
                self._add(Issue.PHOTO_TWICE, brief(name), f"is recorded as the images {ids}")
        return [group[0] for group in by_name.values() if len(group) == 1]

    def read_instances(self, records: list[object]) -> None:
        """Read the garments of the usable photos."""
        for place, record in enumerate(records):
            try:
                self._read_instance(record)
            except AnnotationError as error:
                number, image = (whole_number(_get(record, key)) for key in ("id", "image_id"))
                where = f"annotations[{place}]" if number is None else f"annotation {number}"
                photo = None if image is None else self.photos.get(image)
                self.problems.append(error.at(f"{where} of {brief(photo.file_name)}" if photo else where))
        boxes = np.array(self.boxes).reshape(-1, 11)
        if reason := _why_corners(boxes):
            self._add(Issue.BOX_CORNERS, "all boxes", f"{reason}; COCO's boxes are [x, y, width, height]")
        if _are_percentages(boxes):
            self._add(Issue.PERCENTAGES, "all boxes", f"{len(boxes)} of {len(boxes)} lie within the first 100 pixels of larger"
                      " photos; COCO's coordinates are pixels, not percentages of the photo")  # fmt: skip

    def _read_instance(self, record: object) -> None:
        number = _id(record, Issue.RECORD)
        if number in self.annotation_ids:
            raise AnnotationError(Issue.ID, "an earlier annotation has the same id")
        self.annotation_ids.add(number)
        image = _reference(record, "image_id", self.photos, Issue.UNKNOWN_PHOTO)
        category = _reference(record, "category_id", self.categories, Issue.UNKNOWN_CATEGORY)
        name, photo = self.categories[category], self.photos[image]
        if name is None or not isinstance(record, dict):
            return
        if name not in self.labels:
            self.other_labels[category] += 1
        elif _is_crowd(record):
            self.crowds += 1
        elif photo:
            box, rle = self._shape(record, photo)
            self.instances[image].append(Instance(1 + self.labels.index(name), box, rle, _article_type(record)))

    def _shape(self, record: dict[str, Any], photo: AnnotatedPhoto) -> tuple[Corners, bytes | None]:
        """Return the box and the mask of a garment; the file may lack either."""
        segmentation = record.get("segmentation")
        rle = around = None
        if segmentation is not None and segmentation != []:
            rle = to_rle(segmentation, photo.height, photo.width)
            around = extent(rle, photo.height, photo.width)
            if around is None:
                raise AnnotationError(Issue.MASK_EMPTY, "segmentation covers no pixel")
        values, (area,) = numbers(record.get("bbox")), numbers([record.get("area")]) or (0.0,)
        if values and len(values) == 4 and all(map(math.isfinite, values)):
            self.boxes.append((*values, photo.width, photo.height, area, *(around or [math.nan] * 4)))
        box = corners_of(record.get("bbox"), photo.width, photo.height)
        if rle is None or around is None:
            if box is None:
                raise AnnotationError(Issue.RECORD, "has neither bbox nor segmentation")
            return box, None
        if box is not None and (inside := _share_inside(rle, around, box, photo)) < _MIN_INSIDE:
            raise AnnotationError(
                Issue.MASK_OUTSIDE,
                f"{inside:.0%} of the segmentation, which covers {around}, lies in bbox {box}, as (x1, y1, x2, y2)",
            )
        return box or around, rle

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
                left_out = self.other_labels[number]
                yield f"category {number} ({brief(name)}) is not one of the labels; annotations left out: {left_out}"
        instances = [instance for photo in photos for instance in photo.instances]
        used = {instance.label for instance in instances}
        unused = [brief(name) for label, name in enumerate(self.labels, 1) if label not in used]
        if unused and used:
            yield f"labels without a garment, which cannot be learned: {', '.join(unused)}"
        if self.crowds:
            yield f"crowds (iscrowd), left out: {self.crowds}"
        if bare := sum(not photo.instances for photo in photos):
            yield f"photos without a garment: {bare} of {len(photos)}"
        if boxes := sum(not instance.has_mask for instance in instances):
            yield f"garments with a box but no segmentation: {boxes}"
        if doubled := len(instances) - sum(len({(one.label, one.box) for one in photo.instances}) for photo in photos):
            yield f"garments with the label and box of another: {doubled}"

    def _add(self, kind: Issue, where: str, what: str) -> None:
        self.problems.append(Problem(kind, where, what))


def whole_number(value: object) -> int | None:
    """Return an int of any size, or a whole float of up to 53 bits (pandas writes ``7.0``) as an int; otherwise None."""
    if isinstance(value, float) and abs(value) < 2**53 and value == int(value):
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _get(record: object, key: str) -> object:
    return record.get(key) if isinstance(record, dict) else None


def _id(record: object, kind: Issue) -> int:
    given = _get(record, "id")
    number = whole_number(given)
    if number is None:
        if isinstance(given, str):
            raise AnnotationError(kind, f"has a text as its id ({_quoted(given)}); COCO ids are whole numbers")
        raise AnnotationError(kind, f"has no whole number as its id: {brief(record)}")
    return number


def _reference(record: object, key: str, known: dict[int, Any], kind: Issue) -> int:
    given = _get(record, key)
    number = whole_number(given)
    if number is None or number not in known:
        text = "; it is a text, and ids are whole numbers" if isinstance(given, str) else ""
        raise AnnotationError(kind, f"no {key.removesuffix('_id')} has the id {_quoted(given)}{text}")
    return number


def _listed(names: Sequence[str]) -> str:
    """Join names with commas; names that contain a comma are quoted."""
    return ", ".join(f'"{name}"' if "," in name else name for name in names)


def _article_type(record: dict[str, Any]) -> str:
    """Return the article type in ``attributes.type`` or ``type`` of an annotation; empty if it has neither."""
    types = (_get(holder, "type") for holder in (record.get("attributes"), record))
    return next((name for name in types if isinstance(name, str)), "")


def _is_crowd(record: dict[str, Any]) -> bool:
    value = record.get("iscrowd")
    if value not in (None, 0, 1):
        raise AnnotationError(Issue.RECORD, f"has the iscrowd {_quoted(value)}; wanted 0 or 1")
    return bool(value)


def _quoted(value: object) -> str:
    """Return a short representation in which texts are quoted."""
    return repr(value[:60]) if isinstance(value, str) else brief(value)


def _file_name(record: object, folder: Path) -> str:
    """Return the file name of an image record, relative to the photos folder, in the file's own spelling.

    A path that leads into the folder is accepted too, since ``detect --coco`` writes the paths of its photos.
    """
    name = _get(record, "file_name")
    if not isinstance(name, str) or not name.strip():
        raise AnnotationError(Issue.PHOTO_RECORD, f"has no file_name, but {brief(name)}")
    path = PurePath(name)
    outside = path.is_absolute() or ".." in path.parts
    with suppress(OSError, ValueError):
        if outside or not (folder / path).exists():
            for whole in (Path(path).resolve(), existing_spelling(folder / path).resolve()):
                if whole.is_relative_to(folder.resolve()) and (outside or whole.exists()):
                    return str(whole.relative_to(folder.resolve()))
    if outside:
        raise AnnotationError(Issue.PHOTO_OUTSIDE, f"wanted a path within the photos folder, got {brief(name)}")
    return str(path)


def _photo_size(record: object) -> tuple[int, int]:
    """Return the width and height of an image record, in pixels."""
    width, height = (whole_number(_get(record, key)) for key in ("width", "height"))
    if width is None or height is None or min(width, height) < 1:
        got = " and ".join(_quoted(_get(record, key)) for key in ("width", "height"))
        raise AnnotationError(Issue.PHOTO_RECORD, f"has no width and height in pixels, but {got}")
    if max(width, height) > MAX_SIDE or width * height > MAX_PIXELS:
        raise AnnotationError(Issue.PHOTO_RECORD, f"is recorded as {width}x{height}, larger than the limit for photos")
    return width, height


def photo_error(folder: Path, photo: AnnotatedPhoto) -> AnnotationError | None:
    """Return why a photo cannot be used: missing, not a photo, or of another upright size than recorded; otherwise None."""
    path = folder / photo.file_name
    try:
        if not path.is_file():
            why = "is not a file" if path.exists() else "was not found"
            return AnnotationError(Issue.PHOTO_MISSING, why)
        with path.open("rb") as file:
            size = header_size(file)
    except ImageError as error:
        return AnnotationError(Issue.PHOTO_UNREADABLE, str(error))
    except Exception as error:  # noqa: BLE001  Pillow and the file system meet arbitrary bytes and names
        message = error.strerror if isinstance(error, OSError) else None
        why = brief(" ".join((message or str(error) or type(error).__name__).split()))
        return AnnotationError(Issue.PHOTO_UNREADABLE, f"cannot be read: {why}")
    if size == (photo.width, photo.height):
        return None
    upright = " when upright, as its EXIF says" if size == (photo.height, photo.width) else ""
    return AnnotationError(
        Issue.PHOTO_SIZE, f"is {size[0]}x{size[1]}{upright}, but recorded as {photo.width}x{photo.height}"
    )


def corners_of(bbox: object, width: int, height: int) -> Corners | None:
    """Return COCO's ``[x, y, width, height]`` as corners, clipped to the photo; None if there is no box.

    Raises:
        AnnotationError: it is not four numbers, empty, or reaches out of the photo by more than :data:`SLACK_PX`.

    >>> corners_of([-0.5, 2, 4, 3], width=10, height=10)
    (0.0, 2.0, 3.5, 5.0)
    """
    if bbox is None or bbox == []:
        return None
    text, values = brief(bbox), numbers(bbox)
    if values is None or len(values) != 4:
        raise AnnotationError(Issue.BOX_MALFORMED, f"wanted bbox [x, y, width, height], got {text}")
    if any(map(math.isnan, values)):
        raise AnnotationError(Issue.BOX_OUTSIDE, f"bbox {text} is not finite")
    x, y, w, h = values
    if w <= 0 or h <= 0:
        raise AnnotationError(Issue.BOX_EMPTY, f"bbox {text} is {w:g} px wide and {h:g} px high")
    if are_fractions(values, width, height):
        raise AnnotationError(Issue.FRACTIONS, f"bbox {text} {FRACTIONS}")
    box = max(0.0, x), max(0.0, y), min(float(width), x + w), min(float(height), y + h)
    reach = max(-x, -y, x + w - width, y + h - height)
    if reach > SLACK_PX or box[0] >= box[2] or box[1] >= box[3]:
        raise AnnotationError(
            Issue.BOX_OUTSIDE, f"bbox {text} reaches {reach:.4g} px out of the {width}x{height} photo"
        )
    return box


def _share_inside(rle: bytes, around: Corners, box: Corners, photo: AnnotatedPhoto) -> float:
    """Return the share of a mask's pixels that lie in a box, rounded outwards."""
    x1, y1, x2, y2 = math.floor(box[0]), math.floor(box[1]), math.ceil(box[2]), math.ceil(box[3])
    if x1 <= around[0] and y1 <= around[1] and around[2] <= x2 and around[3] <= y2:
        return 1.0
    (filled,) = coco_mask.frPyObjects(np.array([[x1, y1, x2 - x1, y2 - y1]], np.float64), photo.height, photo.width)
    whole = {"size": [photo.height, photo.width], "counts": rle}
    return float(coco_mask.area(coco_mask.merge([whole, filled], intersect=True)) / coco_mask.area(whole))


def _why_corners(boxes: NDArray[np.float64]) -> str:
    """Return why boxes look like corners ``[x1, y1, x2, y2]`` rather than COCO's widths and heights; else "".

    Args:
        boxes: ``(n, 11)``, as in :class:`_Reader`.
    """
    count, size, area, masks = len(boxes), boxes[:, 4:6], boxes[:, 6], boxes[:, 7:]
    corners = boxes[:, :4]
    coco = np.hstack([corners[:, :2], corners[:, :2] + corners[:, 2:]])
    if not count or not _fit(corners, size).all():
        return ""
    has_mask = ~np.isnan(masks[:, 0])
    as_coco, as_corners = (
        np.where(has_mask, _iou(read, masks), np.where(area > 0, _ratio(_areas(read), area), 0))
        for read in (coco, corners)
    )
    for_corners, for_coco = (
        int((((this > 0.8) & (other < 0.6)) | ((this > 0.99) & (other < 0.9))).sum())
        for this, other in ((as_corners, as_coco), (as_coco, as_corners))
    )
    if for_corners > max(count // 2, for_coco):
        return f"{for_corners} of {count} agree with their segmentation or area only as [x1, y1, x2, y2]"
    if for_coco:
        return ""
    if outside := count - int(_fit(coco, size).sum()):
        return f"{outside} of {count} reach out of their photo, and all fit as [x1, y1, x2, y2]"
    off_centre = [abs(((read[:, :2] + read[:, 2:]) / 2 / size - 0.5).sum()) for read in (coco, corners)]
    if count >= _MIN_BOXES and off_centre[0] - off_centre[1] > _CLEARLY_NEARER * count:
        return f"all {count} fit as [x1, y1, x2, y2] too, and lie nearer the middle of their photos then"
    return ""


def _are_percentages(boxes: NDArray[np.float64]) -> bool:
    """Return whether all boxes lie within the first 100 pixels of much larger photos; ``boxes`` as in :func:`_why_corners`."""
    reach, size = boxes[:, :2] + boxes[:, 2:4], boxes[:, 4:6]
    return len(boxes) >= _MIN_BOXES and bool((reach <= 100).all() and (reach > 1).any() and (size > 250).all())


def _fit(corners: NDArray[np.float64], size: NDArray[np.float64]) -> NDArray[np.bool_]:
    first, last = corners[:, :2], corners[:, 2:]
    return np.asarray(((first >= -SLACK_PX) & (last <= size + SLACK_PX) & (first < last)).all(1), np.bool_)


def _areas(corners: NDArray[np.float64]) -> NDArray[np.float64]:
    areas: NDArray[np.float64] = (corners[:, 2:] - corners[:, :2]).clip(0).prod(1)
    return areas


def _ratio(some: NDArray[np.float64], others: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the smaller of each two areas divided by the larger."""
    ratio: NDArray[np.float64] = np.minimum(some, others) / np.maximum(np.maximum(some, others), 1e-9)
    return ratio


def _iou(some: NDArray[np.float64], others: NDArray[np.float64]) -> NDArray[np.float64]:
    shared = _areas(np.hstack([np.maximum(some[:, :2], others[:, :2]), np.minimum(some[:, 2:], others[:, 2:])]))
    iou: NDArray[np.float64] = shared / np.maximum(_areas(some) + _areas(others) - shared, 1e-9)
    return iou
