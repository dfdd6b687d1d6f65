"""Whether a gallery is what was saved."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pipeline.gallery import Gallery, Manifest, read_manifest
from pipeline.gallery.arrays import FileArrays
from pipeline.gallery.graph import check_file, read_graph
from pipeline.gallery.storage import COPY, MANIFEST, leftovers, read_manifest_file
from pipeline.gallery.vectors import BLOCK
from stages.errors import GalleryCorrupt, GalleryError
from stages.index.checks import check_vectors


def verify(folder: Path) -> list[str]:
    """What is wrong with a gallery, a line each; nothing where it is sound.

    Raises:
        GalleryError: there is no gallery.
    """
    try:
        manifest = read_manifest(folder)
    except GalleryCorrupt as error:
        return [str(error)]
    problems = _damaged_manifests(folder)
    problems += _damaged(folder, manifest) or _contradictions(folder, manifest)
    if problems and read_manifest(folder).generation != manifest.generation:
        return verify(folder)  # a writer has moved on meanwhile
    return problems


def _damaged_manifests(folder: Path) -> list[str]:
    """Of the manifest and its copy, of which one at least is sound."""
    problems = []
    for name in (MANIFEST, COPY):
        try:
            read_manifest_file(folder, name)
        except GalleryCorrupt as error:
            problems.append(f"{error} (there are two of it: outfinder gallery rebuild writes both anew)")
        except GalleryError:  # a copy is missing from a gallery of before there were copies
            if name == MANIFEST:
                problems.append(
                    f"{folder / name} is missing (its copy is there: outfinder gallery rebuild writes it anew)"
                )
    return problems


def _damaged(folder: Path, manifest: Manifest) -> list[str]:
    """The files that fail their checksums."""
    problems = []
    for stored in manifest.files:
        try:
            if stored == manifest.graph:
                check_file(folder / stored.name, stored)
            else:
                FileArrays(folder, stored).verify()
        except GalleryError as error:
            remedy = " (a cache: outfinder gallery rebuild makes it anew)" if stored in _cache(manifest) else ""
            problems.append(f"{error}{remedy}")
    return problems


def _contradictions(folder: Path, manifest: Manifest) -> list[str]:
    """What does not fit together in files that are each what was saved."""
    problems = []
    try:
        gallery = Gallery(folder, manifest)
        ids = gallery.ids
        missing = np.setdiff1d(ids, gallery.vectors.ids)
        if len(missing):
            problems.append(f"gallery {folder}: {len(missing)} rows have no vector, the first is row {missing[0]}")
        for start in range(0, len(ids), BLOCK):
            check_vectors(gallery.vectors.take(ids[start : start + BLOCK]), manifest.dim)
        if manifest.graph and manifest.graph_ids:
            read_graph(folder, manifest, manifest.graph, manifest.graph_ids)
    except (GalleryError, ValueError) as error:
        problems.append(f"gallery {folder}: {error}")
    return problems


def state(folder: Path) -> str:
    """Which state a gallery is in, in words: its generation, and what an unfinished save has left beside it."""
    manifest = read_manifest(folder)
    left = leftovers(folder, manifest)
    more = f"; {len(left)} files of an unfinished save are ignored, the next save deletes them" if left else ""
    return f"generation {manifest.generation}{more}"


def moved_photos(gallery: Gallery) -> list[str]:
    """The catalogue photos that are no longer where they were: matches still come, without a picture."""
    return [row.photo for row in gallery.rows if not Path(row.photo).exists()]


def _cache(manifest: Manifest) -> tuple[object, object]:
    return manifest.graph, manifest.graph_ids
