"""What a save writes: new rows, together with those files before them that are not much larger, and no more.

Each file thus has more than twice the rows of the next: there are few of them, a row is written again only a few
times while a gallery grows, and adding 1 % costs about 1 %.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.gallery import searcher
from pipeline.gallery.arrays import Blocks, StoredFile, write_arrays
from pipeline.gallery.contents import read_ids
from pipeline.gallery.graph import write_graph
from pipeline.gallery.rowstore import RowStore
from pipeline.gallery.searcher import Searcher, tail_limit
from pipeline.gallery.storage import Manifest
from pipeline.gallery.vectors import VectorStore
from stages.errors import GalleryCorrupt
from stages.protocols import StorableIndex

Ids = NDArray[np.int64]
Files = tuple[StoredFile, ...]


@dataclass(frozen=True, slots=True)
class Saving:
    """One save of a gallery in memory: call it to write the files of its next generation."""

    folder: Path
    manifest: Manifest
    rows: RowStore
    vectors: VectorStore
    searcher: Searcher
    next_id: int

    @property
    def number(self) -> int:
        """The generation that it writes."""
        return self.manifest.generation + 1

    def __call__(self, *, anew: bool = False) -> Manifest:
        """Write the files and give the manifest that names them; ``anew`` writes everything, without removed rows.

        Raises:
            GalleryError, OSError: they cannot be written.
            GalleryCorrupt: what is to be written again is damaged.
        """
        old, live = self.manifest, self.rows.live
        fresh = len(live) - int(np.searchsorted(live, old.next_id))
        kept = 0 if anew else kept_files(self.vectors.saved_counts, fresh)
        vectors = (*old.vectors[:kept], *self._write("vectors", self.vectors.arrays(live, kept)))
        kept = 0 if anew else kept_files(self.rows.saved_counts, self.rows.fresh_count)
        rows = (*old.rows[:kept], *self._write("rows", self.rows.arrays(kept)))
        removed = self._write("removed", {"ids": self._still_dead({*vectors, *rows} & {*old.vectors, *old.rows})})
        graph, graph_ids = self._graph(live, anew=anew)
        return replace(
            old, generation=self.number, next_id=self.next_id, vectors=vectors, rows=rows,
            removed=removed[0] if removed else None, graph=graph, graph_ids=graph_ids,
        )  # fmt: skip

    def _write(self, role: str, arrays: Mapping[str, NDArray[Any] | Blocks]) -> Files:
        if arrays["ids"].shape[0] == 0:
            return ()
        return (write_arrays(self.folder / f"{role}-{self.number}.safetensors", arrays),)

    def _still_dead(self, kept: set[StoredFile]) -> Ids:
        """The removed ids that are in files which stay."""
        dead = self.rows.dead_saved()
        if len(dead) == 0:
            return dead
        there = [read_ids(self.folder, stored) for stored in kept]
        return dead[np.isin(dead, np.concatenate([dead[:0], *there]))]

    def _graph(self, live: Ids, *, anew: bool) -> tuple[StoredFile | None, StoredFile | None]:
        """The index' file as it is while it has most rows and few removed ones, else a new one; None for few rows."""
        graph, graph_ids = self.manifest.graph, self.manifest.graph_ids
        if len(live) <= searcher.TAIL or not self.searcher.storable:
            return None, None
        try:
            held = read_ids(self.folder, graph_ids) if graph and graph_ids else live[:0]
        except GalleryCorrupt:
            held = live[:0]
        common = len(np.intersect1d(held, live, assume_unique=True))
        stale, waiting = len(held) - common, len(live) - common
        if graph and waiting <= tail_limit(len(held)) and stale <= (0 if anew else len(held) // 2):
            return graph, graph_ids
        if stale and anew:
            self.searcher.restart()
        made = self.searcher.index(live, limit=0)
        if made is None or not isinstance(made[0], StorableIndex):
            return None, None
        return write_graph(self.folder, self.number, made[0], made[1])


def kept_files(counts: list[int], fresh: int) -> int:
    """How many files stay as they are when fresh rows are written, by the counts of their rows.

    >>> kept_files([1000, 300, 100], 10), kept_files([1000, 300, 100], 60), kept_files([1000], 0)
    (3, 1, 1)
    """
    kept = len(counts)
    while kept and fresh and counts[kept - 1] <= 2 * fresh:
        kept -= 1
        fresh += counts[kept]
    return kept
