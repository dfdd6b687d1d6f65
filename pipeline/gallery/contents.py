"""Whether a gallery's files hold what they should: a checksum tells that nothing has changed, not that it was right."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pipeline.gallery.arrays import FileArrays, StoredFile
from pipeline.gallery.storage import Manifest
from pipeline.gallery.table import TEXTS
from pipeline.gallery.vectors import STORAGE
from stages.errors import GalleryCorrupt

Ids = NDArray[np.int64]

_TEXT: Final = {"codes": "<i4", "ends": "<i8", "text": "|u1"}


def check_files(vectors: Sequence[FileArrays], rows: Sequence[FileArrays], manifest: Manifest) -> None:
    """Shapes, types and ids of a generation's files; what else they hold is checked where it is touched.

    Raises:
        GalleryCorrupt: one is not as the manifest says.
    """
    for file in vectors:
        count = _check_ids(file, manifest.next_id)
        _check(file, "vectors", STORAGE[manifest.storage], (count, manifest.dim))
    for file in rows:
        count = _check_ids(file, manifest.next_id)
        _check(file, "score", np.dtype("<f8"), (count,))
        _check(file, "box", np.dtype("<i4"), (count, 4))
        columns = {name.rpartition("/")[0] for name in file.shapes if "/" in name}
        for column in sorted(columns.union(TEXTS)):
            _check(file, f"{column}/codes", np.dtype(_TEXT["codes"]), (count,))
            for part in ("ends", "text"):
                _check(file, f"{column}/{part}", np.dtype(_TEXT[part]), None)
    if any(later.part("ids", 0, 1) <= former.part("ids")[-1:] for former, later in _neighbours(vectors)):
        raise GalleryCorrupt("the gallery's vectors are not in the order of their ids")


def read_ids(folder: Path, stored: StoredFile) -> Ids:
    """The rising ids of a file.

    Raises:
        GalleryCorrupt: it is missing, damaged, or holds something else.
    """
    file = FileArrays(folder, stored)
    _check_ids(file, np.iinfo(np.int64).max)
    return file.part("ids")


def _neighbours(files: Sequence[FileArrays]) -> list[tuple[FileArrays, FileArrays]]:
    some = [file for file in files if file.shapes["ids"][0]]
    return list(pairwise(some))


def _check_ids(file: FileArrays, below: int) -> int:
    """How many ids a file has, which rise."""
    _check(file, "ids", np.dtype("<i8"), None)
    ids = file.part("ids")
    if len(ids) and (ids[0] < 0 or ids[-1] >= below or (ids[1:] <= ids[:-1]).any()):
        raise file.lie("its ids do not rise, or are none of the gallery's")
    return len(ids)


def _check(file: FileArrays, name: str, dtype: np.dtype[Any], shape: tuple[int, ...] | None) -> None:
    if name not in file.shapes:
        raise file.lie(f"it has no {name}")
    if file.dtype(name) != dtype or (file.shapes[name] != shape if shape else len(file.shapes[name]) != 1):
        raise file.lie(f"{name} is {file.dtype(name)} {file.shapes[name]}, wanted {dtype} {shape or 'of one axis'}")
