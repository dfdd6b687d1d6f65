"""Results as a COCO dataset, for tools that read COCO: https://cocodataset.org/#format-data."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import pycocotools.mask

from pipeline.results import Garment, PhotoResult
from stages.types import Box, Mask


def full_rle(mask: Mask, box: Box, width: int, height: int) -> dict[str, Any]:
    """COCO's compressed run lengths of a mask in its photo: ``{"size": [height, width], "counts": str}``.

    The runs are found within the box and moved to the photo; the full-photo mask is never built.

    >>> full_rle(np.ones((2, 1), dtype=np.bool_), Box(0, 0, 1, 2), width=2, height=3)
    {'size': [3, 2], 'counts': '024'}
    """
    # COCO counts down the columns. A closing row of background keeps the runs of neighbouring columns apart.
    columns = np.zeros((box.width, box.height + 1), dtype=np.int8)
    columns[:, :-1] = mask.T
    edges = np.flatnonzero(np.diff(columns.ravel(), prepend=0))  # a run's start and the place after its end
    column, row = np.divmod(edges, box.height + 1)
    places = (box.x1 + column) * height + box.y1 + row
    meets = np.flatnonzero(places[1:-1:2] == places[2::2])  # runs that join where the box is as high as the photo
    places = np.delete(places, np.concatenate([2 * meets + 1, 2 * meets + 2]))
    counts = np.diff(places, prepend=0, append=width * height)
    if len(counts) > 1 and counts[-1] == 0:
        counts = counts[:-1]
    packed = pycocotools.mask.frPyObjects({"size": [height, width], "counts": counts.tolist()}, height, width)
    return {"size": [height, width], "counts": packed["counts"].decode("ascii")}


class CocoWriter:
    """Writes a dataset of images, categories and scored annotations, which appears whole or not at all.

    ``pycocotools.coco.COCO(path)`` reads it, and its annotations are what ``COCO.loadRes`` takes. Photos
    that could not be read are left out. Annotations go to a temporary file beside it as they come; left by
    an exception, the ``with`` block removes that and writes nothing.

    Raises:
        OSError: the file cannot be written.
    """

    def __init__(self, path: Path, labels: Sequence[str]) -> None:
        self._path = path
        self._categories = {label: number for number, label in enumerate(labels, start=1)}
        self._images: list[dict[str, Any]] = []
        self._count = 0
        handle, part = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
        self._part, self._file = Path(part), os.fdopen(handle, "w", encoding="ascii")
        self._file.write('{"info": {"description": "outfinder"}, "annotations": [')

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self._file.close()
            self._part.unlink(missing_ok=True)

    def write(self, result: PhotoResult) -> None:
        """Add one photo and its garments.

        Raises:
            ValueError: a garment's label is not among the labels.
        """
        if unknown := {garment.label for garment in result.garments} - self._categories.keys():
            raise ValueError(f"{min(unknown)!r} is not among the labels {', '.join(self._categories)}")
        if result.error is not None:
            return
        image = {"id": len(self._images) + 1, "file_name": result.photo}
        self._images.append({**image, "width": result.width, "height": result.height})
        for garment in result.garments:
            self._count += 1
            separator = "," if self._count > 1 else ""
            self._file.write(f"{separator}\n{json.dumps(self._annotation(garment, result), allow_nan=False)}")

    def close(self) -> None:
        """Finish the file and give it its name."""
        if self._file.closed:
            return
        categories = [{"id": number, "name": label} for label, number in self._categories.items()]
        self._file.write(f'],\n"images": {json.dumps(self._images)},\n"categories": {json.dumps(categories)}}}\n')
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._part.chmod(0o666 & ~_umask())
        self._part.replace(self._path)

    def _annotation(self, garment: Garment, photo: PhotoResult) -> dict[str, Any]:
        box = garment.box
        annotation = {
            "id": self._count,
            "image_id": len(self._images),
            "category_id": self._categories[garment.label],
            "bbox": [int(box.x1), int(box.y1), int(box.width), int(box.height)],
            "area": int(box.area if garment.mask is None else garment.mask.sum()),
            "score": round(float(garment.score), 4),
            "iscrowd": 0,
        }
        if garment.mask is not None:
            annotation["segmentation"] = full_rle(garment.mask, box, photo.width, photo.height)
        return annotation


def _umask() -> int:
    """The process's file mode mask, which a temporary file's mode passes over."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
