"""The galleries of a server: their current generation, replaced while searches go on, and what clients may ask of it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Final, TypeVar

from pipeline.gallery import Gallery, read_manifest
from pipeline.gallery.filters import BUILT_IN
from pipeline.kinds import Words, search_garments
from pipeline.serve import schemas
from pipeline.serve.metrics import Metrics
from stages.embed.attributes import AttributePart
from stages.errors import GalleryCorrupt, GalleryError
from stages.labels import PLURALS
from stages.protocols import Cropper, Embedder
from stages.types import Match, Vectors

R = TypeVar("R")

MAX_COLUMNS: Final = 12
"""Columns that the page offers to filter by."""

PUBLIC_COLUMNS: Final = frozenset({"item", "label", "found"})
"""The gallery's own columns that clients may filter by; the others hold paths of this machine."""

_log = logging.getLogger("pipeline.serve")


class QueryError(ValueError):
    """A query that has no answer; the message is meant for the client."""


@dataclass(frozen=True, slots=True, eq=False)
class Snapshot:
    """A generation of a gallery, with the counts that take long."""

    gallery: Gallery
    items: int
    labels: dict[str, int]
    columns: list[schemas.Column]
    filterable: frozenset[str]

    @classmethod
    def of(cls, gallery: Gallery) -> Snapshot:
        """Count what a gallery holds."""
        names = [name for name in gallery.columns if name not in BUILT_IN]
        columns = [column for name in names if (column := schemas.filter_column(name, gallery.values(name)))]
        return cls(gallery, gallery.item_count, gallery.labels, columns[:MAX_COLUMNS], PUBLIC_COLUMNS.union(names))

    def search(
        self,
        vectors: Vectors,
        k: int,
        labels: Sequence[str | None],
        query: schemas.Query,
        kinds: AttributePart | None,
        words: Words | None = None,
    ) -> list[list[Match]]:
        """Return the k best matches of each vector, of its label unless that is None; see :func:`search_garments`.

        Raises:
            QueryError: the filter is wrong.
        """
        if not len(vectors):
            return []

        def ask(queries: Vectors, least: float) -> list[list[Match]]:
            return self.gallery.search(
                queries, k, labels=labels, where=query.where, min_similarity=least, columns=self.filterable
            )

        try:
            return search_garments(ask, kinds, vectors, query.min_similarity, any_kind=query.any_kind, words=words)
        except ValueError as error:
            raise QueryError(str(error)) from error

    def notice(self, label: str | None) -> str:
        """Return why there are no matches of a label; "" if the shop has items of that kind."""
        return "" if label is None or label in self.labels else f"this shop has no {PLURALS.get(label, label)}"

    def photo_number(self, match: Match) -> int:
        """Return which of its item's photos a match shows, from 0."""
        return [row.photo for row in self.gallery.of_item(match.item)].index(match.photo)


class GalleryView:
    """The current generation of a gallery's folder: what others save is searched as soon as it is refreshed.

    Args:
        crop: the name of the crop, for metrics.
        cropper: cuts garments out of photos to be searched in this gallery.
        gallery: as it was opened.
        embedder: a generation made with another embedder or cropper is ignored.
        metrics: counts new generations.
    """

    snapshot: Snapshot
    """The current generation; it stays usable when there is a newer one."""

    def __init__(self, crop: str, cropper: Cropper, gallery: Gallery, embedder: Embedder, metrics: Metrics) -> None:
        self.crop, self.cropper = crop, cropper
        self._embedder, self._metrics, self._folder = embedder, metrics, gallery.folder
        self._refreshing = Lock()
        self._ignored: object = ()
        self._use(gallery)

    @property
    def generation(self) -> int:
        """The number of the current generation."""
        return self.snapshot.gallery.manifest.generation

    def refresh(self) -> bool:
        """Switch to a newer generation, its index loaded, and return whether there was one.

        A generation that is damaged, or was made with another embedder or crop, is logged once and ignored.
        """
        with self._refreshing:
            version: object = None
            try:
                manifest = read_manifest(self._folder)
                version = manifest.identity, manifest.generation
                if version in (self._version, self._ignored):
                    return False
                newer = Gallery.open(self._folder)
                newer.check_made_with(self._embedder, self.cropper)
                newer.index()
                self._use(newer)
            except (GalleryError, OSError) as error:
                if version != self._ignored:
                    _log.warning("a new generation of the gallery is ignored: %s", error)
                    self._metrics.reloads.labels(self.crop, "ignored").inc()
                self._ignored = version
                return False
            self._ignored = ()
            self._metrics.reloads.labels(self.crop, "loaded").inc()
            return True

    def ask(self, question: Callable[[Snapshot], R]) -> R:
        """Return the current generation's answer; if its files prove damaged, a newer one's, if there is one."""
        try:
            return question(self.snapshot)
        except GalleryCorrupt:
            if not self.refresh():
                raise
            return question(self.snapshot)

    def _use(self, gallery: Gallery) -> None:
        self.snapshot = Snapshot.of(gallery)
        self._version = gallery.manifest.identity, gallery.manifest.generation
        self._metrics.photos.labels(self.crop).set(len(gallery))
        self._metrics.generation.labels(self.crop).set(gallery.manifest.generation)
