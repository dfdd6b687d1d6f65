"""The saved index of a gallery: a cache of what its vectors say, verified before anything parses it."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.config import build_index, check_trusted
from pipeline.gallery.arrays import StoredFile, file_digest, write_arrays
from pipeline.gallery.contents import read_ids
from pipeline.gallery.storage import Manifest, read_manifest
from stages.errors import GalleryCorrupt, GalleryError
from stages.files import check_regular
from stages.protocols import Index, StorableIndex

Ids = NDArray[np.int64]

_log = logging.getLogger(__name__)


def empty_index(manifest: Manifest) -> Index:
    """An empty index of the kind that a manifest names.

    Raises:
        StageError: it names code that the caller does not.
    """
    check_trusted(manifest.index, "the gallery", "index")
    return build_index(manifest.index, manifest.dim)


def load_graph(folder: Path, manifest: Manifest) -> tuple[Index, Ids] | None:
    """The index as it was saved, with the ids in it; where a writer has moved on, its newer one, which does as well.

    Returns None where there is none. A damaged one is none, and told as a warning.
    """
    while manifest.graph and manifest.graph_ids:
        try:
            return read_graph(folder, manifest, manifest.graph, manifest.graph_ids)
        except (GalleryError, OSError) as error:
            newer = read_manifest(folder)
            if newer.identity == manifest.identity and newer.generation > manifest.generation:
                manifest = newer
                continue
            _log.warning(
                "%s; the index is made anew in memory, which can take long; to keep it: outfinder gallery rebuild %s",
                error, folder,
            )  # fmt: skip
            return None
    return None


def read_graph(folder: Path, manifest: Manifest, graph: StoredFile, ids: StoredFile) -> tuple[Index, Ids]:
    """An index file and the ids in it.

    Raises:
        GalleryCorrupt: one of the two is missing or damaged, or they tell of different rows.
        GalleryError: the index cannot be loaded.
    """
    path = folder / graph.name
    index = empty_index(manifest)
    if not isinstance(index, StorableIndex):
        raise GalleryError(f"the index {manifest.index} cannot be loaded from a file any more")
    check_file(path, graph)
    held = read_ids(folder, ids)
    if not np.array_equal(index.load(path), held):
        raise GalleryCorrupt(f"{path} holds other rows than the {len(held)} that it should")
    return index, held


def check_file(path: Path, stored: StoredFile) -> None:
    """Verify a whole file.

    Raises:
        GalleryCorrupt: it is missing or damaged.
    """
    try:
        check_regular(path.stat())
        if file_digest(path) != stored:
            raise GalleryCorrupt(f"{path} is damaged: its checksum is not the saved one")
    except OSError as error:
        raise GalleryCorrupt(f"{path} cannot be read: {error.strerror}") from error


def write_graph(folder: Path, number: int, index: StorableIndex, ids: Ids) -> tuple[StoredFile, StoredFile]:
    """Write an index and the ids in it as files of a generation.

    Raises:
        GalleryError, OSError: they cannot be written.
    """
    path = folder / f"graph-{number}.bin"
    index.save(path)
    return file_digest(path), write_arrays(folder / f"graph-ids-{number}.safetensors", {"ids": ids})
