"""Tables of vectors, ``.npz`` or ``.parquet``: a gallery's, for other programs, and other programs', for a gallery."""

from __future__ import annotations

import json
import math
import os
import zlib
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from tokenize import TokenError
from typing import Any, Final
from unicodedata import normalize
from zipfile import ZIP_DEFLATED, ZIP_STORED, BadZipFile, ZipFile, ZipInfo

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from pipeline.config import ELSEWHERE, build_cropper, build_embedder
from pipeline.gallery import Gallery, Manifest, Row, is_gallery
from pipeline.search import AbsentEmbedder, check_names, config_for, saved_settings
from stages.errors import CatalogueError, StageError
from stages.files import check_regular, replacing
from stages.index.checks import UNIT_TOLERANCE
from stages.problems import plural
from stages.types import WHOLE, Box, Vectors

MOST_BYTES: Final = 1 << 30
"""Bytes that a table may take in memory, if that is more than :data:`MOST_RATIO` times its file."""

MOST_RATIO: Final = 10
CELL_BYTES: Final = 64
"""Bytes that a cell takes as a text of Python's, beside its characters."""

SUFFIXES: Final = (".npz", ".parquet")

_VECTORS: Final = ("vectors", "vector")
_PHOTOS: Final = ("photo", "image")
_RESERVED: Final = ("item_id", "photo", "label", "box", *_VECTORS, "embedder", "settings", "file", "allow_pickle")
"""Names that columns of a catalogue cannot have; the last two are numpy's own arguments."""

_CATALOGUE: Final = "catalogue."
"""Prefix of a catalogue's column whose name is reserved, or begins so."""

_BAD_BOX: Final = "with a box that is not whole numbers 0 <= x1 < x2 and 0 <= y1 < y2"
_NO_BOX: Final = Box(0, 0, 1, 1)


@dataclass(frozen=True, slots=True, eq=False)
class VectorTable:
    """The usable rows of a table.

    Attributes:
        path: of the file.
        rows: of its photos.
        vectors: ``(len(rows), dim)``, unit rows.
        embedder: the fingerprint of what made the vectors; empty if the file does not say.
        settings: those of the gallery that was exported; none if another program wrote the file.
        problems: what is wrong with rows that are left out, a sentence each.
        notes: what was changed, a sentence each.
    """

    path: Path
    rows: Sequence[Row]
    vectors: Vectors
    embedder: str = ""
    settings: Mapping[str, str] = field(default_factory=dict)
    problems: Sequence[str] = ()
    notes: Sequence[str] = ()


def export_vectors(gallery: Gallery, path: str | Path) -> None:
    """Write the photos of a gallery with their vectors as a table, ``.npz`` or ``.parquet``.

    Columns are ``item_id``, ``photo``, ``label``, ``box`` and those of the catalogue, as text; those of the catalogue that
    have a reserved name are called ``catalogue.NAME``. An ``.npz`` has an array ``(n,)`` for each (``box``: ``(n, 4)``) and
    ``vectors`` ``(n, dim)`` float32, a ``.parquet`` has a column ``vector``; its metadata, or the arrays ``embedder`` and
    ``settings``, say what made the vectors.

    Raises:
        ValueError: the name ends in something else, or the gallery is empty.
        StageError: the package for Parquet is missing.
        OSError: the file cannot be written.
    """
    path, rows = Path(path), gallery.rows
    if not rows:
        raise ValueError(f"gallery {gallery.folder} has no photos to export")
    vectors = gallery.vectors.take(gallery.ids)
    boxes = np.array([row.box.corners for row in rows])
    columns = {
        "item_id": [row.item for row in rows],
        "photo": [row.photo for row in rows],
        "label": [row.group for row in rows],
    }
    described = [dict(row.metadata) for row in rows]
    for name in dict.fromkeys(key for each in described for key in each):
        taken = name in _RESERVED or name.startswith(_CATALOGUE)
        columns[f"{_CATALOGUE}{name}" if taken else name] = [each.get(name, "") for each in described]
    about = {"embedder": gallery.manifest.embedder, "settings": json.dumps(gallery.manifest.settings)}
    with replacing(path) as part:
        if path.suffix.lower() == ".npz":
            arrays: dict[str, Any] = {name: np.array(values, np.str_) for name, values in {**columns, **about}.items()}
            with part.open("wb") as file:
                np.savez(file, vectors=vectors, box=boxes, **arrays)
        elif path.suffix.lower() == ".parquet":
            pa, parquet = _pyarrow()
            lists = {"box": boxes, "vector": vectors}
            arrow = {name: pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])
                     for name, values in lists.items()}  # fmt: skip
            parquet.write_table(pa.table({**columns, **arrow}).replace_schema_metadata(about), part)
        else:
            raise ValueError(f"vectors are written as .npz or .parquet, got {path.name!r}")


def read_vectors(path: str | Path) -> VectorTable:
    """Read a table of vectors, which any program may have written; nothing in it is run.

    Columns are ``item_id``, ``photo`` or ``image`` (a path, relative to the table's folder), ``vectors`` or ``vector``, and
    if present ``label`` and ``box``; all others are metadata. Vectors that are not unit rows are normalised.

    Raises:
        CatalogueError: the file cannot be read as a whole, or holds no usable row.
        StageError: the package for Parquet is missing.
    """
    path = Path(path)
    read = {".npz": _read_npz, ".parquet": _read_parquet}.get(path.suffix.lower())
    if read is None:
        raise CatalogueError(f"vectors are read from .npz or .parquet, got {path.name!r}")
    try:
        check_regular(path.stat())
        columns, about = read(path)
        _check_size(path, CELL_BYTES * sum(map(len, columns.values())))
        return _usable(path, columns, about)
    except (OSError, *_UNREADABLE) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise CatalogueError(f"{path} cannot be read: {reason.splitlines()[0][:300]}") from error


_UNREADABLE: Final = (
    ValueError, TypeError, RuntimeError, EOFError, MemoryError, SyntaxError, TokenError, BadZipFile, zlib.error,
)  # fmt: skip
"""What zipfile, numpy and pyarrow raise for damaged files."""


def import_vectors(
    folder: str | Path, table: VectorTable, given: Mapping[str, Any], name: str = "", storage: str | None = None
) -> Gallery:
    """Add a table to a gallery, creating it if absent; photos that it has already, by item and photo, are replaced.

    Args:
        folder: of the gallery, held for writing by the caller if others may write it.
        table: read by :func:`read_vectors`.
        given: fields of a :class:`~pipeline.config.Config`; an ``embedder`` among them has made the vectors.
        name: what made the vectors, if it is no embedder of outfinder; such a gallery cannot be searched by photo.
        storage: how vectors are stored.

    Returns:
        The gallery, saved.

    Raises:
        ValueError: it is not known what made the vectors, or they do not fit the given embedder or the gallery.
        GalleryMismatch: the gallery was made with another embedder or crop.
    """
    folder = Path(folder)
    gallery, dim = Gallery.open(folder) if is_gallery(folder) else None, table.vectors.shape[1]
    external = bool(name) or ("embedder" not in given and table.settings.get("embedder", ELSEWHERE) == ELSEWHERE)
    if external and not (name or table.embedder):
        raise ValueError(f"{table.path} does not say what made its vectors; name it with --embedder-name, or with"
                         " --embedder if outfinder has it")  # fmt: skip
    inherited = {"crop": "whole"} if external else {}
    index = "hnsw"
    if gallery is not None:
        inherited, index = gallery.manifest.settings, gallery.manifest.index
        check_names(folder, gallery.manifest, {**given, **({"vectors": storage} if storage else {})})
    about = Manifest("", dim, table.embedder, "", index, settings={**inherited, **table.settings})
    config = config_for(about, given, str(table.path))
    if external:
        config = replace(config, embedder=ELSEWHERE, embedder_weights=None)
    embedder = AbsentEmbedder(name or table.embedder, dim) if external else build_embedder(config)
    if embedder.dim != dim:
        raise ValueError(f"{table.path} holds vectors of {dim} numbers, and {config.embedder} makes {embedder.dim}")
    if table.embedder and table.embedder != embedder.fingerprint:
        raise ValueError(
            f"{table.path} says that {table.embedder!r} made its vectors, asked for is {embedder.fingerprint!r}"
        )
    cropper = build_cropper(config)
    if gallery is None:
        gallery = Gallery.create(folder, embedder, cropper, config.index, saved_settings(config), storage or "float32")
    gallery.check_made_with(embedder, cropper)
    gallery.add(table.rows, table.vectors)
    gallery.save()
    return gallery


def _usable(path: Path, columns: dict[str, Any], about: Mapping[str, str]) -> VectorTable:
    """Return the rows that can be used; columns are arrays or lists of texts."""
    names = {name: name for name in columns} | {
        wanted: next((name for name in choices if name in columns), "")
        for wanted, choices in (("vectors", _VECTORS), ("item_id", ("item_id",)), ("photo", _PHOTOS))
    }
    if missing := [name for name in ("vectors", "item_id", "photo") if not names[name]]:
        raise ValueError(f"it lacks the column {' and '.join(missing)}; there are {', '.join(columns) or 'none'}")
    vectors = columns.pop(names["vectors"])
    if vectors.ndim != 2 or vectors.dtype.kind != "f" or not vectors.shape[1]:
        raise ValueError(f"its vectors are {vectors.dtype} of shape {vectors.shape}, wanted (n, dim) of floats")
    if wrong := [name for name, values in columns.items() if len(values) != len(vectors)]:
        raise ValueError(f"it has {len(vectors)} vectors and {len(columns[wrong[0]])} values of {wrong[0]}")
    boxes = columns.pop("box", [None] * len(vectors))
    texts = {name: _texts(name, values) for name, values in columns.items()}
    items, photos = (texts.pop(names[name]) for name in ("item_id", "photo"))
    labels = texts.pop("label", [""] * len(vectors))
    unit, faults, changed = _unit_rows(vectors)
    rows = dict[tuple[str, str], tuple[int, Row]]()
    reasons = defaultdict[str, list[int]](list)
    for number, (item, photo, label) in enumerate(zip(items, photos, labels, strict=True)):
        key, box = (normalize("NFC", item), _absolute(path, photo)), _box(boxes[number])
        reason = faults.get(number) or _fault(item, photo, repeated=key in rows)
        if reason or box is None:
            reasons[reason or _BAD_BOX].append(number)
            continue
        cells = ((name.removeprefix(_CATALOGUE), normalize("NFC", values[number])) for name, values in texts.items())
        metadata = tuple((name, cell) for name, cell in cells if cell)
        rows[key] = number, Row(*key, "", "imported", label or WHOLE, 1.0, box, metadata)
    problems = [f"{path}: {plural(len(numbers), 'row')} {reason} left out, such as row {numbers[0] + 1}"
                for reason, numbers in reasons.items()]  # fmt: skip
    if not rows:
        raise ValueError(f"it holds no usable row ({len(vectors)} rows{''.join(f'; {each}' for each in reasons)})")
    kept = [number for number, _ in rows.values()]
    scaled = len(changed.intersection(kept))
    notes = [f"{path}: {plural(scaled, 'vector')} of another length than 1 normalised"] if scaled else []
    return VectorTable(path, [row for _, row in rows.values()], unit[kept], about.get("embedder", ""),
                       _settings(about), problems, notes)  # fmt: skip


def _fault(item: str, photo: str, *, repeated: bool) -> str:
    if not (item and photo):
        return "without an item_id or a photo"
    return "with the item_id and the photo of an earlier row" if repeated else ""


def _settings(about: Mapping[str, str]) -> dict[str, str]:
    settings = json.loads(about.get("settings") or "{}")
    if isinstance(settings, dict) and all(isinstance(value, str) for value in settings.values()):
        return settings
    raise ValueError("its settings are not texts by name")


def _unit_rows(vectors: NDArray[Any]) -> tuple[Vectors, dict[int, str], set[int]]:
    """Return vectors as float32 unit rows, why some cannot be, and which were of another length."""
    unit, faults, changed = np.zeros(vectors.shape, np.float32), dict[int, str](), set[int]()
    for start in range(0, len(vectors), 1 << 14):
        with np.errstate(invalid="ignore"):  # a signalling NaN
            part = vectors[start : start + (1 << 14)].astype(np.float64)
        largest = np.abs(part).max(axis=1)
        finite = np.isfinite(largest)
        faults |= dict.fromkeys((start + np.flatnonzero(~finite)).tolist(), "with a vector that is not finite (NaN …)")
        faults |= dict.fromkeys((start + np.flatnonzero(largest == 0)).tolist(), "with a vector of zeros only")
        good = np.flatnonzero(finite & (largest > 0))
        scaled = part[good] / largest[good, None]  # so that no square overflows
        lengths = np.linalg.norm(scaled, axis=1)
        other = np.abs(lengths * largest[good] - 1) > UNIT_TOLERANCE / 2
        unit[start + good] = np.where(other[:, None], scaled / lengths[:, None], part[good])
        changed |= set((start + good[other]).tolist())
    return unit, faults, changed


def _texts(name: str, values: Any) -> list[str]:
    """Return a column as texts; what is missing is empty."""
    if isinstance(values, list):
        return values
    if values.ndim != 1 or values.dtype.kind not in "USiufbM":
        raise ValueError(
            f"its column {name} is {values.dtype} of shape {values.shape}, wanted a text or number per row"
        )
    if values.dtype.kind == "S":
        return [value.decode("utf-8", "replace").strip() for value in values.tolist()]
    return ["" if text in ("nan", "NaT") else text.strip() for text in values.astype(np.str_).tolist()]


def _box(corners: Any) -> Box | None:
    """Return a box, also for no corners; None if they are not whole numbers in order."""
    if corners is None:
        return _NO_BOX
    try:
        whole = list(map(int, corners))
        return Box(*whole) if whole == list(corners) else None
    except (ValueError, TypeError, OverflowError):
        return None


def _absolute(table: Path, photo: str) -> str:
    """Return a photo's path as a catalogue beside the table would name it."""
    if "://" in photo:
        return photo
    try:
        path = table.parent / photo
        return str(Path(os.path.realpath(path.parent), path.name))
    except ValueError:  # a null byte
        return photo


def _check_size(path: Path, size: int) -> None:
    """Refuse a table that takes far more memory than its file has bytes."""
    most = max(MOST_BYTES, MOST_RATIO * path.stat().st_size)
    if size > most:
        raise ValueError(f"it takes {size / 1e6:,.0f} MB unpacked, at most {most / 1e6:,.0f} MB are read; split it")


def _read_npz(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the arrays of a zip file, and single texts apart."""
    arrays = {}
    with ZipFile(path) as archive:
        _check_size(path, sum(member.file_size for member in archive.infolist()))
        for member in archive.infolist():
            name = member.filename.removesuffix(".npy")
            try:
                arrays[name] = _read_array(archive, member)
            except _UNREADABLE as error:
                raise ValueError(f"its array {name}: {error}") from error
    return (
        {name: array for name, array in arrays.items() if array.ndim},
        {name: str(array) for name, array in arrays.items() if not array.ndim},
    )


def _read_array(archive: ZipFile, member: ZipInfo) -> NDArray[Any]:
    """Return an array, after its header was compared with the bytes that follow: memory is taken as the header says."""
    if member.compress_type not in (ZIP_STORED, ZIP_DEFLATED):
        raise ValueError("is packed in a way that numpy does not write")
    headers: dict[tuple[int, int], Callable[..., Any]]
    headers = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
    with archive.open(member) as file:
        read_header = headers.get(npy.read_magic(file))
        if read_header is None:
            raise ValueError("is of an unknown version")
        shape, _, dtype = read_header(file)
        if dtype.hasobject:
            raise ValueError(
                "holds Python objects, which could run code; save text as numpy.str_ and numbers as numbers"
            )
        if math.prod(shape) * dtype.itemsize != member.file_size - file.tell():
            raise ValueError(f"is said to be {dtype} of shape {shape}, and has another size")
    with archive.open(member) as file:
        array: NDArray[Any] = npy.read_array(file, allow_pickle=False)
        return array


def _read_parquet(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the columns of a Parquet file, vectors as an array and text as lists, and its metadata."""
    pa, parquet = _pyarrow()
    columns, size = defaultdict[str, list[Any]](list), 0
    try:
        with parquet.ParquetFile(path) as file:
            names, metadata = file.schema_arrow.names, file.schema_arrow.metadata or {}
            if len(set(names)) < len(names):
                raise ValueError("it has two columns of the same name")
            for batch in file.iter_batches(256):
                size += batch.nbytes + CELL_BYTES * batch.num_rows * batch.num_columns
                _check_size(path, size)
                for name, column in zip(names, batch.columns, strict=True):
                    columns[name] += [_matrix(pa, column)] if name in _VECTORS else _values(pa, name, column)
    except pa.ArrowException as error:
        raise ValueError(str(error)) from error
    matrices = {name: np.concatenate(columns[name]) for name in _VECTORS if name in columns}
    about = {key.decode(): value.decode() for key, value in metadata.items() if key in (b"embedder", b"settings")}
    return {**columns, **matrices}, about


def _matrix(pa: Any, column: Any) -> NDArray[Any]:
    """Return a column of lists of the same length as an array."""
    if not any(
        is_kind(column.type) for is_kind in (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    ):
        raise ValueError(f"its vectors are {column.type}, wanted lists of floats")
    lengths = {len(row) if row.is_valid else 0 for row in column}
    if len(lengths) > 1:
        raise ValueError(f"its vectors have different lengths, such as {' and '.join(map(str, sorted(lengths)[:2]))}")
    matrix: NDArray[Any] = column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), -1)
    return matrix


def _values(pa: Any, name: str, column: Any) -> list[Any]:
    """Return a column of numbers or texts as texts, and one of boxes as lists."""
    if name == "box":
        boxes: list[Any] = column.to_pylist()
        return boxes
    try:
        texts = column.cast(pa.string()).to_pylist()
    except pa.ArrowNotImplementedError as error:
        raise ValueError(f"its column {name} holds {column.type}, wanted texts or numbers") from error
    return [(text or "").strip() for text in texts]


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow as pa  # noqa: PLC0415
        from pyarrow import parquet  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise StageError("Parquet files need the extra parquet: pip install 'outfinder[parquet]'") from error
    return pa, parquet
